"""What callers get when the server behind the proxy misbehaves: `python -m bench.faults`.

One kind of fault at a time, a server that records what it ran, callers that record what they were told, both joined
afterwards. What is counted is what must not be: answers to the wrong caller, unsafe calls that ran twice, calls that
ran while their caller was told nothing of it, callers without an answer. Recording is that of the chaos tests.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import echo_server
from bench.measure import BenchError, load
from bench.peers import peers
from bench.targets import HTTP, LEGACY, STDIO, Place, Running, Target, serving, sidecar
from sidecar_process import descendants, free_ports
from storm import SAFE_TOOLS, Call, read_calls

CALLS = 2000
CONNECTIONS = 16
PATIENCE = 8
"""Seconds a caller waits for its answer."""

FAULTS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "5 % refused": ("refused", 20, (HTTP, STDIO)),
    "−32603 after the tool ran, 5 %": ("internal", 20, (HTTP, STDIO)),
    "1 % never answered": ("silent", 100, (HTTP, STDIO)),
    "process exits mid-call, 2 %": ("exit", 50, (STDIO,)),
    "reset after the tool ran, 3 %": ("reset", 33, (HTTP,)),
    "a second answer nobody asked for, 3 %": ("twice", 33, (HTTP, STDIO)),
    "wrong Content-Length, 3 %": ("length", 33, (HTTP,)),
    "garbage lines and bad UTF-8, 5 %": ("garbage", 20, (STDIO,)),
}


@dataclass
class Outcome:
    """What one target did under one fault."""

    ok: float = 0.0
    """Percent."""
    wrong: int = 0
    doubled: int = 0
    hidden: int = 0
    hung: int = 0
    amplification: float = 0.0
    """Executions for each call."""
    phases: list[float] = field(default_factory=list)
    """Percent ok before, during and after an outage."""
    failed: str = ""

    def told(self) -> str:
        """In a cell of the table."""
        if self.failed:
            return self.failed
        text = " / ".join(f"{share:.0f}" for share in self.phases) if self.phases else f"{self.ok:.1f}"
        bad = {"wrong": self.wrong, "doubled": self.doubled, "hidden": self.hidden, "hang": self.hung}
        return ", ".join([text, *(f"**{count} {name}**" for name, count in bad.items() if count)])


def judge(calls: Sequence[Call], ran: Counter[str], unasked: int) -> Outcome:
    """Count what went wrong."""
    unsafe = [call for call in calls if call.tool not in SAFE_TOOLS]
    answered_with_error = ("rpc", "http", "tool_error")
    return Outcome(
        ok=100 * sum(call.outcome == "ok" for call in calls) / max(len(calls), 1),
        wrong=sum(call.outcome == "wrong" for call in calls) + unasked,
        doubled=sum(ran[call.key] > 1 for call in unsafe),
        hidden=sum(
            ran[call.key] > 0
            and call.outcome in answered_with_error
            # the server's own error is an answer: nothing is hidden by passing it on
            and "-32603 {} Failed as asked" not in call.detail
            and not call.data.get("maybeExecuted")
            for call in unsafe
        ),
        hung=sum(call.outcome in ("hung", "lost") for call in calls),
        amplification=sum(ran.values()) / max(len(calls), 1),
    )


class Upstream:
    """The echo server with a fault, over HTTP or as a command; `down` and `up` take it away and give it back."""

    def __init__(self, directory: Path, transport: str, flags: Sequence[str]) -> None:
        self.transport = transport
        self.log, self._gone = directory / "ran", directory / "down"
        self.log.touch()
        self._echo = echo_server.build()
        self._flags = [*flags, "--log", str(self.log)]
        [self._port] = free_ports(1)
        self.url = f"http://127.0.0.1:{self._port}/mcp"
        self.command = directory / "server"
        served = " ".join([str(self._echo), "stdio", *self._flags])
        self.command.write_text(f"#!/bin/sh\ntest -e {self._gone} && exit 1\nexec {served}\n")
        self.command.chmod(0o700)
        self._process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Serve."""
        self._gone.unlink(missing_ok=True)
        if self.transport == HTTP:
            command = [str(self._echo), "http", "--addr", f"127.0.0.1:{self._port}", *self._flags]
            self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def down(self, below: int = 0) -> None:
        """Stop serving; over stdio end what runs below the process `below`, and let no new one start."""
        self._gone.touch()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for pid in descendants(below) if below else ():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/exe") == str(self._echo):
                    os.kill(pid, signal.SIGKILL)

    def ran(self) -> Counter[str]:
        """Executions by key."""
        lines = (line.split() for line in self.log.read_text().splitlines())
        return Counter(key for event, key, _ in lines if event == "ran")


def run(target: Target, transport: str, kind: str, every: int) -> Outcome:
    """One target under one kind of fault; `outage` is 10 s without the server."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outrigger-faults-")))
        flags = [] if kind == "outage" else ["--fault", kind, "--every", str(every)]
        server = Upstream(directory, transport, flags)
        server.up()
        stack.callback(server.down)
        ports = free_ports(2)
        place = Place(ports[0], ports[1], server.url, server.command, directory, timeout=2)
        try:
            running = stack.enter_context(serving(target, place, echo_server.build("load"), LEGACY))
            if kind == "outage":
                return outage(running, server, directory)
            told, unasked = callers(running, directory, "k", calls=CALLS, seconds=60)
            return judge(told, server.ran(), unasked)
        except BenchError as error:
            print(f"bench: {target.name}, {kind}: {error}", file=sys.stderr)
            return Outcome(failed="unusable")


def callers(
    running: Running, directory: Path, prefix: str, *, calls: int = 0, seconds: float, pause: str = "0s"
) -> tuple[list[Call], int]:
    """Calls of both kinds, half unsafe; what they were told, and how often something came that was not asked for."""
    record = directory / f"told-{prefix}"
    prefixed = running.target.tool.removesuffix("echo")  # some proxies put the server's name before a tool's
    tools = f"{prefixed}write,{prefixed}echo"
    extra = ["--keys", prefix, "--record", str(record), "--timeout", f"{PATIENCE}s", "--pause", pause]
    program = echo_server.build("load")
    done = load(
        program, running.url, LEGACY, tool=tools, connections=CONNECTIONS, seconds=seconds, calls=calls, extra=extra
    )
    told = [dataclasses.replace(call, tool=call.tool.removeprefix(prefixed)) for call in read_calls(record)]
    return told, done.errors.get("unasked", 0)


def outage(running: Running, server: Upstream, directory: Path) -> Outcome:
    """5 s with the server, 10 s without, 10 s with it again, the callers going on all the time."""
    timers = [threading.Timer(5, server.down, [running.pid]), threading.Timer(15, server.up)]
    for timer in timers:
        timer.start()
    try:
        told, unasked = callers(running, directory, "k", seconds=25, pause="50ms")
    finally:
        for timer in timers:
            timer.cancel()
            timer.join()
    outcome = judge(told, server.ran(), unasked)
    for begin, end in ((0, 5000), (5000, 15000), (15000, 25000)):
        calls = [call for call in told if begin <= int(call.key.split("-")[1]) < end]
        outcome.phases.append(100 * sum(call.outcome == "ok" for call in calls) / max(len(calls), 1))
    return outcome


def main() -> None:
    """`python -m bench.faults`."""
    parser = argparse.ArgumentParser(prog="bench.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--built-peers", action="store_true", help="also the peers that are compiled here")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--no-outage", action="store_true", help="leave out the half minute of the outage")
    parser.add_argument("--transport", choices=[HTTP, STDIO])
    options = parser.parse_args()
    changes: dict[str, object] = {"server.timeout": "2s", "server.retry": {"tools": {"echo": "Safe"}}}
    bad = False
    for transport in [options.transport] if options.transport else [HTTP, STDIO]:
        others = [] if options.no_peers else peers(transport, built=options.built_peers)
        # at 30 calls a second fastmcp would take an hour, and it has nothing that deals with faults
        others = [other for other in others if LEGACY in other.eras and not other.name.startswith("fastmcp")]
        targets = [sidecar(transport, changes=changes), *others]
        print(f"\n### HTTP → {'HTTP' if transport == HTTP else 'stdio'}\n")
        print(
            f"| fault | {' | '.join(target.name for target in targets)} |\n|{'---|' * (len(targets) + 1)}", flush=True
        )
        rows = {name: spec for name, spec in FAULTS.items() if transport in spec[2]}
        if not options.no_outage:
            rows["server away for 10 s: before / during / after"] = ("outage", 1, (transport,))
        for name, (kind, every, _) in rows.items():
            begun = time.monotonic()
            outcomes = [run(target, transport, kind, every) for target in targets]
            print(f"| {name} | {' | '.join(outcome.told() for outcome in outcomes)} |", flush=True)
            print(f"bench: {name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
            ours = outcomes[0]
            bad = bad or bool(ours.failed or ours.wrong or ours.doubled or ours.hidden or ours.hung)
    sys.exit("bench: the sidecar broke a promise" if bad else 0)


if __name__ == "__main__":
    main()

"""What a storm is made of: callers that record what they were told, a server that records what it ran, a killer.

`Records` joins the two afterwards and holds the invariants (notes/resilience.md D.4): every caller one answer, its own;
an unsafe call executed once at most; nothing executed that its caller was told was not.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import echo_server

SAFE_TOOLS = frozenset({"echo", "sleep"})
"""What the server may run more than once for one call."""


@dataclass(frozen=True)
class Call:
    """What one caller was told."""

    tool: str
    key: str
    outcome: str
    """`ok`, `rpc`, or what must not be: `wrong`, `lost`, `hung`, `http`, `connect`, `tool_error`."""
    status: int
    code: int
    data: dict[str, Any]
    """Error data of the sidecar."""
    detail: str

    @property
    def reason(self) -> str:
        """`ok`, or why not."""
        return self.outcome if self.outcome != "rpc" else str(self.data.get("reason", self.code))


def read_calls(path: Path) -> list[Call]:
    """The callers' record."""
    calls = []
    for line in path.read_text().splitlines():
        tool, key, outcome, *rest = line.split(" ", 3)
        detail = rest[0] if rest else ""
        status, code = 200, 0
        data: dict[str, Any] = {}
        if outcome == "rpc":
            told, number, tail = detail.split(" ", 2)
            status, code = int(told), int(number)
            data, _ = json.JSONDecoder().raw_decode(tail)
        calls.append(Call(tool, key, outcome, status, code, data, detail))
    return calls


_RECORD = re.compile(rb"(?P<event>ran|cancelled) (?P<key>\S+) (?P<pid>[0-9]+)$")


class Executions:
    """The server's record, read as it grows: how often each key ran, and which process was the last to run one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._file = path.open("rb")
        self._rest = b""
        self.ran: Counter[str] = Counter()
        self.pids: Counter[int] = Counter()

    def read(self) -> None:
        """Take in what was added."""
        lines = (self._rest + self._file.read()).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            # A line that a kill cut short (a write ends early at the border of a page) has the next one at its end.
            whole = _RECORD.search(line)
            if whole is not None and whole["event"] == b"ran":
                self.ran[whole["key"].decode()] += 1
                self.pids[int(whole["pid"])] += 1

    def close(self) -> None:
        """Read the rest and close the file."""
        self.read()
        self._file.close()


class Callers:
    """A load generator in the background that records what every caller was told."""

    def __init__(
        self,
        url: str,
        era: str,
        record: Path,
        *,
        tools: str,
        connections: int,
        ms: int,
        prefix: str,
        seconds: float = 540,
        pause: str = "0s",
    ) -> None:
        self.record = record
        command = [str(echo_server.build("load")), "--url", url, "--era", era, "--tools", tools, "--ms", str(ms)]
        command += ["--connections", str(connections), "--duration", "540s", "--keys", prefix, "--pause", pause]
        self.process = subprocess.Popen([*command, "--record", str(record)], stdout=subprocess.PIPE)

    def stop(self, timeout: float = 90) -> dict[str, Any]:
        """End the calls under way; the report."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0
        report: dict[str, Any] = json.loads(out)
        return report

    def kill(self) -> None:
        """End it without a report."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Killer:
    """Kills the server's process while it works: only after it ran something, so that calls are in flight."""

    def __init__(self, executions: Executions) -> None:
        self._executions = executions
        self.killed: list[tuple[int, float]] = []
        """Process and time of the monotonic clock."""

    def kill_next(self, timeout: float, after: int = 1) -> float:
        """Wait for a process that was not killed yet to run `after` calls, and kill it; how long that took.

        Raises TimeoutError.
        """
        done = {pid for pid, _ in self.killed}
        begun = time.monotonic()
        self._executions.pids.clear()
        while time.monotonic() - begun < timeout:
            self._executions.read()
            for pid, ran in list(self._executions.pids.items()):
                if pid in done or ran < after:
                    continue
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.killed.append((pid, time.monotonic()))
                return time.monotonic() - begun
            time.sleep(0.001)
        raise TimeoutError(f"no new process ran anything within {timeout:g} s, after {len(self.killed)} kills")


def violations(calls: Iterable[Call], ran: Counter[str]) -> list[str]:
    """Every breach of an invariant, in words; empty when all hold."""
    found = []
    seen: Counter[str] = Counter(call.key for call in calls)
    found += [f"{key} was answered {count} times" for key, count in seen.items() if count != 1]
    found += [f"{key} was run but never asked for" for key in ran if key not in seen]
    for call in calls:
        executed = ran[call.key]
        if call.outcome not in ("ok", "rpc"):
            found.append(f"{call.key} ({call.tool}) got {call.outcome}: {call.detail}")
        if call.outcome == "rpc" and "reason" not in call.data:
            found.append(f"{call.key} ({call.tool}) got an error that does not say why: {call.detail}")
        if call.tool not in SAFE_TOOLS and executed > 1:
            found.append(f"{call.key} ({call.tool}) is unsafe and ran {executed} times; its caller got {call.reason}")
        if call.outcome == "ok" and executed == 0:
            found.append(f"{call.key} ({call.tool}) was answered and never ran")
        if call.outcome == "rpc" and executed and not call.data.get("maybeExecuted"):
            found.append(f"{call.key} ({call.tool}) ran, and its caller was told it had not: {call.detail}")
    return found

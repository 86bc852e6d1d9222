"""`make demo`: a real MCP server behind the sidecar, called by two generations of clients, killed and recovered.

Everything runs on this machine, on free ports, in a temporary directory, and is gone afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 75.0
SLOW = 1.5
"""Seconds that the server takes for adding and searching: time to kill it in the middle."""
COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


class DemoError(Exception):
    """Something is not as it must be; the message says what to do."""


def paint(text: str, code: str) -> str:
    """`text` in a colour where somebody sees it."""
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def step(number: int, text: str) -> None:
    """A heading."""
    print(f"\n{paint(f'{number}.', '1;36')} {paint(text, '1')}", flush=True)


def say(text: str, mark: str = " ") -> None:
    """One line below a heading."""
    print(f"   {mark} {text}", flush=True)


def good(text: str) -> None:
    """A line about what went right."""
    say(text, paint("✓", "32"))


def quote(text: str) -> None:
    """A line that is a program's own."""
    print(paint(f"       {text}", "2"), flush=True)


class Sidecar:
    """The sidecar's process and its two addresses, which are those of ports that it chose itself."""

    def __init__(self, directory: Path) -> None:
        self.url = self.admin = ""
        self.log, self.audit = directory / "log.jsonl", directory / "audit.jsonl"
        self.config = {
            "servers": {
                "notes": {
                    "command": sys.executable,
                    "args": [str(ROOT / "examples" / "notes_server.py"), "--slow", f"{SLOW:g}"],
                    "env": {"NOTES_FILE": str(directory / "notes.db")},
                    "restart": {"backoffBase": "200ms"},
                    "retry": {"trustAnnotations": "ReadOnly"},
                }
            }
        }
        path = directory / "config.json"
        path.write_text(json.dumps(self.config))
        command = [sys.executable, "-m", "mcp_sidecar.cli", "run", "--config", str(path), "--host", "127.0.0.1"]
        command += ["--port", "0", "--admin-port", "0"]
        with self.log.open("wb") as log, self.audit.open("wb") as audit:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=audit,
                stderr=log,
                env={**os.environ, "XDG_STATE_HOME": str(directory)},
            )

    def get(self, path: str) -> str:
        """A page of the admin port. Raises OSError."""
        with urllib.request.urlopen(f"{self.admin}{path}", timeout=5) as response:
            text: str = response.read().decode()
            return text

    async def ready(self) -> None:
        """Wait until `/readyz` says yes. Raises DemoError."""
        until = time.monotonic() + 40
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise DemoError(f"the sidecar ended with {self.process.returncode}")
            if self._serving():
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self.get, "/readyz")
                    return
            await asyncio.sleep(0.05)
        raise DemoError("the server did not get ready within 40 s")

    def _serving(self) -> bool:
        """Whether it has its ports; its log tells which."""
        for line in self.log.read_text().splitlines(keepends=True):
            if '"event":"serving"' in line and line.endswith("\n"):
                serving = json.loads(line)
                self.url, self.admin = serving["url"], serving["admin"]
        return bool(self.url)

    def said(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def server_pids(self) -> list[int]:
        """The processes of the server behind it."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError):
                stat = entry.read_text()
                if int(stat[stat.rindex(")") + 2 :].split()[1]) == self.process.pid:
                    found.append(int(entry.parent.name))
        return found

    def stop(self) -> float:
        """End it as Kubernetes does; seconds it took. Raises DemoError when a process is left."""
        below, begun = self.server_pids(), time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                raise DemoError(f"process {pid} of the server was left behind")
        return time.monotonic() - begun


@contextlib.asynccontextmanager
async def client(sidecar: Sidecar, mode: str) -> AsyncIterator[Any]:
    """The SDK's own client on the sidecar's endpoint."""
    from mcp.client.client import Client

    async with Client(sidecar.url, mode=mode, read_timeout_seconds=30, cache=None) as session:
        yield session


def told(error: Any) -> str:
    """An error of the sidecar in one line."""
    data = error.data if isinstance(error.data, dict) else {}
    facts = ", ".join(f"{name}: {json.dumps(value)}" for name, value in data.items() if value is not None)
    return f"{error.code} {error.message} ({facts})"


async def first_calls(sidecar: Sidecar) -> None:
    """Both generations of clients list and call tools."""
    step(2, "A modern client (revision 2026-07-28: no session, every request stands alone)")
    async with client(sidecar, "auto") as modern:
        tools = [tool.name for tool in (await modern.list_tools()).tools]
        good(f"speaks {modern.protocol_version} with {modern.server_info.name}; tools: {', '.join(tools)}")
        for title, text in (("Canoe", "A narrow boat"), ("Outrigger", "A float beside a canoe that keeps it upright")):
            made = await modern.call_tool("add_note", {"title": title, "text": text, "tags": ["sea"]})
            good(f"add_note → note {made.structured_content['id']}: {title}")

    step(3, "A legacy client (2025-11-25: a handshake and a session) on the same endpoint")
    async with client(sidecar, "legacy") as legacy:
        good(f"speaks {legacy.protocol_version}; {len((await legacy.list_tools()).tools)} tools")
        found = await legacy.call_tool("search_notes", {"query": "float"})
        good(f"search_notes 'float' → {[note['title'] for note in found.structured_content['result']]}")


async def kill_in_the_middle(sidecar: Sidecar) -> None:
    """Two calls are under way when the server dies: one may be repeated, the other may not."""
    from mcp.shared.exceptions import MCPError

    step(4, "Killing the server while it works on two calls")
    async with client(sidecar, "legacy") as legacy, client(sidecar, "auto") as modern:
        await legacy.call_tool("list_notes", {})
        await modern.call_tool("list_notes", {})
        victims = sidecar.server_pids()
        if not victims:
            raise DemoError("the server has no process to kill")
        begun = time.monotonic()
        reading = asyncio.create_task(legacy.call_tool("search_notes", {"query": "canoe"}))
        adding = asyncio.create_task(modern.call_tool("add_note", {"title": "Paddle", "text": "Moves a canoe"}))
        await asyncio.sleep(SLOW / 2)
        say(f"search_notes and add_note are running in the server, which takes {SLOW:g} s for each")
        killed = time.monotonic()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        say(f"kill -9 {' '.join(map(str, victims))}", paint("✗", "31"))
        outcomes = await asyncio.gather(reading, adding, return_exceptions=True)
        took = time.monotonic() - begun
        read, added = outcomes
        if isinstance(read, MCPError):
            good("search_notes, of which the sidecar could not know more, got a clear error:")
            quote(told(read.error))
        elif isinstance(read, BaseException):
            raise read
        else:
            titles = [note["title"] for note in read.structured_content["result"]]
            good(f"search_notes only reads: tried again on the new process, answered after {took:.1f} s → {titles}")
        if isinstance(added, MCPError):
            good("add_note may have run: it was not repeated, and its caller was told so:")
            quote(told(added.error))
        elif isinstance(added, BaseException):
            raise added
        else:
            raise DemoError("add_note was answered although its server was dead")

        await until_answered(modern)
        healed = time.monotonic() - killed
        good(f"{healed:.1f} s after the kill both clients work on, the legacy one in the session it had:")
        newest = (await legacy.call_tool("list_notes", {})).structured_content["result"]
        quote(f"list_notes → {[note['title'] for note in newest]} (no double, nothing lost)")
        say(f"new process: {' '.join(map(str, sidecar.server_pids()))}")


async def until_answered(modern: Any) -> None:
    """Wait until a call is answered again."""
    from mcp.shared.exceptions import MCPError

    begun = time.monotonic()
    while True:
        try:
            await modern.call_tool("list_notes", {})
        except MCPError:
            if time.monotonic() - begun > 30:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def look_inside(sidecar: Sidecar) -> None:
    """Metrics, a line of the log and one of the audit."""
    step(5, f"What an operator sees ({sidecar.admin}/metrics, /status, the logs)")
    wanted = (
        "outrigger_calls_total",
        "outrigger_retries_total",
        "outrigger_child_restarts_total",
        "outrigger_errors_total",
    )
    for line in sidecar.get("/metrics").splitlines():
        other_method = 'method="' in line and 'method="tools/call"' not in line
        if line.startswith(wanted) and not line.endswith(" 0") and not other_method:
            quote(line)
    for title, path in (("log", sidecar.log), ("audit", sidecar.audit)):
        lines = [line for line in path.read_text(errors="replace").splitlines() if "add_note" in line]
        if lines:
            say(f"the last {title} line about add_note:")
            quote(lines[-1])


async def run() -> None:
    """The whole demo. Raises DemoError, and what the SDK raises."""
    with tempfile.TemporaryDirectory(prefix="outrigger-demo-") as name:
        step(1, "Starting the sidecar in front of examples/notes_server.py")
        begun = time.monotonic()
        sidecar = Sidecar(Path(name))
        try:
            quote(json.dumps(sidecar.config["servers"]["notes"])[:200])
            await sidecar.ready()
            good(f"ready after {time.monotonic() - begun:.1f} s: MCP on {sidecar.url}")
            await first_calls(sidecar)
            await kill_in_the_middle(sidecar)
            await asyncio.to_thread(look_inside, sidecar)
        except BaseException:
            with contextlib.suppress(DemoError):
                sidecar.stop()
            print(f"\n--- the end of the sidecar's log ---\n{sidecar.said()}", file=sys.stderr)
            raise
        step(6, "Stopping, as Kubernetes does: SIGTERM")
        good(f"ended after {sidecar.stop():.1f} s, no process left")
    print(f"\n{paint('Where to look next', '1')}")
    say("your own server:   .venv/bin/outrigger-sidecar run --config examples/stdio.json   (then edit it)")
    say("its tools:         .venv/bin/outrigger-sidecar tools http://127.0.0.1:8080/mcp")
    say("a desktop client's file runs unchanged: examples/desktop.json; more in examples/")
    say("what it costs:     docs/benchmarks.md      servers it was tried with: docs/servers.md")


def main() -> None:
    """Run the demo in bounded time; say what to do when it fails."""
    begun = time.monotonic()
    try:
        asyncio.run(asyncio.wait_for(run(), LIMIT))
    except KeyboardInterrupt:
        sys.exit(130)
    except TimeoutError:
        sys.exit(f"\ndemo: not over after {LIMIT:.0f} s. Is the machine very busy? Try again: make demo")
    except ModuleNotFoundError as error:
        sys.exit(f"\ndemo: the package {error.name} is missing. Run it by: make demo")
    except (DemoError, OSError, ExceptionGroup) as error:
        sys.exit(f"\ndemo: {error}\nThe lines above say what the sidecar saw. Please report this with them.")
    print(f"\n{paint('Done', '1;32')} in {time.monotonic() - begun:.0f} s.")


if __name__ == "__main__":
    main()

"""One sidecar on this machine: its process, kept running, and what it says of its server.

`run` owns the process: whoever cancels it has ended it. What it runs and when that changes is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LAUNCH = Path(__file__).with_name("local_launch.py")
_OWN_VARIABLES = ("MCP_CONFIG_", "MCP_ENCRYPTION_KEY", "MCP_TOKEN_", "OUTRIGGER__")
"""Variables of the sidecar in our own environment: they are about another one."""

MAX_STATUS = 1 << 20
STATUS_TIMEOUT = 5.0
INTERVALS = {"Starting": 0.1, "Ready": 1.0}
OTHER_INTERVAL = 0.5
"""Seconds between two looks at /status, by phase."""

FIRST_BACKOFF, MAX_BACKOFF = 1.0, 30.0
KILL_AFTER = 10.0
"""Beyond the grace that the config gives."""

READ_AFTER = 5.0
"""How long the pipes of a process that ended are read, where somebody else still holds them open."""

_LINE_LIMIT = 1 << 20


@dataclass(frozen=True)
class State:
    """What is known of a sidecar and its server. `phase` is Starting, Ready, Failing or Ended."""

    phase: str
    text: str = ""


class LocalSidecar:
    """Runs one sidecar again and again until it is cancelled, and tells what becomes of it."""

    def __init__(
        self,
        *,
        name: str,
        config: Path,
        port: int,
        environ: Mapping[str, str],
        grace: float,
        on_state: Callable[[State], None],
        on_line: Callable[[str], None],
        on_config: Callable[[str], None],
        rng: random.Random | None = None,
    ) -> None:
        """`grace`: seconds that calls in flight get at the end. `on_config` hears the hash of the config that runs."""
        self.name = name
        self.port = port
        self._config = config
        self._environ = environ
        self._grace = grace
        self._on_state = on_state
        self._on_line = on_line
        self._on_config = on_config
        self._rng = rng or random.Random()  # noqa: S311 spreads retries
        self._process: asyncio.subprocess.Process | None = None
        self._state = State("Starting")
        self._admin: asyncio.Future[int] | None = None
        self._last_error = ""
        self._file_hash = ""

    @property
    def state(self) -> State:
        """What was told last."""
        return self._state

    async def run(self) -> None:
        """Until cancelled; then the process is gone. Raises OSError where no process can be started."""
        backoff = FIRST_BACKOFF
        while True:
            began = asyncio.get_running_loop().time()
            code = await self._once()
            if asyncio.get_running_loop().time() - began > MAX_BACKOFF:
                backoff = FIRST_BACKOFF
            why = f": {self._last_error}" if self._last_error else ""
            self._tell(State("Ended", f"the sidecar ended with {code}{why}; it is started again in {backoff:g} s"))
            await asyncio.sleep(backoff * self._rng.uniform(0.8, 1.0))
            backoff = min(2 * backoff, MAX_BACKOFF)

    def hurry(self) -> None:
        """Do not wait for calls in flight any more: the second signal ends the sidecar at once."""
        self._signal(signal.SIGTERM)

    async def _once(self) -> int:
        """One process, from its start to its end; its exit code."""
        self._tell(State("Starting"))
        self._last_error = ""
        loop = asyncio.get_running_loop()
        self._admin = loop.create_future()
        arguments = ["--host", "127.0.0.1", "--port", str(self.port), "--admin-host", "127.0.0.1", "--admin-port", "0"]
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid())),
            *(sys.executable, "-P", "-m", "mcp_sidecar.cli", "run", "--config", str(self._config), *arguments),
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
            process_group=0,  # Ctrl-C is ours to handle
        )
        assert process.stderr is not None
        assert process.stdout is not None
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(self._watch(self._admin), name=f"status {self.name}")
            readers = [
                tasks.create_task(self._read_log(process.stderr), name=f"log {self.name}"),
                tasks.create_task(self._read_audit(process.stdout), name=f"audit {self.name}"),
            ]
            try:
                code = await process.wait()
            finally:
                watch.cancel()
                await self._end(process)
            await asyncio.wait(readers, timeout=READ_AFTER)
            for reader in readers:
                reader.cancel()
        return code

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_VARIABLES)}
        return {**inherited, **self._environ}

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """See the process end: in good order, or killed after its grace."""
        if process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._grace + KILL_AFTER):
                await process.wait()
        except TimeoutError:
            self._on_line("it does not end: killed")
        finally:
            self._signal(signal.SIGKILL)
            await process.wait()

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def _tell(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._on_state(state)

    def _tell_config(self, file_hash: str) -> None:
        if file_hash != self._file_hash:
            self._file_hash = file_hash
            self._on_config(file_hash)

    # What it writes

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            entry = _json(line)
            if entry.get("event") == "serving" and self._admin is not None and not self._admin.done():
                port = str(entry.get("admin", "")).rpartition(":")[2]
                if port.isdigit():
                    self._admin.set_result(int(port))
            elif entry.get("level") == "error":
                self._last_error = ", ".join(str(entry[key]) for key in ("event", "error") if entry.get(key))
            elif not entry:
                self._last_error = line
            self._on_line(readable(entry) if entry else line)

    async def _read_audit(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            self._on_line(f"audit {line}")

    # What it says of its server

    async def _watch(self, admin: asyncio.Future[int]) -> None:
        port = await admin
        while True:
            try:
                async with asyncio.timeout(STATUS_TIMEOUT):
                    status = await fetch(port, "/status")
            except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
                pass  # busy, or ending
            else:
                self._tell_config(str((status.get("config") or {}).get("fileHash", "")))
                self._tell(state_of(status, before=self._state))
            await asyncio.sleep(INTERVALS.get(self._state.phase, OTHER_INTERVAL))


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """The lines, without what is longer than the limit."""
    while True:
        try:
            line = await stream.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                yield error.partial.decode(errors="replace")
            return
        except asyncio.LimitOverrunError as error:
            await stream.readexactly(error.consumed)
            continue
        yield line[:-1].decode(errors="replace")


def _json(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def readable(entry: Mapping[str, Any]) -> str:
    """A log line for people: `12:30:05 info serving url=… admin=…`."""
    rest = " ".join(f"{key}={value}" for key, value in entry.items() if key not in ("ts", "level", "event"))
    return f"{str(entry.get('ts', ''))[11:19]} {entry.get('level', '')} {entry.get('event', '')} {rest}".strip()


def state_of(status: Mapping[str, Any], *, before: State) -> State:
    """What `/status` of a sidecar with one server means. A server that was never asked yet is still starting."""
    servers = status.get("servers")
    server: Mapping[str, Any] = next(iter(servers.values()), {}) if isinstance(servers, dict) else {}
    health = server.get("health") or {}
    refusals = (status.get("config") or {}).get("lastRefusal") or []
    if refusals:
        return State("Failing", f"the new config was refused: {'; '.join(map(str, refusals))}")
    if server.get("up") and status.get("ready"):
        return State("Ready", "ready: " + _described(server))
    why = server.get("problem") or (server.get("secrets") or {}).get("problem") or health.get("lastError")
    if not why:
        return before if before.phase == "Starting" else State("Starting")
    said = _last_words(server)
    return State("Failing", f"{why}: {said}" if said and said not in why else str(why))


def _described(server: Mapping[str, Any]) -> str:
    upstream = server.get("upstream") or {}
    info = upstream.get("serverInfo") or {}
    found = [" ".join(str(info[key]) for key in ("name", "version") if info.get(key))]
    eras = upstream.get("eras") or []
    found.append(" and ".join(str(era).lower() for era in eras))
    return ", ".join(part for part in found if part) or "it answers"


def _last_words(server: Mapping[str, Any]) -> str:
    """The last line that a process of the server wrote to its stderr."""
    processes = (server.get("upstream") or {}).get("processes")
    for pool in processes.values() if isinstance(processes, dict) else ():
        for slot in pool.get("slots", []) if isinstance(pool, dict) else ():
            if slot.get("stderr"):
                return str(slot["stderr"][-1]).strip()
    return ""


async def fetch(port: int, path: str) -> dict[str, Any]:
    """A JSON page of an admin port on this machine. Raises OSError, ValueError, IncompleteReadError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MAX_STATUS)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next((line[15:].strip() for line in head.split("\r\n") if line.startswith("content-length:")), "")
        if not head.startswith("http/1.1 200") or not length.isdigit() or int(length) > MAX_STATUS:
            raise ValueError("no status")
        page = json.loads(await reader.readexactly(int(length)))
    finally:
        writer.close()
    if not isinstance(page, dict):
        raise ValueError("no status")
    return page

"""`outrigger up` as a black box: the command in a process of its own, its table, its logs, what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from raw_mcp import HttpClient
from sidecar_process import ROOT, descendants, free_ports, survivors

PATIENCE = 30.0


class UpProcess:
    """`outrigger up -v` with files; a context manager that ends it with Ctrl-C and fails where something is left."""

    def __init__(
        self, *files: Path | str, runtime: Path, arguments: tuple[str, ...] = (), env: Mapping[str, str] | None = None
    ) -> None:
        self.runtime = runtime
        [self.port] = free_ports(1)
        self.rows: list[list[str]] = []
        """The table: NAME, KIND, URL, STATUS of each row, the heading left out."""
        self.logs: list[str] = []
        self._changed = threading.Condition()
        command = [sys.executable, "-m", "mcp_operator.cli", "up", "-v", "--port", str(self.port), *arguments]
        for file in files:
            command += ["-f", str(file)]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), **(env or {})},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._row), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.logs.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], take: Callable[[str], Any]) -> None:
        with contextlib.suppress(ValueError):
            for line in stream:
                with self._changed:
                    take(line.rstrip("\n"))
                    self._changed.notify_all()

    def _row(self, line: str) -> None:
        cells = re.split(r"  +", line, maxsplit=3)
        if cells[0] != "NAME":
            self.rows.append(cells)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """What `condition` returns once it is true; it is asked whenever a line was written."""
        until = time.monotonic() + PATIENCE
        with self._changed:
            while not (value := condition()):
                rest = until - time.monotonic()
                if rest <= 0 or (self.process.poll() is not None and not self._alive()):
                    raise AssertionError(f"{what}; it said\n{self.said()}")
                self._changed.wait(min(rest, 0.2))
            return value

    def _alive(self) -> bool:
        return any(reader.is_alive() for reader in self._readers)

    def said(self) -> str:
        """All of its output."""
        return "\n".join(["  ".join(row) for row in self.rows] + self.logs)

    def row(self, name: str, status: str, after: int = 0) -> str:
        """Wait for a row of `name` whose status holds `status`, not among the first `after` rows; the whole status."""
        found: str = self.wait(
            lambda: next((row[3] for row in self.rows[after:] if row[0] == name and status in row[3]), None),
            f"no row {name} {status}",
        )
        return found

    def log(self, text: str, after: int = 0) -> str:
        """Wait for a line on stderr that holds `text`."""
        found: str = self.wait(
            lambda: next((line for line in self.logs[after:] if text in line), None), f"no line {text!r}"
        )
        return found

    def url(self, name: str) -> str:
        """The endpoint of a server, as the table has it."""
        return next(row[2] for row in reversed(self.rows) if row[0] == name)

    def admin(self, name: str, after: int = 0) -> str:
        """The admin port's address, from the log of the sidecar."""
        lines = self.wait(
            lambda: [line for line in self.logs[after:] if line.startswith(name) and " serving " in line],
            f"{name} serves nothing",
        )
        found = re.search(r"admin=(\S+)", lines[-1])
        assert found is not None
        return found[1]

    def status(self, name: str) -> dict[str, Any]:
        """`/status` of the newest sidecar of a server."""
        with urllib.request.urlopen(f"{self.admin(name)}/status", timeout=5) as response:
            status: dict[str, Any] = json.load(response)
            return status

    def call(self, name: str, tool: str, /, **arguments: Any) -> str:
        """The text that a tool answers."""
        with HttpClient(self.url(name), modern=True, timeout=30) as client:
            text: str = client.call(tool, arguments).result["content"][0]["text"]
            return text

    def end(self, number: signal.Signals = signal.SIGINT, *, code: int = 0) -> None:
        """Send a signal; fails unless it ends with `code`, and no process and no file of it is left."""
        below = descendants(self.process.pid)
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it does not end; it said\n{self.said()}") from None
        for reader in self._readers:
            reader.join(5)
        left = survivors(below)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert left == {}, self.said()
        assert self.process.returncode == code, self.said()
        assert list(self.runtime.iterdir()) == []

    def kill(self) -> None:
        """SIGKILL it; what is below it must end by itself."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> UpProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.end()
            return
        below = descendants(self.process.pid)
        self.kill()
        for pid in survivors(below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

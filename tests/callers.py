"""Callers of a sidecar for tests: one call, several at once, and waiting for what the sidecar tells of itself."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from raw_mcp import HttpAnswer, HttpClient
from sidecar_process import SidecarProcess

TOOL_SERVER = Path(__file__).parent / "children" / "tool_server.py"


def stdio(*options: str, **settings: Any) -> dict[str, Any]:
    """The config of a server that is a `tool_server` with these options."""
    return {"command": sys.executable, "args": ["-S", "-E", str(TOOL_SERVER), *options], **settings}


def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What `condition` returns once it is true. For what another process does and no event tells of."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.01)


def slots(sidecar: SidecarProcess, server: str) -> list[dict[str, Any]]:
    """What `/status` tells of the places for processes of a server."""
    groups = sidecar.status()["servers"][server]["upstream"]["processes"].values()
    return [slot for group in groups for slot in group["slots"]]


def all_ready(sidecar: SidecarProcess, server: str, count: int) -> bool:
    """Whether so many processes of a server answered: each has set up what it does of a signal, or of the end of its
    input."""
    return [slot["state"] for slot in slots(sidecar, server)].count("ready") == count


class Caller:
    """A client of one server behind a sidecar, in either era."""

    def __init__(self, sidecar: SidecarProcess, server: str | None = None, *, modern: bool = True) -> None:
        self.url = sidecar.url(server)
        self.client = HttpClient(self.url, modern=modern, timeout=30)
        self.headers: dict[str, str] = {}

    def open(self) -> Caller:
        """The handshake, for the legacy era."""
        self.client.open()
        return self

    def answer(self, tool: str, **arguments: Any) -> HttpAnswer:
        """The whole answer of a tool call."""
        return self.client.call(tool, arguments)

    def text(self, tool: str, **arguments: Any) -> str:
        """The text a tool answers; fails on an error."""
        text: str = self.answer(tool, **arguments).result["content"][0]["text"]
        return text

    def reason(self, tool: str, **arguments: Any) -> str:
        """The reason of our own error that a call ends with."""
        answer = self.answer(tool, **arguments).answer
        assert "error" in answer, answer
        reason: str = answer["error"]["data"]["reason"]
        return reason

    def list(self) -> list[str]:
        """The names of the tools."""
        return [tool["name"] for tool in self.client.request("tools/list").result["tools"]]

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


class Callers:
    """Calls at the same time, each on a connection of its own. A context manager that waits for all of them."""

    def __init__(self, sidecar: SidecarProcess, server: str | None = None, *, count: int = 16) -> None:
        self.sidecar = sidecar
        self.server = server
        self._pool = ThreadPoolExecutor(count)

    def call(self, tool: str, **arguments: Any) -> Future[HttpAnswer]:
        """Begin a call."""

        def make() -> HttpAnswer:
            caller = Caller(self.sidecar, self.server)
            try:
                return caller.answer(tool, **arguments)
            finally:
                caller.close()

        return self._pool.submit(make)

    def __enter__(self) -> Callers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class Load:
    """Calls `echo` without a pause from several connections until it is stopped, and keeps what was not answered."""

    def __init__(self, sidecar: SidecarProcess, server: str | None = None, *, callers: int = 4, tool: str = "echo"):
        self.failures: list[str] = []
        self.answers = 0
        self.texts: set[str] = set()
        self._sidecar = sidecar
        self._server = server
        self._tool = tool
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(callers)]

    def _run(self) -> None:
        caller = Caller(self._sidecar, self._server)
        while not self._stop.is_set():
            try:
                answer = caller.answer(self._tool, text="load")
                if "result" not in answer.answer:
                    self.failures.append(json.dumps(answer.answer))
                else:
                    self.answers += 1
                    self.texts.add(answer.result["content"][0]["text"])
            except Exception as error:
                self.failures.append(repr(error))
                caller.close()
                caller = Caller(self._sidecar, self._server)
        caller.close()

    def more(self, count: int = 50) -> None:
        """Wait until that many more calls were answered."""
        goal = self.answers + count
        eventually(lambda: self.answers >= goal or self.failures)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)


def log_lines(sidecar: SidecarProcess, event: str | None = None) -> Sequence[Mapping[str, Any]]:
    """The log so far, those of one event."""
    lines = []
    for raw in list(sidecar.stderr):
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if event is None or line.get("event") == event:
            lines.append(line)
    return lines


def logged(sidecar: SidecarProcess, event: str, seconds: float = 10.0) -> Mapping[str, Any]:
    """The newest line of an event, waited for."""
    return eventually(lambda: log_lines(sidecar, event), seconds)[-1]  # type: ignore[no-any-return]

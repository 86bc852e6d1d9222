"""A server that comes and goes, and callers that change their minds, under load: beside `test_faults`, which spoils
single answers. The records of both sides are joined by the checker of the storms."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import echo_server
from hostile import ask, attacked, in_flight, modern, until
from sidecar_process import SidecarProcess, descendants, free_ports, running
from storm import Call, Callers, Executions, read_calls, violations

FLAPS = 8
UP, DOWN = 0.7, 0.4
"""Seconds."""


class Flapping:
    """The echo server, over HTTP or below a sidecar, that is there and gone in turn."""

    def __init__(self, transport: str, directory: Path) -> None:
        self.executions = Executions(directory / "ran")
        self._gone = directory / "gone"
        self._echo = echo_server.build()
        self._process: subprocess.Popen[bytes] | None = None
        [self._port] = free_ports(1)
        self.transport = transport
        command = directory / "server"
        command.write_text(
            f"#!/bin/sh\ntest -e {self._gone} && exit 1\nexec {self._echo} stdio --log {self.executions.path}\n"
        )
        command.chmod(0o700)
        served = {"command": str(command), "restart": {"backoffBase": "50ms", "backoffMax": "200ms"}}
        self.settings: dict[str, Any] = {
            **({"url": f"http://127.0.0.1:{self._port}/mcp"} if transport == "http" else served),
            "timeout": "2s",
            "retry": {"tools": {"echo": "Safe"}},
            "circuitBreaker": {"openDuration": "500ms"},
        }

    def up(self) -> None:
        """Be there."""
        self._gone.unlink(missing_ok=True)
        if self.transport == "http":
            arguments = ["http", "--addr", f"127.0.0.1:{self._port}", "--log", str(self.executions.path)]
            self._process = subprocess.Popen([str(self._echo), *arguments], stderr=subprocess.DEVNULL)

    def down(self, sidecar: SidecarProcess | None = None) -> None:
        """Be gone, in the middle of whatever it is."""
        self._gone.touch()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for pid in descendants(sidecar.pid) if sidecar is not None and self.transport == "stdio" else ():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/exe") == str(self._echo):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=["http", "stdio"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Flapping]:
    flapping = Flapping(request.param, tmp_path)
    flapping.up()
    yield flapping
    flapping.down()
    flapping.executions.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_that_flaps(server: Flapping, tmp_path: Path) -> None:
    pause = threading.Event()
    config = {"servers": {"echo": server.settings}, "audit": {"enabled": False}, "log": {"calls": False}}
    with running(config) as sidecar:
        record = tmp_path / "told"
        # callers that rest between calls, else those that are refused at once would outnumber all others
        calling = {"tools": "write,echo", "connections": 16, "ms": 2, "prefix": "flap", "pause": "20ms"}
        callers = Callers(sidecar.url(), "modern", record, **calling)
        try:
            for _ in range(FLAPS):
                pause.wait(UP)
                server.down(sidecar)
                pause.wait(DOWN)
                server.up()
            pause.wait(3)
            server.executions.read()
            recovered = server.executions.ran.total()
            pause.wait(1)
            server.executions.read()
            assert server.executions.ran.total() > recovered + 100, "it did not come back by itself"
            report = callers.stop()
        finally:
            callers.kill()
        calls = read_calls(record)
        server.executions.read()
        assert not report["errors"].get("unasked")
        assert violations(calls, server.executions.ran)[:10] == []
        print(f"{server.transport}: {len(calls)} calls, {_share(calls):.1f} % ok, {FLAPS} outages of {DOWN} s")


def _share(calls: list[Call]) -> float:
    return 100 * sum(call.outcome == "ok" for call in calls) / max(len(calls), 1)


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_calls_that_nobody_waits_for_are_stopped(server: Flapping) -> None:
    """A modern caller's disconnect is its cancel, and the server hears of it."""
    count = 90
    async with attacked({"echo": server.settings | {"timeout": "30s"}}) as sidecar:
        await ask(sidecar, modern("tools/call", {"name": "echo", "arguments": {"text": "warm"}}))
        writers = []
        for number in range(count):
            _, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
            arguments = {"ms": 20_000, "key": f"cancel-{number}"}
            writer.write(modern("tools/call", {"name": "sleep", "arguments": arguments}, id=number))
            writers.append(writer)
        path = server.executions.path
        in_use = 10 if server.transport == "http" else count  # so many connections the pool has
        await until(lambda: path.read_text().count("ran cancel-") >= in_use, "the calls run")
        for writer in writers:
            writer.transport.abort()
        await until(lambda: in_flight(sidecar) == 0, "every permit back")

        def all_stopped() -> bool:
            text = path.read_text()
            return text.count("cancelled cancel-") == text.count("ran cancel-")

        await until(all_stopped, "the server stopped what it ran")
        ran = path.read_text().count("ran cancel-")
        print(f"{server.transport}: {ran} of {ran} slow calls stopped upstream")

"""What is measured: nothing in between (direct), the sidecar, its peers; how each is started and where it listens.

A target is started fresh for a cell, with its output going to a pipe that is read. Where the programs of the peers come
from is `peers`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import BenchError, Load, cpu_microseconds, load, tree
from sidecar_process import descendants, free_ports, survivors

HTTP, STDIO = "http", "stdio"
MODERN, LEGACY = "modern", "legacy"


@dataclass
class Place:
    """What a target is started with."""

    port: int
    admin_port: int
    upstream: str
    """URL of the echo server (HTTP)."""
    echo: Path
    """The echo program, for stdio: `ECHO stdio`."""
    directory: Path
    """Scratch, for config files."""
    timeout: int = 30
    """Seconds a call may take, where the target can be told."""


@dataclass(frozen=True)
class Target:
    """One thing to measure."""

    name: str
    command: Callable[[Place], list[str]] | None
    """None: the upstream itself."""
    eras: tuple[str, ...] = (MODERN, LEGACY)
    path: str = "/mcp"
    tool: str = "echo"
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Running:
    """A target that serves."""

    target: Target
    url: str
    pid: int
    """0 for the upstream itself."""
    echo: Path
    start_cpu: float = 0.0
    """µs of CPU from the start to the first right answer."""
    start_seconds: float = 0.0

    def processes(self) -> list[int]:
        """The processes that count."""
        return tree(self.pid, self.echo) if self.pid else []


def sidecar_config(place: Place, transport: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The sidecar's config with every stage on; `changes` are dotted names, below the server with `server.` first."""
    server: dict[str, Any] = (
        {"url": place.upstream} if transport == HTTP else {"command": str(place.echo), "args": ["stdio"]}
    )
    server["limits"] = {"rate": {"requestsPerSecond": 1_000_000}, "maxConcurrent": 64}
    if transport == HTTP:
        server["pool"] = {"max": 64}
    config: dict[str, Any] = {
        "servers": {"echo": server},
        "sessions": {"stateDirectory": str(place.directory)},
    }
    for name, value in (changes or {}).items():
        *parents, last = name.split(".")
        node = config
        for parent in parents:
            node = node["servers"]["echo"] if parent == "server" else node.setdefault(parent, {})
        node[last] = value
    return config


def sidecar(transport: str, name: str = "outrigger", changes: Mapping[str, Any] | None = None) -> Target:
    """Our own."""

    def command(place: Place) -> list[str]:
        path = place.directory / f"{name.replace(' ', '-')}-{place.port}.json"
        path.write_text(json.dumps(sidecar_config(place, transport, changes)))
        listen = ["--host", "127.0.0.1", "--port", str(place.port), "--admin-port", str(place.admin_port)]
        return [sys.executable, "-m", "mcp_sidecar.cli", "run", "--config", str(path), *listen]

    return Target(name, command)


@contextlib.contextmanager
def serving(target: Target, place: Place, loader: Path, era: str) -> Iterator[Running]:
    """Start a target, wait for its first right answer, stop it with everything below it."""
    if target.command is None:
        yield Running(target, place.upstream, 0, place.echo)
        return
    url = f"http://127.0.0.1:{place.port}{target.path}"
    said = place.directory / f"{place.port}.stderr"
    with contextlib.ExitStack() as stack:
        out = _reader(stack, ["cat"], Path(os.devnull))
        err = _reader(stack, ["tail", "-c", "3000"], said)
        begun = time.monotonic()
        process = subprocess.Popen(
            target.command(place),
            stdin=subprocess.DEVNULL,
            stdout=out.stdin,
            stderr=err.stdin,
            env={**os.environ, **target.env},
            cwd=place.directory,
            start_new_session=True,
        )
        stack.callback(_stop, process)
        running = Running(target, url, process.pid, place.echo)
        try:
            _wait(process, place.port, target.name)
            first = _first_answer(loader, running, era)
            running.start_seconds = time.monotonic() - begun
            running.start_cpu = cpu_microseconds(running.processes())
            if first.ok != 1:
                raise BenchError(f"{target.name} gives no right answer ({era}): {first.first_errors}")
        except BenchError as error:
            stack.close()
            raise BenchError(f"{error}\n{said.read_text(errors='replace')}") from None
        yield running


def _reader(stack: contextlib.ExitStack, command: list[str], target: Path) -> subprocess.Popen[bytes]:
    """A process that reads a pipe to its end, which is where the output of a target goes."""
    with target.open("wb") as file:
        reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file)
    assert reader.stdin is not None
    stack.callback(reader.wait, 10)
    stack.callback(reader.stdin.close)
    return reader


def _first_answer(loader: Path, running: Running, era: str) -> Load:
    until = time.monotonic() + 30
    while True:
        try:
            first = load(loader, running.url, era, tool=running.target.tool, connections=1, seconds=30, calls=1)
        except BenchError:
            if time.monotonic() > until:
                raise
        else:
            if first.ok == 1 or time.monotonic() > until:
                return first
        time.sleep(0.1)


def _wait(process: subprocess.Popen[bytes], port: int, name: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if process.poll() is not None:
            raise BenchError(f"{name} ended with {process.returncode} while starting")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.01)
    raise BenchError(f"{name} does not listen after 60 s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    below = descendants(process.pid)
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in survivors(below):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def upstream(echo: Path) -> Iterator[tuple[str, int]]:
    """The echo server over HTTP: its URL and pid."""
    [port] = free_ports(1)
    process = subprocess.Popen([str(echo), "http", "--addr", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
    try:
        _wait(process, port, "the echo server")
        yield f"http://127.0.0.1:{port}/mcp", process.pid
    finally:
        _stop(process)

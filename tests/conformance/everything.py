"""The SDK's everything server as an upstream: over HTTP in a process of ours, or as a command for the sidecar."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conformance import fetched
from images.everything import STDIO
from sidecar_process import free_ports

START_TIMEOUT = 60.0


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(fetched.everything_server()), "PYTHONUNBUFFERED": "1"}


@contextmanager
def over_http() -> Iterator[str]:
    """Run the server over HTTP; its URL. It serves both eras."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mcp_everything_server", "--port", str(port), "--log-level", "ERROR"]
    process = subprocess.Popen(
        command,
        env={**os.environ, **_environment()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            # streams that a client left open keep uvicorn from ending
            process.kill()
            process.wait()


def over_stdio(**settings: Any) -> dict[str, Any]:
    """The server as an entry of `servers` in a config of the sidecar."""
    return {"command": sys.executable, "args": [str(STDIO)], "env": _environment(), **settings}


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_TIMEOUT
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the everything server exited with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("the everything server does not listen")

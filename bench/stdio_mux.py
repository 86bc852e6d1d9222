"""CPU time of a call over stdio: multiplexer, line framer and pipes, against the compiled echo server.

    python -m bench.stdio_mux [--calls N] [--rounds N] [--json FILE]

No front, no stages: what the upstream side of a stdio call costs this process (user and system time), by the number of
callers at once, on uvloop and on asyncio. The least of all rounds is kept: noise only adds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from mcp_sidecar.errors import UpstreamError
from mcp_sidecar.upstream.child import ChildChannel, ChildSettings
from mcp_sidecar.upstream.multiplexer import Multiplexer

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

import echo_server

PARAMS = b'{"name":"echo","arguments":{"text":"hello"}}'
WITH_TOKEN = b'{"name":"echo","arguments":{"text":"hello"},"_meta":{"progressToken":7}}'
INITIALIZE = b'{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}'
CALLERS = (1, 16, 64)


class Peer:
    """The echo server says nothing on its own account."""

    def on_notification(self, method: str, message: bytes) -> None:
        """See Peer."""

    def on_request(self, id_raw: bytes, method: str, params: bytes | None, message: bytes) -> None:
        """See Peer."""

    def on_closed(self, error: UpstreamError) -> None:
        """See Peer."""


async def measure(command: str, calls: int, rounds: int) -> dict[str, dict[str, float]]:
    """µs of CPU and of wall time a call, by the number of callers."""
    channel = ChildChannel(ChildSettings(command, ("stdio",)), environment=dict, clock=time.monotonic)
    mux = Multiplexer(channel, ids=itertools.count(1).__next__, clock=time.monotonic, peer=Peer())
    await channel.open()
    await mux.request("initialize", INITIALIZE)
    mux.notify("notifications/initialized")

    async def caller(count: int, params: bytes) -> None:
        for _ in range(count):
            await mux.request("tools/call", params)

    found: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for label, callers, params in [
            *((f"{n} callers", n, PARAMS) for n in CALLERS),
            ("16 callers, progress token", 16, WITH_TOKEN),
        ]:
            cpu, wall = time.process_time(), time.monotonic()
            await asyncio.gather(*(caller(calls // callers, params) for _ in range(callers)))
            cost = {
                "cpu_us": (time.process_time() - cpu) / calls * 1e6,
                "wall_us": (time.monotonic() - wall) / calls * 1e6,
            }
            best = found.get(label, cost)
            found[label] = {name: round(min(best[name], cost[name]), 2) for name in cost}
    await channel.close("done")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    command = str(echo_server.build())
    runners: dict[str, Callable[[Coroutine[Any, Any, Any]], Any]] = {"uvloop": uvloop.run, "asyncio": asyncio.run}
    results = {name: run(measure(command, options.calls, options.rounds)) for name, run in runners.items()}
    print(f"Python {platform.python_version()}, {options.calls} calls, best of {options.rounds}")
    for loop, rows in results.items():
        for label, cost in rows.items():
            print(f"{loop:8} {label:28} {cost['cpu_us']:7.2f} µs CPU {cost['wall_us']:7.2f} µs wall a call")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

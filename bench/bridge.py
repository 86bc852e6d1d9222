"""What the bridge adds to a call: the sidecar with a stdio child beside the sidecar with the bridge and a socket.

    python -m bench.bridge [--seconds N] [--rounds N]

Same echo server, same load, variants interleaved; the round with the least CPU counts, since noise only adds. CPU is
that of the sidecar and, in its own column, of the bridge; the server's own is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import echo_server
from bench.measure import cpu_microseconds, load
from bridge_process import Bridge
from sidecar_process import running

CONNECTIONS = (1, 16)
LIMITS = {"limits": {"rate": {"requestsPerSecond": 1_000_000}, "maxConcurrent": 64}}


@dataclass(frozen=True)
class Figures:
    """Of one round: calls a second, milliseconds, µs of CPU a call."""

    rate: float
    p50: float
    p99: float
    sidecar: float
    bridge: float


@contextlib.contextmanager
def serving(variant: str, directory: Path) -> Iterator[tuple[str, list[int], list[int]]]:
    """The URL, the sidecar's process, the bridge's."""
    echo = str(echo_server.build())
    with contextlib.ExitStack() as stack:
        bridge: list[int] = []
        server: dict[str, Any] = {"command": echo, "args": ["stdio"]}
        if variant == "bridge":
            started = stack.enter_context(Bridge(directory / "socket", [echo, "stdio"]))
            server, bridge = {"socket": str(started.socket)}, [started.pid]
        sidecar = stack.enter_context(running({"servers": {"echo": {**server, **LIMITS}}}))
        yield sidecar.url(), [sidecar.pid], bridge


def measure(variant: str, connections: int, seconds: float) -> Figures:
    """One round."""
    loader = echo_server.build("load")
    with tempfile.TemporaryDirectory() as directory, serving(variant, Path(directory)) as (url, sidecar, bridge):
        load(loader, url, "modern", connections=connections, seconds=0.5)
        before = cpu_microseconds(sidecar), cpu_microseconds(bridge)
        said = load(loader, url, "modern", connections=connections, seconds=seconds)
        assert said.ok == said.calls, said
        used = cpu_microseconds(sidecar) - before[0], cpu_microseconds(bridge) - before[1]
    return Figures(said.rate, said.p50, said.p99, used[0] / said.calls, used[1] / said.calls)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.bridge", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    print(f"{'':10}{'connections':>12}{'calls/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'sidecar µs':>12}{'bridge µs':>11}")
    for connections in CONNECTIONS:
        rounds: dict[str, list[Figures]] = {"child": [], "bridge": []}
        for _ in range(options.rounds):
            for variant, found in rounds.items():
                found.append(measure(variant, connections, options.seconds))
        for variant, found in rounds.items():
            best = min(found, key=lambda figures: figures.sidecar + figures.bridge)
            print(
                f"{variant:10}{connections:12}{best.rate:10.0f}{best.p50:9.3f}{best.p99:9.3f}"
                f"{best.sidecar:12.1f}{best.bridge:11.1f}"
            )


if __name__ == "__main__":
    main()

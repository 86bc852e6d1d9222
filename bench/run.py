"""The command line of the benchmark and its rounds: everything that is measured is up at once and takes slices in turn.

Interleaving is what makes figures comparable on a machine that is not quiet: each round sees the same load from
elsewhere, so ratios within a round hold where rates between runs do not. What is started is in `targets` and `peers`;
the table and the files are in `report`.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import echo_server
from bench import report
from bench.measure import BenchError, Load, cpu_microseconds, load, resident_mib
from bench.peers import peers
from bench.targets import HTTP, LEGACY, MODERN, STDIO, Place, Running, Target, serving, sidecar, upstream
from sidecar_process import free_ports

RSS_CALLS = 100_000

# Each stage and each part of the telemetry off in turn. The bulkhead and the deadline have no switch.
SWITCHES: dict[str, dict[str, object]] = {
    "without cache": {"server.cache": {"enabled": False}},
    "without rate limit": {"server.limits": {"maxConcurrent": 64}},
    "without retry": {"server.retry": {"maxRetries": 0}},
    "without breaker": {"server.circuitBreaker": {"enabled": False}},
    "without call log": {"log": {"calls": False}},
    "without audit": {"audit": {"enabled": False}},
    "without tool histograms": {"metrics": {"toolHistograms": False}},
    "without metrics": {"metrics": {"enabled": False}},
    "with none of these": {
        "server.cache": {"enabled": False},
        "server.limits": {"maxConcurrent": 64},
        "server.retry": {"maxRetries": 0},
        "server.circuitBreaker": {"enabled": False},
        "log": {"calls": False},
        "audit": {"enabled": False},
        "metrics": {"enabled": False},
    },
}


@dataclass
class Cell:
    """All that was measured of one target in one cell; one number a round in each list."""

    target: str
    transport: str
    era: str
    cpu: list[float] = field(default_factory=list)
    """µs a call."""
    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    """p50 with one connection, ms."""
    added: list[float] = field(default_factory=list)
    """The same less the direct one of the same round."""
    rss: float = 0.0
    rss_calls: int = 0
    start_cpu: float = 0.0
    start_seconds: float = 0.0
    errors: dict[str, str] = field(default_factory=dict)

    def note(self, run: Load) -> None:
        """Remember what went wrong in a run."""
        for kind, count in run.errors.items():
            self.errors[kind] = f"{count} of {run.calls}: {run.first_errors.get(kind, '')}"


@dataclass
class Plan:
    """How long and how often."""

    rounds: int
    seconds: float
    connections: int


def measure(
    transport: str, era: str, targets: Sequence[Target], plan: Plan, programs: tuple[Path, Path], *, memory: bool = True
) -> list[Cell]:
    """One cell of the table: all targets up, slices in turn. A target that does not start is left out, loudly."""
    echo, loader = programs
    cells = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outrigger-bench-")))
        url, _ = stack.enter_context(upstream(echo))
        up: list[tuple[Running, Cell]] = []
        for target in targets:
            if era not in target.eras:
                continue
            ports = free_ports(2)
            place = Place(ports[0], ports[1], url, echo, directory)
            try:
                running = stack.enter_context(serving(target, place, loader, era))
            except BenchError as error:
                print(f"bench: {transport} {era}: {error}", file=sys.stderr)
                continue
            cell = Cell(target.name, transport, era, start_cpu=running.start_cpu, start_seconds=running.start_seconds)
            up.append((running, cell))
            load(loader, running.url, era, tool=target.tool, connections=plan.connections, seconds=1, calls=2000)
        for number in range(plan.rounds):
            direct = 0.0
            for running, cell in up:
                direct = slice_of(running, cell, era, plan, loader, direct)
            print(f"bench: {transport} {era}: round {number + 1} of {plan.rounds}", file=sys.stderr)
        for running, cell in up:
            if memory and running.pid:
                top_up(running, cell, era, plan, loader)
            cells.append(cell)
    return cells


def slice_of(running: Running, cell: Cell, era: str, plan: Plan, loader: Path, direct: float) -> float:
    """One target's turn in a round; gives the direct p50 of this round on."""
    tool = running.target.tool
    before, begun = cpu_microseconds(running.processes()), time.monotonic()
    busy = load(loader, running.url, era, tool=tool, connections=plan.connections, seconds=plan.seconds)
    spent = cpu_microseconds(running.processes()) - before
    cell.note(busy)
    cell.cpu.append(spent / max(busy.calls, 1))
    cell.rate.append(busy.ok / (time.monotonic() - begun if busy.seconds > 2 * plan.seconds else busy.seconds))
    cell.p50.append(busy.p50)
    cell.p99.append(busy.p99)
    alone = load(loader, running.url, era, tool=tool, connections=1, seconds=max(0.5, plan.seconds / 3))
    cell.note(alone)
    cell.alone.append(alone.p50)
    if not running.pid:
        direct = alone.p50
    cell.added.append(alone.p50 - direct)
    cell.rss_calls += busy.calls + alone.calls
    return direct


def top_up(running: Running, cell: Cell, era: str, plan: Plan, loader: Path) -> None:
    """Bring a target to 100 000 calls where that takes less than a minute, then look at its memory."""
    missing = RSS_CALLS - cell.rss_calls
    if missing > 0 and missing / max(statistics.median(cell.rate), 1) < 60:
        run = load(
            loader, running.url, era, tool=running.target.tool, connections=plan.connections, seconds=90, calls=missing
        )
        cell.note(run)
        cell.rss_calls += run.calls
    cell.rss = resident_mib(running.processes())


def breakdown(transport: str, plan: Plan, programs: tuple[Path, Path]) -> list[Cell]:
    """The sidecar with everything on, and with each switch off in turn."""
    targets = [sidecar(transport, "everything on")]
    targets += [sidecar(transport, name, changes) for name, changes in SWITCHES.items()]
    return measure(transport, MODERN, targets, plan, programs, memory=False)


def main() -> None:
    """`python -m bench`."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--built-peers", action="store_true", help="also the peers that are compiled here: minutes of Go and Rust"
    )
    parser.add_argument("--no-peers", action="store_true", help="only direct and the sidecar")
    parser.add_argument("--no-breakdown", action="store_true", help="leave out the cost of each stage")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a slice with --connections")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--transport", choices=[HTTP, STDIO], help="only this one")
    parser.add_argument("--era", choices=[MODERN, LEGACY], help="only this one")
    parser.add_argument("--write-docs", action="store_true", help="update docs/benchmarks.md")
    options = parser.parse_args()
    plan = Plan(options.rounds, options.seconds, options.connections)
    programs = (echo_server.build("echo"), echo_server.build("load"))
    machine = report.machine()
    cells: list[Cell] = []
    stages: list[Cell] = []
    for transport in [options.transport] if options.transport else [HTTP, STDIO]:
        others = [] if options.no_peers else peers(transport, built=options.built_peers)
        for era in [options.era] if options.era else [MODERN, LEGACY]:
            targets = [Target("direct", None), sidecar(transport), *others]
            cells += measure(transport, era, targets, plan, programs)
        if not options.no_breakdown:
            stages += breakdown(transport, plan, programs)
    text = report.tables(cells, stages)
    print(text)
    path = report.save(cells, stages, machine, plan)
    print(f"\nsaved in {path}")
    if options.write_docs:
        report.write_docs(text, machine, sys.argv[1:])
    if not any(cell.target == "outrigger" for cell in cells):
        sys.exit("bench: the sidecar did not run")
    if wrong := [cell for cell in cells if cell.target == "outrigger" and cell.errors]:
        sys.exit(f"bench: the sidecar gave errors: {[cell.errors for cell in wrong]}")

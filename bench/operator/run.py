"""The rounds of the operator's benchmark, its command line and its table.

For each size: a control plane of its own (etcd, kube-apiserver), the operator with exactly its rights, N MCPServers
applied at once; then a time of rest; then single changes. Nothing else runs on the API server, and everything shares
the machine's cores, the makers of the load too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from bench.measure import BenchError, cpu_microseconds, resident_mib  # noqa: E402
from bench.operator.fleet import Fleet  # noqa: E402
from cluster.conftest import install_crds  # noqa: E402
from cluster.control_plane import AuditEvent, ControlPlane  # noqa: E402
from cluster.kubernetes_programs import version  # noqa: E402
from cluster.operator_process import OperatorProcess, install  # noqa: E402

OPERATOR_NAMESPACE = "outrigger-bench"
APPLY_TIMEOUT = 600.0
QUIET = 5.0
"""Seconds without a write after which a fleet is at rest."""
RESULTS = ROOT / "bench" / "results" / "operator.json"


@dataclass
class Round:
    """What one size cost. Times in seconds, memory in MiB, CPU of the operator's process alone."""

    servers: int
    applied: float = 0.0
    """From the first MCPServer sent until every Deployment and Service was there."""
    settled: float = 0.0
    """Until the last write of the operator."""
    cpu: float = 0.0
    """CPU seconds until then."""
    requests: dict[str, int] = field(default_factory=dict)
    """Verb and resource → how many, until then."""
    empty_rss: float = 0.0
    rss: float = 0.0
    peak_rss: float = 0.0
    rest: float = 0.0
    rest_writes: int = 0
    rest_reads: int = 0
    rest_cpu: float = 0.0
    changes: list[float] = field(default_factory=list)

    @property
    def rest_percent(self) -> float:
        """Percent of a core at rest."""
        return 100 * self.rest_cpu / self.rest if self.rest else 0.0


def measure(servers: int, rest: float, changes: int) -> Round:
    """One round. Raises BenchError."""
    result = Round(servers)
    with ControlPlane(controllers=False) as cluster:
        install_crds(cluster.api)
        access = install(cluster, OPERATOR_NAMESPACE)
        # settings as shipped: the tests' are in a hurry
        operator = OperatorProcess(access, cluster.directory, namespace=OPERATOR_NAMESPACE, settings={}, quick=False)
        operator.start().wait_until_leading()
        try:
            _measure(result, cluster, operator, rest, changes)
        except TimeoutError as error:
            raise BenchError(f"{servers} MCPServers: {error}\n{operator.describe()}") from error
        finally:
            operator.process.stop()
        operator.check()
    return result


def _measure(result: Round, cluster: ControlPlane, operator: OperatorProcess, rest: float, changes: int) -> None:
    pid = operator.process.pid
    fleet = Fleet(cluster.api, result.servers)
    account = f"system:serviceaccount:{OPERATOR_NAMESPACE}:outrigger-operator"
    result.empty_rss = resident_mib([pid])
    before = cpu_microseconds([pid])
    mark = cluster.audit_mark()
    wall = time.time()
    began = fleet.create()
    _say(f"{result.servers}: sent in {time.monotonic() - began:.1f} s")
    _wait(fleet.applied, APPLY_TIMEOUT, "not all Deployments and Services were applied")
    result.applied = time.monotonic() - began
    _say(f"{result.servers}: applied in {result.applied:.1f} s")

    def requests(since: int) -> list[AuditEvent]:
        """The operator's, but for its Lease."""
        return [one for one in cluster.audit(since) if one.user == account and one.resource != "leases"]

    def writes(since: int) -> int:
        return sum(one.is_write for one in requests(since))

    last = -1

    def quiet() -> bool:
        nonlocal last
        now = writes(mark)
        still, last = now == last, now
        return still

    _wait(quiet, APPLY_TIMEOUT, "the operator did not come to rest", interval=QUIET)
    seen = requests(mark)
    result.settled = max(one.at for one in seen if one.is_write) - wall
    result.cpu = (cpu_microseconds([pid]) - before) / 1e6
    result.requests = dict(Counter(f"{one.verb} {one.resource}" for one in seen).most_common())

    rest_mark, rest_began, rest_cpu = cluster.audit_mark(), time.monotonic(), cpu_microseconds([pid])
    time.sleep(rest)
    result.rest = time.monotonic() - rest_began
    result.rest_cpu = (cpu_microseconds([pid]) - rest_cpu) / 1e6
    at_rest = requests(rest_mark)
    result.rest_writes = writes(rest_mark)
    result.rest_reads = len(at_rest) - result.rest_writes
    _say(f"{result.servers}: at rest {result.rest_writes} writes, {result.rest_percent:.2f} % of a core")

    step = max(1, result.servers // changes)
    result.changes = [fleet.change_one(number) for number in range(0, result.servers, step)][:changes]
    result.rss, result.peak_rss = resident_mib([pid]), _peak_mib(pid)


def _wait(condition: Callable[[], bool], timeout: float, what: str, interval: float = 0.2) -> None:
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} within {timeout:g} s")
        time.sleep(interval)


def _peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def table(rounds: Sequence[Round]) -> str:
    """The results in Markdown."""
    columns: list[tuple[str, Callable[[Round], str]]] = [
        ("MCPServers", lambda one: str(one.servers)),
        ("all applied", lambda one: f"{one.applied:.1f} s"),
        ("last status written", lambda one: f"{one.settled:.1f} s"),
        ("CPU for each", lambda one: f"{1000 * one.cpu / one.servers:.1f} ms"),
        ("requests for each", lambda one: f"{sum(one.requests.values()) / one.servers:.1f}"),
        ("RSS before / after / peak", lambda one: f"{one.empty_rss:.0f} / {one.rss:.0f} / {one.peak_rss:.0f} MiB"),
        ("writes at rest", lambda one: f"{one.rest_writes} in {one.rest:.0f} s"),
        ("CPU at rest", lambda one: f"{one.rest_percent:.2f} %"),
        ("one change applied, median / worst", _changes),
    ]
    lines = ["| " + " | ".join(name for name, _ in columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(show(one) for _, show in columns) + " |" for one in rounds]
    return "\n".join(lines)


def _changes(one: Round) -> str:
    if not one.changes:
        return "–"
    return f"{1000 * statistics.median(one.changes):.0f} / {1000 * max(one.changes):.0f} ms"


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m bench.operator`."""
    parser = argparse.ArgumentParser(prog="bench.operator", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--servers", default="100,1000,2000", help="sizes of the fleet, by commas (100,1000,2000)")
    parser.add_argument(
        "--rest", type=float, default=60.0, metavar="SECONDS", help="time of rest that is measured (60)"
    )
    parser.add_argument("--changes", type=int, default=10, metavar="N", help="single changes that are measured (10)")
    options = parser.parse_args(arguments)
    try:
        rounds = [measure(int(size), options.rest, options.changes) for size in options.servers.split(",")]
    except BenchError as error:
        sys.exit(f"bench: {error}")
    RESULTS.parent.mkdir(exist_ok=True)
    machine: dict[str, Any] = {
        "kubernetes": version(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
    }
    RESULTS.write_text(json.dumps({"machine": machine, "rounds": [asdict(one) for one in rounds]}, indent=2) + "\n")
    print(table(rounds))


if __name__ == "__main__":
    main()

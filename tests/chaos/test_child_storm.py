"""The server's process is killed mid-call, again and again, under load: what callers get, and what is left afterwards.

The long storm has no breaker and a restart after 10 ms, so that nothing but the handling of the death itself is between
a kill and the next call. The short one has the defaults, so that backoff and breaker are seen at work.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import echo_server
from sidecar_process import SidecarProcess, process_table, running
from storm import Call, Callers, Executions, Killer, read_calls, violations

KILLS = int(os.environ.get("OUTRIGGER_STORM_KILLS", "1000"))


def config(log: Path, era: str = "dual", **changes: Any) -> dict[str, Any]:
    """The echo server; where it is dual-era it has a process for each era, and both are killed in turn."""
    server = {
        "command": str(echo_server.build()),
        "args": ["stdio", "--era", era, "--log", str(log)],
        "retry": {"tools": {"sleep": "Safe"}},
    }
    return {"servers": {"echo": {**server, **changes}}, "audit": {"enabled": False}, "log": {"calls": False}}


@contextlib.contextmanager
def callers(sidecar: SidecarProcess, directory: Path, connections: int, ms: int) -> Iterator[list[Callers]]:
    """Modern and legacy callers together; half of the calls are unsafe, half are safe."""
    both = [
        Callers(sidecar.url(), era, directory / era, tools="write,sleep", connections=connections, ms=ms, prefix=era)
        for era in ("modern", "legacy")
    ]
    try:
        yield both
    finally:
        for one in both:
            one.kill()


def open_files(sidecar: SidecarProcess) -> int:
    return len(os.listdir(f"/proc/{sidecar.pid}/fd"))


def total(metrics: dict[str, float], name: str, *labels: str) -> float:
    """Sum of the samples of a metric whose labels contain all of `labels` (`tool="write"`)."""
    return sum(
        value
        for sample, value in metrics.items()
        if sample.partition("{")[0] == name and all(label in sample for label in labels)
    )


def wait_until(condition: Callable[[], object], what: str, timeout: float = 20) -> None:
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, f"not within {timeout:g} s: {what}"
        time.sleep(0.05)


def assert_quiet(sidecar: SidecarProcess, files: int) -> None:
    """After a storm: permits back, a process for each era and no zombie, no more open files than they need.

    `files` were open with one process; the echo server has both eras, so callers of both get a process each.
    """

    def idle() -> bool:
        metrics = sidecar.metrics()
        busy = ("outrigger_bulkhead_in_flight", "outrigger_queue_length")
        return all(total(metrics, name) == 0 for name in busy) and total(metrics, "outrigger_bulkhead_limit") > 0

    wait_until(idle, "every permit back")
    wait_until(lambda: len(sidecar.children()) <= 2, "a process of the server for each era")
    wait_until(
        lambda: not any(parent == sidecar.pid and state == "Z" for parent, _, state in process_table().values()),
        "no zombie",
    )
    wait_until(lambda: open_files(sidecar) <= files + 4, f"{open_files(sidecar)} open files, {files} before")


def assert_counted(sidecar: SidecarProcess, calls: list[Call]) -> None:
    """The sidecar's own count agrees with what the callers saw."""
    metrics = sidecar.metrics()
    assert total(metrics, "outrigger_calls_total", 'method="tools/call"') == len(calls)
    ok = sum(call.outcome == "ok" for call in calls)
    assert total(metrics, "outrigger_calls_total", 'method="tools/call"', 'outcome="ok"') == ok


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_kills_mid_call(tmp_path: Path) -> None:
    log = tmp_path / "ran"
    executions = Executions(log)
    settings = config(log, restart={"backoffBase": "10ms", "backoffMax": "10ms"}, circuitBreaker={"enabled": False})
    with running(settings) as sidecar:
        files = open_files(sidecar)
        with callers(sidecar, tmp_path, connections=8, ms=3) as both:
            killer, chance = Killer(executions), random.Random(7)
            for _ in range(KILLS):
                killer.kill_next(timeout=20, after=chance.randint(1, 40))
            reports = [one.stop() for one in both]
        calls = [call for one in both for call in read_calls(one.record)]
        executions.read()
        assert sum(report["calls"] for report in reports) == len(calls)
        assert not any(report["errors"].get("unasked") for report in reports)
        assert violations(calls, executions.ran)[:10] == []

        reasons = Counter(call.reason for call in calls)
        unsafe = Counter(call.reason for call in calls if call.tool == "write")
        print(f"{KILLS} kills, {len(calls)} calls: {dict(reasons)}; unsafe: {dict(unsafe)}")
        assert unsafe["child_exited"] > KILLS / 2, "the kills did not hit calls"
        # what may run twice is tried again, as far as the budget goes
        safe = Counter(call.reason for call in calls if call.tool == "sleep")
        assert safe["child_exited"] < unsafe["child_exited"] / 2
        assert_quiet(sidecar, files)
        assert_counted(sidecar, calls)
        assert total(sidecar.metrics(), "outrigger_child_restarts_total") >= KILLS
    executions.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_with_the_defaults_backoff_is_seen_and_the_breaker_stays_closed(tmp_path: Path) -> None:
    log = tmp_path / "ran"
    executions = Executions(log)
    with running(config(log, era="legacy")) as sidecar:
        files = open_files(sidecar)
        with callers(sidecar, tmp_path, connections=8, ms=3) as both:
            killer = Killer(executions)
            waits = [killer.kill_next(timeout=60) for _ in range(3)]
            metrics = sidecar.metrics()
            # it heals by itself
            executions.pids.clear()

            def serves() -> bool:
                executions.read()
                return any(pid not in {killed for killed, _ in killer.killed} for pid in executions.pids)

            wait_until(serves, "calls reach a new process", 60)
            reports = [one.stop() for one in both]
        calls = [call for one in both for call in read_calls(one.record)]
        executions.read()
        assert not any(report["errors"].get("unasked") for report in reports)
        assert violations(calls, executions.ran)[:10] == []

        # backoff: 1 s before the first restart, 2 s before the second, half of each left to chance
        assert waits[1] > 0.5
        assert waits[2] > 1.0
        # each end of a process is one failure, however many calls it takes along: three in a row are no outage
        assert total(metrics, "outrigger_breaker_transitions_total", 'to="open"') == 0
        failed = [call for call in calls if call.reason == "child_exited"]
        assert failed, Counter(call.reason for call in calls)
        assert not [call for call in calls if call.reason == "breaker_open"]
        # modern callers see it in the status, legacy ones must not: SDK 1.x ends its session on a 5xx
        assert {call.status for call in failed if call.key.startswith("modern")} <= {502}
        assert {call.status for call in failed if call.key.startswith("legacy")} <= {200}
        assert_quiet(sidecar, files)
        assert_counted(sidecar, calls)
    executions.close()

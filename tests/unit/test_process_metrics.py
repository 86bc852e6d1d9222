"""process_* agree with what the kernel says, and the lag of the loop is seen."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from mcp_sidecar.telemetry.metrics import Registry
from mcp_sidecar.telemetry.process import LoopLag, ProcessMetrics


def read(registry: Registry) -> dict[str, float]:
    text = registry.render().decode()
    return {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}


def test_process_metrics_are_those_of_this_process() -> None:
    registry = Registry()
    ProcessMetrics(registry)
    before = read(registry)
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    after = read(registry)
    for file in files:
        os.close(file)
    assert after["process_open_fds"] == before["process_open_fds"] + 5
    assert 1e6 < after["process_resident_memory_bytes"] < after["process_virtual_memory_bytes"]
    assert after["process_cpu_seconds_total"] > 0
    assert 0 < time.time() - after["process_start_time_seconds"] < 86_400
    assert after["process_max_fds"] > 0


def test_without_proc_what_it_would_tell_is_left_out(tmp_path: Path) -> None:
    registry = Registry()
    ProcessMetrics(registry, str(tmp_path))
    assert set(read(registry)) == {"process_cpu_seconds_total", "process_max_fds"}


async def test_a_blocked_loop_shows_as_lag() -> None:
    histogram = Registry().histogram("outrigger_lag_seconds", "L.", buckets=(0.05, 1)).labels()
    lag = LoopLag(histogram, clock=time.monotonic, interval=0.01)
    lag.start()
    time.sleep(0.1)
    while histogram.count == 0:
        await asyncio.sleep(0.005)
    lag.stop()
    assert lag.last >= 0.08 or histogram.counts[1] == 1
    seen = histogram.count
    await asyncio.sleep(0.05)
    assert histogram.count == seen

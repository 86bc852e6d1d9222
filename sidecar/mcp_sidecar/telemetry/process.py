"""What the process itself uses, and how late its event loop runs.

Names and meanings of `process_*` are those of the Prometheus client libraries, read from /proc at scrape time. The loop
lag is sampled by a timer: it is how long anything on this loop may have to wait.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable

from mcp_sidecar.telemetry.metrics import Histogram, Registry


class ProcessMetrics:
    """`process_*` of this process. Where /proc is not there, what it would tell is left out."""

    def __init__(self, registry: Registry, proc: str = "/proc") -> None:
        self._proc = proc
        self._page = os.sysconf("SC_PAGE_SIZE")
        ticks = os.sysconf("SC_CLK_TCK")
        cpu = registry.counter("process_cpu_seconds_total", "User and system CPU time of the process in seconds.")
        cpu.labels().bind(_cpu_seconds)
        memory = registry.gauge("process_resident_memory_bytes", "Resident memory of the process in bytes.")
        memory.labels().bind(self._resident)
        registry.gauge("process_virtual_memory_bytes", "Virtual memory of the process in bytes.").labels().bind(
            self._virtual
        )
        registry.gauge("process_open_fds", "Open file descriptors.").labels().bind(self._open_fds)
        registry.gauge("process_max_fds", "Limit of open file descriptors.").labels().bind(_max_fds)
        start = registry.gauge("process_start_time_seconds", "Start of the process in seconds since the epoch.")
        try:
            start.labels().set(self._started(ticks))
        except (OSError, ValueError, IndexError):
            start.clear()

    def _read(self, name: str) -> str:
        with open(f"{self._proc}/{name}", encoding="ascii", errors="replace") as file:
            return file.read()

    def _started(self, ticks: int) -> float:
        # the second field may hold spaces and parentheses: count from the last one (proc(5), field 22)
        since_boot = int(self._read("self/stat").rpartition(")")[2].split()[19]) / ticks
        for line in self._read("stat").splitlines():
            if line.startswith("btime "):
                return float(line.split()[1]) + since_boot
        raise ValueError("no btime")

    def _resident(self) -> int:
        return int(self._read("self/statm").split()[1]) * self._page

    def _virtual(self) -> int:
        return int(self._read("self/statm").split()[0]) * self._page

    def _open_fds(self) -> int:
        # the listing itself holds one descriptor
        return len(os.listdir(f"{self._proc}/self/fd")) - 1


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _max_fds() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft


class LoopLag:
    """Measures by how much the loop's timers are late. `last` and `turned` also serve the liveness probe."""

    def __init__(self, histogram: Histogram, *, clock: Callable[[], float], interval: float = 0.5) -> None:
        self._histogram = histogram
        self._clock = clock
        self._interval = interval
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.last = 0.0
        """The latest lag in seconds."""
        self.turned = clock()
        """When the loop was last seen to turn."""

    def start(self) -> None:
        """Begin to sample on the running loop."""
        self.turned = self._clock()
        self._schedule()

    def stop(self) -> None:
        """Sample no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._due = self._clock() + self._interval
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._turn)

    def _turn(self) -> None:
        self.turned = self._clock()
        self.last = max(0.0, self.turned - self._due)
        self._histogram.observe(self.last)
        self._schedule()

"""What telemetry costs: a recorded call, the parts of it, a scrape, the import. `python bench/telemetry.py`.

CPU time of this process, best of several rounds, with log and audit going to a pipe that another process reads.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

from mcp_sidecar.errors import Reason, Rejected
from mcp_sidecar.pipeline.call import Call, CallKind, Era, Reply
from mcp_sidecar.telemetry.audit import Audit
from mcp_sidecar.telemetry.catalogue import OPERATION_BUCKETS, Catalogue
from mcp_sidecar.telemetry.lines import LineWriter
from mcp_sidecar.telemetry.log import Log
from mcp_sidecar.telemetry.metrics import Registry
from mcp_sidecar.telemetry.record import CallRecorder

RESULT = b'{"content":[{"type":"text","text":"' + b"x" * 100 + b'"}],"isError":false}'
ROUNDS = 5
CALLS = 50_000
SLICE = 5_000


def cpu() -> float:
    """CPU seconds of all threads of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def per_call(work: Callable[[], object], calls: int = CALLS) -> float:
    """Best of the rounds, in µs of CPU a call, the writer threads included."""
    best = float("inf")
    for _ in range(ROUNDS):
        before = cpu()
        for _ in range(calls // SLICE):
            for _ in range(SLICE):
                work()
            time.sleep(0.06)  # the threads write their batch, as between calls: nothing may be dropped here
        best = min(best, cpu() - before)
    return best / calls * 1e6


def drained_pipe() -> tuple[int, subprocess.Popen[bytes]]:
    """The writing end of a pipe that a process reads and throws away."""
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", "import os\nwhile os.read(0, 1 << 16): pass"], stdin=reader)
    os.close(reader)
    return writer, process


def call() -> Call:
    """A finished call as the pipeline leaves it."""
    made = Call(
        server="everything",
        id=b"17",
        method="tools/call",
        params=b'{"name":"echo","arguments":{"text":"hello"}}',
        era=Era.MODERN,
        version="2026-07-28",
        name="echo",
        identity=b"0123456789abcdef",
        kind=CallKind.UNSAFE,
        started=1.0,
        uid="c-0123456789abcdef",
    )
    made.attempts = 1
    made.queued_for = 0.00001
    made.upstream_time = 0.0008
    return made


def recorder(log_fd: int | None, audit_fd: int | None) -> CallRecorder:
    """A recorder with everything on that has a descriptor."""
    log = Log(LineWriter(log_fd, name="log")) if log_fd is not None else None
    audit = Audit(LineWriter(audit_fd, name="audit")) if audit_fd is not None else None
    made = CallRecorder(Catalogue(Registry()), log, audit, servers=["everything"])
    made.tools_listed("everything", b'{"tools":[{"name":"echo"}]}')
    return made


def scrape(series: int) -> tuple[float, int]:
    """CPU milliseconds of one rendering of about so many series, and its bytes."""
    registry = Registry(limit=100_000)
    family = registry.histogram("outrigger_h_seconds", "H.", ["server", "tool", "outcome"], buckets=OPERATION_BUCKETS)
    for number in range(series // (len(OPERATION_BUCKETS) + 3)):
        child = family.labels(f"server{number % 7}", f"tool{number}", "ok")
        for value in (0.001, 0.03, 0.4):
            child.observe(value)
    best = float("inf")
    for _ in range(ROUNDS):
        before = cpu()
        text = registry.render()
        best = min(best, cpu() - before)
    return best * 1e3, len(text)


def import_cost() -> tuple[float, float]:
    """CPU seconds and KiB of resident memory that importing telemetry adds to what the sidecar needs anyway."""
    program = (
        "import os, resource, sys\n"
        "import asyncio, cryptography.hazmat.primitives.ciphers.aead, msgspec, uvloop\n"
        "before = resource.getrusage(0); rss = int(open('/proc/self/statm').read().split()[1])\n"
        "import mcp_sidecar.telemetry.record, mcp_sidecar.telemetry.process\n"
        "after = resource.getrusage(0)\n"
        "print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,\n"
        "      (int(open('/proc/self/statm').read().split()[1]) - rss) * os.sysconf('SC_PAGE_SIZE') / 1024)\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(ROUNDS)
    ]
    return min(float(r[0]) for r in runs), min(float(r[1]) for r in runs)


def main() -> None:
    """Print the figures as JSON."""
    log_fd, log_reader = drained_pipe()
    audit_fd, audit_reader = drained_pipe()
    made, reply = call(), Reply(RESULT)
    rejected = Rejected(Reason.QUEUE_FULL, "the queue is full")
    bare, logged, full = recorder(None, None), recorder(log_fd, None), recorder(log_fd, audit_fd)
    histogram = bare._catalogue.operation_duration.labels("everything", "tools/call", "echo", "ok")
    figures: dict[str, object] = {
        "observe_us": per_call(lambda: histogram.observe(0.03)),
        "empty_loop_us": per_call(lambda: None),
        "call_metrics_us": per_call(lambda: bare.finished(made, reply, None, 1.001)),
        "call_metrics_log_us": per_call(lambda: logged.finished(made, reply, None, 1.001)),
        "call_metrics_log_audit_us": per_call(lambda: full.finished(made, reply, None, 1.001)),
        "rejected_call_all_us": per_call(lambda: full.finished(made, None, rejected, 1.001)),
        "scrape_2280_series_ms": scrape(2280)[0],
        "scrape_22800_series_ms": scrape(22_800)[0],
        "import_cpu_s": import_cost()[0],
        "import_rss_kib": import_cost()[1],
        "dropped": [logged.log.dropped if logged.log else 0, full.audit.dropped if full.audit else 0, full.failures],
        "python": sys.version.split()[0],
    }
    print(json.dumps(figures, indent=2))
    for fd, process in ((log_fd, log_reader), (audit_fd, audit_reader)):
        os.close(fd)
        process.wait(5)


if __name__ == "__main__":
    main()

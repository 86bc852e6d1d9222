"""What a process tree costs, and what a load run says. Reads /proc, so Linux only.

CPU is user + system time of a tree, in µs, with the benchmark's own echo server left out where it is a child of the
proxy that is measured. Knows nothing of proxies: that is `targets`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidecar_process import descendants

TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """Something the benchmark needs did not work; the message says what to do."""


def tree(pid: int, without: Path) -> list[int]:
    """`pid` and the processes below it, except those that run the program `without`."""
    found = []
    for member in (pid, *descendants(pid)):
        try:
            if os.readlink(f"/proc/{member}/exe") != str(without):
                found.append(member)
        except OSError:  # ended meanwhile
            continue
    return found


def cpu_microseconds(pids: Sequence[int]) -> float:
    """User and system time so far of the processes, and of their children that were waited for."""
    ticks = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        fields = stat[stat.rindex(")") + 2 :].split()
        ticks += sum(int(fields[index]) for index in (11, 12))
    return ticks * 1e6 / TICKS


def resident_mib(pids: Sequence[int]) -> float:
    """Resident memory of the processes."""
    total = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
    return total / 1024


@dataclass
class Load:
    """One run of the load generator; rates in calls a second, times in milliseconds."""

    calls: int
    ok: int
    seconds: float
    rate: float
    p50: float
    p99: float
    errors: dict[str, int] = field(default_factory=dict)
    first_errors: dict[str, str] = field(default_factory=dict)


def load(
    program: Path,
    url: str,
    era: str,
    *,
    tool: str = "echo",
    connections: int = 16,
    seconds: float = 5.0,
    calls: int = 0,
    extra: Sequence[str] = (),
) -> Load:
    """Run the load generator. Raises BenchError when it could not even begin."""
    command = [str(program), "--url", url, "--era", era, "--tools", tool, "--connections", str(connections)]
    command += ["--duration", f"{seconds:g}s", "--calls", str(calls), *extra]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90, check=False)
    if done.returncode != 0:
        raise BenchError(f"the load on {url} ({era}) failed: {done.stderr.strip()}")
    said: dict[str, Any] = json.loads(done.stdout)
    return Load(
        calls=said["calls"],
        ok=said["ok"],
        seconds=said["seconds"],
        rate=said["rate"],
        p50=said["p50_ms"],
        p99=said["p99_ms"],
        errors=said["errors"],
        first_errors=said["first_errors"],
    )

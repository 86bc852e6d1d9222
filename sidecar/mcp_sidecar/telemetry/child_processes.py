"""What a server's process uses, with all that it started: npx and uvx are only the first of several.

Read from /proc at scrape time; a process that ends meanwhile counts for nothing. Linux only: elsewhere all is 0.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_MOST: Final = 200
"""Processes looked at: a fork bomb must not stop the scrape."""


class Usage(NamedTuple):
    """CPU time with that of reaped children, resident memory, open descriptors."""

    cpu_seconds: float = 0.0
    resident_bytes: int = 0
    open_fds: int = 0


def usage(pid: int) -> Usage:
    """Of a process and all below it."""
    cpu, resident, descriptors = 0.0, 0, 0
    pending, seen = [pid], 0
    while pending and seen < _MOST:
        one = pending.pop()
        seen += 1
        try:
            with open(f"/proc/{one}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            cpu += sum(map(int, fields[11:15])) / _TICKS  # utime, stime and those of its reaped children (proc(5))
            resident += int(fields[21]) * _PAGE
            descriptors += len(os.listdir(f"/proc/{one}/fd"))
            with open(f"/proc/{one}/task/{one}/children", "rb") as file:
                pending += map(int, file.read().split())
        except (OSError, IndexError, ValueError):
            continue
    return Usage(cpu, resident, descriptors)

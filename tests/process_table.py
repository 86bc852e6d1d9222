"""What the kernel knows of processes: for tests that nothing is left behind. Linux only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def exists(pid: int) -> bool:
    """Whether the process runs or is a zombie."""
    return Path(f"/proc/{pid}").exists()


def children(pid: int | None = None) -> set[int]:
    """The children of a process, zombies too; of this one by default."""
    parent = str(os.getpid() if pid is None else pid)
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[1] == parent:
                found.add(int(entry))
    return found


def descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what no event tells of (the state of a foreign process); fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)

"""Reaping of orphans, as PID 1 of the container or as the subreaper of our processes.

Servers leave grandchildren behind (npx, uvx, shells); in a container their zombies are given to PID 1, us. The children
we started ourselves are spared: their exit status is waited for elsewhere (upstream/process.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from mcp_sidecar.upstream.process import LIVE

PR_SET_CHILD_SUBREAPER: Final = 36


def become_subreaper() -> bool:
    """Let orphans of our children be given to us where we are not PID 1. False where the system cannot (not Linux)."""
    import ctypes  # costs a megabyte: only who needs it

    try:
        return int(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0
    except (AttributeError, OSError):
        return False


class Reaper:
    """Looks for orphans every `interval` seconds: SIGCHLD has one owner in a process, and it is not us.

    A look costs a microsecond. `on_reaped(pid)` is told of each.
    """

    def __init__(self, *, interval: float = 1.0, on_reaped: Callable[[int], None] | None = None) -> None:
        self.reaped = 0
        self._interval = interval
        self._on_reaped = on_reaped
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, on the running loop."""
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._tick)

    def stop(self) -> None:
        """Look once more, and end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.reap()

    def _tick(self) -> None:
        self.reap()
        self.start()

    def reap(self) -> int:
        """Reap every orphan that has ended; returns how many."""
        count = 0
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if ended is None:
                break
            if ended.si_pid in LIVE:
                # One of ours stands in front, for as long as its group is being ended; look past it.
                count += self._reap_behind()
                break
            count += self._take(ended.si_pid)
        return count

    def _reap_behind(self) -> int:
        count = 0
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) not in LIVE:
                try:
                    with open(f"/proc/{name}/stat", "rb") as stat:
                        state, parent = stat.read().rpartition(b")")[2].split()[:2]
                except OSError:
                    continue
                if state == b"Z" and int(parent) == os.getpid():
                    count += self._take(int(name))
        return count

    def _take(self, pid: int) -> int:
        try:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is None:
                return 0
        except ChildProcessError:
            return 0
        self.reaped += 1
        if self._on_reaped is not None:
            self._on_reaped(pid)
        return 1


def end_all_children(patience: float = 2.0) -> int:
    """The last resort at the end of this process: SIGKILL whatever is still below it, and reap. Returns how many.

    Blocking, for when the loop is over; in good order everything was ended before, and this finds nothing.
    """
    until = time.monotonic() + patience
    killed: set[int] = set()
    while time.monotonic() < until:
        for pid in _children_of(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(pid)
        try:
            while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
                pass
        except ChildProcessError:
            break  # no child is left, and what a child leaves behind is given to us
        time.sleep(0.005)
    return len(killed)


def _children_of(parent: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    state, its_parent = stat.read().rpartition(b")")[2].split()[:2]
            except OSError:
                continue
            if int(its_parent) == parent and state != b"Z":
                found.append(int(name))
    return found

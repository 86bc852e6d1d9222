"""Who waits for a connection, in the order of asking."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic

from mcp_sidecar.errors import CallError
from mcp_sidecar.upstream.lease import C, Lease


class Waiters(Generic[C]):
    """Futures of leases, first come, first served. One that is done (cancelled, timed out) is passed over."""

    def __init__(self) -> None:
        self._queue: deque[asyncio.Future[Lease[C]]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def alive(self) -> int:
        """Those that really wait."""
        return sum(not waiter.done() for waiter in self._queue)

    def add(self) -> asyncio.Future[Lease[C]]:
        """Take a place at the end."""
        waiter: asyncio.Future[Lease[C]] = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        return waiter

    def next(self) -> asyncio.Future[Lease[C]] | None:
        """Take the first who waits out of the queue."""
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                return waiter
        return None

    def forget(self, waiter: asyncio.Future[Lease[C]]) -> None:
        """It waits no more."""
        try:
            self._queue.remove(waiter)
        except ValueError:
            pass  # a stream's, or served already

    def refuse(self, error: CallError) -> None:
        """Fail the first who waits."""
        waiter = self.next()
        if waiter is not None:
            waiter.set_exception(error)

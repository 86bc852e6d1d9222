"""The bound of connections over all HTTP servers together (`maxConcurrentConnections`), where one is configured.

Each pool has a bound of its own; this one is for what the machine, or a proxy on the way, can bear. It is fair in the
order of asking: while somebody waits, a pool keeps no connection for later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class ConnectionQuota:
    """A number of places. Who took one gives it back, once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.waiting = 0
        """Connections that wait for a place before they are opened."""
        self.on_scarce: list[Callable[[], None]] = []
        """Called when somebody has to wait: who keeps connections for later should end them."""
        self._places = asyncio.Semaphore(limit)

    async def take(self) -> None:
        """Wait for a place."""
        self.waiting += 1
        if self._places.locked():
            for spare in tuple(self.on_scarce):
                spare()
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.taken += 1

    def give(self) -> None:
        """Give a place back."""
        self.taken -= 1
        self._places.release()

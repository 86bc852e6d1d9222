"""How often and how many at once: starts of server processes, bounded so that a crash loop burns no CPU.

One limiter is shared by all slots of the sidecar; each slot has a backoff of its own (notes/resilience.md B.4).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartSettings:
    """Delays in seconds between the end of a process and the next start of its slot."""

    base: float = 1.0
    cap: float = 60.0
    factor: float = 2.0
    reset_after: float = 60.0
    """A process that lived so long has proved itself: the next delay is `base` again."""


class StartLimiter:
    """At most `limit` starts at once; the others wait in order."""

    def __init__(self, limit: int = 2) -> None:
        self.limit = limit
        self.starting = 0
        self.waiting = 0
        self._permits = asyncio.Semaphore(limit)

    @asynccontextmanager
    async def permit(self) -> AsyncIterator[None]:
        """Hold one of the permits."""
        self.waiting += 1
        try:
            await self._permits.acquire()
        finally:
            self.waiting -= 1
        self.starting += 1
        try:
            yield
        finally:
            self.starting -= 1
            self._permits.release()


class RestartBackoff:
    """Growing delays with equal jitter: half of each is certain, half is chance."""

    def __init__(self, settings: RestartSettings, *, clock: Callable[[], float], rng: Callable[[], float]) -> None:
        self.settings = settings
        self.failures = 0
        """Ends in a row, each before the process had proved itself."""
        self.next_start = float("-inf")
        """When the slot may start again, on the clock."""
        self._clock = clock
        self._rng = rng

    def ended(self, uptime: float) -> float:
        """A process ended after `uptime` seconds of being ready (0: it never was). Returns the delay."""
        settings = self.settings
        if uptime >= settings.reset_after:
            self.failures = 0
        delay = min(settings.cap, settings.base * settings.factor ** min(self.failures, 64))
        self.failures += 1
        delay = delay / 2 + delay / 2 * self._rng()
        self.next_start = self._clock() + delay
        return delay

    def remaining(self) -> float:
        """Seconds until the slot may start, 0 where it may now."""
        return max(0.0, self.next_start - self._clock())

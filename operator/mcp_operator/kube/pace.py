"""How much is asked of the API server at once and per second.

One bound on requests in flight, so that a thousand MCPServers do not become a thousand connections, and a token
bucket, so that a loop gone wrong harms nobody else's API server. What must not wait behind others (the Lease, watches)
does not come here; who is urgent among the rest is the work queue's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType


class Pace:
    """An async context manager around each request. First come, first served."""

    def __init__(
        self,
        qps: float,
        burst: int,
        concurrency: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`qps`: requests a second in the long run; `burst`: at once after a rest; `concurrency`: in flight."""
        self._qps = qps
        self._burst = float(burst)
        self._slots = asyncio.Semaphore(concurrency)
        self._clock = clock
        self._tokens = self._burst
        self._at = clock()

    async def __aenter__(self) -> None:
        await self._slots.acquire()
        try:
            wait = self._reserve()
            if wait > 0:
                await asyncio.sleep(wait)
        except BaseException:
            self._tokens += 1.0
            self._slots.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.release()

    def _reserve(self) -> float:
        """Take a token, one of the future if need be; seconds until it is due."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._qps)
        self._at = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._qps)

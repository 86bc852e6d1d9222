"""A token bucket per server, caller or tool, as one number each.

GCRA: a bucket is the time at which it would be full again (its *theoretical arrival time*), so a rested bucket is the
same as none and the table needs no upkeep. The table is bounded: rested buckets are dropped first, then the one used
longest ago. A refused call costs its caller nothing; an admitted one is never refunded.
"""

from __future__ import annotations

import enum
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from mcp_sidecar.errors import Reason, Rejected
from mcp_sidecar.pipeline.call import Call, Handler, Reply

MAX_BUCKETS: Final = 10_000
_SWEEP: Final = 2
"""Rested buckets looked for whenever a bucket is made: more than one, so that the table shrinks."""


class Per(enum.Enum):
    """Who shares a bucket."""

    SERVER = "Server"
    CALLER = "Caller"
    TOOL = "Tool"
    """Other methods than `tools/call` have a bucket each: names of resources are the caller's invention."""


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    """`rate` calls a second in the long run, `burst` at once from a rested bucket."""

    rate: float
    burst: int = 1
    per: Per = Per.SERVER
    max_buckets: int = MAX_BUCKETS


class RateLimit:
    """The stage."""

    __slots__ = ("_buckets", "_interval", "_tolerance", "clock", "refused", "settings")

    def __init__(self, settings: RateLimitSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.refused = 0
        self._buckets: OrderedDict[object, float] = OrderedDict()
        self.settings = settings
        self.reconfigure(settings)

    def reconfigure(self, settings: RateLimitSettings) -> None:
        """Take new settings; buckets are kept, unless they are shared differently."""
        if settings.per is not self.settings.per:
            self._buckets.clear()
        self.settings = settings
        self._interval = 1.0 / settings.rate
        self._tolerance = self._interval * max(0, settings.burst - 1)

    @property
    def buckets(self) -> int:
        """Buckets in the table."""
        return len(self._buckets)

    def __call__(self, call: Call, next: Handler) -> Awaitable[Reply]:
        """Answer the call if its bucket has a token. Raises Rejected(RATE_LIMITED) with the time until it has."""
        per = self.settings.per
        if per is Per.SERVER:
            wait = self.take(None)
        elif per is Per.CALLER:
            wait = self.take(call.identity)
        else:
            wait = self.take(call.name if call.method == "tools/call" else (call.method,))
        if wait > 0:
            self.refused += 1
            raise Rejected(Reason.RATE_LIMITED, f"more than {self.settings.rate:g} calls a second", retry_after=wait)
        return next(call)

    def take(self, key: object) -> float:
        """Take a token from a bucket: 0, or the seconds until there is one, and nothing taken."""
        now = self.clock()
        buckets = self._buckets
        full_at = buckets.get(key)
        if full_at is None:
            self._sweep(now)
            full_at = now
        elif full_at < now:
            full_at = now
        wait = full_at - self._tolerance - now
        # Rounding of long times must not refuse the last token of a burst.
        if wait > 1e-9:
            return wait
        buckets[key] = full_at + self._interval
        buckets.move_to_end(key)
        return 0.0

    def _sweep(self, now: float) -> None:
        buckets = self._buckets
        for _ in range(min(_SWEEP, len(buckets))):
            key, full_at = next(iter(buckets.items()))
            if full_at > now:
                break
            del buckets[key]
        if len(buckets) >= self.settings.max_buckets:
            buckets.popitem(last=False)

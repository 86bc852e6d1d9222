"""How long to wait before the next attempt.

Full jitter for glitches of the transport: most calls come back at once and no two callers come back together. Equal
jitter where the server asked for less (429, 503): full jitter could come back after nothing. A `Retry-After` is a
floor: jitter is added after it, never taken from it (notes/resilience.md A.6 F16, F17). Whether to try again at all
is `classification`'s business, and the deadline is `retry`'s.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackoffSettings:
    """Seconds; `base` × 2ⁿ up to `max`."""

    base: float = 0.1
    max: float = 5.0
    retry_after_max: float = 60.0
    """A longer `Retry-After` is passed on to the caller instead of being waited for."""


class Backoff:
    """Waits with jitter. `rng` gives numbers in [0, 1)."""

    __slots__ = ("rng", "settings")

    def __init__(self, settings: BackoffSettings, rng: Callable[[], float] = random.random) -> None:
        self.settings = settings
        self.rng = rng

    def delay(self, retry: int, *, throttled: bool = False, retry_after: float | None = None) -> float | None:
        """Seconds to wait before retry number `retry` (from 0), None where the server asks for more than we wait."""
        settings = self.settings
        # The exponent is bounded: 2.0 ** 1024 raises.
        ceiling = min(settings.max, settings.base * 2.0 ** min(retry, 64))
        if retry_after is not None:
            if not 0 <= retry_after <= settings.retry_after_max:
                return None
            return retry_after + self.rng() * ceiling
        if throttled:
            return ceiling / 2 + self.rng() * ceiling / 2
        return self.rng() * ceiling

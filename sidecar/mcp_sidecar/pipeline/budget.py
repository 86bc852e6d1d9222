"""How many retries one server gets over all its calls, so that an outage is not multiplied.

Retries of single calls are harmless; the retries of all calls of a server that is down are what keeps it down:
without a budget an outage drew 3.9 times the load (notes/resilience.md B.5). Tokens as in gRPC's retry throttling
(A6): a success gives back a fraction, a retry takes a whole one, a retry after a time-out takes more, and a floor per
second keeps a server with little traffic retried. A retry without a token is not waited for: the call fails with what
it has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """Tokens; one is one retry. `enabled` False allows every retry."""

    enabled: bool = True
    max_tokens: float = 10.0
    ratio: float = 0.1
    """Tokens that a success gives back."""
    min_per_second: float = 1.0
    """Tokens that a second gives back."""
    timeout_cost: float = 2.0
    """Tokens that the retry after a time-out takes: the server was busy all that time."""


class RetryBudget:
    """A token bucket fed by successes and by time. Starts full."""

    __slots__ = ("_at", "_max", "_per_second", "_ratio", "clock", "exhausted", "settings", "spent", "tokens")

    def __init__(self, settings: BudgetSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.tokens = settings.max_tokens
        self.spent = 0
        """Retries allowed so far."""
        self.exhausted = 0
        """Retries refused so far."""
        self._at = clock()
        self.reconfigure(settings)

    def reconfigure(self, settings: BudgetSettings) -> None:
        """Take new settings; tokens above a smaller maximum are lost."""
        self.settings = settings
        self._max = settings.max_tokens
        self._ratio = settings.ratio
        self._per_second = settings.min_per_second
        self.tokens = min(self.tokens, self._max)

    def deposit(self) -> None:
        """A call succeeded."""
        if self.tokens < self._max:
            self.tokens = min(self._max, self.tokens + self._ratio)

    def withdraw(self, *, timed_out: bool = False) -> bool:
        """Take the tokens of one retry; False, and nothing taken, where there are too few."""
        settings = self.settings
        if not settings.enabled:
            self.spent += 1
            return True
        self.refill()
        # A cost above the maximum would never be allowed: a full bucket always pays for one retry.
        cost = min(settings.timeout_cost if timed_out else 1.0, self._max)
        if self.tokens < cost:
            self.exhausted += 1
            return False
        self.tokens -= cost
        self.spent += 1
        return True

    def refill(self) -> None:
        """Add what the time since the last look gives back."""
        now = self.clock()
        self.tokens = min(self._max, self.tokens + max(0.0, now - self._at) * self._per_second)
        self._at = now

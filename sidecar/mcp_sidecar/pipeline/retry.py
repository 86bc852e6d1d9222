"""Tries a failed attempt again, where that is right, affordable and still in time.

The loop only: `classification` says what may be tried again, `budget` whether the server can bear it, `backoff` when.
Each attempt passes the breaker, whose refusal is final (waiting it out held callers for seconds and gained nothing:
notes/resilience.md B.5). The place in the bulkhead is lent out during the wait, or a slow outage fills it with
sleepers. After the last attempt the caller gets the last error of the upstream, with the worst delivery of all
attempts.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from mcp_sidecar.errors import Reason, Rejected, UpstreamError
from mcp_sidecar.pipeline.backoff import Backoff, BackoffSettings
from mcp_sidecar.pipeline.budget import BudgetSettings, RetryBudget
from mcp_sidecar.pipeline.bulkhead import Bulkhead
from mcp_sidecar.pipeline.cache_key import has_one_time_state
from mcp_sidecar.pipeline.call import Call, CallKind, Handler, Reply
from mcp_sidecar.pipeline.classification import ClassificationSettings, Times, classify, rule_for, worse


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """`max_retries` 0 turns retrying off: one meaning, retries after the first attempt."""

    max_retries: int = 3
    backoff: BackoffSettings = field(default_factory=BackoffSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    classification: ClassificationSettings = field(default_factory=ClassificationSettings)


class Retry:
    """The stage. Give it the bulkhead it sits in, so that waits do not hold a place."""

    __slots__ = (
        "backoff",
        "budget",
        "bulkhead",
        "clock",
        "denied",
        "reasons",
        "recovered",
        "retries",
        "settings",
        "sleeping",
    )

    def __init__(
        self,
        settings: RetrySettings,
        *,
        bulkhead: Bulkhead | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self.bulkhead = bulkhead
        self.clock = clock
        self.budget = RetryBudget(settings.budget, clock)
        self.backoff = Backoff(settings.backoff, rng)
        self.retries = 0
        """Attempts made after a first one."""
        self.reasons: Counter[Reason] = Counter()
        """The same, by what had failed."""
        self.denied: Counter[str] = Counter()
        """Failures of a kind that may be tried again, and were not: attempts, committed, not_idempotent, deadline,
        budget."""
        self.recovered = 0
        """Calls that succeeded in a retry."""
        self.sleeping = 0
        """Calls that wait for their next attempt now."""

    def reconfigure(self, settings: RetrySettings) -> None:
        """Take new settings; the budget keeps its tokens."""
        self.settings = settings
        self.budget.reconfigure(settings.budget)
        self.backoff.settings = settings.backoff

    async def __call__(self, call: Call, next: Handler) -> Reply:
        """Answer the call with as many attempts as are right. Raises the error of the last one."""
        try:
            reply = await next(call)
        except UpstreamError as error:
            failure = error
        else:
            self.budget.deposit()
            return reply
        return await self._again(call, next, failure)

    async def _again(self, call: Call, next: Handler, failure: UpstreamError) -> Reply:
        retries = 0
        seen: set[Reason] = set()
        while await self._wait(call, failure, retries, seen):
            retries += 1
            self.retries += 1
            self.reasons[failure.reason] += 1
            try:
                reply = await next(call)
            except UpstreamError as error:
                failure = error
            except Rejected as refusal:
                # The breaker opened, or the deadline passed: what the server did is the better answer, and the truer
                # one, because an attempt was made.
                if failure.retry_after is None:
                    failure.retry_after = refusal.retry_after
                break
            else:
                self.recovered += 1
                self.budget.deposit()
                return reply
        failure.delivery = worse(failure.delivery, call.delivery)
        raise failure

    async def _wait(self, call: Call, failure: UpstreamError, retries: int, seen: set[Reason]) -> bool:
        """Wait for the next attempt; False where there is to be none. `seen`: reasons that were tried again before."""
        settings = self.settings
        if rule_for(failure).times is Times.NEVER:
            return False
        if retries >= settings.max_retries:
            return self._deny("attempts")
        kind = CallKind.UNSAFE if has_one_time_state(call) else call.kind
        rule = classify(failure, kind, call.committed, settings.classification)
        if rule.times is Times.NEVER:
            return self._deny("committed" if call.committed else "not_idempotent")
        if rule.times is Times.ONCE and failure.reason in seen:
            return self._deny("attempts")
        delay = self.backoff.delay(retries, throttled=rule.throttled, retry_after=failure.retry_after)
        if delay is None or self.clock() + delay >= call.expires(self.clock()):
            return self._deny("deadline")
        # Last: a retry that is not made for another reason must not cost the others one.
        if not self.budget.withdraw(timed_out=rule.timed_out):
            return self._deny("budget")
        seen.add(failure.reason)
        bulkhead = self.bulkhead
        lent = bulkhead is not None and bulkhead.lend(call)
        self.sleeping += 1
        try:
            await asyncio.sleep(delay)
        finally:
            self.sleeping -= 1
        if lent and bulkhead is not None:
            try:
                await bulkhead.regain(call)
            except Rejected:
                return False
        return True

    def _deny(self, why: str) -> bool:
        self.denied[why] += 1
        return False

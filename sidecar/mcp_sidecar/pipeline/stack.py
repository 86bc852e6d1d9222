"""Puts the stages together: the one place that knows their order.

    cache → single-flight → rate limit → bulkhead → deadline → retry → breaker → attempt time-out → exchange

Why this order is in notes/resilience.md B.5, with the simulation that decided it. A stage that is off is not there,
so it costs nothing. `Pipeline` holds one server's stages over reloads: the state stays, the chain is made anew, calls
under way end on the chain they began on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mcp_sidecar.pipeline.attempt import AttemptSettings, AttemptTimeout
from mcp_sidecar.pipeline.breaker import Breaker, BreakerSettings
from mcp_sidecar.pipeline.bulkhead import Bulkhead, BulkheadSettings
from mcp_sidecar.pipeline.cache import Cache
from mcp_sidecar.pipeline.cache_policy import CachePolicy, CacheSettings
from mcp_sidecar.pipeline.call import Handler, Stage
from mcp_sidecar.pipeline.deadline import Deadline, DeadlineSettings
from mcp_sidecar.pipeline.rate_limit import RateLimit, RateLimitSettings
from mcp_sidecar.pipeline.retry import Retry, RetrySettings
from mcp_sidecar.pipeline.singleflight import SingleFlight, SingleFlightSettings, Spawn


def compose(stages: Sequence[Stage | None], handler: Handler) -> Handler:
    """A handler that passes a call through the stages, outermost first, to `handler`. None is a stage that is off."""
    for stage in reversed(stages):
        if stage is not None:
            # Bound once, and a partial: a call through both costs no Python frame.
            handler = partial(stage.__call__, next=handler)
    return handler


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """The settings of all stages of one server; None turns a stage off."""

    cache: CacheSettings | None = field(default_factory=CacheSettings)
    single_flight: SingleFlightSettings | None = field(default_factory=SingleFlightSettings)
    rate_limit: RateLimitSettings | None = None
    bulkhead: BulkheadSettings | None = field(default_factory=BulkheadSettings)
    deadline: DeadlineSettings = field(default_factory=DeadlineSettings)
    retry: RetrySettings | None = field(default_factory=RetrySettings)
    breaker: BreakerSettings | None = field(default_factory=BreakerSettings)
    attempt: AttemptSettings = field(default_factory=AttemptSettings)


class Pipeline:
    """The stages of one server. `handle` is what the front calls; `reconfigure` replaces it, so look it up each time.

    `exchange` makes one attempt. `policy` makes the cache's policy of its settings. `spawn` owns the tasks of flights.
    """

    __slots__ = (
        "attempt",
        "breaker",
        "bulkhead",
        "cache",
        "clock",
        "deadline",
        "exchange",
        "handle",
        "policy",
        "rate_limit",
        "retry",
        "rng",
        "settings",
        "single_flight",
        "spawn",
    )

    def __init__(
        self,
        settings: PipelineSettings,
        exchange: Handler,
        policy: Callable[[CacheSettings], CachePolicy],
        *,
        spawn: Spawn | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.exchange = exchange
        self.policy = policy
        self.clock = clock
        self.rng = rng
        self.spawn = spawn if spawn is not None else Tasks()
        self.cache: Cache | None = None
        self.single_flight: SingleFlight | None = None
        self.rate_limit: RateLimit | None = None
        self.bulkhead: Bulkhead | None = None
        self.deadline = Deadline(settings.deadline, clock=clock)
        self.retry: Retry | None = None
        self.breaker = Breaker(settings.breaker or BreakerSettings(disabled=True), clock=clock, rng=rng)
        self.attempt = AttemptTimeout(settings.attempt, clock=clock)
        self.handle: Handler = exchange
        self.reconfigure(settings)

    def reconfigure(self, settings: PipelineSettings) -> None:
        """Take new settings. Stages that stay on keep their state."""
        self.settings = settings
        clock = self.clock
        if settings.cache is None:
            self.cache = None
        elif self.cache is None:
            self.cache = Cache(settings.cache, self.policy(settings.cache), clock=clock)
        else:
            self.cache.reconfigure(settings.cache, self.policy(settings.cache))
        if settings.single_flight is None or self.cache is None:
            self.single_flight = None
        elif self.single_flight is None:
            self.single_flight = SingleFlight(settings.single_flight, self.cache.flight, spawn=self.spawn, clock=clock)
        else:
            self.single_flight.settings = settings.single_flight
            self.single_flight.key_of = self.cache.flight
        if settings.rate_limit is None:
            self.rate_limit = None
        elif self.rate_limit is None:
            self.rate_limit = RateLimit(settings.rate_limit, clock=clock)
        else:
            self.rate_limit.reconfigure(settings.rate_limit)
        if settings.bulkhead is None:
            self.bulkhead = None
        elif self.bulkhead is None:
            self.bulkhead = Bulkhead(settings.bulkhead, clock=clock)
        else:
            self.bulkhead.reconfigure(settings.bulkhead)
        self.deadline.reconfigure(settings.deadline)
        if settings.retry is None or settings.retry.max_retries == 0:
            self.retry = None
        elif self.retry is None:
            self.retry = Retry(settings.retry, bulkhead=self.bulkhead, clock=clock, rng=self.rng)
        else:
            self.retry.reconfigure(settings.retry)
            self.retry.bulkhead = self.bulkhead
        self.breaker.reconfigure(settings.breaker or BreakerSettings(disabled=True))
        self.attempt.reconfigure(settings.attempt)
        self.handle = compose(
            (
                self.cache,
                self.single_flight,
                self.rate_limit,
                self.bulkhead,
                self.deadline,
                self.retry,
                None if self.breaker.settings.disabled and not self.breaker.forced else self.breaker,
                self.attempt,
            ),
            self.exchange,
        )

    def force_open(self, forced: bool = True) -> None:
        """Hold the breaker open by hand, or let it go; works where it is configured off too."""
        self.breaker.force_open(forced)
        self.reconfigure(self.settings)


class Tasks:
    """A `Spawn` that owns its tasks: keeps them alive, and can end them all."""

    __slots__ = ("running",)

    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()

    def __call__(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task

    async def cancel(self) -> None:
        """Cancel all tasks and wait until they are over."""
        tasks = list(self.running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

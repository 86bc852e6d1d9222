"""An outage in virtual time (notes/resilience.md B.5): the stages together protect the server and recover at once.

100 calls a second that take 50 ms; the server fails everything from second 30 on, for 65 seconds; then it is well again
until second 150. Unprotected it would get 6 500 hits in the outage, with plain retries 25 000.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from mcp_sidecar.errors import CallError, Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.breaker import BreakerSettings, State
from mcp_sidecar.pipeline.bulkhead import BulkheadSettings
from mcp_sidecar.pipeline.cache_policy import CacheSettings, ServerPolicy
from mcp_sidecar.pipeline.call import Call, Reply
from mcp_sidecar.pipeline.retry import RetrySettings
from mcp_sidecar.pipeline.stack import Pipeline, PipelineSettings
from pipeline_calls import make_call
from virtual_clock import START, VirtualLoop, run

OUTAGE = (30.0, 95.0)
END = 150.0
RATE = 100.0


def policy(settings: CacheSettings) -> ServerPolicy:
    return ServerPolicy(settings, legacy_scope=lambda call: None, announces=lambda call, method: False)


class Run:
    """What happened."""

    def __init__(self, seed: int, settings: PipelineSettings, probe: float | None, error_rate: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.settings = settings
        self.probe = probe
        self.error_rate = error_rate
        self.hits = 0
        self.hits_in_outage = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.ok_before = self.before = 0
        self.ok_after = self.after = 0
        self.slowest = 0.0
        self.probing = False

    def now(self) -> float:
        return asyncio.get_running_loop().time() - START

    def down(self) -> bool:
        return OUTAGE[0] <= self.now() < OUTAGE[1]

    async def exchange(self, call: Call) -> Reply:
        self.hits += 1
        self.hits_in_outage += self.down()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0.05)
        finally:
            self.in_flight -= 1
        if self.down() or self.random.random() < self.error_rate:
            raise UpstreamError(Reason.CONNECTION_LOST, "down", delivery=Delivery.MAYBE)
        return Reply(b"{}")

    async def watch(self, pipeline: Pipeline) -> None:
        """The probe of the health part: outside the traffic, while open."""
        assert self.probe is not None
        while pipeline.breaker.state is State.OPEN:
            await asyncio.sleep(self.probe * (0.9 + 0.2 * self.random.random()))
            self.hits_in_outage += self.down()
            if self.down():
                pipeline.breaker.probe_failed()
            else:
                pipeline.breaker.probe_succeeded()

    async def one(self, pipeline: Pipeline) -> None:
        began = self.now()
        call = make_call("prompts/get", started=began + START)
        pipeline.deadline.stamp(call)
        try:
            await pipeline.handle(call)
            good = True
        except CallError:
            good = False
        self.slowest = max(self.slowest, self.now() - began)
        if began < OUTAGE[0] - 1:
            self.before += 1
            self.ok_before += good
        elif began >= OUTAGE[1]:
            self.after += 1
            self.ok_after += good

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        pipeline = Pipeline(
            self.settings,
            self.exchange,
            lambda settings: ServerPolicy(
                settings, legacy_scope=lambda call: None, announces=lambda call, method: False
            ),
            clock=loop.time,
            rng=self.random.random,
        )
        if self.probe is not None:
            pipeline.breaker.on_open = lambda: tasks.append(loop.create_task(self.watch(pipeline)))
        tasks: list[asyncio.Task[None]] = []
        while self.now() < END:
            tasks.append(loop.create_task(self.one(pipeline)))
            await asyncio.sleep(self.random.expovariate(RATE))
        await asyncio.gather(*tasks)
        assert pipeline.bulkhead is None or pipeline.bulkhead.in_flight == 0
        assert loop.timers() == 1, "only the guard of run() is left"


def simulate(
    seed: int, settings: PipelineSettings | None = None, probe: float | None = 2.0, error_rate: float = 0.0
) -> Run:
    chosen = settings or PipelineSettings(cache=CacheSettings(), bulkhead=BulkheadSettings(limit=100))
    result = Run(seed, chosen, probe, error_rate)
    run(result.main())
    return result


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_outage(seed: int) -> None:
    result = simulate(seed)
    assert result.ok_before == result.before
    assert result.hits_in_outage <= 150
    assert result.ok_after / result.after >= 0.95
    assert result.most_in_flight <= 40
    assert result.slowest < 5.0


def test_what_each_part_is_there_for() -> None:
    """Without the probe the recovery waits for the open time; without the breaker the server is hit all along."""
    no_probe = simulate(1, probe=None)
    assert no_probe.hits_in_outage <= 150
    assert no_probe.ok_after / no_probe.after < 0.95
    no_breaker = simulate(1, PipelineSettings(bulkhead=BulkheadSettings(limit=1000), breaker=None), probe=None)
    assert 6_000 < no_breaker.hits_in_outage < 6_800  # the budget alone holds the retries to one a second
    assert no_breaker.ok_after / no_breaker.after > 0.95


def test_a_few_errors_are_hidden_for_a_little_load() -> None:
    result = simulate(1, error_rate=0.05)
    assert result.ok_before / result.before >= 0.999
    plain = simulate(
        1,
        PipelineSettings(breaker=BreakerSettings(disabled=True), retry=RetrySettings(max_retries=0)),
        error_rate=0.05,
        probe=None,
    )
    assert plain.ok_before / plain.before < 0.97

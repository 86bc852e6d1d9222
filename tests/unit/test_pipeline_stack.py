"""All stages together: their order, reloads, and that nothing is left behind whoever is cancelled whenever."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from mcp_sidecar.errors import CallError, Delivery, Reason, Rejected, UpstreamError
from mcp_sidecar.pipeline.attempt import AttemptSettings
from mcp_sidecar.pipeline.breaker import BreakerSettings, State
from mcp_sidecar.pipeline.bulkhead import BulkheadSettings
from mcp_sidecar.pipeline.cache_policy import CacheSettings, ServerPolicy
from mcp_sidecar.pipeline.call import Call, Handler, Reply, Source
from mcp_sidecar.pipeline.deadline import DeadlineSettings
from mcp_sidecar.pipeline.rate_limit import RateLimitSettings
from mcp_sidecar.pipeline.stack import Pipeline, PipelineSettings, Tasks, compose
from pipeline_calls import RESULT, Gate, Script, clock, failure, fixed, make_call, outcome, start
from virtual_clock import START, VirtualLoop, on_virtual_loop

LIST = b'{"tools":[],"resultType":"complete","ttlMs":1000,"cacheScope":"private"}'
OFF = PipelineSettings(cache=None, single_flight=None, bulkhead=None, retry=None, breaker=None)


def policy(settings: CacheSettings) -> ServerPolicy:
    return ServerPolicy(settings, legacy_scope=lambda call: None, announces=lambda call, method: False)


def build(exchange: Handler, settings: PipelineSettings | None = None, loop: VirtualLoop | None = None) -> Pipeline:
    now = clock if loop is None else loop.time
    return Pipeline(settings or PipelineSettings(), exchange, policy, clock=now, rng=fixed(0.5))


class Trace:
    """A stage that tells when it is passed."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    async def __call__(self, call: Call, next: Handler) -> Reply:
        self.seen.append(self.name)
        try:
            return await next(call)
        finally:
            self.seen.append(f"/{self.name}")


@on_virtual_loop
async def test_compose_is_outermost_first_and_leaves_out_what_is_off() -> None:
    seen: list[str] = []
    script = Script(Reply(RESULT))
    assert (await compose([Trace("a", seen), None, Trace("b", seen)], script)(make_call())).result == RESULT
    assert seen == ["a", "b", "/b", "/a"]
    assert compose([None, None], script) is script


@on_virtual_loop
async def test_every_stage_off_but_the_books() -> None:
    script = Script(Reply(RESULT))
    pipeline = build(script, OFF)
    call = make_call(started=START)
    await pipeline.handle(call)
    assert (call.attempts, call.delivery, call.deadline) == (1, Delivery.ANSWERED, START + 300)
    stages = (pipeline.cache, pipeline.single_flight, pipeline.rate_limit, pipeline.bulkhead, pipeline.retry)
    assert stages == (None,) * 5


@on_virtual_loop
async def test_a_hit_costs_no_quota_and_no_place_and_works_while_open() -> None:
    """The order: cache before limits, breaker inside."""
    script = Script(Reply(LIST))
    pipeline = build(
        script,
        PipelineSettings(rate_limit=RateLimitSettings(0.001, 1), bulkhead=BulkheadSettings(limit=1, max_queue=0)),
    )
    assert (await pipeline.handle(make_call("tools/list", started=START))).source is Source.UPSTREAM
    pipeline.force_open()
    for _ in range(10):
        assert (await pipeline.handle(make_call("tools/list", started=START))).source is Source.CACHE
    with pytest.raises(Rejected) as caught:
        await pipeline.handle(make_call("prompts/list", started=START))
    assert caught.value.reason is Reason.RATE_LIMITED


@on_virtual_loop
async def test_each_attempt_is_a_sample_of_the_breaker_and_open_is_final() -> None:
    script = Script(failure(Reason.CONNECT_FAILED, Delivery.NOT_SENT))
    pipeline = build(script, PipelineSettings(breaker=BreakerSettings(consecutive=2)))
    call = make_call(started=START)
    with pytest.raises(UpstreamError) as caught:
        await pipeline.handle(call)
    assert (script.attempts, call.attempts, pipeline.breaker.state) == (2, 2, State.OPEN)
    assert (caught.value.reason, caught.value.delivery) == (Reason.CONNECT_FAILED, Delivery.NOT_SENT)
    assert caught.value.retry_after == pytest.approx(30.0, abs=0.2)
    fresh = make_call(started=clock())
    with pytest.raises(Rejected) as refused:
        await pipeline.handle(fresh)
    assert (refused.value.reason, fresh.attempts, script.attempts) == (Reason.BREAKER_OPEN, 0, 2)


@on_virtual_loop
async def test_a_hung_server_opens_the_breaker_and_costs_the_budget_double() -> None:
    """A time-out is seen as a failure: the breaker is outside of it."""
    script = Script(1e6)
    pipeline = build(script, PipelineSettings(attempt=AttemptSettings(5.0)))
    with pytest.raises(UpstreamError) as caught:
        await pipeline.handle(make_call("prompts/get", started=START))
    assert (caught.value.reason, script.attempts) == (Reason.ATTEMPT_TIMEOUT, 4)
    assert pipeline.retry is not None
    assert pipeline.retry.budget.spent == 3
    with pytest.raises(UpstreamError):
        await pipeline.handle(make_call("prompts/get", started=clock()))
    assert pipeline.breaker.state is State.OPEN
    assert script.attempts == 5


@on_virtual_loop
async def test_the_whole_call_ends_at_its_deadline() -> None:
    script = Script(1e6)
    pipeline = build(script, PipelineSettings(deadline=DeadlineSettings(70.0)))
    with pytest.raises(CallError) as caught:
        await pipeline.handle(make_call("prompts/get", started=START))
    assert clock() == START + 70
    assert (caught.value.reason, caught.value.delivery) == (Reason.DEADLINE_EXCEEDED, Delivery.MAYBE)


@on_virtual_loop
async def test_an_outage_is_bridged_by_old_answers() -> None:
    script = Script(Reply(LIST), failure(Reason.CONNECT_FAILED, Delivery.NOT_SENT))
    pipeline = build(script)
    await pipeline.handle(make_call("tools/list", started=START))
    await asyncio.sleep(2)
    for _ in range(20):
        reply = await pipeline.handle(make_call("tools/list", started=clock()))
        assert reply.source is Source.STALE
    assert pipeline.breaker.state is State.OPEN
    assert script.attempts < 10


def test_a_reload_keeps_the_state_and_drops_no_call() -> None:
    loop = VirtualLoop()
    gate = Gate()
    pipeline = build(gate, PipelineSettings(bulkhead=BulkheadSettings(limit=1)), loop)
    first, second = make_call(started=START), make_call(started=START)
    tasks = [start(loop, pipeline.handle, call) for call in (first, second)]
    loop.settle()
    old = pipeline.bulkhead
    pipeline.reconfigure(OFF)
    third = make_call(started=START)
    tasks.append(start(loop, pipeline.handle, third))
    loop.settle()
    assert set(gate.held) == {first, third}
    gate.answer(first)
    loop.settle()
    assert set(gate.held) == {second, third}
    pipeline.reconfigure(PipelineSettings(rate_limit=RateLimitSettings(1.0)))
    assert pipeline.bulkhead is not old
    stages = (pipeline.cache, pipeline.single_flight, pipeline.rate_limit, pipeline.bulkhead, pipeline.retry)
    pipeline.reconfigure(PipelineSettings(rate_limit=RateLimitSettings(5.0), bulkhead=BulkheadSettings(limit=7)))
    assert stages == (pipeline.cache, pipeline.single_flight, pipeline.rate_limit, pipeline.bulkhead, pipeline.retry)
    assert pipeline.retry is not None
    assert pipeline.retry.bulkhead is pipeline.bulkhead
    retry = pipeline.retry
    pipeline.reconfigure(PipelineSettings(bulkhead=None))
    assert pipeline.retry is retry
    assert retry.bulkhead is None
    pipeline.reconfigure(PipelineSettings())
    assert retry.bulkhead is pipeline.bulkhead is not None
    for call in (second, third):
        gate.answer(call)
    loop.settle()
    assert [outcome(task) for task in tasks] == ["ok"] * 3
    assert old is not None
    assert old.in_flight == 0
    loop.close()


def test_a_retry_that_waits_over_a_reload_takes_no_place_of_another() -> None:
    """It left the old bulkhead; it must not return into the new one."""
    loop = VirtualLoop()
    gate = Gate()
    pipeline = build(gate, PipelineSettings(bulkhead=BulkheadSettings(limit=1)), loop)
    call = make_call("prompts/get", started=START)
    task = start(loop, pipeline.handle, call)
    loop.settle()
    gate.fail(call)
    loop.settle()
    old = pipeline.bulkhead
    pipeline.reconfigure(OFF)
    pipeline.reconfigure(PipelineSettings(bulkhead=BulkheadSettings(limit=1)))
    loop.advance(1)
    gate.answer(call)
    loop.settle()
    assert outcome(task) == "ok"
    assert old is not None
    assert pipeline.bulkhead is not None
    assert (old.in_flight, pipeline.bulkhead.in_flight, loop.timers()) == (0, 0, 0)
    loop.close()


@on_virtual_loop
async def test_the_breaker_by_hand_where_it_is_configured_off() -> None:
    script = Script(failure())
    pipeline = build(script, OFF)
    for _ in range(20):
        with pytest.raises(UpstreamError):
            await pipeline.handle(make_call(started=START))
    assert pipeline.breaker.state is State.CLOSED
    pipeline.force_open()
    with pytest.raises(Rejected):
        await pipeline.handle(make_call(started=START))
    pipeline.force_open(False)
    with pytest.raises(UpstreamError):
        await pipeline.handle(make_call(started=START))


class Storm:
    """One run of a scenario that passes every wait of every stage, one turn of the loop at a time."""

    def __init__(self, consecutive: int = 6) -> None:
        self.loop = VirtualLoop()
        self.settings = PipelineSettings(
            bulkhead=BulkheadSettings(limit=2, max_queue=10, queue_timeout=8.0),
            attempt=AttemptSettings(3.0),
            deadline=DeadlineSettings(20.0),
            breaker=BreakerSettings(consecutive=consecutive, open_time=0.2, jitter=0.0),
        )
        self.pipeline = build(self.exchange, self.settings, self.loop)
        self.executions: Counter[str] = Counter()
        self.running = 0
        self.most = 0
        self.steps = 0
        self.plans: dict[str, Iterator[str]] = {
            "tools/list": iter(["lose", "ok", "ok"]),
            "prompts/list": iter(["refuse", "refuse", "ok"]),
            "hang": iter(["hang"]),
            "pay": iter(["refuse", "lose"]),
            "echo": iter(["ok"]),
            "late": iter(["slow"]),
        }
        self.calls = [
            make_call("tools/list", identity=b"a"),
            make_call("tools/list", identity=b"a"),
            make_call("tools/list", identity=b"a"),
            make_call("prompts/list", identity=b"a"),
            make_call("tools/call", name="hang", identity=b"b"),
            make_call("tools/call", name="pay", identity=b"b"),
            make_call("tools/call", name="echo", identity=b"a"),
            make_call("tools/call", name="late", identity=b"c"),
            *(make_call("prompts/get", name=str(number)) for number in range(4)),
        ]
        self.tasks = [start(self.loop, self.arrive, call) for call in self.calls]

    async def arrive(self, call: Call) -> Reply:
        """The last ones come when the trouble is over: they meet a breaker that is half-open."""
        if call.method == "prompts/get":
            await asyncio.sleep(4)
        call.started = self.loop.now
        self.pipeline.deadline.stamp(call)
        return await self.pipeline.handle(call)

    async def exchange(self, call: Call) -> Reply:
        what = call.name or call.method
        self.running += 1
        self.most = max(self.most, self.running)
        call.written = False
        try:
            await asyncio.sleep(0.01)  # the lease
            step = next(self.plans.get(what, iter(())), "ok")
            if step == "refuse":
                raise failure(Reason.CONNECT_FAILED, Delivery.NOT_SENT)
            call.written = True
            self.executions[what] += 1
            await asyncio.sleep({"hang": 1e9, "slow": 2.9}.get(step, 0.05))
            if step == "lose":
                raise failure(Reason.CONNECTION_LOST, Delivery.MAYBE)
            return Reply(LIST)
        except asyncio.CancelledError:
            await asyncio.sleep(0.02)  # the cancellation is sent on
            raise
        finally:
            self.running -= 1

    def run(self, cancel: dict[int, list[int]]) -> None:
        """Step until all is over; `cancel`: step → numbers of the calls that are cancelled then."""
        while not all(task.done() for task in self.tasks) or not self.loop.idle():
            for number in cancel.get(self.steps, ()):
                self.tasks[number].cancel()
            self.loop.turn()
            self.steps += 1
            assert self.most <= 2, "more attempts than places"
            if self.loop.idle() and not all(task.done() for task in self.tasks):
                assert self.loop.skip(), "stuck"
        self.loop.settle()

    def check(self, victims: set[int]) -> list[str]:
        """Everything is quiet, and everybody was answered once."""
        pipeline = self.pipeline
        assert pipeline.bulkhead is not None
        assert pipeline.single_flight is not None
        assert pipeline.retry is not None
        assert isinstance(pipeline.spawn, Tasks)
        while self.running:  # what was left alone sends its cancellation
            assert self.loop.skip()
            self.loop.settle()
        assert (pipeline.bulkhead.in_flight, pipeline.bulkhead.queued) == (0, 0)
        assert not pipeline.bulkhead._holders
        assert not pipeline.bulkhead._returning
        assert (pipeline.single_flight.flights, len(pipeline.spawn.running)) == (0, 0)
        assert (pipeline.retry.sleeping, pipeline.breaker.in_trial) == (0, 0)
        assert not asyncio.all_tasks(self.loop)
        assert self.loop.timers() == 0
        outcomes = [outcome(task) for task in self.tasks]
        for number, what in enumerate(outcomes):
            assert what != "cancelled" or number in victims, "cancelled, and nobody asked for it"
        for name in ("hang", "pay", "echo", "late"):
            assert self.executions[name] <= 1, f"{name} was executed twice"
        self.loop.close()
        return outcomes


def test_the_storm_undisturbed() -> None:
    """That the scenario meets what it should: retries, a lost answer, a time-out, the queue, a shared answer."""
    storm = Storm()
    storm.run({})
    outcomes = storm.check(set())
    assert outcomes[:4] == ["ok"] * 4
    assert outcomes[4:] == ["attempt_timeout", "connection_lost", "ok", "ok"] + ["ok"] * 4
    assert storm.pipeline.bulkhead is not None
    assert storm.pipeline.bulkhead.waits >= 4
    assert storm.pipeline.retry is not None
    assert storm.pipeline.retry.recovered >= 1
    assert storm.pipeline.single_flight is not None
    assert storm.pipeline.single_flight.coalesced == 2
    assert storm.calls[5].delivery is Delivery.MAYBE


@pytest.mark.parametrize("consecutive", [6, 3], ids=["", "the breaker opens"])
def test_cancelled_at_every_step(consecutive: int) -> None:
    """Fault 33, I7: one call after the other, at every turn of the loop."""
    undisturbed = Storm(consecutive)
    undisturbed.run({})
    undisturbed.check(set())
    assert bool(undisturbed.pipeline.breaker.transitions[State.HALF_OPEN]) is (consecutive == 3)
    assert undisturbed.steps > 30
    for number in range(len(undisturbed.calls)):
        for step in range(undisturbed.steps):
            storm = Storm(consecutive)
            storm.run({step: [number]})
            storm.check({number})


def test_all_callers_leave_at_every_step() -> None:
    undisturbed = Storm()
    undisturbed.run({})
    undisturbed.check(set())
    everybody = list(range(len(undisturbed.calls)))
    for step in range(undisturbed.steps):
        storm = Storm()
        storm.run({step: everybody, step + 1: everybody})
        storm.check(set(everybody))

"""Retries: the table of notes/resilience.md B.7 row by row, waits, the budget, and the loop that joins them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mcp_sidecar.errors import CallError, Delivery, Reason, Rejected, SessionLost, UpstreamError
from mcp_sidecar.pipeline.attempt import AttemptSettings, AttemptTimeout
from mcp_sidecar.pipeline.backoff import Backoff, BackoffSettings
from mcp_sidecar.pipeline.budget import BudgetSettings, RetryBudget
from mcp_sidecar.pipeline.bulkhead import Bulkhead, BulkheadSettings
from mcp_sidecar.pipeline.call import Call, CallKind, Event, Handler, Reply
from mcp_sidecar.pipeline.classification import ClassificationSettings, Times, classify, worse
from mcp_sidecar.pipeline.retry import Retry, RetrySettings
from mcp_sidecar.pipeline.stack import compose
from pipeline_calls import RESULT, Gate, Script, clock, failure, fixed, make_call, outcome, start
from virtual_clock import START, VirtualLoop, on_virtual_loop, run

N, R, M, A = Delivery.NOT_SENT, Delivery.REFUSED, Delivery.MAYBE, Delivery.ANSWERED
ALL, TWICE, NONE = "all", "safe and idempotent", "none"
STATUS = Reason.UPSTREAM_STATUS


@pytest.mark.parametrize(
    "error, who, times",
    [
        # surely not sent
        (failure(Reason.ACQUIRE_TIMEOUT, N), ALL, Times.MANY),
        (failure(Reason.CONNECT_FAILED, N), ALL, Times.MANY),
        (failure(Reason.START_FAILED, N), ALL, Times.MANY),
        (failure(Reason.TLS_FAILED, N), ALL, Times.MANY),
        (failure(Reason.CONNECTION_LOST, N), ALL, Times.MANY),
        (failure(Reason.CHILD_EXITED, N), ALL, Times.MANY),
        (failure(Reason.ATTEMPT_TIMEOUT, N), ALL, Times.MANY),
        # surely refused
        (failure(Reason.UPSTREAM_THROTTLED, R, status=429), ALL, Times.MANY),
        (failure(Reason.UPSTREAM_THROTTLED, A, status=429, retry_after=1.0), ALL, Times.MANY),
        (failure(Reason.CONNECTION_LOST, R), ALL, Times.MANY),
        (failure(STATUS, R, status=503, retry_after=1.0), TWICE, Times.MANY),
        (failure(STATUS, A, status=503, retry_after=1.0), TWICE, Times.MANY),
        (failure(Reason.UPSTREAM_UNAUTHORIZED, R, status=401), ALL, Times.ONCE),
        # maybe executed
        (failure(Reason.CONNECTION_LOST, M), TWICE, Times.MANY),
        (failure(Reason.CHILD_EXITED, M), TWICE, Times.MANY),
        (failure(Reason.ATTEMPT_TIMEOUT, M), TWICE, Times.MANY),
        (failure(STATUS, M, status=500), TWICE, Times.MANY),
        (failure(STATUS, A, status=502), TWICE, Times.MANY),
        (failure(STATUS, M, status=503), TWICE, Times.MANY),
        (failure(STATUS, R, status=504), TWICE, Times.MANY),
        (failure(STATUS, M, status=408), TWICE, Times.MANY),
        (failure(STATUS, N, status=503), ALL, Times.MANY),
        (failure(Reason.PROTOCOL_ERROR, M), TWICE, Times.ONCE),
        # answered, or no use
        (failure(Reason.RESULT_TOO_LARGE, M), NONE, None),
        (failure(STATUS, A, status=400), NONE, None),
        (failure(STATUS, M, status=501), NONE, None),
        (failure(STATUS, M), NONE, None),
        (failure(Reason.UPSTREAM_UNAUTHORIZED, A, status=403), NONE, None),
        (SessionLost("gone"), NONE, None),
        (failure(Reason.DEADLINE_EXCEEDED, N), NONE, None),
        (failure(Reason.SLOW_CALLER, M), NONE, None),
        (failure(Reason.CANCELLED, N), NONE, None),
        (failure(Reason.INTERNAL, N), NONE, None),
    ],
    ids=lambda value: (
        f"{value.reason.label}-{value.delivery.name}-{value.status}" if isinstance(value, CallError) else ""
    ),
)
def test_the_table(error: UpstreamError, who: str, times: Times | None) -> None:
    settings = ClassificationSettings()
    allowed = {
        kind for kind in CallKind if classify(error, kind, committed=False, settings=settings).times is not Times.NEVER
    }
    expected = {ALL: set(CallKind), TWICE: {CallKind.SAFE, CallKind.IDEMPOTENT}, NONE: set()}[who]
    assert allowed == expected
    if times is not None:
        assert classify(error, CallKind.SAFE, committed=False, settings=settings).times is times
    for kind in CallKind:
        assert classify(error, kind, committed=True, settings=settings).times is Times.NEVER


def test_what_the_config_changes_of_the_table() -> None:
    throttled = failure(Reason.UPSTREAM_THROTTLED, R, status=429)
    for kind in CallKind:
        rule = classify(throttled, kind, committed=False, settings=ClassificationSettings(retry_429=False))
        assert rule.times is Times.NEVER
    busy = failure(STATUS, R, status=503, retry_after=1.0)
    with_503 = ClassificationSettings(retry_503=True)
    assert classify(busy, CallKind.UNSAFE, committed=False, settings=with_503).times is Times.MANY
    vague = failure(STATUS, M, status=503)
    assert classify(vague, CallKind.UNSAFE, committed=False, settings=with_503).times is Times.NEVER


@given(
    reason=st.sampled_from(Reason),
    delivery=st.sampled_from([M, A]),
    status=st.sampled_from([None, 200, 400, 404, 408, 425, 500, 502, 503, 504]),
    retry_after=st.none() | st.floats(0, 10),
)
def test_an_unsafe_call_is_never_repeated_unless_surely_not_executed(
    reason: Reason, delivery: Delivery, status: int | None, retry_after: float | None
) -> None:
    error = failure(reason, delivery, status=status, retry_after=retry_after)
    rule = classify(error, CallKind.UNSAFE, committed=False, settings=ClassificationSettings())
    # 429 alone is a refusal by contract, whatever the transport could tell.
    assert rule.times is Times.NEVER or reason is Reason.UPSTREAM_THROTTLED


def test_maybe_beats_everything() -> None:
    assert worse(N, R) is R
    assert worse(A, M) is M
    assert worse(M, A) is M
    assert worse(N, A) is A


@given(retry=st.integers(0, 5000), random=st.floats(0, 1, exclude_max=True))
def test_waits_stay_in_their_range(retry: int, random: float) -> None:
    backoff = Backoff(BackoffSettings(0.1, 5.0), fixed(random))
    ceiling = min(5.0, 0.1 * 2 ** min(retry, 60))
    full, equal, asked = (
        backoff.delay(retry),
        backoff.delay(retry, throttled=True),
        backoff.delay(retry, throttled=True, retry_after=3.0),
    )
    assert full is not None
    assert equal is not None
    assert asked is not None
    assert 0 <= full <= ceiling
    assert ceiling / 2 <= equal <= ceiling
    assert 3.0 <= asked <= 3.0 + ceiling


@pytest.mark.parametrize("hint", [-1.0, 60.1, 1e12, float("inf"), float("nan")])
def test_an_absurd_hint_is_not_waited_for(hint: float) -> None:
    assert Backoff(BackoffSettings()).delay(0, retry_after=hint) is None


class BudgetMachine(RuleBasedStateMachine):
    """Successes, failures and time in any order: retries stay within what was given."""

    @initialize(tokens=st.integers(1, 10), ratio=st.sampled_from([0.0, 0.1, 0.5]), floor=st.sampled_from([0.0, 1.0]))
    def begin(self, tokens: int, ratio: float, floor: float) -> None:
        self.now = START
        self.settings = BudgetSettings(max_tokens=tokens, ratio=ratio, min_per_second=floor)
        self.budget = RetryBudget(self.settings, lambda: self.now)
        self.given = float(tokens)
        self.cost = 0.0

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.given += seconds * self.settings.min_per_second

    @rule()
    def succeed(self) -> None:
        self.budget.deposit()
        self.given += self.settings.ratio

    @rule(timed_out=st.booleans())
    def retry(self, timed_out: bool) -> None:
        spent = self.budget.spent
        allowed = self.budget.withdraw(timed_out=timed_out)
        assert self.budget.spent == spent + allowed
        if allowed:
            self.cost += min(2.0 if timed_out else 1.0, self.settings.max_tokens)

    @invariant()
    def within(self) -> None:
        if hasattr(self, "budget"):
            assert 0 <= self.budget.tokens <= self.settings.max_tokens
            assert self.cost <= self.given + 1e-6

    def teardown(self) -> None:
        if hasattr(self, "budget") and self.settings.min_per_second:
            self.now += 60
            assert self.budget.withdraw(timed_out=True)


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_budget_in_numbers() -> None:
    now = [0.0]
    budget = RetryBudget(BudgetSettings(), lambda: now[0])
    assert [budget.withdraw() for _ in range(11)] == [True] * 10 + [False]
    now[0] = 1.0
    assert [budget.withdraw(), budget.withdraw()] == [True, False]
    for _ in range(19):
        budget.deposit()
    assert not budget.withdraw(timed_out=True)
    budget.deposit()
    budget.deposit()
    assert budget.withdraw(timed_out=True)
    assert (budget.spent, budget.exhausted) == (12, 3)
    budget.reconfigure(BudgetSettings(enabled=False))
    assert all(budget.withdraw() for _ in range(100))
    budget.reconfigure(BudgetSettings(max_tokens=1))
    assert budget.tokens <= 1


def build(script: Handler, random: float = 1.0, **settings: object) -> tuple[Retry, Handler]:
    retry = Retry(RetrySettings(**settings), clock=clock, rng=fixed(random))  # type: ignore[arg-type]
    return retry, compose([retry, AttemptTimeout(AttemptSettings(), clock=clock)], script)


@on_virtual_loop
async def test_a_glitch_is_recovered_from_quickly() -> None:
    script = Script(failure(), failure(), Reply(RESULT))
    retry, handler = build(script)
    call = make_call("tools/list")
    assert (await handler(call)).result == RESULT
    assert script.at == pytest.approx([START, START + 0.1, START + 0.3])
    assert (call.attempts, call.delivery) == (3, A)
    assert (retry.retries, retry.recovered, retry.sleeping) == (2, 1, 0)


@on_virtual_loop
async def test_three_retries_are_four_attempts() -> None:
    """F19: one meaning."""
    script = Script(failure())
    call = make_call("tools/list")
    with pytest.raises(UpstreamError) as caught:
        await build(script)[1](call)
    assert (script.attempts, call.attempts, caught.value.delivery) == (4, 4, M)
    alone = Script(failure())
    with pytest.raises(UpstreamError):
        await build(alone, max_retries=0)[1](make_call("tools/list"))
    assert alone.attempts == 1


@on_virtual_loop
async def test_an_unsafe_call_that_may_have_been_executed_is_not_repeated() -> None:
    """F13."""
    script = Script(failure(Reason.CONNECT_FAILED, N), failure(Reason.CONNECTION_LOST, M), Reply(RESULT))
    call = make_call()
    with pytest.raises(UpstreamError) as caught:
        await build(script)[1](call)
    assert (script.attempts, caught.value.reason, caught.value.delivery) == (2, Reason.CONNECTION_LOST, M)
    assert call.delivery is M


@pytest.mark.parametrize("member", [b"requestState", b"inputResponses"])
def test_one_time_state_is_not_sent_twice(member: bytes) -> None:
    """A read that continues a question back may have used its state up (notes/protocol.md A)."""

    async def check() -> None:
        params = b'{"uri":"a","%s":{}}' % member
        for error, attempts in ((failure(), 1), (failure(Reason.CONNECT_FAILED, N), 4)):
            script = Script(error)
            with pytest.raises(UpstreamError):
                await build(script)[1](make_call("resources/read", params=params))
            assert script.attempts == attempts

    run(check())


@on_virtual_loop
async def test_the_error_tells_the_worst_of_all_attempts() -> None:
    script = Script(failure(Reason.CONNECTION_LOST, M), failure(Reason.CONNECT_FAILED, N))
    call = make_call("tools/list")
    with pytest.raises(UpstreamError) as caught:
        await build(script)[1](call)
    assert (caught.value.reason, caught.value.delivery, call.delivery) == (Reason.CONNECT_FAILED, M, M)


@on_virtual_loop
async def test_nothing_is_repeated_once_the_caller_was_given_something() -> None:
    async def emit_and_fail(call: Call) -> Reply:
        call.emit(Event(b"{}"))
        raise failure(Reason.CONNECTION_LOST, R)

    class Sink:
        def open(self) -> None: ...

        def emit(self, event: Event) -> None: ...

    script = Script(emit_and_fail)
    with pytest.raises(UpstreamError):
        await build(script)[1](make_call("tools/list", sink=Sink()))
    assert script.attempts == 1


@on_virtual_loop
async def test_garbage_is_tried_again_once() -> None:
    script = Script(failure(Reason.CONNECT_FAILED, N), failure(Reason.PROTOCOL_ERROR))
    with pytest.raises(UpstreamError):
        await build(script)[1](make_call("tools/list"))
    assert script.attempts == 3


@on_virtual_loop
async def test_retry_after_is_a_floor_and_jitter_comes_after_it() -> None:
    """F16, F17."""
    script = Script(failure(Reason.UPSTREAM_THROTTLED, R, status=429, retry_after=7.0), Reply(RESULT))
    await build(script, random=0.5)[1](make_call())
    assert script.at == pytest.approx([START, START + 7.05])


@on_virtual_loop
async def test_no_wait_goes_past_the_deadline() -> None:
    """F14: rather fail now than when the time is over."""
    script = Script(failure(Reason.UPSTREAM_THROTTLED, R, status=429, retry_after=7.0))
    call = make_call(deadline=START + 7.0)
    with pytest.raises(UpstreamError) as caught:
        await build(script)[1](call)
    assert clock() == START
    assert caught.value.retry_after == 7.0


@on_virtual_loop
async def test_the_budget_bounds_the_retries_of_all_calls() -> None:
    """F15."""
    script = Script(failure())
    retry, handler = build(script, random=0.0)
    for _ in range(100):
        with pytest.raises(UpstreamError):
            await handler(make_call("tools/list"))
    assert script.attempts == 110
    assert (retry.budget.spent, retry.budget.exhausted) == (10, 97)
    script.steps = [Reply(RESULT)]
    for _ in range(10):
        await handler(make_call("tools/list"))
    assert retry.budget.tokens == pytest.approx(1.0)


@on_virtual_loop
async def test_a_refusal_in_between_is_final_and_the_servers_failure_is_told() -> None:
    """F10: an open breaker is not tried again; what the server did is told, with when to come back."""
    script = Script(failure(), Rejected(Reason.BREAKER_OPEN, "open", retry_after=12.0))
    call = make_call("tools/list")
    with pytest.raises(UpstreamError) as caught:
        await build(script)[1](call)
    assert (script.attempts, caught.value.reason, caught.value.retry_after) == (2, Reason.CONNECTION_LOST, 12.0)
    first = Script(Rejected(Reason.BREAKER_OPEN, "open"))
    with pytest.raises(Rejected):
        await build(first)[1](make_call("tools/list"))
    assert first.attempts == 1


@on_virtual_loop
async def test_answers_are_final_errors_included() -> None:
    script = Script(Reply(error=b'{"code":-32603,"message":"no"}'))
    await build(script)[1](make_call("tools/list"))
    assert script.attempts == 1
    bug = Script(ValueError("ours"))
    with pytest.raises(ValueError):
        await build(bug)[1](make_call("tools/list"))
    assert bug.attempts == 1


@on_virtual_loop
async def test_cancelled_while_waiting() -> None:
    script = Script(failure())
    retry, handler = build(script)

    async def call() -> Reply:
        return await handler(make_call("tools/list"))

    task = asyncio.create_task(call())
    await asyncio.sleep(0.05)
    assert retry.sleeping == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (retry.sleeping, script.attempts) == (0, 1)


def test_a_waiting_retry_holds_no_place() -> None:
    loop = VirtualLoop()
    bulkhead = Bulkhead(BulkheadSettings(limit=1), clock=loop.time)
    retry = Retry(RetrySettings(), bulkhead=bulkhead, clock=loop.time, rng=fixed(1.0))
    gate = Gate()
    handler = compose([bulkhead, retry], gate)
    first, second, third = (make_call("tools/list") for _ in range(3))
    tasks = {call: start(loop, handler, call) for call in (first, second, third)}
    loop.settle()
    assert gate.began == [first]
    gate.fail(first)
    loop.settle()
    assert gate.began == [first, second]
    loop.advance(0.2)  # the wait is over, the place is taken
    assert gate.began == [first, second]
    gate.answer(second)
    loop.settle()
    assert gate.began == [first, second, first]  # ahead of the third, who waited longer
    gate.answer(first)
    loop.settle()
    gate.answer(third)
    loop.settle()
    assert {outcome(task) for task in tasks.values()} == {"ok"}
    assert gate.most == 1
    assert (bulkhead.in_flight, loop.timers()) == (0, 0)


def test_the_way_back_ends_at_the_deadline_with_the_servers_failure() -> None:
    loop = VirtualLoop()
    bulkhead = Bulkhead(BulkheadSettings(limit=1), clock=loop.time)
    retry = Retry(RetrySettings(), bulkhead=bulkhead, clock=loop.time, rng=fixed(1.0))
    gate = Gate()
    handler = compose([bulkhead, retry], gate)
    first, second = make_call("tools/list", deadline=START + 3), make_call("tools/list")
    tasks = [start(loop, handler, call) for call in (first, second)]
    loop.settle()
    gate.fail(first)
    loop.advance(2.9)
    assert outcome(tasks[0]) == "pending"
    loop.advance(0.1)
    assert outcome(tasks[0]) == "connection_lost"
    gate.answer(second)
    loop.settle()
    assert (outcome(tasks[1]), bulkhead.in_flight, loop.timers()) == ("ok", 0, 0)


@on_virtual_loop
async def test_settings_change_while_it_works() -> None:
    script = Script(failure())
    retry, handler = build(script)
    retry.reconfigure(RetrySettings(max_retries=1, backoff=BackoffSettings(2.0, 2.0)))
    with pytest.raises(UpstreamError):
        await handler(make_call("tools/list"))
    assert script.at == [START, START + 2.0]

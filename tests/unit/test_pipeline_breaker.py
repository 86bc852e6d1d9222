"""The breaker (notes/resilience.md B.3): tables of its rules, and a state machine over everything it may be told."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mcp_sidecar.errors import Delivery, Reason, Rejected, UpstreamError
from mcp_sidecar.pipeline.breaker import Breaker, BreakerSettings, Outcome, State
from mcp_sidecar.pipeline.call import Call, Reply
from mcp_sidecar.pipeline.stack import compose
from mcp_sidecar.pipeline.window import SlidingWindow
from mcp_sidecar.upstream.pending import with_delivery
from pipeline_calls import Script, clock, failure, fixed, make_call
from virtual_clock import on_virtual_loop, run

OK, BAD, NEUTRAL = Outcome.SUCCESS, Outcome.FAILURE, Outcome.NEUTRAL


class Clock:
    """A time that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A breaker on a clock moved by hand, without jitter unless `random` says so."""

    def __init__(self, random: float = 0.5, **settings: float) -> None:
        self.clock = Clock()
        self.settings = BreakerSettings(**settings)  # type: ignore[arg-type]
        self.opened = 0
        self.seen: list[tuple[State, State]] = []
        self.breaker = Breaker(
            self.settings,
            clock=self.clock,
            rng=fixed(random),
            on_open=self.count,
            on_transition=lambda old, new: self.seen.append((old, new)),
        )

    def count(self) -> None:
        self.opened += 1

    def pass_one(self, outcome: Outcome, taking: float = 0.0) -> None:
        epoch, began = self.breaker.acquire(), self.clock.now
        self.clock.now += taking
        self.breaker.settle(epoch, outcome, began)

    def passes(self, outcomes: str, taking: float = 0.0) -> None:
        for letter in outcomes:
            self.pass_one({"+": OK, "-": BAD, "0": NEUTRAL}[letter], taking)

    def refused(self) -> float:
        with pytest.raises(Rejected) as caught:
            self.breaker.acquire()
        assert caught.value.reason is Reason.BREAKER_OPEN
        assert caught.value.retry_after is not None
        return caught.value.retry_after

    def open(self) -> None:
        self.passes("-----")
        assert self.breaker.state is State.OPEN


@pytest.mark.parametrize(
    "outcomes, state",
    [
        ("----", State.CLOSED),
        ("-----", State.OPEN),
        ("----+-", State.CLOSED),  # a success between ends the row
        ("----0-", State.OPEN),  # what says nothing does not
        ("-+-+-+-+-", State.CLOSED),  # nine calls are too few for a share
        ("-+-+-+-+-+", State.CLOSED),  # half have failed, but the last has not
        ("+-+-+-+-+-", State.OPEN),  # F6: half have failed, never five in a row
        ("+++++++-+-+-", State.CLOSED),
        ("0000000000", State.CLOSED),  # F8, purgatory's flaw: cancellations are nobody's fault
        ("0" * 50 + "+" * 10, State.CLOSED),
    ],
)
def test_what_opens_it(outcomes: str, state: State) -> None:
    bench = Bench()
    bench.passes(outcomes)
    assert bench.breaker.state is state


def test_each_rule_can_be_off() -> None:
    without_row = Bench(consecutive=0)
    without_row.passes("-" * 9)
    assert without_row.breaker.state is State.CLOSED
    without_row.passes("-")
    assert without_row.breaker.state is State.OPEN
    disabled = Bench(disabled=True)
    disabled.passes("-" * 100)
    assert disabled.breaker.state is State.CLOSED


def test_the_window_slides() -> None:
    bench = Bench(consecutive=0)
    bench.passes("-" * 9)
    bench.clock.now += 30.0
    bench.passes("-")
    assert bench.breaker.state is State.CLOSED
    bench.clock.now += 26.9
    bench.passes("-" * 8)
    assert bench.breaker.state is State.CLOSED
    bench.passes("-")
    assert bench.breaker.state is State.OPEN


def test_slow_calls_open_it() -> None:
    bench = Bench(slow_after=2.0)
    bench.passes("+" * 9, taking=2.1)
    assert bench.breaker.state is State.CLOSED
    bench.passes("+", taking=2.1)
    assert bench.breaker.state is State.OPEN
    mixed = Bench(slow_after=2.0, slow_ratio=0.8)
    mixed.passes("++", taking=1.0)
    mixed.passes("+" * 7, taking=2.1)
    assert mixed.breaker.state is State.CLOSED
    mixed.passes("+", taking=2.1)
    assert mixed.breaker.state is State.OPEN


def test_open_refuses_until_its_deadline_and_not_longer() -> None:
    bench = Bench()
    bench.open()
    assert bench.opened == 1
    assert bench.refused() == 30.0
    assert bench.breaker.retry_after == 30.0
    bench.clock.now += 29.9
    assert bench.refused() == pytest.approx(0.1)
    bench.clock.now += 0.1
    bench.breaker.acquire()
    assert bench.breaker.state is State.HALF_OPEN
    assert bench.breaker.rejected == 2


def test_late_results_change_nothing() -> None:
    """F4, F5: what began before it opened neither closes it nor keeps it open."""
    bench = Bench()
    early = [bench.breaker.acquire() for _ in range(20)]
    bench.open()
    for epoch in early[:10]:
        bench.breaker.settle(epoch, OK, bench.clock.now)
        bench.breaker.settle(epoch, BAD, bench.clock.now)
    assert bench.breaker.state is State.OPEN
    bench.clock.now += 30
    bench.passes("++")
    for epoch in early[10:]:
        bench.breaker.settle(epoch, BAD, bench.clock.now)
        bench.breaker.settle(epoch, OK, bench.clock.now)
    assert bench.breaker.state is State.HALF_OPEN
    bench.passes("+")
    assert bench.breaker.state is State.CLOSED


def test_half_open_lets_three_through() -> None:
    """F2, F3: three at a time, and all three must succeed."""
    bench = Bench()
    bench.open()
    bench.clock.now += 30
    epochs = [bench.breaker.acquire() for _ in range(3)]
    for _ in range(200):
        assert bench.refused() == 1.0
    bench.breaker.settle(epochs[0], OK, 0)
    bench.breaker.settle(epochs[1], OK, 0)
    assert bench.breaker.state is State.HALF_OPEN
    bench.breaker.settle(epochs[2], OK, 0)
    assert bench.breaker.state is State.CLOSED
    assert bench.breaker.in_trial == 0


def test_one_failure_opens_it_again() -> None:
    bench = Bench()
    bench.open()
    bench.clock.now += 30
    bench.passes("++-")
    assert bench.breaker.state is State.OPEN
    assert bench.refused() == 60.0


def test_a_neutral_result_hands_the_permit_back() -> None:
    """F8: a cancelled probe is no success, and blocks nothing."""
    bench = Bench()
    bench.open()
    bench.clock.now += 30
    for _ in range(100):
        bench.passes("0")
    assert bench.breaker.state is State.HALF_OPEN
    assert bench.breaker.in_trial == 0
    bench.passes("++")
    assert bench.breaker.state is State.HALF_OPEN
    bench.passes("0+")
    assert bench.breaker.state is State.CLOSED


def test_half_open_does_not_wait_for_ever() -> None:
    bench = Bench(half_open_wait=20.0)
    bench.open()
    bench.clock.now += 30
    lost = [bench.breaker.acquire() for _ in range(3)]
    bench.clock.now += 19.9
    assert bench.refused() == 1.0
    bench.clock.now += 0.1
    assert bench.refused() == 30.0  # not longer: nothing failed
    assert bench.breaker.state is State.OPEN
    assert bench.opened == 2
    for epoch in lost:
        bench.breaker.settle(epoch, OK, 0)
    assert bench.breaker.state is State.OPEN
    bench.clock.now += 30
    bench.passes("+++")
    assert bench.breaker.state is State.CLOSED


def test_half_open_without_traffic_waits_for_traffic() -> None:
    bench = Bench()
    bench.open()
    bench.breaker.probe_succeeded()
    bench.clock.now += 3600
    bench.passes("+++")
    assert bench.breaker.state is State.CLOSED


def test_open_time_grows_and_is_cleared_by_a_whole_closed_window() -> None:
    bench = Bench(open_time=10.0, max_open_time=60.0)
    bench.open()
    for expected in (10.0, 20.0, 40.0, 60.0, 60.0):
        assert bench.refused() == expected
        bench.clock.now += expected
        bench.passes("-")
    bench.clock.now += 60
    bench.passes("+++")
    bench.clock.now += 29.9
    bench.open()
    assert bench.refused() == 60.0  # closed for less than a window: still the same trouble
    bench.clock.now += 60
    bench.passes("+++")
    bench.clock.now += 30
    bench.open()
    assert bench.refused() == 10.0


@pytest.mark.parametrize("random, seconds", [(0.0, 24.0), (0.5, 30.0), (1.0, 36.0)])
def test_open_time_has_jitter(random: float, seconds: float) -> None:
    bench = Bench(random)
    bench.open()
    assert bench.refused() == pytest.approx(seconds)


def test_a_probe_starts_half_open_at_once_but_does_not_close() -> None:
    bench = Bench()
    bench.breaker.probe_succeeded()
    assert bench.breaker.state is State.CLOSED
    bench.open()
    bench.clock.now += 2
    bench.breaker.probe_succeeded()
    assert bench.breaker.state is State.HALF_OPEN
    epoch = bench.breaker.acquire()
    bench.breaker.probe_succeeded()  # a second probe must not hand out more permits
    assert bench.breaker.in_trial == 1
    bench.breaker.settle(epoch, BAD, 0)
    assert bench.refused() == 60.0
    bench.clock.now += 2
    bench.breaker.probe_succeeded()
    bench.passes("+++")
    assert bench.breaker.state is State.CLOSED
    assert bench.seen == [
        (State.CLOSED, State.OPEN),
        (State.OPEN, State.HALF_OPEN),
        (State.HALF_OPEN, State.OPEN),
        (State.OPEN, State.HALF_OPEN),
        (State.HALF_OPEN, State.CLOSED),
    ]
    assert bench.breaker.transitions == {State.CLOSED: 1, State.HALF_OPEN: 2, State.OPEN: 2}


def test_a_server_that_answers_probes_and_fails_calls_is_left_alone_for_longer_and_longer() -> None:
    bench = Bench()
    bench.open()
    tried = []
    opened = bench.clock.now
    while len(tried) < 8:
        bench.breaker.probe_succeeded()
        if bench.breaker.state is State.OPEN and bench.breaker.retry_after:
            bench.clock.now += 0.5
            continue
        tried.append(bench.clock.now - opened)
        bench.passes("-")
        opened = bench.clock.now
    assert tried == [0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_a_probe_is_believed_when_the_open_time_is_over() -> None:
    bench = Bench(open_time=1.0, max_open_time=1.0)
    bench.open()
    for _ in range(10):
        bench.clock.now += 1.0
        bench.passes("-")
    bench.clock.now += 1.0
    bench.breaker.probe_succeeded()
    assert bench.breaker.state is State.HALF_OPEN


def test_refuses_says_whether_calls_fail_these_minutes() -> None:
    bench = Bench()
    assert not bench.breaker.refuses
    bench.open()
    assert bench.breaker.refuses
    bench.clock.now += 200
    bench.breaker.probe_succeeded()
    assert bench.breaker.refuses, "no call has shown yet that it is well"
    bench.clock.now += 100
    assert bench.breaker.state is State.HALF_OPEN
    assert not bench.breaker.refuses, "nobody called for five minutes: that says nothing of the server"
    bench.passes("-")
    assert bench.breaker.refuses
    bench.clock.now += 30
    bench.refused()
    bench.clock.now += 299
    assert bench.breaker.refuses
    bench.passes("+++")
    assert not bench.breaker.refuses
    bench.breaker.force_open()
    bench.clock.now += 3600
    assert bench.breaker.refuses


def test_that_holds_too_where_some_calls_pass() -> None:
    bench = Bench()
    bench.open()
    bench.breaker.probe_succeeded()
    bench.passes("+++-----")
    bench.breaker.probe_succeeded()
    assert bench.breaker.state is State.OPEN
    bench.clock.now += 2
    bench.breaker.probe_succeeded()
    assert bench.breaker.state is State.HALF_OPEN


def test_a_probe_that_passes_after_one_that_failed_is_news() -> None:
    bench = Bench()
    bench.open()
    bench.breaker.probe_succeeded()
    bench.passes("-")
    bench.breaker.probe_failed()
    bench.breaker.probe_succeeded()
    assert bench.breaker.state is State.HALF_OPEN


def test_held_open_by_hand() -> None:
    bench = Bench()
    bench.breaker.force_open()
    bench.clock.now += 3600
    bench.breaker.probe_succeeded()
    assert bench.refused() == 0.0
    bench.breaker.force_open(False)
    assert bench.breaker.state is State.HALF_OPEN
    bench.passes("+++")
    assert bench.breaker.state is State.CLOSED
    bench.open()
    bench.breaker.force_open()
    assert bench.opened == 2  # it was open


def test_settings_change_while_it_works() -> None:
    bench = Bench(open_time=30.0)
    bench.open()
    bench.breaker.reconfigure(BreakerSettings(open_time=5.0))
    assert bench.refused() == 5.0
    bench.breaker.reconfigure(BreakerSettings(disabled=True))
    assert bench.breaker.state is State.CLOSED
    bench.passes("-" * 20)
    bench.breaker.reconfigure(BreakerSettings(consecutive=2))
    bench.passes("--")
    assert bench.breaker.state is State.OPEN
    closed = Bench()
    closed.passes("----")
    closed.breaker.reconfigure(BreakerSettings(window=10.0))
    closed.passes("-")
    assert closed.breaker.state is State.OPEN  # the row goes on over a reload


@on_virtual_loop
async def test_which_errors_count() -> None:
    """F9, F10: failures of the transport count, what we or the caller did does not, a JSON-RPC error is a success."""
    cases: list[tuple[BaseException | Reply, int]] = [
        (failure(Reason.ATTEMPT_TIMEOUT), 1),
        (failure(Reason.UPSTREAM_STATUS, status=503), 1),
        (failure(Reason.UPSTREAM_THROTTLED, counted=False), 0),
        (Rejected(Reason.QUEUE_FULL, "no"), 0),
        (asyncio.CancelledError(), 0),
        (ValueError("a bug of ours"), 0),
        (Reply(error=b'{"code":-32603,"message":"internal"}'), 0),
    ]
    for step, bad in cases:
        breaker = Breaker(BreakerSettings(consecutive=1), clock=clock)
        handler = compose([breaker], Script(step))
        result = await asyncio.gather(handler(make_call()), return_exceptions=True)
        assert isinstance(result[0], type(step))
        assert breaker.transitions[State.OPEN] == bad, step


async def calls_of_one_process(breaker: Breaker, count: int) -> None:
    """So many calls that are in hand when their process ends."""
    ended = asyncio.Event()
    end = failure(Reason.CHILD_EXITED)

    async def dies(call: Call) -> Reply:
        await ended.wait()
        raise with_delivery(end, Delivery.MAYBE)

    calls = [asyncio.create_task(breaker(make_call(), dies)) for _ in range(count)]
    await asyncio.sleep(1)
    ended.set()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(one, "reason", None) for one in found] == [Reason.CHILD_EXITED] * count


@on_virtual_loop
async def test_the_end_of_a_process_is_one_failure_however_many_calls_it_had() -> None:
    breaker = Breaker(BreakerSettings(), clock=clock, rng=fixed(0.5))
    await calls_of_one_process(breaker, 50)
    assert breaker.state is State.CLOSED
    for _ in range(4):
        await asyncio.sleep(1)
        assert breaker.state is State.CLOSED
        await calls_of_one_process(breaker, 2)
    assert breaker.state is State.OPEN, "five processes in a row"


@on_virtual_loop
async def test_ends_of_different_processes_at_the_same_time_are_as_many_failures() -> None:
    breaker = Breaker(BreakerSettings(), clock=clock, rng=fixed(0.5))
    await asyncio.gather(*(calls_of_one_process(breaker, 3) for _ in range(4)))
    assert breaker.state is State.CLOSED
    await calls_of_one_process(breaker, 3)
    assert breaker.state is State.OPEN


@pytest.mark.parametrize(
    "step, state",
    [
        (asyncio.CancelledError(), State.HALF_OPEN),
        (Rejected(Reason.QUEUE_FULL, "no"), State.HALF_OPEN),
        (ValueError("a bug of ours"), State.HALF_OPEN),
        (failure(counted=False), State.HALF_OPEN),
        (failure(), State.OPEN),
        (Reply(error=b'{"code":-32603,"message":"internal"}'), State.CLOSED),
    ],
    ids=["cancelled", "refused", "bug", "not counted", "failure", "answer"],
)
def test_what_calls_in_half_open_decide(step: BaseException | Reply, state: State) -> None:
    """F8: a cancelled call neither closes it, nor opens it, nor keeps its permit."""

    async def check() -> None:
        breaker = Breaker(BreakerSettings(consecutive=1), clock=clock)
        with pytest.raises(UpstreamError):
            await compose([breaker], Script(failure()))(make_call())
        breaker.probe_succeeded()
        for _ in range(3):
            await asyncio.gather(compose([breaker], Script(step))(make_call()), return_exceptions=True)
        assert (breaker.state, breaker.in_trial) == (state, 0)

    run(check())


@on_virtual_loop
async def test_progress_is_a_sign_of_life() -> None:
    breaker = Breaker(BreakerSettings(slow_after=10.0, slow_ratio=0.5, minimum=1), clock=clock)
    call = make_call()

    async def long_but_alive(call: object) -> Reply:
        for _ in range(5):
            await asyncio.sleep(9)
            progressing.progressed(clock())
        return Reply(b"{}")

    progressing = call
    await compose([breaker], long_but_alive)(call)
    assert breaker.state is State.CLOSED
    await compose([breaker], Script(10.5))(make_call())
    assert breaker.state is State.OPEN


def test_window_against_a_plain_list() -> None:
    import random

    random_numbers = random.Random(7)
    window = SlidingWindow(30.0, 10)
    seen: list[tuple[int, bool, bool]] = []
    now = 1000.0
    for _ in range(3000):
        now += random_numbers.choice(
            [0.0, 0.01, 0.5, 3.0, 2.9, 31.0, 100.0] if random_numbers.random() < 0.1 else [0.05]
        )
        bad, slow = random_numbers.random() < 0.5, random_numbers.random() < 0.2
        window.add(now, bad, slow)
        seen.append((int(now / 3.0), bad, slow))
        kept = [each for each in seen if each[0] > int(now / 3.0) - 10]
        assert (window.total, window.bad, window.slow) == (
            len(kept),
            sum(each[1] for each in kept),
            sum(each[2] for each in kept),
        )


class BreakerMachine(RuleBasedStateMachine):
    """Permits in any order, settled late or never: what must hold at every moment."""

    @initialize(permits=st.integers(1, 4), consecutive=st.integers(0, 4))
    def begin(self, permits: int, consecutive: int) -> None:
        self.bench = Bench(0.3, half_open_permits=permits, consecutive=consecutive, minimum=4, half_open_wait=25.0)
        self.permits: list[tuple[int, int, bool]] = []
        """Epoch, number of transitions at acquisition, whether it was half-open."""

    @property
    def breaker(self) -> Breaker:
        return self.bench.breaker

    def changes(self) -> int:
        return sum(self.breaker.transitions.values())

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 29.0, 61.0, 90.0]))
    def wait(self, seconds: float) -> None:
        self.bench.clock.now += seconds

    @rule()
    def acquire(self) -> None:
        breaker, now = self.breaker, self.bench.clock.now
        was_open, until = breaker.state is State.OPEN, breaker._until
        try:
            epoch = breaker.acquire()
        except Rejected as error:
            refusal = error
        else:
            assert not (was_open and now < until), "let through while open"
            self.permits.append((epoch, self.changes(), breaker.state is State.HALF_OPEN))
            return
        assert refusal.retry_after is not None
        assert refusal.retry_after >= 0
        assert breaker.state is not State.CLOSED
        assert not (was_open and now >= until), "open past its deadline"

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def settle(self, data: st.DataObject, outcome: Outcome) -> None:
        epoch, changes, _ = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        breaker = self.breaker
        before = (breaker.state, breaker._epoch, breaker._until)
        late = changes != self.changes()
        breaker.settle(epoch, outcome, self.bench.clock.now)
        if late or outcome is NEUTRAL:
            assert (breaker.state, breaker._epoch, breaker._until) == before

    @rule()
    def probe(self) -> None:
        was, believed = self.breaker.state, self.bench.clock.now >= min(self.breaker._believes_at, self.breaker._until)
        self.breaker.probe_succeeded()
        assert self.breaker.state is (State.HALF_OPEN if was is State.OPEN and believed else was)

    @rule()
    def probe_after_one_that_failed(self) -> None:
        self.breaker.probe_failed()
        self.breaker.probe_succeeded()
        assert self.breaker.state is not State.OPEN

    @invariant()
    def bounded(self) -> None:
        breaker = self.breaker
        current = [each for each in self.permits if each[0] == breaker._epoch and each[2]]
        if breaker.state is State.HALF_OPEN:
            assert breaker.in_trial == len(current) <= breaker.settings.half_open_permits
        else:
            assert breaker.in_trial == 0

    @invariant()
    def open_time_is_bounded(self) -> None:
        if self.breaker.state is State.OPEN:
            assert self.breaker.retry_after <= 60.0 * 1.2

    def teardown(self) -> None:
        """Whatever happened: with the server well again and time, it closes."""
        if not hasattr(self, "bench"):
            return
        for epoch, *_ in self.permits:
            self.breaker.settle(epoch, NEUTRAL, 0)
        self.bench.clock.now += 100
        for _ in range(self.breaker.settings.half_open_permits):
            self.bench.passes("+")
        assert self.breaker.state is State.CLOSED


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = hypothesis_settings(max_examples=150, stateful_step_count=50, deadline=None)

"""Single-flight: one question, many callers, and nobody's cancellation or deadline is another's."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.cache import Cache
from mcp_sidecar.pipeline.cache_policy import CacheSettings, ServerPolicy
from mcp_sidecar.pipeline.call import Call, CallKind, Event, Reply, Source
from mcp_sidecar.pipeline.singleflight import SingleFlight, SingleFlightSettings
from mcp_sidecar.pipeline.stack import Tasks, compose
from pipeline_calls import Events, Gate, clock, failure, make_call, outcome, start
from virtual_clock import START, VirtualLoop, on_virtual_loop

LIST = b'{"tools":[],"resultType":"complete","ttlMs":60000,"cacheScope":"private"}'


class Air:
    """A cache and a single-flight stage before a gate, on a loop stepped by hand."""

    def __init__(self, **settings: int) -> None:
        self.loop = VirtualLoop()
        chosen = CacheSettings()
        policy = ServerPolicy(chosen, legacy_scope=lambda call: None, announces=lambda call, method: False)
        self.cache = Cache(chosen, policy, clock=self.loop.time)
        self.spawned = Tasks()
        self.stage = SingleFlight(
            SingleFlightSettings(**settings), self.cache.flight, spawn=self.spawned, clock=self.loop.time
        )
        self.gate = Gate()
        self.handler = compose([self.cache, self.stage], self.gate)
        self.tasks: dict[Call, asyncio.Task[Reply]] = {}

    def begin(self, method: str = "tools/list", **fields: object) -> Call:
        call = make_call(method, **fields)
        self.tasks[call] = start(self.loop, self.handler, call)
        self.loop.settle()
        return call

    def outcomes(self, *calls: Call) -> list[str]:
        return [outcome(self.tasks[call]) for call in calls]

    def source(self, call: Call) -> Source:
        return self.tasks[call].result().source

    def flown(self, number: int = -1) -> Call:
        return self.gate.began[number]

    def answer(self, result: bytes = LIST, number: int = -1) -> None:
        self.gate.answer(self.flown(number), Reply(result))
        self.loop.settle()

    def close(self) -> None:
        assert self.stage.flights == 0
        assert not self.spawned.running
        assert not self.gate.held
        assert self.loop.timers() == 0
        self.loop.close()


def test_a_hundred_equal_questions_are_one() -> None:
    """F38."""
    air = Air()
    calls = [air.begin() for _ in range(100)]
    assert len(air.gate.began) == 1
    air.answer()
    assert set(air.outcomes(*calls)) == {"ok"}
    assert [air.source(call) for call in calls] == [Source.UPSTREAM] + [Source.COALESCED] * 99
    assert air.stage.coalesced == 99
    assert len(air.cache) == 1
    air.close()


def test_what_is_not_shared() -> None:
    air = Air()
    for fields in (
        {"kind": CallKind.IDEMPOTENT},
        {"params": b'{"_meta":{"progressToken":1}}'},
        {"params": b'{"requestState":"x"}'},
    ):
        before = len(air.gate.began)
        calls = [air.begin(**fields) for _ in range(2)]
        assert len(air.gate.began) == before + 2
        for call in calls:
            assert call in air.gate.held  # not in a task of its own either
            air.gate.answer(call)
        air.loop.settle()
    before = len(air.gate.began)
    others = [air.begin(identity=b"a"), air.begin(identity=b"b"), air.begin(params=b'{"cursor":"1"}')]
    assert len(air.gate.began) == before + 3
    for number in (-1, -2, -3):
        air.answer(number=number)
    assert set(air.outcomes(*others)) == {"ok"}
    air.close()


def test_the_first_callers_cancellation_is_not_the_others() -> None:
    air = Air()
    first, *others = (air.begin() for _ in range(3))
    air.tasks[first].cancel()
    air.loop.settle()
    assert air.outcomes(first, *others) == ["cancelled", "pending", "pending"]
    assert len(air.gate.held) == 1
    air.answer()
    assert air.outcomes(*others) == ["ok", "ok"]
    assert [air.source(call) for call in others] == [Source.UPSTREAM, Source.COALESCED]
    assert len(air.cache) == 1  # kept, though the one that asked has left
    air.close()


def test_the_flight_ends_when_the_last_has_left() -> None:
    air = Air()
    calls = [air.begin() for _ in range(3)]
    for call in calls:
        assert len(air.gate.held) == 1
        air.tasks[call].cancel()
        air.loop.settle()
    assert air.outcomes(*calls) == ["cancelled"] * 3
    assert air.flown().delivery is Delivery.NOT_SENT
    air.close()


def test_leaving_and_coming_in_the_same_turn() -> None:
    air = Air()
    first = air.begin()
    air.tasks[first].cancel()
    second = air.begin()
    assert air.outcomes(first, second) == ["cancelled", "pending"]
    assert len(air.gate.began) == 2  # the old one was given up
    air.answer()
    assert air.outcomes(second) == ["ok"]
    air.close()


def test_failures_are_everybodys() -> None:
    air = Air()
    calls = [air.begin() for _ in range(3)]
    air.gate.fail(air.flown(), failure(Reason.CONNECTION_LOST))
    air.loop.settle()
    assert air.outcomes(*calls) == ["connection_lost"] * 3
    assert air.outcomes(air.begin()) == ["pending"]  # nothing of it is kept
    air.answer()
    air.close()


def test_a_bug_inside_reaches_everybody_and_is_seen() -> None:
    air = Air()
    seen: list[dict[str, object]] = []
    air.loop.set_exception_handler(lambda loop, context: seen.append(context))
    calls = [air.begin() for _ in range(2)]
    air.gate.fail(air.flown(), ValueError("ours"))
    air.loop.settle()
    assert air.outcomes(*calls) == ["internal", "internal"]
    air.close()
    assert len(seen) == 1


@pytest.mark.parametrize("begun", [True, False])
def test_a_shutdown_is_not_the_callers_cancellation(begun: bool) -> None:
    air = Air()
    call = make_call("tools/list")
    air.tasks[call] = start(air.loop, air.handler, call)
    air.loop.turn()
    if begun:
        air.loop.settle()
    for task in list(air.spawned.running):
        task.cancel()
    air.loop.settle()
    assert air.outcomes(call) == ["shutting_down"]
    assert len(air.gate.began) == begun
    air.close()


def test_each_leaves_at_its_own_deadline_and_the_flight_lasts_as_long_as_its_longest() -> None:
    air = Air()
    short = air.begin(deadline=START + 5)
    long = air.begin(deadline=START + 60)
    assert air.flown().deadline == START + 60
    air.loop.advance(5.1)
    assert air.outcomes(short, long) == ["deadline_exceeded", "pending"]
    air.loop.advance(10)
    air.answer()
    assert air.outcomes(long) == ["ok"]
    alone = air.begin(params=b'{"cursor":"x"}', deadline=air.loop.now + 5)
    air.loop.advance(5.1)
    assert air.outcomes(alone) == ["deadline_exceeded"]
    air.close()


def test_an_answer_older_than_a_notice_is_not_given_to_those_who_ask_after_it() -> None:
    air = Air()
    before = air.begin()
    air.cache.notified("notifications/tools/list_changed")
    after = air.begin()
    assert len(air.gate.began) == 2
    air.answer(number=0)
    assert air.outcomes(before, after) == ["ok", "pending"]
    air.answer(number=1)
    assert air.outcomes(after) == ["ok"]
    air.close()


def test_a_question_back_is_for_the_one_that_asked() -> None:
    """`input_required` is never merged."""
    air = Air()
    first, second, third = (air.begin("resources/read", name="a", params=b'{"uri":"a"}') for _ in range(3))
    air.answer(b'{"resultType":"input_required","requestState":"s"}')
    assert air.outcomes(first, second, third) == ["ok", "pending", "pending"]
    assert len(air.gate.held) == 2
    assert set(air.gate.held) == {second, third}
    for call in (second, third):
        air.gate.answer(call, Reply(LIST))
    air.loop.settle()
    assert air.outcomes(second, third) == ["ok", "ok"]
    orphaned = air.begin(params=b'{"cursor":"1"}')
    follower = air.begin(params=b'{"cursor":"1"}')
    air.tasks[orphaned].cancel()
    air.answer(b'{"resultType":"input_required"}')
    assert follower in air.gate.held
    air.gate.answer(follower)
    air.loop.settle()
    air.close()


def test_interim_messages_go_to_the_first_and_only_while_it_is_there() -> None:
    air = Air()
    events, others = Events(), Events()
    first = air.begin(sink=events)
    second = air.begin(sink=others)
    air.flown().emit(Event(b"1"))
    assert (events.seen, others.seen) == ([b"1"], [])
    assert first.committed
    assert air.flown().committed
    assert not second.committed
    assert air.flown().sink is not None
    air.flown().sink.open()  # type: ignore[union-attr]
    air.tasks[first].cancel()
    air.loop.settle()
    air.flown().emit(Event(b"2"))
    assert (events.seen, others.seen) == ([b"1"], [])
    air.answer()
    air.close()


def test_the_first_call_is_told_what_was_done_for_it() -> None:
    air = Air()
    first, second = air.begin(), air.begin()
    flown = air.flown()
    flown.attempts, flown.delivery, flown.upstream_time = 3, Delivery.ANSWERED, 1.5
    air.answer()
    assert (first.attempts, first.delivery, first.upstream_time) == (3, Delivery.ANSWERED, 1.5)
    assert (second.attempts, second.delivery) == (0, Delivery.NOT_SENT)
    air.close()


def test_flights_are_bounded() -> None:
    air = Air(max_followers=2)
    calls = [air.begin() for _ in range(7)]
    assert len(air.gate.began) == 3
    for number in range(3):
        air.answer(number=number)
    assert set(air.outcomes(*calls)) == {"ok"}
    air.close()


@on_virtual_loop
async def test_tasks_end_together() -> None:
    tasks = Tasks()

    async def wait() -> None:
        await asyncio.sleep(100)

    for _ in range(3):
        tasks(wait(), "wait")
    await asyncio.sleep(0)
    await tasks.cancel()
    assert not tasks.running
    assert clock() == START


class FlightMachine(RuleBasedStateMachine):
    """Callers come, leave, run out of time; flights succeed and fail; between any two turns of the loop."""

    @initialize()
    def begin(self) -> None:
        self.air = Air(max_followers=3)
        self.cancelled: set[Call] = set()

    @rule(cursor=st.sampled_from([b"", b"1"]), short=st.booleans())
    def come(self, cursor: bytes, short: bool) -> None:
        air = self.air
        call = make_call(
            "tools/list", params=b'{"cursor":"%s"}' % cursor, deadline=air.loop.now + (2.0 if short else 50.0)
        )
        air.tasks[call] = start(air.loop, compose([air.stage], air.gate), call)

    @rule(turns=st.integers(1, 3))
    def step(self, turns: int) -> None:
        self.air.loop.turn(turns)

    @rule(seconds=st.sampled_from([0.5, 2.1]))
    def wait(self, seconds: float) -> None:
        self.air.loop.advance(seconds)

    @precondition(lambda self: self.air.tasks)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        calls = list(self.air.tasks)
        call = calls[data.draw(st.integers(0, len(calls) - 1))]
        if self.air.tasks[call].cancel():
            self.cancelled.add(call)

    @precondition(lambda self: self.air.gate.held)
    @rule(data=st.data(), well=st.sampled_from(["ok", "fail", "input"]))
    def land(self, data: st.DataObject, well: str) -> None:
        held = list(self.air.gate.held)
        call = held[data.draw(st.integers(0, len(held) - 1))]
        if well == "fail":
            self.air.gate.fail(call)
        else:
            self.air.gate.answer(call, Reply(LIST if well == "ok" else b'{"resultType":"input_required"}'))

    @rule()
    def notice(self) -> None:
        self.air.cache.notified("notifications/tools/list_changed")

    @invariant()
    def nobody_else_is_cancelled(self) -> None:
        if not hasattr(self, "air"):
            return
        for call, task in self.air.tasks.items():
            if task.done() and task.cancelled():
                assert call in self.cancelled

    def teardown(self) -> None:
        if not hasattr(self, "air"):
            return
        air = self.air
        for _ in range(20):
            air.loop.settle()
            for call in list(air.gate.held):
                air.gate.answer(call, Reply(LIST))
        air.loop.settle()
        assert all(task.done() for task in air.tasks.values())
        for task in air.tasks.values():
            outcome(task)
        self.nobody_else_is_cancelled()
        air.close()


TestFlightMachine = FlightMachine.TestCase
TestFlightMachine.settings = hypothesis_settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_errors_are_shared_as_copies() -> None:
    """What one caller's stages add to an error must not show at another's."""
    air = Air()
    calls = [air.begin() for _ in range(2)]
    air.gate.fail(air.flown(), failure(Reason.UPSTREAM_STATUS, status=502, retry_after=3.0))
    air.loop.settle()
    one, other = (air.tasks[call].exception() for call in calls)
    assert isinstance(one, UpstreamError)
    assert isinstance(other, UpstreamError)
    assert one is not other
    for error in (one, other):
        told = (error.reason, error.status, error.retry_after, error.delivery, error.message, str(error))
        assert told == (Reason.UPSTREAM_STATUS, 502, 3.0, Delivery.MAYBE, "it failed", "it failed")
    air.close()

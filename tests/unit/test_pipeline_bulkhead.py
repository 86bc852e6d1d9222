"""The bulkhead: bounds, order, fairness, and that every place comes back whatever is cancelled when."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mcp_sidecar.errors import Reason, Rejected
from mcp_sidecar.pipeline.bulkhead import Bulkhead, BulkheadSettings
from mcp_sidecar.pipeline.call import Call, Reply
from mcp_sidecar.pipeline.stack import compose
from pipeline_calls import Gate, clock, make_call, outcome, start
from virtual_clock import VirtualLoop, on_virtual_loop


class Hall:
    """A bulkhead before a gate, on a loop stepped by hand."""

    def __init__(self, **settings: float) -> None:
        self.loop = VirtualLoop()
        self.bulkhead = Bulkhead(BulkheadSettings(**settings), clock=self.loop.time)  # type: ignore[arg-type]
        self.gate = Gate()
        self.handler = compose([self.bulkhead], self.gate)
        self.tasks: dict[Call, asyncio.Task[Reply]] = {}

    def begin(self, identity: str = "a", **fields: float) -> Call:
        call = make_call(identity=identity.encode(), **fields)
        self.tasks[call] = start(self.loop, self.handler, call)
        self.loop.settle()
        return call

    def outcome(self, call: Call) -> str:
        return "in" if call in self.gate.held else outcome(self.tasks[call])

    def answer(self, call: Call) -> None:
        self.gate.answer(call)
        self.loop.settle()

    def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self.loop.settle()
        for task in self.tasks.values():
            outcome(task)
        assert self.bulkhead.in_flight == self.bulkhead.queued == 0
        assert not self.bulkhead._lines
        assert not self.bulkhead._returning
        assert not self.bulkhead._holders
        assert self.loop.timers() == 0
        self.loop.close()


def test_limit_queue_and_order() -> None:
    hall = Hall(limit=2, max_queue=2)
    calls = [hall.begin() for _ in range(5)]
    assert [hall.outcome(call) for call in calls] == ["in", "in", "pending", "pending", "queue_full"]
    assert (hall.bulkhead.in_flight, hall.bulkhead.queued, hall.bulkhead.refused) == (2, 2, 1)
    hall.loop.advance(1.5)
    hall.answer(calls[1])
    late = hall.begin()
    assert [hall.outcome(call) for call in calls[2:4]] == ["in", "pending"]
    assert hall.outcome(late) == "pending"  # F29: a newcomer does not overtake
    assert calls[2].queued_for == 1.5
    hall.answer(calls[0])
    hall.answer(calls[2])
    assert hall.outcome(calls[3]) == hall.outcome(late) == "in"
    assert hall.gate.most == 2
    hall.close()


def test_no_queue() -> None:
    hall = Hall(limit=1, max_queue=0)
    first, second = hall.begin(), hall.begin()
    assert (hall.outcome(first), hall.outcome(second)) == ("in", "queue_full")
    hall.answer(first)
    assert hall.outcome(hall.begin()) == "in"
    hall.close()


def test_waiting_is_bounded_by_the_time_limit_and_by_the_deadline() -> None:
    hall = Hall(limit=1, queue_timeout=10.0)
    hall.begin()
    patient, urgent, late = hall.begin(), hall.begin(deadline=1004.0), hall.begin(deadline=1000.0)
    assert hall.loop.timers() == 3
    hall.loop.advance(0)
    assert hall.outcome(late) == "deadline_exceeded"
    hall.loop.advance(4)
    assert hall.outcome(urgent) == "deadline_exceeded"
    hall.loop.advance(5.9)
    assert hall.outcome(patient) == "pending"
    hall.loop.advance(0.1)
    assert hall.outcome(patient) == "queue_timeout"
    assert hall.bulkhead.timed_out == 3
    hall.close()


def test_callers_take_turns() -> None:
    hall = Hall(limit=1)
    first = hall.begin("a")
    greedy = [hall.begin("a") for _ in range(4)]
    modest = [hall.begin("b") for _ in range(2)]
    third = hall.begin("c")
    order = []
    current = first
    for _ in range(7):
        hall.answer(current)
        (current,) = hall.gate.held
        order.append(current)
    assert order == [greedy[0], modest[0], third, greedy[1], modest[1], greedy[2], greedy[3]]
    hall.close()


def test_nobody_fills_the_queue_alone() -> None:
    hall = Hall(limit=1, max_queue=4)
    hall.begin("a")
    greedy = [hall.begin("a") for _ in range(4)]
    assert hall.outcome(hall.begin("a")) == "queue_full"
    modest = [hall.begin("b") for _ in range(3)]
    assert [hall.outcome(call) for call in greedy] == ["pending", "pending", "queue_full", "queue_full"]
    assert [hall.outcome(call) for call in modest] == ["pending", "pending", "queue_full"]
    assert (hall.bulkhead.queued, hall.bulkhead.displaced, hall.bulkhead.refused) == (4, 2, 2)
    assert hall.outcome(hall.begin("c")) == "pending"
    hall.close()


def test_a_place_handed_to_a_call_that_is_being_cancelled_comes_back() -> None:
    hall = Hall(limit=1)
    first, second, third = (hall.begin() for _ in range(3))
    hall.gate.answer(first)
    while not hall.tasks[first].done():
        hall.loop.turn()
    hall.tasks[second].cancel()  # the place is on its way to it
    hall.loop.settle()
    assert hall.outcome(second) == "cancelled"
    assert hall.outcome(third) == "in"
    hall.close()


def test_a_cancelled_waiter_leaves_nothing() -> None:
    hall = Hall(limit=1, max_queue=1)
    first, second = hall.begin(), hall.begin()
    for _ in range(100):
        hall.tasks[second].cancel()
        hall.loop.settle()
        second = hall.begin()
        assert hall.outcome(second) == "pending"
    assert len(hall.bulkhead._lines[b"a"]) == 1
    hall.answer(first)
    assert hall.outcome(second) == "in"
    hall.close()


def test_a_lent_place_serves_others_and_is_regained_ahead_of_the_queue() -> None:
    hall = Hall(limit=1)
    borrower, *others = (hall.begin() for _ in range(3))
    assert hall.bulkhead.lend(borrower)
    assert not hall.bulkhead.lend(borrower)
    hall.loop.settle()
    assert [hall.outcome(call) for call in others] == ["in", "pending"]
    back = hall.loop.create_task(hall.bulkhead.regain(borrower))
    hall.loop.settle()
    assert not back.done()
    hall.answer(others[0])
    assert back.done()
    assert hall.outcome(others[1]) == "pending"
    hall.answer(borrower)
    assert hall.outcome(others[1]) == "in"
    hall.close()


def test_a_call_that_ends_while_its_place_is_lent_gives_back_nothing() -> None:
    hall = Hall(limit=1)
    borrower = hall.begin()
    hall.bulkhead.lend(borrower)
    other = hall.begin()
    hall.tasks[borrower].cancel()
    hall.loop.settle()
    assert hall.outcome(borrower) == "cancelled"
    assert hall.bulkhead.in_flight == 1
    assert hall.outcome(other) == "in"
    assert hall.outcome(hall.begin()) == "pending"
    hall.close()


def test_regaining_ends_at_the_deadline() -> None:
    hall = Hall(limit=1)
    borrower = hall.begin(deadline=1005.0)
    hall.bulkhead.lend(borrower)
    hall.begin()
    back = hall.loop.create_task(hall.bulkhead.regain(borrower))
    hall.loop.advance(5)
    error = back.exception()
    assert isinstance(error, Rejected)
    assert error.reason is Reason.DEADLINE_EXCEEDED
    hall.answer(borrower)
    assert hall.bulkhead.in_flight == 1
    hall.close()


def test_limits_change_while_it_works() -> None:
    hall = Hall(limit=1)
    calls = [hall.begin() for _ in range(6)]
    hall.bulkhead.reconfigure(BulkheadSettings(limit=4))
    hall.loop.settle()
    assert [hall.outcome(call) for call in calls] == ["in"] * 4 + ["pending"] * 2
    hall.bulkhead.reconfigure(BulkheadSettings(limit=2))
    hall.answer(calls[0])
    hall.answer(calls[1])
    assert hall.outcome(calls[4]) == "pending"
    hall.answer(calls[2])
    assert hall.outcome(calls[4]) == "in"
    assert hall.bulkhead.in_flight == 2
    hall.close()


@on_virtual_loop
async def test_an_error_inside_gives_the_place_back() -> None:
    bulkhead = Bulkhead(BulkheadSettings(limit=1), clock=clock)

    async def broken(call: Call) -> Reply:
        raise ValueError

    for _ in range(3):
        with pytest.raises(ValueError):
            await compose([bulkhead], broken)(make_call())
    assert bulkhead.in_flight == 0


class BulkheadMachine(RuleBasedStateMachine):
    """Calls that begin, wait, lend, regain, end and are cancelled between any two turns of the loop."""

    @initialize(limit=st.integers(1, 3), max_queue=st.integers(0, 5))
    def begin(self, limit: int, max_queue: int) -> None:
        self.hall = Hall(limit=limit, max_queue=max_queue, queue_timeout=5.0)
        self.lent: list[Call] = []
        self.limit = limit

    def pick(self, data: st.DataObject, calls: list[Call]) -> Call:
        return calls[data.draw(st.integers(0, len(calls) - 1))]

    @rule(identity=st.sampled_from("abc"), short=st.booleans())
    def want(self, identity: str, short: bool) -> None:
        hall = self.hall
        call = make_call(identity=identity.encode(), deadline=hall.loop.now + (2.0 if short else 100.0))
        hall.tasks[call] = start(hall.loop, self.through, call)

    async def through(self, call: Call) -> Reply:
        return await self.hall.handler(call)

    @rule(turns=st.integers(1, 3))
    def step(self, turns: int) -> None:
        self.hall.loop.turn(turns)

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.hall.loop.advance(seconds)

    @precondition(lambda self: self.hall.gate.held)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.hall.gate.answer(self.pick(data, list(self.hall.gate.held)))

    @precondition(lambda self: self.hall.tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.hall.tasks[self.pick(data, list(self.hall.tasks))].cancel()

    @precondition(lambda self: self.hall.bulkhead._holders)
    @rule(data=st.data())
    def lend(self, data: st.DataObject) -> None:
        holders = sorted(self.hall.bulkhead._holders, key=lambda call: list(self.hall.tasks).index(call))
        call = self.pick(data, holders)
        assert self.hall.bulkhead.lend(call)
        self.lent.append(call)

    @precondition(lambda self: any(not self.hall.tasks[call].done() for call in self.lent))
    @rule(data=st.data())
    def regain(self, data: st.DataObject) -> None:
        """As the retry stage does it: within the call, so that cancelling the call cancels the wait."""
        call = self.pick(data, [call for call in self.lent if not self.hall.tasks[call].done()])
        self.lent.remove(call)
        hall = self.hall

        async def come_back() -> None:
            try:
                await hall.bulkhead.regain(call)
            except Rejected:
                return
            if hall.tasks[call].done():  # only in this test can the call end before its wait does
                hall.bulkhead._holders.discard(call)
                hall.bulkhead._release()

        task = hall.loop.create_task(come_back())
        hall.tasks[call].add_done_callback(lambda _: task.cancel())

    @rule(limit=st.integers(1, 4))
    def reconfigure(self, limit: int) -> None:
        settings = self.hall.bulkhead.settings
        self.hall.bulkhead.reconfigure(BulkheadSettings(limit, settings.max_queue, settings.queue_timeout))
        self.limit = max(self.limit, limit)

    @invariant()
    def bounded(self) -> None:
        if not hasattr(self, "hall"):
            return
        bulkhead = self.hall.bulkhead
        assert len(bulkhead._holders) <= bulkhead.in_flight <= self.limit
        assert bulkhead.queued == sum(len(line) for line in bulkhead._lines.values()) <= bulkhead.settings.max_queue
        assert all(bulkhead._lines.values()), "an empty line is kept"

    def teardown(self) -> None:
        """When all is over, every place can be had again."""
        if not hasattr(self, "hall"):
            return
        hall = self.hall
        for task in hall.tasks.values():
            task.cancel()
        hall.loop.settle()
        limit = hall.bulkhead.settings.limit
        calls = [hall.begin() for _ in range(limit)]
        assert [hall.outcome(call) for call in calls] == ["in"] * limit
        hall.close()


TestBulkheadMachine = BulkheadMachine.TestCase
TestBulkheadMachine.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)

"""The work queue: no key lost, none worked on twice at a time, urgent ones first, backoff per key."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mcp_operator.queue import QueueClosed, WorkQueue
from virtual_clock import VirtualLoop, on_virtual_loop


def make(rng=lambda: 1.0, **bounds) -> WorkQueue[str]:
    loop = asyncio.get_running_loop()
    return WorkQueue(clock=loop.time, rng=rng, **bounds)


@on_virtual_loop
async def test_marks_of_a_waiting_key_are_one_piece_of_work() -> None:
    queue = make()
    for _ in range(10):
        queue.add("a")
    assert len(queue) == 1
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


@on_virtual_loop
async def test_a_key_marked_during_its_work_comes_again_and_never_twice_at_once() -> None:
    queue = make()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("b", urgent=False)
    assert await queue.get() == "b"
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"


@on_virtual_loop
async def test_what_somebody_waits_for_goes_first() -> None:
    queue = make()
    for key in ("a", "b", "c"):
        queue.add(key, urgent=False)
    queue.add("b")
    queue.add("d")
    order = []
    for _ in range(4):
        order.append(await queue.get())
        queue.done(order[-1])
    assert order == ["b", "d", "a", "c"]
    assert len(queue) == 0


@on_virtual_loop
async def test_what_may_wait_is_not_forgotten_while_ever_more_is_urgent() -> None:
    queue = make()
    queue.add("patient", urgent=False)
    for number in range(20):
        queue.add(f"urgent-{number}")
        key = await queue.get()
        queue.done(key)
        if key == "patient":
            assert number < 8
            return
    raise AssertionError("it waited for ever")


@on_virtual_loop
async def test_a_retry_comes_not_sooner_than_the_api_server_asks() -> None:
    queue = make(backoff_base=1.0, backoff_max=60.0)
    queue.add("a")
    await queue.get()
    assert queue.retry("a", at_least=30.0) == 30.0
    assert queue.retry("a", at_least=3600.0) == 60.0


@on_virtual_loop
async def test_failures_double_the_wait_up_to_its_bound_and_success_resets_it() -> None:
    queue = make(backoff_base=1.0, backoff_max=5.0)
    waits = []
    queue.add("a")
    for _ in range(4):
        await queue.get()
        waits.append(queue.retry("a"))
        queue.done("a")
    assert waits == [1.0, 2.0, 4.0, 5.0]
    queue.succeeded("a")
    queue.add("a")
    await queue.get()
    assert queue.retry("a") == 1.0


@on_virtual_loop
async def test_failures_that_events_bring_on_early_do_not_lengthen_the_wait() -> None:
    queue = make(backoff_base=1.0, backoff_max=60.0)
    for _ in range(10):
        queue.add("a")
        await queue.get()
        assert queue.retry("a") == 1.0
        queue.done("a")
    assert await queue.get() == "a", "by itself, when the wait is over"
    assert queue.retry("a") == 2.0


@on_virtual_loop
async def test_the_earliest_of_several_waits_counts_and_a_mark_ends_it() -> None:
    queue = make()
    loop = asyncio.get_running_loop()
    began = loop.time()
    queue.add_after("a", 60)
    queue.add_after("a", 5)
    queue.add_after("a", 30)
    assert await queue.get() == "a"
    assert loop.time() - began == 5
    queue.done("a")
    queue.add_after("a", 60)
    queue.add("a")
    assert queue.waiting == 0


@on_virtual_loop
async def test_a_closed_queue_lets_every_worker_go() -> None:
    queue = make()
    queue.add_after("a", 60)
    workers = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    for worker in workers:
        with pytest.raises(QueueClosed):
            await worker
    queue.add("b")
    assert queue.waiting == 0
    assert len(queue) == 0


@on_virtual_loop
async def test_forgetting_a_key_leaves_nothing_of_it() -> None:
    queue = make()
    queue.add("a")
    queue.add_after("b", 5)
    queue.forget("a")
    queue.forget("b")
    assert (len(queue), queue.waiting, queue.oldest) == (0, 0, 0.0)
    queue.add("c")
    assert await queue.get() == "c"


class Machine(RuleBasedStateMachine):
    """A model: what is marked after its last `get` must be given out; nothing else is."""

    KEYS = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.queue: WorkQueue[str] = WorkQueue(clock=self.loop.time, rng=random.Random(1).random)
        self.dirty: set[str] = set()
        self.working: set[str] = set()
        self.got: list[str] = []
        self.loop.create_task(self.worker())
        self.loop.turn()

    async def worker(self) -> None:
        while True:
            try:
                self.got.append(await self.queue.get())
            except QueueClosed:
                return
            await self.pause()

    async def pause(self) -> None:
        self.resume = asyncio.Event()
        await self.resume.wait()

    def taken(self) -> None:
        self.loop.settle()
        for key in self.got:
            assert key not in self.working
            assert key in self.dirty
            self.dirty.discard(key)
            self.working.add(key)
        self.got.clear()

    @rule(key=KEYS, urgent=st.booleans())
    def mark(self, key: str, urgent: bool) -> None:
        self.dirty.add(key)
        self.queue.add(key, urgent=urgent)
        self.taken()

    @rule()
    def next(self) -> None:
        if hasattr(self, "resume"):
            self.resume.set()
        self.taken()

    @rule(key=KEYS, failed=st.booleans())
    def finish(self, key: str, failed: bool) -> None:
        if key in self.working:
            self.working.discard(key)
            if not failed:
                self.queue.succeeded(key)
            self.queue.done(key)
            self.taken()

    @invariant()
    def nothing_is_lost(self) -> None:
        waiting = self.dirty - self.working
        assert len(self.queue) == len(waiting)

    def teardown(self) -> None:
        self.queue.close()
        if hasattr(self, "resume"):
            self.resume.set()
        self.loop.settle()
        self.loop.close()


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueStateMachine = Machine.TestCase

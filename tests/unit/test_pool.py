"""The pool, on a virtual clock: its bounds, its order, and that everything given out comes back."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mcp_sidecar.errors import CallError, Delivery, Reason, Rejected, UpstreamError
from mcp_sidecar.upstream.lease import Lease
from mcp_sidecar.upstream.pool import Pool, PoolSettings
from virtual_clock import VirtualLoop, on_virtual_loop


class Connection:
    """Nothing but what a pool asks for."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.on_lost: Callable[[], None] | None = None
        self.reason = ""
        self.closed = False
        self.closer: asyncio.Task[object] | None = None

    @property
    def usable(self) -> bool:
        return not self.reason and not self.closed

    def lose(self, reason: str = "closed by the upstream") -> None:
        self.reason = reason
        if self.on_lost is not None:
            self.on_lost()

    async def close(self) -> None:
        self.closer = asyncio.current_task()
        await asyncio.sleep(0)
        self.closed = True


class Factory:
    """Opens connections, or fails, or waits to be told."""

    def __init__(self) -> None:
        self.made: list[Connection] = []
        self.openers: list[asyncio.Task[object] | None] = []
        self.gate: asyncio.Event | None = None
        self.error: CallError | None = None
        self.opening = 0
        self.most = 0

    @property
    def open_now(self) -> int:
        return self.opening + sum(not c.closed for c in self.made)

    async def __call__(self) -> Connection:
        self.opening += 1
        self.most = max(self.most, self.open_now)
        self.openers.append(asyncio.current_task())
        try:
            await (self.gate.wait() if self.gate is not None else asyncio.sleep(0))
            if self.error is not None:
                raise self.error
        finally:
            self.opening -= 1
        connection = Connection(len(self.made))
        self.made.append(connection)
        return connection


def make(factory: Factory, **changes: float) -> Pool[Connection]:
    defaults = {"max_size": 3, "min_size": 0}
    loop = asyncio.get_running_loop()
    return Pool(factory, PoolSettings(**{**defaults, **changes}), clock=loop.time, rng=lambda: 0.0)  # type: ignore[arg-type]


def refused() -> UpstreamError:
    return UpstreamError(Reason.CONNECT_FAILED, "refused", delivery=Delivery.NOT_SENT)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@on_virtual_loop
async def test_f22_100_at_once_open_no_more_than_max() -> None:
    factory = Factory()
    pool = make(factory)

    async def use() -> None:
        lease = await pool.acquire()
        await asyncio.sleep(0.01)
        pool.release(lease)

    await asyncio.gather(*(use() for _ in range(100)))
    assert factory.most == 3
    assert len(factory.made) == 3
    await pool.close()


@on_virtual_loop
async def test_f23_cancelled_while_opening_the_connection_stays_in_the_pool() -> None:
    factory = Factory()
    factory.gate = asyncio.Event()
    pool = make(factory)
    task = asyncio.create_task(pool.acquire())
    await turns()
    task.cancel()
    await turns()
    factory.gate.set()
    await turns()
    assert pool.counts()["ready"] == 1
    lease = await pool.acquire()
    assert lease.connection is factory.made[0]
    pool.release(lease)
    await pool.close()


@on_virtual_loop
async def test_f24_cancelled_just_as_it_was_given_a_connection() -> None:
    factory = Factory()
    pool = make(factory, max_size=1)
    first = await pool.acquire()
    task = asyncio.create_task(pool.acquire())
    await turns()
    pool.release(first)  # hands over: the task's future is done, the task has not run
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.in_use == 0
    pool.release(await pool.acquire())
    await pool.close()


@on_virtual_loop
async def test_f25_a_dropped_lease_gives_its_place_back_and_is_counted() -> None:
    factory = Factory()
    pool = make(factory, max_size=1)
    lease = await pool.acquire()
    del lease
    gc.collect()
    again = await pool.acquire()
    assert again.connection is factory.made[1]
    assert pool.leaks == 1
    assert pool.closes["leaked"] == 1
    pool.release(again)
    await pool.close()


@on_virtual_loop
async def test_f25_a_lease_that_begins_between_two_looks_is_reported_in_time() -> None:
    pool = make(Factory(), leak_after=60, idle_timeout=1000)
    pool.release(await pool.acquire())
    await asyncio.sleep(50)
    lease = await pool.acquire()
    await asyncio.sleep(119)
    assert pool.leaks == 1
    pool.release(lease)
    await pool.close()


@on_virtual_loop
async def test_f25_a_lease_held_too_long_is_reported_once() -> None:
    pool = make(Factory(), leak_after=60)
    lease = await pool.acquire()
    stream = await pool.acquire_stream()
    await asyncio.sleep(300)
    assert pool.leaks == 1
    pool.release(lease)
    pool.release(stream)
    await pool.close()


@on_virtual_loop
async def test_f26_a_connection_that_broke_is_not_given_out_again() -> None:
    factory = Factory()
    pool = make(factory)
    lease = await pool.acquire()
    lease.connection.reason = "unasked bytes"
    pool.release(lease)
    second = await pool.acquire()
    assert second.connection is factory.made[1]
    pool.release(second)
    factory.made[1].lose()
    third = await pool.acquire()
    assert third.connection is factory.made[2]
    pool.release(third, "bad answer")
    await turns()
    assert dict(pool.closes) == {"unasked bytes": 1, "closed by the upstream": 1, "bad answer": 1}
    assert all(c.closed for c in factory.made)
    await pool.close()


@on_virtual_loop
async def test_f26_a_connection_that_broke_is_not_handed_to_a_waiter() -> None:
    factory = Factory()
    pool = make(factory, max_size=1)
    lease = await pool.acquire()
    waiter = asyncio.create_task(pool.acquire())
    await turns()
    lease.connection.reason = "not kept alive"
    pool.release(lease)
    second = await waiter
    assert second.connection is factory.made[1]
    pool.release(second)
    await pool.close()


@on_virtual_loop
async def test_f27_traffic_refills_to_min_and_quiet_does_not() -> None:
    factory = Factory()
    pool = make(factory, min_size=2, idle_timeout=4)
    pool.release(await pool.acquire())
    await turns()
    assert pool.counts()["ready"] == 2
    await asyncio.sleep(60)
    assert pool.size == 0
    assert len(factory.made) == 2
    pool.release(await pool.acquire())
    await turns()
    assert pool.counts()["ready"] == 2
    await pool.close()


@on_virtual_loop
async def test_f28_a_waiter_is_woken_by_the_place_of_a_connection_that_ended() -> None:
    factory = Factory()
    pool = make(factory, max_size=1)
    lease = await pool.acquire()
    waiter = asyncio.create_task(pool.acquire())
    await turns()
    pool.release(lease, "cancelled")
    async with asyncio.timeout(1):
        second = await waiter
    assert second.connection is factory.made[1]
    assert factory.most == 1
    pool.release(second)
    await pool.close()


@on_virtual_loop
async def test_f29_waiters_are_served_in_order_and_newcomers_do_not_overtake() -> None:
    pool = make(Factory(), max_size=1)
    served: list[int] = []

    async def use(number: int) -> None:
        lease = await pool.acquire()
        served.append(number)
        await asyncio.sleep(0)
        pool.release(lease)

    first = await pool.acquire()
    tasks = [asyncio.create_task(use(i)) for i in range(5)]
    await turns()
    pool.release(first)
    assert pool.try_acquire() is None
    tasks.append(asyncio.create_task(use(5)))
    await asyncio.gather(*tasks)
    assert served == [0, 1, 2, 3, 4, 5]
    await pool.close()


@on_virtual_loop
async def test_f30_a_second_return_is_an_error() -> None:
    pool = make(Factory())
    lease = await pool.acquire()
    pool.release(lease)
    other = await pool.acquire()
    with pytest.raises(RuntimeError, match="twice"):
        pool.release(lease)
    assert pool.in_use == 1
    pool.release(other)
    await pool.close()


@on_virtual_loop
async def test_f31_the_acquire_time_covers_waiting_and_opening() -> None:
    factory = Factory()
    factory.gate = asyncio.Event()
    pool = make(factory, acquire_timeout=30)
    began = asyncio.get_running_loop().time()
    with pytest.raises(UpstreamError) as caught:
        await pool.acquire()
    assert asyncio.get_running_loop().time() - began == pytest.approx(30)
    assert (caught.value.reason, caught.value.delivery) == (Reason.ACQUIRE_TIMEOUT, Delivery.NOT_SENT)
    assert not caught.value.counted
    assert pool.acquire_timeouts == 1
    assert pool.waiting == 0
    await pool.close()


@on_virtual_loop
async def test_f32_drain_refuses_new_leases_and_waits_for_those_given() -> None:
    factory = Factory()
    pool = make(factory)
    idle, lease = await pool.acquire(), await pool.acquire()
    pool.release(idle)
    loop = asyncio.get_running_loop()
    loop.call_later(2, pool.release, lease)
    began = loop.time()
    assert await pool.drain(10)
    assert loop.time() - began == pytest.approx(2)
    with pytest.raises(Rejected) as caught:
        await pool.acquire()
    assert caught.value.reason is Reason.SHUTTING_DOWN
    await pool.close()
    assert pool.size == 0
    assert all(c.closed for c in factory.made)


@on_virtual_loop
async def test_f32_close_ends_what_is_leased_or_being_opened() -> None:
    factory = Factory()
    pool = make(factory)
    lease = await pool.acquire()
    factory.gate = asyncio.Event()
    waiter = asyncio.create_task(pool.acquire())
    stream = asyncio.create_task(pool.acquire_stream())
    await turns()
    assert not await pool.drain(1)
    await pool.close()
    assert pool.size == 0
    for task in (waiter, stream):
        with pytest.raises(Rejected):
            await task
    assert factory.made[0].closed
    pool.release(lease)
    assert pool.counts() == {"starting": 0, "ready": 0, "busy": 0, "draining": 0, "stream": 0}


@on_virtual_loop
async def test_the_owner_task_opens_and_closes() -> None:
    factory = Factory()
    pool = make(factory)
    pool.release(await pool.acquire(), "end")
    await turns()
    assert factory.made[0].closer is factory.openers[0]
    assert factory.made[0].closer is not asyncio.current_task()
    await pool.close()


@on_virtual_loop
async def test_idle_connections_are_used_last_in_first_out() -> None:
    pool = make(Factory())
    a, b = await pool.acquire(), await pool.acquire()
    last = b.connection
    pool.release(a)
    pool.release(b)
    lease = pool.try_acquire()
    assert lease is not None
    assert lease.connection is last
    pool.release(lease)
    await pool.close()


@on_virtual_loop
async def test_idle_ones_end_at_the_idle_time_and_leave_no_timer() -> None:
    factory = Factory()
    pool = make(factory, idle_timeout=4)
    pool.release(await pool.acquire())
    await asyncio.sleep(3.9)
    assert pool.size == 1
    await asyncio.sleep(0.2)
    assert pool.size == 0
    assert pool.closes["idle"] == 1
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    assert loop.timers() == 1  # the test's own limit
    await pool.close()


@on_virtual_loop
async def test_an_idle_one_is_not_used_after_a_stall_longer_than_its_time() -> None:
    factory = Factory()
    pool = make(factory, idle_timeout=4)
    pool.release(await pool.acquire())
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.now += 10  # the loop stood still: no timer could fire
    lease = await pool.acquire()
    assert lease.connection is factory.made[1]
    pool.release(lease)
    await pool.close()


@on_virtual_loop
async def test_the_lifetime_ends_a_connection_when_it_is_returned_or_idle() -> None:
    factory = Factory()
    pool = make(factory, lifetime=100, idle_timeout=1000)
    lease = await pool.acquire()
    pool.release(await pool.acquire())
    await asyncio.sleep(101)
    assert pool.closes["lifetime"] == 1
    pool.release(lease)
    await turns()
    assert pool.closes["lifetime"] == 2
    await pool.close()


@on_virtual_loop
async def test_lifetimes_differ_by_up_to_a_fortieth() -> None:
    factory = Factory()
    loop = asyncio.get_running_loop()
    draws = iter([0.0, 0.999])
    settings = PoolSettings(min_size=2, lifetime=1000, idle_timeout=5000)
    pool = Pool(factory, settings, clock=loop.time, rng=lambda: next(draws))
    pool.release(await pool.acquire())
    await asyncio.sleep(980)
    assert pool.size == 1
    await asyncio.sleep(21)
    assert pool.size == 0
    await pool.close()


@on_virtual_loop
async def test_streams_take_no_place_and_have_a_bound_of_their_own() -> None:
    factory = Factory()
    pool = make(factory, max_size=1, max_streams=2)
    streams = [await pool.acquire_stream(), await pool.acquire_stream()]
    lease = await pool.acquire()
    with pytest.raises(Rejected) as caught:
        await pool.acquire_stream()
    assert caught.value.reason is Reason.TOO_MANY_STREAMS
    assert not pool.as_stream(lease)
    assert pool.counts()["stream"] == 2
    pool.release(streams[0])  # there is no place for it
    await turns()
    assert pool.closes["surplus"] == 1
    pool.release(lease, "end")
    await turns()
    pool.release(streams[1])  # now there is
    assert pool.counts()["ready"] == 1
    await pool.close()


@on_virtual_loop
async def test_an_answer_that_turns_into_a_stream_makes_room_for_a_waiter() -> None:
    pool = make(Factory(), max_size=1)
    lease = await pool.acquire()
    waiter = asyncio.create_task(pool.acquire())
    await turns()
    assert pool.as_stream(lease)
    second = await waiter
    pool.release(second)
    pool.release(lease)
    await pool.close()


@on_virtual_loop
async def test_a_cancelled_stream_gives_its_place_back() -> None:
    factory = Factory()
    factory.gate = asyncio.Event()
    pool = make(factory, max_streams=1)
    task = asyncio.create_task(pool.acquire_stream())
    await turns()
    task.cancel()
    await turns()
    factory.gate.set()
    await turns()
    assert pool.size == 0
    pool.release(await pool.acquire_stream())
    await pool.close()


@on_virtual_loop
async def test_rotation_ends_idle_ones_now_and_leased_ones_when_returned() -> None:
    factory = Factory()
    pool = make(factory)
    lease, idle = await pool.acquire(), await pool.acquire()
    pool.release(idle)
    factory.gate = asyncio.Event()
    starting = asyncio.create_task(pool.acquire())
    await turns()
    assert pool.in_use == 2  # the idle one was there
    pool.rotate()
    assert pool.counts()["draining"] == 2
    factory.gate.set()
    pool.release(await starting)
    pool.release(lease)
    await turns()
    assert pool.closes["rotated"] == 2
    fresh = await pool.acquire()
    assert fresh.connection is factory.made[2]
    pool.release(fresh)
    await pool.close()


@on_virtual_loop
async def test_a_connection_opened_before_a_rotation_is_not_used_after_it() -> None:
    factory = Factory()
    factory.gate = asyncio.Event()
    pool = make(factory)
    waiter = asyncio.create_task(pool.acquire())
    await turns()
    pool.rotate()
    factory.gate.set()
    lease = await waiter
    assert lease.connection is factory.made[1]
    assert factory.made[0].closed
    pool.release(lease)
    await pool.close()


@on_virtual_loop
async def test_each_failure_to_open_fails_one_waiter_at_once() -> None:
    factory = Factory()
    factory.error = refused()
    pool = make(factory, max_size=2)
    results = await asyncio.gather(*(pool.acquire() for _ in range(7)), return_exceptions=True)
    assert all(isinstance(r, UpstreamError) and r.reason is Reason.CONNECT_FAILED for r in results)
    assert pool.open_failures == 7
    assert pool.size == 0
    factory.error = None
    pool.release(await pool.acquire())
    await pool.close()


@on_virtual_loop
async def test_a_failed_refill_fails_nobody() -> None:
    factory = Factory()
    pool = make(factory, min_size=3)
    count = 0

    async def second_fails() -> Connection:
        nonlocal count
        count += 1
        mine = count
        await asyncio.sleep(mine == 1)
        if mine > 1:
            raise refused()
        return await factory()

    pool = Pool(second_fails, PoolSettings(max_size=3, min_size=3), clock=asyncio.get_running_loop().time)
    lease = await pool.acquire()
    assert pool.open_failures == 2
    pool.release(lease)
    await pool.close()


@on_virtual_loop
async def test_what_opening_should_not_raise_becomes_an_internal_error() -> None:
    async def broken() -> Connection:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    pool = Pool(broken, PoolSettings(max_size=1))
    with pytest.raises(UpstreamError) as caught:
        await pool.acquire()
    assert caught.value.reason is Reason.INTERNAL
    await pool.close()


@on_virtual_loop
async def test_a_server_that_breaks_new_connections_fails_the_waiter_at_once() -> None:
    factory = Factory()

    async def greeted() -> Connection:
        connection = await factory()
        connection.reason = "unasked bytes"
        return connection

    pool = Pool(greeted, PoolSettings(max_size=2, min_size=2))
    results = await asyncio.gather(pool.acquire(), pool.acquire_stream(), return_exceptions=True)
    assert [getattr(r, "reason", None) for r in results] == [Reason.CONNECT_FAILED] * 2
    assert len(factory.made) <= 3
    assert all(c.closed for c in factory.made)
    await pool.close()


@on_virtual_loop
async def test_waiters_are_bounded() -> None:
    pool = make(Factory(), max_size=1, max_waiting=2)
    lease = await pool.acquire()
    waiters = [asyncio.create_task(pool.acquire()) for _ in range(2)]
    await turns()
    with pytest.raises(Rejected) as caught:
        await pool.acquire()
    assert caught.value.reason is Reason.QUEUE_FULL
    pool.release(lease)
    for waiter in waiters:
        pool.release(await waiter)
    await pool.close()


@on_virtual_loop
async def test_a_smaller_size_closes_idle_ones_and_a_larger_one_serves_waiters() -> None:
    factory = Factory()
    pool = make(factory, max_size=3)
    leases = [await pool.acquire() for _ in range(3)]
    for lease in leases:
        pool.release(lease)
    pool.reconfigure(PoolSettings(max_size=1, min_size=0))
    await turns()
    assert pool.size == 1
    held = await pool.acquire()
    waiter = asyncio.create_task(pool.acquire())
    await turns()
    pool.reconfigure(PoolSettings(max_size=2, min_size=0))
    pool.release(await waiter)
    pool.release(held)
    await pool.close()


class PoolMachine(RuleBasedStateMachine):
    """Anything may happen at any await; the bounds hold at every step, and at the end everything is back."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.factory = Factory()
        self.gates: list[asyncio.Event] = []
        self.settings = PoolSettings(max_size=3, min_size=2, max_streams=2, acquire_timeout=30, idle_timeout=4)
        self.held: list[Lease[Connection]] = []
        self.streams: set[int] = set()
        self.waiters: list[asyncio.Task[Lease[Connection]]] = []
        self.owners: dict[int, int] = {}
        self.pool = Pool(self.factory, self.settings, clock=self.loop.time)

    def collect(self) -> None:
        waiting = []
        for task in self.waiters:
            if not task.done():
                waiting.append(task)
            elif not task.cancelled() and task.exception() is None:
                self.held.append(task.result())
        self.waiters = waiting

    @rule()
    def acquire(self) -> None:
        self.waiters.append(self.loop.create_task(self.pool.acquire()))
        self.loop.turn()

    @rule()
    def acquire_stream(self) -> None:
        self.waiters.append(self.loop.create_task(self.pool.acquire_stream()))
        self.loop.turn()

    @rule()
    def fast(self) -> None:
        async def take() -> Lease[Connection] | None:
            return self.pool.try_acquire()

        task = self.loop.create_task(take())
        self.loop.turn()
        lease = task.result()
        if lease is not None:
            self.held.append(lease)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), end=st.sampled_from(["", "", "bad answer"]))
    def release(self, data: st.DataObject, end: str) -> None:
        lease = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.loop.call_soon(self.pool.release, lease, end)
        self.loop.turn()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def becomes_stream(self, data: st.DataObject) -> None:
        lease = self.held[data.draw(st.integers(0, len(self.held) - 1))]
        self.loop.call_soon(self.pool.as_stream, lease)
        self.loop.turn()

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.waiters[data.draw(st.integers(0, len(self.waiters) - 1))].cancel()
        self.loop.turn()

    @precondition(lambda self: self.factory.made)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        connection = self.factory.made[data.draw(st.integers(0, len(self.factory.made) - 1))]
        if connection.usable:
            self.loop.call_soon(connection.lose)
            self.loop.turn()

    @rule()
    def fail_or_mend(self) -> None:
        self.factory.error = None if self.factory.error else refused()

    @rule()
    def block(self) -> None:
        if self.factory.gate is None:
            self.factory.gate = asyncio.Event()
        else:
            self.factory.gate.set()
            self.factory.gate = None
        self.loop.turn()

    @rule()
    def rotate(self) -> None:
        self.loop.call_soon(self.pool.rotate)
        self.loop.turn()

    @rule(size=st.integers(1, 4))
    def resize(self, size: int) -> None:
        self.settings = PoolSettings(max_size=size, min_size=1, max_streams=2, acquire_timeout=30, idle_timeout=4)
        self.loop.call_soon(self.pool.reconfigure, self.settings)
        self.loop.turn()

    @rule()
    def turn(self) -> None:
        self.loop.turn()

    @rule(seconds=st.sampled_from([0.5, 5.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @invariant()
    def bounds(self) -> None:
        self.collect()
        counts = self.pool.counts()
        assert sum(counts.values()) == self.pool.size
        assert self.factory.open_now <= 4 + 2  # the largest size there ever was, and the streams
        assert counts["stream"] <= 2
        # no connection is in two hands
        numbers = [lease.connection.number for lease in self.held]
        assert len(numbers) == len(set(numbers))

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        if self.factory.gate is not None or self.factory.error is not None:
            return
        self.loop.settle()
        self.collect()
        if self.pool.waiting:
            assert self.pool._counted >= self.settings.max_size
            assert self.pool.counts()["ready"] == 0

    def teardown(self) -> None:
        self.factory.error = None
        if self.factory.gate is not None:
            self.factory.gate.set()
            self.factory.gate = None
        for task in self.waiters:
            task.cancel()
        self.loop.settle()
        self.collect()
        for lease in self.held:
            self.loop.call_soon(self.pool.release, lease)
        self.held = []
        self.loop.advance(100)
        assert self.pool.size == 0
        assert self.pool.in_use == 0
        assert self.factory.open_now == 0
        assert (self.pool._counted, self.pool._streams, self.pool._starting) == (0, 0, 0)
        assert self.pool.leaks == 0
        assert self.loop.timers() == 0
        assert not asyncio.all_tasks(self.loop)
        self.loop.run_until_complete(self.pool.close())
        asyncio.set_event_loop(None)
        self.loop.close()


PoolMachine.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPoolMachine = PoolMachine.TestCase

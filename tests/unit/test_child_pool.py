"""upstream/{slot,child_pool,start_limiter}.py on a virtual clock: who waits, who is started, who is replaced."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.errors import Delivery, Reason, Rejected, UpstreamError
from mcp_sidecar.pipeline.call import Call, Era
from mcp_sidecar.protocol.lines import Oversized
from mcp_sidecar.upstream.channel import StartError
from mcp_sidecar.upstream.child_pool import ChildPool, ChildPoolSettings
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.slot import SlotState
from mcp_sidecar.upstream.start_limiter import RestartBackoff, RestartSettings, StartLimiter
from virtual_clock import on_virtual_loop


class FakeChannel:
    """A process that answers when told to."""

    congested = False

    def __init__(self, world: World) -> None:
        self.on_message: Callable[[bytes], None] = lambda message: None
        self.on_oversized: Callable[[Oversized], None] = lambda line: None
        self.on_closed: Callable[[UpstreamError], None] = lambda error: None
        self.world = world
        self.sent: list[bytes] = []
        self.state = "new"
        self.delivered = True

    def withdraw(self) -> bool:
        return False

    async def open(self) -> None:
        self.state = "opening"
        self.world.opening += 1
        self.world.most_opening = max(self.world.most_opening, self.world.opening)
        try:
            await asyncio.sleep(self.world.start_takes)
        finally:
            self.world.opening -= 1
        if self.world.start_error is not None:
            self.state = "failed"
            raise StartError("not_found", self.world.start_error, reason=Reason.START_FAILED)
        self.state = "open"

    def send(self, message: bytes) -> FakeChannel:
        self.sent.append(message)
        return self

    async def drain(self) -> None: ...

    async def close(self, reason: str) -> None:
        if self.state in ("closed", "failed", "new"):
            return
        self.state = "closing"
        self.on_closed(UpstreamError(Reason.CONNECTION_LOST, f"stopped: {reason}", delivery=Delivery.MAYBE))
        await asyncio.sleep(self.world.stop_takes)
        self.state = "closed"

    def crash(self) -> None:
        self.state = "closed"
        self.on_closed(UpstreamError(Reason.CHILD_EXITED, "the server's process exited", delivery=Delivery.MAYBE))

    def answer(self, id: int) -> None:
        self.on_message(b'{"jsonrpc":"2.0","id":%d,"result":{}}' % id)


class Quiet:
    def on_notification(self, method: str, message: bytes) -> None: ...

    def on_request(self, id_raw: bytes, method: str, params: bytes | None, message: bytes) -> None: ...

    def on_closed(self, error: UpstreamError) -> None: ...


class World:
    """A pool of fake processes."""

    def __init__(self, **settings: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.start_takes = 1.0
        self.stop_takes = 0.1
        self.start_error: str | None = None
        self.opening = self.most_opening = 0
        self.channels: list[FakeChannel] = []
        self.handshake: Callable[[Multiplexer], Awaitable[None]] | None = None
        self.probe: Callable[[Multiplexer], Awaitable[object]] | None = None
        self.limiter = StartLimiter(2)
        self.changes = 0
        self.pool = ChildPool(
            ChildPoolSettings(**settings),
            self._channel,
            make_peer=Quiet,
            on_started=self._started,
            ids=itertools.count(1).__next__,
            limiter=self.limiter,
            clock=self.loop.time,
            rng=lambda: 1.0,
            probe=self._probe,
        )

    def _channel(self) -> FakeChannel:
        self.channels.append(FakeChannel(self))
        return self.channels[-1]

    async def _started(self, mux: Multiplexer) -> None:
        if self.handshake is not None:
            await self.handshake(mux)

    async def _probe(self, mux: Multiplexer) -> None:
        if self.probe is None:
            await asyncio.sleep(3600)
        else:
            await self.probe(mux)

    def states(self) -> list[str]:
        return [slot.state.value for slot in self.pool.slots]

    def now(self) -> float:
        return self.loop.time() - 1000.0

    def call(self, seconds: float = 300.0) -> asyncio.Task[Any]:
        call = Call(
            server="s",
            id=b"1",
            method="tools/call",
            params=b"{}",
            era=Era.MODERN,
            version="2026-07-28",
            deadline=self.loop.time() + seconds,
        )
        return asyncio.ensure_future(self.pool.request("tools/call", b"{}", call=call))


def virtual(**settings: Any) -> Callable[[Callable[[World], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """An async test of a World; afterwards no task may be left."""

    def decorate(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        @on_virtual_loop
        async def run() -> None:
            world = World(**settings)
            await test(world)
            await world.pool.close()
            assert all(channel.state in ("closed", "failed", "new") for channel in world.channels)
            assert world.pool.slots == []
            assert world.pool.waiting == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run.__name__ = test.__name__
        return run

    return decorate


@virtual()
async def test_calls_during_the_start_wait_for_it(w: World) -> None:
    tasks = [w.call() for _ in range(3)]
    await asyncio.sleep(0.5)
    assert (w.states(), w.pool.waiting) == (["starting"], 3)
    await asyncio.sleep(1)
    assert (w.states(), w.pool.waiting, w.pool.in_flight) == (["ready"], 0, 3)
    for id in (1, 2, 3):
        w.channels[0].answer(id)
    await asyncio.gather(*tasks)
    assert w.pool.counters.starts == 1
    assert list(w.pool.counters.start_seconds) == [1.0]


@virtual(acquire_timeout=5.0)
async def test_waiting_for_a_start_is_bounded(w: World) -> None:
    w.start_takes = 20.0
    patient, hasty = w.call(), w.call(seconds=2.0)
    for task, seconds in ((hasty, 2.0), (patient, 5.0)):
        with pytest.raises(UpstreamError) as caught:
            await task
        assert w.now() == pytest.approx(seconds)
        assert caught.value.reason is Reason.ACQUIRE_TIMEOUT
        assert caught.value.delivery is Delivery.NOT_SENT
        assert not caught.value.counted


@virtual(start_timeout=3.0)
async def test_start_that_takes_too_long_fails(w: World) -> None:
    w.start_takes = 100.0
    with pytest.raises(UpstreamError, match="within 3 s") as caught:
        await w.call()
    assert caught.value.reason is Reason.START_FAILED
    assert w.pool.counters.start_failures == {"timeout": 1}


@virtual(restart=RestartSettings(base=4.0))
async def test_failed_start_is_told_to_who_waits_and_to_who_comes_in_the_backoff(w: World) -> None:
    w.start_error = "the command 'x' was not found on PATH"
    waiting = [w.call() for _ in range(2)]
    for task in waiting:
        with pytest.raises(UpstreamError, match="not found") as caught:
            await task
        assert (caught.value.reason, caught.value.counted) == (Reason.START_FAILED, True)
    await asyncio.sleep(1)
    with pytest.raises(UpstreamError, match="not found") as caught:
        await w.call()
    assert not caught.value.counted
    assert caught.value.retry_after == pytest.approx(3.0)
    w.start_error = None
    await asyncio.sleep(3.5)
    task = w.call()
    await asyncio.sleep(1)
    w.channels[-1].answer(1)
    await task
    assert w.pool.counters.start_failures == {"not_found": 1}


@virtual()
async def test_failed_handshake_is_a_failed_start(w: World) -> None:
    async def handshake(mux: Multiplexer) -> None:
        raise UpstreamError(Reason.ATTEMPT_TIMEOUT, "no answer to initialize", delivery=Delivery.MAYBE)

    w.handshake = handshake
    with pytest.raises(UpstreamError, match="no answer to initialize") as caught:
        await w.call()
    assert caught.value.reason is Reason.START_FAILED
    assert caught.value.delivery is Delivery.NOT_SENT
    assert w.channels[0].state in ("closing", "closed")


@virtual()
async def test_defect_in_the_handshake_does_not_end_the_owner(w: World) -> None:
    told: list[Any] = []
    w.loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))

    async def handshake(mux: Multiplexer) -> None:
        if len(w.channels) == 1:
            raise KeyError("oops")

    w.handshake = handshake
    with pytest.raises(UpstreamError):
        await w.call()
    assert isinstance(told[0], KeyError)
    await asyncio.sleep(5)
    assert w.states() == ["ready"]


@virtual()
async def test_process_that_dies_of_the_probe_is_started_again_at_once(w: World) -> None:
    async def handshake(mux: Multiplexer) -> None:
        if len(w.channels) == 1:
            w.channels[0].crash()
            raise UpstreamError(Reason.CHILD_EXITED, "died", delivery=Delivery.MAYBE, counted=False)

    w.handshake = handshake
    task = w.call()
    await asyncio.sleep(2.05)
    assert w.states() == ["ready"]
    w.channels[1].answer(1)
    await task


@virtual()
async def test_process_that_always_dies_of_the_probe_is_a_failed_start(w: World) -> None:
    async def handshake(mux: Multiplexer) -> None:
        w.channels[-1].crash()
        raise UpstreamError(Reason.CHILD_EXITED, "died", delivery=Delivery.MAYBE, counted=False)

    w.handshake = handshake
    with pytest.raises(UpstreamError, match="died"):
        await w.call()
    assert len(w.channels) == 4


@virtual(restart=RestartSettings(base=1.0, cap=8.0, reset_after=60.0))
async def test_crashes_are_followed_by_growing_delays_until_it_proved_itself(w: World) -> None:
    w.start_takes = w.stop_takes = 0.0
    w.pool.start()
    delays = []
    for _ in range(6):
        await asyncio.sleep(0.01)
        assert w.states() == ["ready"]
        w.channels[-1].crash()
        began, count = w.now(), len(w.channels)
        while len(w.channels) == count:
            await asyncio.sleep(0.05)
        delays.append(w.now() - began)
    assert delays == pytest.approx([1, 2, 4, 8, 8, 8], abs=0.11)
    await asyncio.sleep(61)
    w.channels[-1].crash()
    await asyncio.sleep(1.1)
    assert w.states() == ["ready"]
    assert (w.pool.counters.starts, w.pool.counters.restarts) == (8, 7)
    assert w.pool.counters.closed["exit"] == 7


@virtual(acquire_timeout=6.0, restart=RestartSettings(base=4.0))
async def test_calls_wait_for_a_restart_only_where_it_is_near(w: World) -> None:
    w.pool.start()
    await asyncio.sleep(1.5)
    w.channels[0].crash()
    task = w.call()
    await asyncio.sleep(4.9)
    assert not task.done()
    await asyncio.sleep(0.2)
    w.channels[1].answer(1)
    await task
    w.channels[1].crash()
    await asyncio.sleep(0.05)
    with pytest.raises(UpstreamError) as caught:
        await w.call()
    assert caught.value.reason is Reason.SERVER_NOT_READY
    assert caught.value.retry_after == pytest.approx(8, abs=0.1)
    assert not caught.value.counted


@virtual(size=5)
async def test_no_more_starts_at_once_than_the_limiter_lets(w: World) -> None:
    w.pool.start()
    await asyncio.sleep(1.5)
    assert w.states().count("ready") == 2
    await asyncio.sleep(2)
    assert w.states() == ["ready"] * 5
    assert w.most_opening == 2
    assert (w.limiter.starting, w.limiter.waiting) == (0, 0)


@virtual(size=3)
async def test_least_busy_process_takes_the_call(w: World) -> None:
    w.pool.start()
    await asyncio.sleep(5)
    tasks = [w.call() for _ in range(9)]
    await asyncio.sleep(0.1)
    assert [slot.in_flight for slot in w.pool.slots] == [3, 3, 3]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@virtual()
async def test_replacement_serves_before_the_old_one_goes(w: World) -> None:
    w.pool.start()
    await asyncio.sleep(1.5)
    old = w.call()
    await asyncio.sleep(0)
    w.pool.replace("secret")
    await asyncio.sleep(0.5)
    assert w.states() == ["ready", "starting"]
    await asyncio.sleep(1)
    assert w.states() == ["draining", "ready"]
    new = w.call()
    await asyncio.sleep(0.1)
    assert len(w.channels[1].sent) == 1
    w.channels[0].answer(1)
    w.channels[1].answer(2)
    await asyncio.gather(old, new)
    await asyncio.sleep(0.5)
    assert w.states() == ["ready"]
    assert w.channels[0].state == "closed"
    assert w.pool.counters.closed == {"secret": 1}


@virtual(size=3)
async def test_replacement_has_one_process_more_than_usual_at_most(w: World) -> None:
    w.pool.start()
    await asyncio.sleep(5)
    most = 0
    fewest = 3
    w.pool.replace("config")
    for _ in range(200):
        await asyncio.sleep(0.05)
        most = max(most, sum(c.state in ("open", "opening") for c in w.channels))
        fewest = min(fewest, w.states().count("ready"))
    assert (most, fewest) == (4, 3)
    assert [slot.generation for slot in w.pool.slots] == [1, 1, 1]
    assert w.states() == ["ready"] * 3


@virtual()
async def test_bad_new_value_takes_nothing_down_and_a_good_one_heals(w: World) -> None:
    w.pool.start()
    await asyncio.sleep(1.5)
    w.start_error = "bad value"
    w.pool.replace("secret")
    await asyncio.sleep(30)
    assert sorted(w.states())[-1] == "ready"
    task = w.call()
    await asyncio.sleep(0)
    w.channels[0].answer(1)
    await task
    w.start_error = None
    w.pool.replace("secret")
    await asyncio.sleep(10)
    assert w.states() == ["ready"]
    assert w.pool.slots[0].generation == 2


@virtual(drain_timeout=5.0)
async def test_replaced_process_has_bounded_time_for_its_calls(w: World) -> None:
    w.pool.start()
    await asyncio.sleep(1.5)
    task = w.call()
    await asyncio.sleep(0)
    w.pool.replace("config")
    with pytest.raises(UpstreamError) as caught:
        await task
    assert caught.value.delivery is Delivery.MAYBE
    assert w.now() == pytest.approx(1.5 + 1 + 5, abs=0.1)


@virtual()
async def test_replacement_of_a_pool_that_never_became_ready(w: World) -> None:
    w.start_error = "bad"
    w.pool.start()
    await asyncio.sleep(20)
    w.start_error = None
    w.pool.replace("secret")
    await asyncio.sleep(1.5)
    assert w.states() == ["ready"]


@virtual(idle_after=60.0, lazy=True)
async def test_lazy_process_is_started_by_a_call_and_closed_when_idle(w: World) -> None:
    w.pool.start()
    await asyncio.sleep(10)
    assert w.channels == []
    for n in (1, 2):
        task = w.call()
        await asyncio.sleep(100)
        assert w.states() == ["ready"]
        w.channels[-1].answer(n)
        await task
        await asyncio.sleep(59)
        assert w.states() == ["ready"]
        await asyncio.sleep(2)
        assert w.states() == ["asleep"]
    assert w.pool.counters.closed == {"idle": 2}


async def give_up(w: World, times: int) -> None:
    for _ in range(times):
        task = w.call()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])


@virtual(probe_timeout=5.0)
async def test_suspect_process_that_shows_no_life_is_replaced(w: World) -> None:
    w.pool.start()
    await asyncio.sleep(1.5)
    await give_up(w, 3)
    waiting = w.call()
    await asyncio.sleep(4)
    assert w.pool.in_flight == 0  # nothing is sent to a suspect
    await asyncio.sleep(5)
    assert w.channels[0].state == "closed"
    w.channels[1].answer(4)
    await waiting
    assert w.pool.counters.closed == {"suspect": 1}


@virtual()
async def test_suspect_process_that_shows_life_stays(w: World) -> None:
    async def probe(mux: Multiplexer) -> None:
        await asyncio.sleep(0.2)

    w.probe = probe
    w.pool.start()
    await asyncio.sleep(1.5)
    await give_up(w, 3)
    task = w.call()
    await asyncio.sleep(1)
    assert len(w.channels) == 1
    w.channels[0].answer(4)
    await task


@virtual()
async def test_drain_lets_calls_finish_and_refuses_new_ones(w: World) -> None:
    w.pool.start()
    await asyncio.sleep(1.5)
    task = w.call()
    await asyncio.sleep(0)
    draining = asyncio.ensure_future(w.pool.drain(10.0))
    await asyncio.sleep(1)
    with pytest.raises(Rejected) as caught:
        await w.call()
    assert caught.value.reason is Reason.SHUTTING_DOWN
    assert not draining.done()
    w.channels[0].answer(1)
    await task
    await draining
    assert w.now() < 3


@virtual()
async def test_drain_is_bounded(w: World) -> None:
    w.pool.start()
    await asyncio.sleep(1.5)
    task = w.call()
    await asyncio.sleep(0)
    await w.pool.drain(10.0)
    assert w.now() == pytest.approx(11.6, abs=0.1)
    with pytest.raises(UpstreamError):
        await task


@virtual()
async def test_close_while_starting_and_while_waiting(w: World) -> None:
    task = w.call()
    await asyncio.sleep(0.5)
    await w.pool.close()
    with pytest.raises(Rejected):
        await task


@virtual()
async def test_close_in_the_backoff(w: World) -> None:
    w.start_error = "bad"
    w.pool.start()
    await asyncio.sleep(1.2)
    assert w.states() == ["backoff"]
    began = w.now()
    await w.pool.close()
    assert w.now() == began


@virtual()
async def test_cancelled_close_ends_by_force(w: World) -> None:
    w.stop_takes = 100.0
    w.pool.start()
    await asyncio.sleep(1.5)
    closing = asyncio.ensure_future(w.pool.close())
    await asyncio.sleep(1)
    closing.cancel()
    await asyncio.wait([closing])
    await asyncio.sleep(0.1)
    assert w.pool.slots == []
    w.channels[0].state = "closed"
    w.stop_takes = 0.0


@virtual()
async def test_cancelled_waiter_leaves_nothing(w: World) -> None:
    task = w.call()
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.wait([task])
    assert w.pool.waiting == 0
    assert not w.pool._waiters
    await asyncio.sleep(1)
    assert w.states() == ["ready"]
    assert w.pool.in_flight == 0


@virtual()
async def test_counts_of_what_was_wrong_outlive_the_process(w: World) -> None:
    w.pool.start()
    await asyncio.sleep(1.5)
    w.channels[0].on_message(b"noise")
    assert w.pool.irregular()["garbage_lines"] == 1
    w.channels[0].crash()
    await asyncio.sleep(5)
    w.channels[1].on_message(b"noise")
    w.channels[1].answer(99)
    assert w.pool.irregular()["garbage_lines"] == 2
    assert w.pool.irregular()["unknown_ids"] == 1


@virtual()
async def test_status_tells_what_is_going_on(w: World) -> None:
    w.start_error = "the command 'x' was not found on PATH"
    w.pool.start()
    await asyncio.sleep(1.5)
    (slot,) = w.pool.status()["slots"]  # type: ignore[misc]
    assert slot["state"] == "backoff"
    assert slot["lastError"] == w.start_error
    assert slot["nextStartInSeconds"] == 0.5
    w.start_error = None
    await asyncio.sleep(5)
    (slot,) = w.pool.status()["slots"]  # type: ignore[misc]
    assert slot["state"] == SlotState.READY.value
    assert "lastError" not in slot


@given(
    st.lists(st.floats(0, 200), min_size=1, max_size=30),
    st.floats(0.01, 5),
    st.floats(5, 100),
    st.floats(1, 4),
    st.floats(0, 1),
)
def test_backoff_is_bounded_and_grows(
    uptimes: list[float], base: float, cap: float, factor: float, chance: float
) -> None:
    settings = RestartSettings(base=base, cap=cap, factor=factor, reset_after=60.0)
    backoff = RestartBackoff(settings, clock=lambda: 0.0, rng=lambda: chance)
    in_a_row = 0
    for uptime in uptimes:
        in_a_row = 0 if uptime >= 60 else in_a_row
        full = min(cap, base * factor**in_a_row)
        delay = backoff.ended(uptime)
        assert full / 2 - 1e-9 <= delay <= full + 1e-9
        assert backoff.remaining() == delay
        in_a_row += 1

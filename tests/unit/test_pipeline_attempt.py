"""Time: what an attempt and a call may take, what stops the clock, and whose cancellation it was."""

from __future__ import annotations

import asyncio

import pytest

from mcp_sidecar.errors import CallError, Delivery, Reason, Rejected, UpstreamError
from mcp_sidecar.pipeline.attempt import AttemptSettings, AttemptTimeout
from mcp_sidecar.pipeline.call import Call, Handler, Reply
from mcp_sidecar.pipeline.deadline import Deadline, DeadlineSettings
from mcp_sidecar.pipeline.stack import compose
from pipeline_calls import RESULT, Script, clock, failure, make_call
from virtual_clock import START, VirtualLoop, on_virtual_loop


def build(script: Handler, timeout: float | None = 30.0) -> tuple[AttemptTimeout, Handler]:
    stage = AttemptTimeout(AttemptSettings(timeout), clock=clock)
    return stage, compose([stage], script)


def timers() -> int:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.timers()


async def fails(handler: Handler, call: Call) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await handler(call)
    return caught.value


@on_virtual_loop
async def test_a_silent_attempt_ends() -> None:
    stage, handler = build(Script(100.0))
    call = make_call()
    before = timers()
    error = await fails(handler, call)
    assert clock() == START + 30
    assert (error.reason, error.delivery, error.counted) == (Reason.ATTEMPT_TIMEOUT, Delivery.MAYBE, True)
    assert (call.attempts, call.delivery, call.upstream_time) == (1, Delivery.MAYBE, 30.0)
    assert (stage.attempts, stage.timed_out, timers()) == (1, 1, before)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@on_virtual_loop
async def test_the_last_written_byte_decides_what_a_timeout_says() -> None:
    for written, delivery in ((False, Delivery.NOT_SENT), (True, Delivery.MAYBE), (None, Delivery.MAYBE)):

        async def hang(call: Call, written: bool | None = written) -> Reply:
            assert call.written is None
            call.written = written
            await asyncio.sleep(100)
            raise AssertionError

        assert (await fails(build(hang)[1], make_call())).delivery is delivery


@on_virtual_loop
async def test_what_one_attempt_told_is_not_believed_of_the_next() -> None:
    async def tells(call: Call) -> Reply:
        call.written = False
        raise failure(Reason.CONNECT_FAILED, Delivery.NOT_SENT)

    call = make_call()
    await fails(build(tells)[1], call)

    async def tells_nothing(call: Call) -> Reply:
        await asyncio.sleep(100)
        raise AssertionError

    assert (await fails(build(tells_nothing)[1], call)).delivery is Delivery.MAYBE


@on_virtual_loop
async def test_progress_starts_the_time_of_the_attempt_anew_but_never_that_of_the_call() -> None:
    async def alive(call: Call) -> Reply:
        while True:
            await asyncio.sleep(20)
            call.progressed(clock())

    error = await fails(build(alive)[1], make_call(deadline=START + 300))
    assert clock() == START + 300
    assert (error.reason, error.counted) == (Reason.DEADLINE_EXCEEDED, False)

    async def for_a_while(call: Call) -> Reply:
        for _ in range(3):
            await asyncio.sleep(20)
            call.progressed(clock())
        await asyncio.sleep(1000)
        raise AssertionError

    began = clock()
    error = await fails(build(for_a_while)[1], make_call())
    assert clock() == began + 90
    assert error.reason is Reason.ATTEMPT_TIMEOUT


@on_virtual_loop
async def test_waiting_for_the_caller_does_not_count() -> None:
    async def asks(call: Call) -> Reply:
        await asyncio.sleep(10)
        call.pause(clock())
        await asyncio.sleep(1000)
        call.resume(clock())
        await asyncio.sleep(25)
        call.pause(clock())
        await asyncio.sleep(1000)
        call.resume(clock())
        await asyncio.sleep(25)
        return Reply(RESULT)

    call = make_call(deadline=START + 61)
    assert (await build(asks)[1](call)).result == RESULT
    assert clock() == START + 2060
    short = make_call(deadline=clock() + 40)
    began = clock()
    error = await fails(build(asks)[1], short)
    assert error.reason is Reason.DEADLINE_EXCEEDED
    # 10 s, then 25 s after the first pause, 5 s after the second.
    assert clock() == pytest.approx(began + 2040, abs=0.06)


@on_virtual_loop
async def test_a_call_cut_short_says_nothing_of_the_server_unless_it_was_silent_long() -> None:
    error = await fails(build(Script(100.0))[1], make_call(deadline=clock() + 10))
    assert (error.reason, error.counted) == (Reason.DEADLINE_EXCEEDED, False)
    error = await fails(build(Script(100.0))[1], make_call(deadline=clock() + 29.9))
    assert (error.reason, error.counted) == (Reason.DEADLINE_EXCEEDED, True)


@on_virtual_loop
async def test_no_timeout_no_timer() -> None:
    before = timers()

    async def look(call: Call) -> Reply:
        assert timers() == before
        return Reply(RESULT)

    await build(look, timeout=None)[1](make_call())
    assert (await fails(build(Script(1e6), timeout=None)[1], make_call(deadline=clock() + 500))).reason is (
        Reason.DEADLINE_EXCEEDED
    )


@on_virtual_loop
async def test_nothing_is_begun_after_the_deadline() -> None:
    script = Script(0.0)
    with pytest.raises(Rejected):
        await build(script)[1](make_call(deadline=START))
    with pytest.raises(Rejected) as caught:
        await compose([Deadline(DeadlineSettings(), clock=clock)], script)(make_call(deadline=START))
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert script.attempts == 0


@on_virtual_loop
async def test_the_callers_cancellation_stays_one() -> None:
    """Told apart by who asked: also where both happen in the same turn."""
    loop = asyncio.get_running_loop()
    for delay in (10.0, 30.0):
        script = Script(100.0)
        stage, handler = build(script)
        call = make_call()

        async def run(handler: Handler = handler, call: Call = call) -> Reply:
            return await handler(call)

        task = asyncio.create_task(run())
        await asyncio.sleep(0)
        loop.call_later(delay, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (stage.timed_out, script.running, call.delivery) == (0, 0, Delivery.MAYBE)


@on_virtual_loop
async def test_an_outer_timeout_stays_the_outer_ones() -> None:
    stage, handler = build(Script(100.0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await handler(make_call())
    assert stage.timed_out == 0
    with pytest.raises(UpstreamError):
        async with asyncio.timeout(50):
            await handler(make_call())


@on_virtual_loop
async def test_a_transport_that_answers_in_spite_of_the_cancellation() -> None:
    async def stubborn(call: Call) -> Reply:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return Reply(RESULT)
        raise AssertionError

    assert (await build(stubborn)[1](make_call())).result == RESULT
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0

    async def translating(call: Call) -> Reply:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise failure(Reason.CONNECTION_LOST) from None
        raise AssertionError

    assert (await fails(build(translating)[1], make_call())).reason is Reason.CONNECTION_LOST
    assert task.cancelling() == 0


def test_an_answer_that_lies_unread_behind_a_stalled_loop_is_taken() -> None:
    """Fault 38: the timer is late, so the loop was; what came meanwhile counts."""
    loop = VirtualLoop()
    stage = AttemptTimeout(AttemptSettings(30.0), clock=loop.time)
    answer: asyncio.Future[Reply] = loop.create_future()

    async def transport(call: Call) -> Reply:
        return await answer

    async def run() -> Reply:
        return await compose([stage], transport)(make_call())

    task = loop.create_task(run())
    loop.settle()
    loop.now += 45  # the loop did nothing for so long
    loop.turn()
    answer.set_result(Reply(RESULT))
    loop.settle()
    assert task.result().result == RESULT
    assert loop.timers() == 0
    loop.close()


@on_virtual_loop
async def test_delivery_is_kept_over_attempts_and_errors() -> None:
    call = make_call()
    steps = [
        failure(Reason.CONNECT_FAILED, Delivery.NOT_SENT),
        failure(Reason.UPSTREAM_THROTTLED, Delivery.REFUSED),
        failure(Reason.CONNECTION_LOST, Delivery.MAYBE),
        failure(Reason.CONNECT_FAILED, Delivery.NOT_SENT),
    ]
    handler = build(Script(*steps))[1]
    seen = []
    for _ in steps:
        await fails(handler, call)
        seen.append(call.delivery)
    assert seen == [Delivery.NOT_SENT, Delivery.REFUSED, Delivery.MAYBE, Delivery.MAYBE]
    assert call.attempts == 4
    await build(Script(0.5))[1](call)
    assert call.delivery is Delivery.ANSWERED


@on_virtual_loop
async def test_errors_of_the_sidecar_tell_whether_the_request_was_written() -> None:
    async def slow_caller(call: Call) -> Reply:
        call.written = True
        raise CallError(Reason.SLOW_CALLER, "too much unread")

    with pytest.raises(CallError) as caught:
        await build(slow_caller)[1](make_call())
    assert caught.value.delivery is Delivery.MAYBE

    async def not_taken(call: Call) -> Reply:
        raise Rejected(Reason.SHUTTING_DOWN, "going away")

    call = make_call()
    with pytest.raises(Rejected) as refused:
        await build(not_taken)[1](call)
    assert refused.value.delivery is call.delivery is Delivery.NOT_SENT


@on_virtual_loop
async def test_deadlines_are_stamped_and_an_earlier_one_is_kept() -> None:
    stage = Deadline(DeadlineSettings(300.0), clock=clock)
    call = make_call(started=START)
    stage.stamp(call)
    assert call.deadline == START + 300
    early = make_call(started=START, deadline=START + 5)
    stage.stamp(early)
    assert early.deadline == START + 5
    unstamped = make_call(started=START)
    await compose([stage], Script(0.0))(unstamped)
    assert unstamped.deadline == START + 300
    stage.reconfigure(DeadlineSettings(10.0))
    await asyncio.sleep(20)
    with pytest.raises(Rejected):
        await compose([stage], Script(0.0))(make_call(started=START))
    assert stage.exceeded == 1

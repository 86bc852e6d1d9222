"""The virtual loop itself: time jumps exactly, deadlocks are told, hand-stepping moves nothing but callbacks."""

from __future__ import annotations

import asyncio
import time

import pytest

from virtual_clock import START, NothingLeft, VirtualLoop, on_virtual_loop, run


@on_virtual_loop
async def test_hours_pass_at_once_and_exactly() -> None:
    loop = asyncio.get_running_loop()
    real = time.monotonic()
    await asyncio.sleep(3600.1)
    assert loop.time() == START + 3600.1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(7.3):
            await asyncio.sleep(1e6)
    assert loop.time() == START + 3600.1 + 7.3
    assert time.monotonic() - real < 5


def test_a_wait_for_nothing_is_told() -> None:
    async def stuck() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(asyncio.CancelledError):
        run(stuck(), limit=10)
    loop = VirtualLoop(patience=0.01)
    task = loop.create_task(stuck())
    with pytest.raises(NothingLeft):
        loop.run_until_complete(task)
    task.cancel()
    loop.settle()
    loop.close()


@on_virtual_loop
async def test_threads_may_call_back() -> None:
    assert await asyncio.to_thread(lambda: 7) == 7


def test_stepping_by_hand() -> None:
    loop = VirtualLoop()
    seen: list[float] = []

    async def sleeper() -> None:
        for _ in range(3):
            await asyncio.sleep(1.0)
            seen.append(loop.now)

    task = loop.create_task(sleeper())
    loop.settle()
    assert seen == []
    assert loop.timers() == 1
    loop.advance(2.5)
    assert seen == [START + 1, START + 2]
    assert loop.now == START + 2.5
    loop.advance(0.5)
    assert task.done()
    assert loop.timers() == 0
    loop.close()

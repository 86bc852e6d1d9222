"""The pace of requests: a rate in the long run, a burst after a rest, a bound on those in flight."""

import asyncio

import pytest

from mcp_operator.kube.pace import Pace
from virtual_clock import on_virtual_loop


def now() -> float:
    return asyncio.get_running_loop().time()


def paced(qps: float, burst: int, concurrency: int) -> Pace:
    return Pace(qps, burst, concurrency, clock=now)


@on_virtual_loop
async def test_burst_then_rate() -> None:
    pace, began = paced(10, 5, 3), now()
    times = []

    async def request() -> None:
        async with pace:
            times.append(round(now() - began, 6))

    await asyncio.gather(*(request() for _ in range(25)))
    assert times[:5] == [0] * 5
    assert times[-1] == pytest.approx(2.0)
    await asyncio.sleep(60)
    began = now()
    await asyncio.gather(*(request() for _ in range(6)))
    assert times[-6:] == [0] * 5 + [0.1]


@on_virtual_loop
async def test_in_flight() -> None:
    pace, running, most = paced(1000, 1000, 3), 0, 0

    async def request() -> None:
        nonlocal running, most
        async with pace:
            running += 1
            most = max(most, running)
            await asyncio.sleep(1)
            running -= 1

    began = now()
    await asyncio.gather(*(request() for _ in range(9)))
    assert most == 3
    assert now() - began == pytest.approx(3)


@on_virtual_loop
async def test_who_gives_up_waiting_leaves_no_gap() -> None:
    pace = paced(0.1, 1, 1)

    async def request() -> None:
        async with pace:
            pass

    await request()
    waiting = [asyncio.create_task(request()) for _ in range(3)]
    await asyncio.sleep(1)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await asyncio.sleep(60)
    async with asyncio.timeout(1):
        await request()

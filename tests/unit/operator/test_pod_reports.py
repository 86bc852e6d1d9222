"""Polling: how often sidecars are asked, and that only news marks the MCPServer."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

from mcp_operator.pod_reports import PodReports, PollIntervals
from virtual_clock import on_virtual_loop

KEY = ("team", "search")


class Pods:
    def __init__(self) -> None:
        self.asked: list[float] = []
        self.answer = "first"
        self.pods = (SimpleNamespace(uid="p1", ip="10.0.0.1", finished=False),)
        self.changed: list[str] = []

    async def poll(self, pods):
        self.asked.append(asyncio.get_running_loop().time())
        return {pod.uid: self.answer for pod in pods}


@contextlib.asynccontextmanager
async def running(pods: Pods):
    loop = asyncio.get_running_loop()
    reports = PodReports(
        pods,
        lambda _: pods.pods,
        lambda _: pods.changed.append(pods.answer),
        clock=loop.time,
        rng=lambda: 0.5,
        intervals=PollIntervals(2.0, 60.0),
        workers=2,
    )
    task = asyncio.ensure_future(reports.run())
    try:
        yield reports
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@on_virtual_loop
async def test_an_unsettled_one_is_asked_every_two_seconds_then_slower_and_only_news_is_told() -> None:
    pods = Pods()
    async with running(pods) as reports:
        began = asyncio.get_running_loop().time()
        reports.follow(KEY, settled=False)
        await asyncio.sleep(20.5)
        assert [round(at - began) for at in pods.asked] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
        assert pods.changed == ["first"]
        await asyncio.sleep(200)
        assert round(pods.asked[-1] - pods.asked[-2]) == 10
        pods.answer = "second"
        await asyncio.sleep(11)
        assert pods.changed == ["first", "second"]
        assert reports.of(KEY) == {"p1": "second"}
        assert round(pods.asked[-1] - pods.asked[-2]) == 2


@on_virtual_loop
async def test_a_settled_one_is_asked_once_a_minute_and_soon_when_it_unsettles() -> None:
    pods = Pods()
    async with running(pods) as reports:
        reports.follow(KEY, settled=True)
        await asyncio.sleep(119)
        assert len(pods.asked) == 2
        reports.follow(KEY, settled=False)
        await asyncio.sleep(3.1)
        assert len(pods.asked) == 4  # the one that was due, and the next two seconds after it


@on_virtual_loop
async def test_something_just_changed_is_asked_for_at_once() -> None:
    pods = Pods()
    async with running(pods) as reports:
        reports.follow(KEY, settled=True)
        await asyncio.sleep(10)
        asked = len(pods.asked)
        reports.ask_now(KEY)
        await asyncio.sleep(0.6)
        assert len(pods.asked) == asked + 1


@on_virtual_loop
async def test_a_forgotten_one_is_asked_no_more() -> None:
    pods = Pods()
    async with running(pods) as reports:
        reports.follow(KEY, settled=False)
        await asyncio.sleep(5)
        asked = len(pods.asked)
        reports.forget(KEY)
        await asyncio.sleep(100)
        assert len(pods.asked) == asked
        assert reports.of(KEY) == {}


@on_virtual_loop
async def test_pods_without_an_address_are_not_asked() -> None:
    pods = Pods()
    pods.pods = (SimpleNamespace(uid="p1", ip="", finished=False),)
    async with running(pods) as reports:
        reports.follow(KEY, settled=False)
        await asyncio.sleep(10)
        assert pods.asked == []
        assert pods.changed == []

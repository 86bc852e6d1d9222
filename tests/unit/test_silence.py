"""Callers that wait long get a stream; those that do not, cost no timer."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp_sidecar.front.silence import Silence
from mcp_sidecar.pipeline.call import Call, Era
from virtual_clock import run


class Opened:
    """An answer that knows when it became a stream."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.opened: list[float] = []

    def open(self) -> None:
        self.opened.append(self._clock())


def call(now: float) -> Call:
    return Call(server="s", id=b"1", method="ping", params=None, era=Era.MODERN, version="", started=now)


def test_a_silent_call_becomes_a_stream_when_it_is_due_and_others_do_not() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        silence = Silence(15.0, clock=clock)
        slow, quick, late = Opened(clock), Opened(clock), Opened(clock)
        first, second = call(clock()), call(clock())
        silence.began(first, slow)  # type: ignore[arg-type]
        silence.began(second, quick)  # type: ignore[arg-type]
        await asyncio.sleep(10)
        silence.ended(second)
        third = call(clock())
        silence.began(third, late)  # type: ignore[arg-type]
        await asyncio.sleep(4.9)
        assert slow.opened == []
        await asyncio.sleep(10)
        assert slow.opened == [began + 15.0]
        assert late.opened == []
        await asyncio.sleep(5.2)
        assert (slow.opened, quick.opened, late.opened) == ([began + 15.0], [], [began + 25.0])
        assert len(silence) == 0
        silence.ended(first)

    run(main())


def test_ten_thousand_short_calls_take_one_timer() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timers = 0
        call_later = loop.call_later

        def counted(*arguments: Any, **more: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return call_later(*arguments, **more)

        loop.call_later = counted  # type: ignore[method-assign]
        silence = Silence(15.0, clock=loop.time)
        for _ in range(10_000):
            short = call(loop.time())
            silence.began(short, Opened(loop.time))  # type: ignore[arg-type]
            silence.ended(short)
        assert timers == 1
        assert len(silence) == 0

    run(main())

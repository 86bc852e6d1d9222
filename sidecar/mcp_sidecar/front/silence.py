"""Callers that have waited long without a word: their answers become event streams, which are kept alive.

Proxies and load balancers between a caller and us cut connections that are silent, usually after a minute. After 15 s
(as the SDK's server does) the head of a stream goes out, and the listener's comments follow. One timer for all calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from mcp_sidecar.front.answer import Answer
from mcp_sidecar.pipeline.call import Call

STREAM_AFTER: Final = 15.0


class Silence:
    """The calls that wait for an answer, oldest first. `after`: seconds that one may wait without a word."""

    def __init__(self, after: float = STREAM_AFTER, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.after = after
        self._clock = clock
        self._waiting: dict[Call, Answer] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def began(self, call: Call, answer: Answer) -> None:
        """A call is on its way since `call.started`."""
        self._waiting[call] = answer
        if self._timer is None:
            self._look_in(self.after)

    def ended(self, call: Call) -> None:
        """It is over."""
        self._waiting.pop(call, None)

    def _look_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock()
        while self._waiting:
            call, answer = next(iter(self._waiting.items()))
            left = call.started + self.after - now
            if left > 0:
                self._look_in(left)
                return
            del self._waiting[call]
            answer.open()

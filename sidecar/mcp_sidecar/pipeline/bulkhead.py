"""At most so many calls in flight to one server, and a bounded, fair queue for the rest.

A place is handed from the call that leaves to the call that waits longest, never thrown back for a newcomer to grab.
Callers take turns: the queue is one line per caller identity, served round robin, and where it is full the caller
with the longest line loses its newest, so that nobody can fill the queue alone. A retry lends its place out while it
waits and returns at the head of the queue. Every place comes back whatever happens: the hand-over to a call that is
being cancelled at that moment is undone (notes/resilience.md B.6).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mcp_sidecar.errors import Reason, Rejected
from mcp_sidecar.pipeline.call import Call, Handler, Reply

RETRY_AFTER: Final = 1.0
"""Seconds that a refused caller is told to wait."""

_GRANTED: Final = 0
_TIMED_OUT: Final = 1
_DISPLACED: Final = 2

_Place = asyncio.Future[int]
"""Resolved to an outcome, never to an exception: nobody would fetch the exception of a cancelled waiter."""


@dataclass(frozen=True, slots=True)
class BulkheadSettings:
    """`limit` calls in flight, `max_queue` waiting, each at most `queue_timeout` seconds and until its deadline."""

    limit: int = 10
    max_queue: int = 100
    queue_timeout: float = 10.0


class Bulkhead:
    """The stage."""

    __slots__ = (
        "_holders",
        "_lines",
        "_returning",
        "clock",
        "displaced",
        "in_flight",
        "queued",
        "refused",
        "settings",
        "timed_out",
        "waits",
    )

    def __init__(self, settings: BulkheadSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.clock = clock
        self.in_flight = 0
        """Places taken, those on their way to a waiter included."""
        self.queued = 0
        """Calls in line now; returning retries are not counted."""
        self.waits = 0
        self.refused = 0
        self.displaced = 0
        self.timed_out = 0
        self._holders: set[Call] = set()
        self._returning: deque[_Place] = deque()
        self._lines: OrderedDict[bytes, deque[_Place]] = OrderedDict()

    async def __call__(self, call: Call, next: Handler) -> Reply:
        """Answer the call within a place. Raises Rejected: QUEUE_FULL, QUEUE_TIMEOUT, DEADLINE_EXCEEDED."""
        if self.in_flight < self.settings.limit:  # then nobody waits: places are handed on, not put back
            self.in_flight += 1
        else:
            await self._enter(call)
        holders = self._holders
        holders.add(call)
        try:
            return await next(call)
        finally:
            if call in holders:  # else it is lent out
                holders.remove(call)
                self._release()

    def reconfigure(self, settings: BulkheadSettings) -> None:
        """Take new settings. A higher limit lets waiters in at once; a lower one is reached as calls end."""
        self.settings = settings
        while self.in_flight < settings.limit:
            place = self._first()
            if place is None:
                break
            self.in_flight += 1
            place.set_result(_GRANTED)

    def lend(self, call: Call) -> bool:
        """Give the call's place away for now; False where it has none."""
        if call not in self._holders:
            return False
        self._holders.remove(call)
        self._release()
        return True

    async def regain(self, call: Call) -> None:
        """Take a place again, ahead of the queue. Raises Rejected(DEADLINE_EXCEEDED); the call then holds none."""
        if self.in_flight < self.settings.limit:
            self.in_flight += 1
        else:
            place = asyncio.get_running_loop().create_future()
            self._returning.append(place)
            outcome = await self._wait(call, place, float("inf"))
            if outcome != _GRANTED:
                raise Rejected(Reason.DEADLINE_EXCEEDED, "the time of the call is over", delivery=call.delivery)
        self._holders.add(call)

    async def _enter(self, call: Call) -> None:
        settings = self.settings
        line = self._lines.get(call.identity)
        if self.queued >= settings.max_queue and not self._displace(0 if line is None else len(line)):
            self.refused += 1
            raise Rejected(Reason.QUEUE_FULL, "too many calls wait for the server", retry_after=RETRY_AFTER)
        # _displace may have dropped the longest line, never this one: it is not the longest.
        if line is None:
            line = self._lines[call.identity] = deque()
        place = asyncio.get_running_loop().create_future()
        line.append(place)
        self.queued += 1
        self.waits += 1
        outcome = await self._wait(call, place, settings.queue_timeout)
        if outcome == _GRANTED:
            return
        if outcome == _DISPLACED:
            self.displaced += 1
            raise Rejected(
                Reason.QUEUE_FULL, "too many calls of this caller wait for the server", retry_after=RETRY_AFTER
            )
        self.timed_out += 1
        if self.clock() >= call.expires(self.clock()):
            raise Rejected(Reason.DEADLINE_EXCEEDED, "the time of the call is over: it waited for other calls")
        raise Rejected(
            Reason.QUEUE_TIMEOUT,
            f"the server was busy with other calls for {settings.queue_timeout:g} s",
            retry_after=RETRY_AFTER,
        )

    async def _wait(self, call: Call, place: _Place, timeout: float) -> int:
        """Wait for a place that stands in line. On cancellation nothing is left behind."""
        began = self.clock()
        timeout = min(timeout, call.expires(began) - began)
        timer = None
        if timeout < float("inf"):
            timer = asyncio.get_running_loop().call_later(max(0.0, timeout), self._expire, call.identity, place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._leave(call.identity, place)
            elif place.result() == _GRANTED:
                self._release()  # handed over while this call was being cancelled
            raise
        finally:
            if timer is not None:
                timer.cancel()
            call.queued_for += self.clock() - began

    def _expire(self, identity: bytes, place: _Place) -> None:
        if not place.done():
            self._leave(identity, place)
            place.set_result(_TIMED_OUT)

    def _leave(self, identity: bytes, place: _Place) -> None:
        """Take a place out of its line, if it is still there."""
        line = self._lines.get(identity)
        if line is not None and place in line:
            line.remove(place)
            self.queued -= 1
            if not line:
                del self._lines[identity]
        elif place in self._returning:
            self._returning.remove(place)

    def _release(self) -> None:
        """Hand a place on, or put it back."""
        if self.in_flight <= self.settings.limit:
            place = self._first()
            if place is not None:
                place.set_result(_GRANTED)
                return
        self.in_flight -= 1

    def _first(self) -> _Place | None:
        """The place whose turn it is, out of its line: returning calls first, then each caller's oldest in turn."""
        while self._returning:
            place = self._returning.popleft()
            if not place.done():
                return place
        while self._lines:
            identity, line = self._lines.popitem(last=False)
            place = line.popleft()
            self.queued -= 1
            if line:
                self._lines[identity] = line
            if not place.done():
                return place
        return None

    def _displace(self, mine: int) -> bool:
        """Make room for a caller with `mine` calls in line at the cost of the caller with the most."""
        if not self._lines:
            return False
        identity, line = max(self._lines.items(), key=lambda item: len(item[1]))
        if mine + 1 >= len(line):
            return False
        place = line.pop()
        self.queued -= 1
        if not line:
            del self._lines[identity]
        if not place.done():
            place.set_result(_DISPLACED)
        return True

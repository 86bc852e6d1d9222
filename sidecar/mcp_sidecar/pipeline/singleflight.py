"""Equal questions under way at the same time are asked once.

A flight runs in a task of its own, so that no caller's cancellation is another's: it is cancelled only when the last
of its callers has left. Failures are given to all of them. Only calls that are safe to repeat, that the cache knows a
key for and that ask for no progress may share. The caller that began the flight gets the interim messages while it is
there; an `input_required` answer is for it alone, the others then ask for themselves.

A call that joins brings its own deadline: it leaves when that is over, and the flight may last as long as its
longest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from mcp_sidecar.errors import CallError, Reason, Rejected, UpstreamError
from mcp_sidecar.pipeline.cache_key import wants_progress
from mcp_sidecar.pipeline.call import Call, CallKind, Event, Handler, Reply, Source
from mcp_sidecar.protocol.envelope import result_head

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]
KeyOf = Callable[[Call], Hashable | None]

_NEVER: Final = float("inf")
_GRACE: Final = 0.025
"""Seconds past its deadline that a call waits for its flight, which ends in time by itself and knows better why."""


@dataclass(frozen=True, slots=True)
class SingleFlightSettings:
    """`max_followers`: callers that may join one flight; more begin another. Bounds what one failure hits."""

    max_followers: int = 10_000


class SingleFlight:
    """The stage. `key_of` is the cache's `flight`: None means "do not share"."""

    __slots__ = ("_flights", "clock", "coalesced", "key_of", "settings", "spawn")

    def __init__(
        self,
        settings: SingleFlightSettings,
        key_of: KeyOf,
        *,
        spawn: Spawn,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.key_of = key_of
        self.spawn = spawn
        self.clock = clock
        self.coalesced = 0
        """Calls that were answered by another's flight."""
        self._flights: dict[Hashable, _Flight] = {}

    @property
    def flights(self) -> int:
        """Flights under way that can be joined."""
        return len(self._flights)

    def __call__(self, call: Call, next: Handler) -> Awaitable[Reply]:
        """Answer the call, perhaps with another's answer. Raises what the flight raised."""
        if call.kind is not CallKind.SAFE or wants_progress(call):
            return next(call)
        key = self.key_of(call)
        if key is None:
            return next(call)
        return self._share(key, call, next)

    async def _share(self, key: Hashable, call: Call, next: Handler) -> Reply:
        flight = self._flights.get(key)
        first = flight is None or len(flight.waiters) > self.settings.max_followers
        if flight is None or first:
            flight = self._flights[key] = _Flight(key, call)
            flight.task = self.spawn(self._fly(flight, next), f"flight {call.server} {call.method}")
            flight.task.add_done_callback(partial(self._ended, flight))
        else:
            flight.call.deadline = max(flight.call.deadline, call.deadline)
        outcome = await self._wait(flight, call)
        if outcome is None:
            return await next(call)
        if isinstance(outcome, CallError):
            raise _copy(outcome)
        if outcome.source is Source.COALESCED:
            self.coalesced += 1
        return outcome

    async def _wait(self, flight: _Flight, call: Call) -> Reply | CallError | None:
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        flight.waiters[waiter] = call
        now = self.clock()
        left = call.expires(now) - now
        timer = None if left == _NEVER else loop.call_later(max(0.0, left + _GRACE), self._expire, flight, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._leave(flight, waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self, flight: _Flight, waiter: _Waiter) -> None:
        if waiter.done():
            return
        self._leave(flight, waiter)
        waiter.set_result(
            UpstreamError(
                Reason.DEADLINE_EXCEEDED, "the time of the call is over", delivery=flight.call.delivery, counted=False
            )
        )

    def _leave(self, flight: _Flight, waiter: _Waiter) -> None:
        call = flight.waiters.pop(waiter, None)
        if call is None:
            return
        flight.report(call)
        if flight.first is call:
            flight.first = None
        if not flight.waiters and flight.task is not None:
            self._land(flight)
            flight.task.cancel()

    def _land(self, flight: _Flight) -> None:
        """Nobody can join any more."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    async def _fly(self, flight: _Flight, next: Handler) -> None:
        outcome: Reply | CallError
        try:
            outcome = await next(flight.call)
        except CallError as error:
            outcome = error
        except BaseException as error:
            # Raised on, so that it is seen. Those who wait must not take a cancellation for their own.
            outcome = _accident(flight, error)
            raise
        finally:
            self._land(flight)
            flight.finish(outcome)

    def _ended(self, flight: _Flight, task: asyncio.Task[None]) -> None:
        """Tell of a bug; and a task that was cancelled before it began has told nobody who waits."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            context = {"message": "error in a flight", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)
        if flight.waiters:
            self._land(flight)
            flight.finish(_accident(flight, asyncio.CancelledError()))


def _copy(error: CallError) -> CallError:
    """The same error as an object of its own: what one caller's stages add to it must not show at another's."""
    copy = error.__class__.__new__(error.__class__, *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error
    return copy


def _accident(flight: _Flight, error: BaseException) -> CallError:
    if isinstance(error, asyncio.CancelledError):
        return Rejected(Reason.SHUTTING_DOWN, "the sidecar is shutting down", delivery=flight.call.delivery)
    return UpstreamError(Reason.INTERNAL, "an error of the sidecar", delivery=flight.call.delivery, counted=False)


_Waiter = asyncio.Future["Reply | CallError | None"]
"""Resolved to the outcome, errors included: an exception nobody fetches would be logged. None: ask for yourself."""


class _Flight:
    """One question under way, and who waits for its answer."""

    __slots__ = ("call", "first", "key", "task", "waiters")

    def __init__(self, key: Hashable, call: Call) -> None:
        self.key = key
        self.first: Call | None = call
        """The call that began it, while its caller is there."""
        self.waiters: dict[_Waiter, Call] = {}
        self.task: asyncio.Task[None] | None = None
        self.call = Call(
            server=call.server,
            id=call.id,
            method=call.method,
            params=call.params,
            era=call.era,
            version=call.version,
            name=call.name,
            identity=call.identity,
            principal=call.principal,
            session=call.session,
            kind=call.kind,
            headers=call.headers,
            deadline=call.deadline,
            started=call.started,
            sink=None if call.sink is None else _FirstSink(self),
            uid=call.uid,
        )

    def report(self, call: Call) -> None:
        """Tell the call that began the flight what was done for it."""
        if call is self.first:
            flown = self.call
            call.attempts = flown.attempts
            call.delivery = flown.delivery
            call.queued_for += flown.queued_for
            call.upstream_time = flown.upstream_time
            call.last_progress = flown.last_progress

    def finish(self, outcome: Reply | CallError) -> None:
        """Give everybody the outcome: the first as it is, the others as a shared one."""
        shared: Reply | CallError | None = outcome
        if isinstance(outcome, Reply):
            shared = None
            if not outcome.detached and (
                outcome.result is None or result_head(outcome.result).result_type == "complete"
            ):
                shared = Reply(
                    outcome.result,
                    outcome.error,
                    status=outcome.status,
                    source=Source.COALESCED,
                    headers=outcome.headers,
                )
        for number, (waiter, call) in enumerate(self.waiters.items()):
            self.report(call)
            if not waiter.done():
                # If the call that began it is gone, the oldest of the others stands for it, so that the cache
                # keeps the answer: unless the answer was for that call alone.
                waiter.set_result(outcome if call is self.first or (number == 0 and shared is not None) else shared)
        self.waiters.clear()


class _FirstSink:
    """Interim messages go to the caller that began the flight, while it is there."""

    __slots__ = ("flight",)

    def __init__(self, flight: _Flight) -> None:
        self.flight = flight

    def open(self) -> None:
        first = self.flight.first
        if first is not None and first.sink is not None:
            first.sink.open()

    def emit(self, event: Event) -> None:
        if self.flight.first is not None:
            self.flight.first.emit(event)

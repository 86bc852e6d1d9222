"""Bounds one attempt, and keeps the books of attempts.

An attempt may take `timeout` seconds without progress; progress starts the time anew, and waiting for the caller
(sampling, elicitation) stops it. It never outlives its call. A time-out cancels the work inside and becomes an
UpstreamError; a cancellation from outside stays one: which it was is told by who asked, as in `asyncio.timeout`,
never guessed. Always part of the pipeline: only here `Call.attempts`, `Call.delivery` and `Call.upstream_time` are
kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mcp_sidecar.errors import CallError, Delivery, Reason, Rejected, UpstreamError
from mcp_sidecar.pipeline.call import Call, Handler, Reply
from mcp_sidecar.pipeline.classification import worse

_NEVER: Final = float("inf")
_SLACK: Final = 0.001
"""Seconds that a timer of libuv may be early: it counts in whole milliseconds."""
_STALL: Final = 0.1
"""Seconds late at which a timer betrays a stalled loop: the answer may lie there unread, so look once more."""
_SECOND_LOOK: Final = 0.005
_PAUSED_LOOK: Final = 0.05
"""Seconds between two looks at a paused call that has less time left than that."""


@dataclass(frozen=True, slots=True)
class AttemptSettings:
    """`timeout`: seconds an attempt may take without progress; None leaves it to the deadline of the call."""

    timeout: float | None = 30.0


class AttemptTimeout:
    """The stage."""

    __slots__ = ("_timeout", "attempts", "clock", "settings", "timed_out")

    def __init__(self, settings: AttemptSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.attempts = 0
        self.timed_out = 0
        self.reconfigure(settings)

    def reconfigure(self, settings: AttemptSettings) -> None:
        """Take new settings; attempts under way keep theirs until they next show progress."""
        self.settings = settings
        self._timeout = _NEVER if settings.timeout is None else settings.timeout

    async def __call__(self, call: Call, next: Handler) -> Reply:
        """Make one attempt. Raises UpstreamError: ATTEMPT_TIMEOUT, DEADLINE_EXCEEDED, or the attempt's own."""
        began = self.clock()
        wait = min(self._timeout, call.expires(began) - began)
        if wait <= 0:
            raise Rejected(Reason.DEADLINE_EXCEEDED, "the time of the call is over", delivery=call.delivery)
        watch = _Watch(self, call, began)
        if wait < _NEVER:
            loop = watch.loop = asyncio.get_running_loop()
            task = watch.task = asyncio.current_task()
            if task is not None:
                watch.cancelling = task.cancelling()
            watch.timer = loop.call_later(wait, watch.look)
        call.written = None
        call.attempts += 1
        self.attempts += 1
        try:
            reply = await next(call)
        except UpstreamError as error:
            watch.absorb()
            call.delivery = worse(call.delivery, error.delivery)
            raise
        except BaseException as error:
            ours = watch.absorb() and isinstance(error, asyncio.CancelledError)
            unsent = call.written is False or isinstance(error, Rejected)
            delivery = Delivery.NOT_SENT if unsent else Delivery.MAYBE
            call.delivery = worse(call.delivery, delivery)
            if ours:
                self.timed_out += 1
                raise watch.failure(delivery) from None
            if isinstance(error, CallError):
                error.delivery = worse(error.delivery, delivery)
            raise
        finally:
            if watch.timer is not None:
                watch.timer.cancel()
            call.upstream_time += self.clock() - began
        if watch.expired is not None:
            watch.absorb()  # the answer came all the same
        call.delivery = Delivery.ANSWERED
        return reply


class _Watch:
    """The timer of one attempt."""

    __slots__ = ("began", "call", "cancelling", "expired", "looked", "loop", "stage", "task", "timer")

    def __init__(self, stage: AttemptTimeout, call: Call, began: float) -> None:
        self.stage = stage
        self.call = call
        self.began = began
        self.cancelling = 0
        self.expired: Reason | None = None
        self.looked = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.task: asyncio.Task[object] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """The timer fired: end the attempt, or wait on if there was progress or a pause."""
        assert self.loop is not None
        assert self.task is not None
        call = self.call
        now = self.stage.clock()
        if call.paused_since is not None:
            # Time stands still. Look again no later than the call could end if it went on right now.
            left = call.deadline + call.paused_for - call.paused_since
            self.timer = self.loop.call_later(max(_PAUSED_LOOK, min(self.stage._timeout, left)), self.look)
            return
        silent_until = max(self.began, call.last_progress) + self.stage._timeout
        expires = call.expires(now)
        due = min(silent_until, expires)
        if due - now > _SLACK:
            self.timer = self.loop.call_later(due - now, self.look)
        elif now - due > _STALL and not self.looked:
            self.looked = True
            self.timer = self.loop.call_later(_SECOND_LOOK, self.look)
        else:
            self.expired = Reason.ATTEMPT_TIMEOUT if silent_until <= expires else Reason.DEADLINE_EXCEEDED
            self.task.cancel()

    def absorb(self) -> bool:
        """Take our cancellation back; True where there was one, and none from outside."""
        if self.expired is None or self.task is None:
            return False
        return self.task.uncancel() <= self.cancelling

    def failure(self, delivery: Delivery) -> UpstreamError:
        """The error that the time-out becomes."""
        call = self.call
        timeout = self.stage._timeout
        if self.expired is Reason.ATTEMPT_TIMEOUT:
            message = f"the server showed no sign of life for {timeout:g} s"
        else:
            message = "the time of the call is over"
        # An attempt that the call's deadline cut short says nothing about the server, unless it was silent from the
        # beginning for a good part of what it is allowed: with a total time-out as short as an attempt's, a server
        # that hangs must still open the breaker.
        silent = call.last_progress <= self.began and self.stage.clock() - self.began >= timeout / 2
        counted = silent or self.expired is Reason.ATTEMPT_TIMEOUT
        return UpstreamError(self.expired or Reason.ATTEMPT_TIMEOUT, message, delivery=delivery, counted=counted)

"""Leaves a failing server alone, and finds out soon that it is back (notes/resilience.md B.3).

Closed: outcomes are counted in a sliding window; too many failures, too many slow calls, or too many failures in a
row open it. Open: calls are refused at once until a deadline fixed when it opened. Half-open: a few permits; all of
them must succeed to close it, one failure opens it again, for longer. Every permit carries the epoch it was given in:
a late result of another epoch changes nothing. What is neither success nor failure of the server (a caller's
cancellation, a refusal of our own) hands the permit back and changes nothing either.

Any well-formed answer is a success, JSON-RPC errors included: the server works. Which transport errors count is said
by `UpstreamError.counted`; a process that dies takes all its calls along, and that is one failure. While open, a probe
outside the traffic should watch the server: `on_open` starts it, `probe_succeeded` and `probe_failed` report it. A
server may well answer probes and fail calls, as a slow one does: when it opens again soon after a probe's good word,
the next counts only after a while, or when a probe has failed in between. Nothing here awaits, locks or sets a timer.
"""

from __future__ import annotations

import enum
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mcp_sidecar.errors import Reason, Rejected, UpstreamError
from mcp_sidecar.pipeline.call import Call, Handler, Reply
from mcp_sidecar.pipeline.window import SlidingWindow

HALF_OPEN_RETRY_AFTER: Final = 1.0
"""Seconds that a caller is told to wait while the permits of half-open are taken."""
DOUBT: Final = 2.0
"""Seconds until a probe is believed in the first re-opening; doubled with each, never longer than the open time."""
TROUBLE: Final = 300.0
"""Seconds after the last failure or refusal in which a breaker that is not closed says something of the present."""
_ENDS: Final = 64
"""Ends of processes that are remembered, because calls of theirs may still be told."""


class State(enum.IntEnum):
    """As exported in metrics."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Outcome(enum.IntEnum):
    """What a call says about its server."""

    SUCCESS = 0
    FAILURE = 1
    NEUTRAL = 2


# Looked up once: members of an enum cost a search of the class in CPython 3.11, and these are on every call's way.
_CLOSED: Final = State.CLOSED
_HALF_OPEN: Final = State.HALF_OPEN
_OPEN: Final = State.OPEN
_SUCCESS: Final = Outcome.SUCCESS
_FAILURE: Final = Outcome.FAILURE
_NEUTRAL: Final = Outcome.NEUTRAL


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Seconds, calls, and shares from 0 to 1."""

    window: float = 30.0
    buckets: int = 10
    minimum: int = 10
    """Calls in the window before a share is believed."""
    failure_ratio: float = 0.5
    slow_ratio: float = 1.0
    slow_after: float = 30.0
    """A call is slow that showed no sign of life for so long; progress and waiting for the caller are signs of life."""
    consecutive: int = 5
    """Failures in a row that open it; 0 turns the rule off."""
    open_time: float = 30.0
    max_open_time: float = 60.0
    """Open time doubles with each opening that does not follow a whole closed window, up to here."""
    jitter: float = 0.2
    """Open time is varied by ± this share, so that replicas do not return together."""
    half_open_permits: int = 3
    half_open_wait: float = 30.0
    """Half-open goes back to open when its permits are all taken and undecided for so long."""
    disabled: bool = False
    """Let everything through and count nothing; also a switch for operators."""


class Breaker:
    """The stage.

    `on_transition(old, new)` and `on_open()` are called after the state has changed; they must not raise.
    """

    __slots__ = (
        "_believes_at",
        "_closed_at",
        "_consecutive",
        "_ends",
        "_epoch",
        "_first_permit_at",
        "_good",
        "_last_trouble",
        "_reopenings",
        "_until",
        "_window",
        "clock",
        "forced",
        "in_trial",
        "on_open",
        "on_transition",
        "rejected",
        "rng",
        "settings",
        "state",
        "transitions",
    )

    def __init__(
        self,
        settings: BreakerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        on_open: Callable[[], None] | None = None,
        on_transition: Callable[[State, State], None] | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.rng = rng
        self.on_open = on_open
        self.on_transition = on_transition
        self.state = _CLOSED
        self.forced = False
        """Held open by an operator, whatever the server does."""
        self.in_trial = 0
        """Half-open permits in use."""
        self.rejected = 0
        self.transitions = dict.fromkeys(State, 0)
        """How often each state was entered."""
        self._window = SlidingWindow(settings.window, settings.buckets)
        self._consecutive = 0
        self._epoch = 0
        self._until = 0.0
        self._believes_at = 0.0
        self._reopenings = 0
        self._good = 0
        self._first_permit_at = 0.0
        self._closed_at = clock()
        self._last_trouble = 0.0
        self._ends: deque[object] = deque(maxlen=_ENDS)
        """Origins of the ends of processes that were counted: each is one failure, however many calls it took along."""

    async def __call__(self, call: Call, next: Handler) -> Reply:
        """Answer the call if the server is not left alone. Raises Rejected(BREAKER_OPEN)."""
        epoch = self.acquire()
        began = self.clock()
        try:
            reply = await next(call)
        except UpstreamError as error:
            outcome = _FAILURE if error.counted and not self._counted_already(error) else _NEUTRAL
            self.settle(epoch, outcome, max(began, call.last_progress))
            raise
        except BaseException:
            self.settle(epoch, _NEUTRAL, began)
            raise
        self.settle(epoch, _SUCCESS, began if call.last_progress < began else call.last_progress)
        return reply

    def acquire(self) -> int:
        """Take a permit: the epoch, to be given back to `settle` exactly once. Raises Rejected(BREAKER_OPEN)."""
        if self.state is _CLOSED:
            return self._epoch
        now = self.clock()
        if self.state is _OPEN:
            if self.forced or now < self._until:
                self._reject(max(0.0, self._until - now))
            self._enter(_HALF_OPEN)
        if self.in_trial >= self.settings.half_open_permits:
            if now < self._first_permit_at + self.settings.half_open_wait:
                self._reject(HALF_OPEN_RETRY_AFTER)
            # Undecided for too long: not a failure, so the open time does not grow.
            self._until = self._believes_at = now + self._open_time(max(0, self._reopenings - 1))
            self._enter(_OPEN)
            self._reject(self._until - now)
        if not self.in_trial:
            self._first_permit_at = now
        self.in_trial += 1
        return self._epoch

    def settle(self, epoch: int, outcome: Outcome, since: float) -> None:
        """Report what became of a permit. `since`: the last sign of life of the server, for the slow calls."""
        if epoch != self._epoch:
            return
        if self.state is _CLOSED:
            if outcome is not _NEUTRAL and not self.settings.disabled:
                self._count(outcome is _FAILURE, since)
        elif self.state is _HALF_OPEN and self.in_trial:
            self.in_trial -= 1
            if outcome is _FAILURE:
                self._trip()
            elif outcome is _SUCCESS:
                self._good += 1
                if self._good >= self.settings.half_open_permits:
                    self._enter(_CLOSED)

    def probe_succeeded(self) -> None:
        """The server answered a probe outside the traffic: try it with calls, at once if that is to be believed."""
        if self.state is _OPEN and not self.forced and self.clock() >= min(self._believes_at, self._until):
            self._enter(_HALF_OPEN)

    def probe_failed(self) -> None:
        """The server did not answer a probe: when it does, that is news."""
        self._believes_at = 0.0

    def force_open(self, forced: bool = True) -> None:
        """Hold it open by hand, or let it go: it then starts half-open."""
        if forced == self.forced:
            return
        self.forced = forced
        if forced:
            if self.state is not _OPEN:
                self._until = self.clock() + self.settings.open_time
                self._enter(_OPEN)
        elif self.settings.disabled:
            self._enter(_CLOSED)
        else:
            self._enter(_HALF_OPEN)

    def reconfigure(self, settings: BreakerSettings) -> None:
        """Take new settings. The state is kept; the counts are kept unless the window changed."""
        if (settings.window, settings.buckets) != (self.settings.window, self.settings.buckets):
            self._window = SlidingWindow(settings.window, settings.buckets)
        self.settings = settings
        if settings.disabled and self.state is not _CLOSED and not self.forced:
            self._enter(_CLOSED)
        elif self.state is _OPEN and not self.forced:
            self._until = min(self._until, self.clock() + self._open_time(max(0, self._reopenings - 1)))

    @property
    def retry_after(self) -> float:
        """Seconds until it lets a call through again, 0 where it does now."""
        return max(0.0, self._until - self.clock()) if self.state is _OPEN else 0.0

    @property
    def refuses(self) -> bool:
        """Whether calls are refused these minutes: one that is only not closed because nobody calls does not."""
        return self.forced or (self.state is not _CLOSED and self.clock() - self._last_trouble < TROUBLE)

    def _counted_already(self, error: UpstreamError) -> bool:
        if error.reason is not Reason.CHILD_EXITED:
            return False
        if error.origin in self._ends:
            return True
        self._ends.append(error.origin)
        return False

    def _count(self, failed: bool, since: float) -> None:
        now = self.clock()
        settings = self.settings
        window = self._window
        window.add(now, failed, now - since > settings.slow_after)
        if failed:
            self._consecutive += 1
            if 0 < settings.consecutive <= self._consecutive:
                self._trip()
                return
        else:
            self._consecutive = 0
        total = window.total
        if total >= settings.minimum and (
            (failed and window.bad >= settings.failure_ratio * total)
            or (window.slow and window.slow >= settings.slow_ratio * total)
        ):
            self._trip()

    def _trip(self) -> None:
        now = self.clock()
        if self.state is _CLOSED and now - self._closed_at >= self.settings.window:
            self._reopenings = 0
        self._last_trouble = now
        self._until = now + self._open_time(self._reopenings)
        self._believes_at = now + DOUBT * 2.0 ** min(self._reopenings - 1, 64) if self._reopenings else now
        self._reopenings += 1
        self._enter(_OPEN)

    def _open_time(self, reopenings: int) -> float:
        settings = self.settings
        seconds = min(settings.max_open_time, settings.open_time * 2.0 ** min(reopenings, 64))
        return seconds * (1 - settings.jitter + 2 * settings.jitter * self.rng())

    def _enter(self, state: State) -> None:
        old = self.state
        self.state = state
        self._epoch += 1
        self.in_trial = 0
        self._good = 0
        self._consecutive = 0
        self.transitions[state] += 1
        if state is _CLOSED:
            self._window.clear()
            self._closed_at = self.clock()
        if self.on_transition is not None:
            self.on_transition(old, state)
        if state is _OPEN and self.on_open is not None:
            self.on_open()

    def _reject(self, retry_after: float) -> None:
        self.rejected += 1
        self._last_trouble = self.clock()
        raise Rejected(
            Reason.BREAKER_OPEN, "the server failed too often and is left alone for a while", retry_after=retry_after
        )

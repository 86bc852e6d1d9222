"""A place for one server process, and the task that owns whatever process is in it.

    asleep → starting → ready ⇄ probing → draining → closing → backoff → starting …

Only the owner task opens and closes channels; calls use the multiplexer of a ready slot and never touch its life
(ContextForge #3737 is what happens otherwise: notes/resilience.md 0.11). Which slot serves a call is the pool's choice,
the handshake its user's.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from mcp_sidecar.errors import CallError, Delivery, Reason, UpstreamError
from mcp_sidecar.upstream.channel import Channel, StartError
from mcp_sidecar.upstream.child import ChildChannel
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.start_limiter import RestartBackoff, StartLimiter

_AGAIN: Final = 3


class SlotState(enum.Enum):
    """Where a slot is in its life."""

    ASLEEP = "asleep"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    CLOSING = "closing"
    BACKOFF = "backoff"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class SlotSettings:
    """Times in seconds."""

    start_timeout: float = 60.0
    """From spawning to the end of the handshake, waiting for a start permit not counted."""
    drain_timeout: float = 30.0
    """How long a process that is replaced may finish its calls."""
    probe_timeout: float = 5.0
    """How long a suspect process has to prove that it lives."""
    idle_after: float | None = None
    """Close a process that nobody used for so long, None: never."""
    lazy: bool = False
    """Start when somebody wants it, not at once."""


class SlotCounters:
    """What happened in all slots of one pool; read at scrape time."""

    def __init__(self) -> None:
        self.starts = 0
        self.restarts = 0
        self.start_seconds: deque[float] = deque(maxlen=100)
        """Durations of the last successful starts; who reads them takes them out."""
        self.life_seconds: deque[float] = deque(maxlen=100)
        """Lives of the last processes that were ready once; as above."""
        self.stderr_dropped = 0
        """Lines of stderr that processes which have ended said beyond the rate."""
        self.start_failures: Counter[str] = Counter()
        self.exits: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        """Ended lives by reason: idle, exit, suspect, config, secret, shutdown, …"""
        self.irregular: Counter[str] = Counter()
        """What ended processes sent wrong (multiplexer.IRREGULAR)."""


class Slot:
    """See the module. `make` builds a multiplexer on a fresh channel that is not open yet.

    `on_started` does the handshake. A CallError of it is a failed start; an UpstreamError that is not `counted` says
    that the process was spoilt by asking (it died of the era probe): another one is started at once.
    """

    def __init__(
        self,
        *,
        make: Callable[[], Multiplexer],
        settings: SlotSettings,
        generation: int,
        limiter: StartLimiter,
        backoff: RestartBackoff,
        clock: Callable[[], float],
        counters: SlotCounters,
        on_change: Callable[[Slot], None],
        on_started: Callable[[Multiplexer], Awaitable[None]],
        probe: Callable[[Multiplexer], Awaitable[object]] | None,
    ) -> None:
        self.settings = settings
        self.generation = generation
        self.backoff = backoff
        self.state = SlotState.ASLEEP if settings.lazy else SlotState.STARTING
        self.mux: Multiplexer | None = None
        self.lives = 0
        self.ready_since = 0.0
        self.error: CallError | None = None
        """Why the last life ended or did not begin."""
        self.start_failed = False
        """The last start did not get as far as ready."""
        self._before: list[str] = []
        """The end of the last process's stderr."""
        self._make = make
        self._limiter = limiter
        self._clock = clock
        self._counters = counters
        self._on_change = on_change
        self._on_started = on_started
        self._probe = probe
        self._wake = asyncio.Event()
        self._wanted = not settings.lazy
        self._retire_reason: str | None = None
        self._drain_end = float("inf")
        self._again = 0
        self._starting: asyncio.Timeout | None = None
        """What bounds the start that is under way."""

    # --- from others; all of it only leaves a message for the owner

    def want(self) -> None:
        """Somebody waits for a process: start one if asleep."""
        self._wanted = True
        self._wake.set()

    def retire(self, reason: str, patience: float | None = None) -> None:
        """Take no new calls, finish those in flight, close, and stay closed.

        `patience`: seconds for the calls in flight, `drain_timeout` where not given. Again with less: hurry.
        """
        seconds = self.settings.drain_timeout if patience is None else patience
        self._drain_end = min(self._drain_end, self._clock() + seconds)
        if self._retire_reason is None:
            self._retire_reason = reason
            if self.state is SlotState.READY:
                self._become(SlotState.DRAINING)
            if self._starting is not None:
                self._starting.reschedule(asyncio.get_running_loop().time())  # nobody needs it any more
        self._wake.set()

    @property
    def retiring(self) -> bool:
        """Whether it will not come back."""
        return self._retire_reason is not None

    @property
    def in_flight(self) -> int:
        """Calls on its process."""
        return self.mux.in_flight if self.mux is not None else 0

    def status(self) -> dict[str, object]:
        """For /status."""
        now = self._clock()
        mux = self.mux
        facts: dict[str, object] = {
            "state": self.state.value,
            "generation": self.generation,
            "lives": self.lives,
            "inFlight": self.in_flight,
            "streams": mux.streams if mux is not None else 0,
        }
        if self.state is SlotState.READY:
            facts["upSeconds"] = round(now - self.ready_since, 1)
        if self.state is SlotState.BACKOFF:
            facts["nextStartInSeconds"] = round(self.backoff.remaining(), 1)
        if mux is not None and isinstance(mux.channel, ChildChannel):
            facts["pid"] = mux.channel.pid
        if self.error is not None:
            facts["lastError"] = self.error.message
        if (lines := self.last_words) and (self.error is not None or self.state is not SlotState.READY):
            facts["stderr"] = lines
        return facts

    @property
    def last_words(self) -> list[str]:
        """The newest lines on stderr; those of the process before, while this one has said nothing."""
        said = self.mux.channel.last_lines if self.mux and isinstance(self.mux.channel, ChildChannel) else []
        return said or self._before

    # --- the owner

    async def own(self) -> None:
        """The life of the slot, until it is retired. Cancelled, it ends its process by force."""
        try:
            while self._retire_reason is None:
                if not self._wanted:
                    self._become(SlotState.ASLEEP)
                    await self._until(None)
                    continue
                delay = self.backoff.remaining()
                if delay > 0:
                    self._become(SlotState.BACKOFF)
                    await self._until(delay)
                    continue
                await self._live()
        finally:
            self._become(SlotState.CLOSED)

    async def _live(self) -> None:
        """One process, from start to end."""
        again = forced = False
        mux: Multiplexer | None = None
        reason = "exit"
        self._become(SlotState.STARTING)
        try:
            async with AsyncExitStack() as held:
                try:
                    async with asyncio.timeout(None) as self._starting:
                        await held.enter_async_context(self._limiter.permit())
                except TimeoutError:
                    return
                finally:
                    self._starting = None
                if self._retire_reason is not None:
                    return
                self._counters.starts += 1
                self._counters.restarts += self.lives > 0
                self.lives += 1
                began = self._clock()
                mux = self.mux = self._make()
                mux.on_end = mux.suspicion.on_suspect = self._wake.set
                again = await self._start(mux)
            if again or self.start_failed:
                reason = "start"
                return
            self._counters.start_seconds.append(self._clock() - began)
            self.ready_since = mux.last_used = self._clock()
            self.error = None
            self._become(SlotState.READY)
            reason = await self._serve(mux)
            self.error = mux.error or UpstreamError(
                Reason.CONNECTION_LOST, f"the server is stopped: {reason}", delivery=Delivery.NOT_SENT, counted=False
            )
        except asyncio.CancelledError:
            forced = True
            raise
        finally:
            if mux is not None:
                if self.start_failed:
                    self.backoff.ended(0.0)
                elif not again:
                    life = self._clock() - self.ready_since
                    self._counters.life_seconds.append(life)
                    if reason != "idle":
                        self.backoff.ended(life)
                self._wanted = self._wanted and not self.settings.lazy
                self._become(SlotState.CLOSING)
                try:
                    await _close(mux.channel, self._retire_reason or reason, forced)
                finally:
                    self._bury(mux.channel, reason)

    async def _start(self, mux: Multiplexer) -> bool:
        """Open the channel and shake hands. True: the process is spoilt, start again at once."""
        self.start_failed = True
        error: CallError
        try:
            async with asyncio.timeout(self.settings.start_timeout) as self._starting:
                await mux.channel.open()
                await self._on_started(mux)
        except StartError as start_error:
            error = start_error
            self._counters.start_failures[start_error.kind] += 1
        except CallError as call_error:
            if isinstance(call_error, UpstreamError) and not call_error.counted and self._again < _AGAIN:
                self._again += 1
                self.start_failed = False
                return True
            error = _not_started(call_error.message)
            self._counters.start_failures["handshake"] += 1
        except TimeoutError:
            if self._retire_reason is not None:
                self.start_failed = False
                return True
            seconds = self.settings.start_timeout
            error = _not_started(f"no answer within {seconds:g} s")
            self._counters.start_failures["timeout"] += 1
        except Exception as bug:  # noqa: BLE001 the owner must not die of a defect in the handshake
            asyncio.get_running_loop().call_exception_handler({"message": "a handshake failed", "exception": bug})
            error = _not_started("internal error")
            self._counters.start_failures["internal"] += 1
        else:
            self.start_failed = False
            self._again = 0
            return False
        finally:
            self._starting = None
        self.error = error
        return False

    async def _serve(self, mux: Multiplexer) -> str:
        """Until there is a reason to close the process; returns it."""
        idle_after = self.settings.idle_after
        while mux.error is None:
            if self._retire_reason is not None:
                await self._drain(mux)
                return self._retire_reason
            if mux.suspect:
                if not await self._proves_alive(mux):
                    return "suspect"
                continue
            patience: float | None = None
            if idle_after is not None:
                busy = mux.in_flight or mux.streams
                patience = idle_after if busy else mux.last_used + idle_after - self._clock()
                if patience <= 0:
                    return "idle"
            await self._until(patience)
        return "exit"

    async def _drain(self, mux: Multiplexer) -> None:
        mux.on_idle = self._wake.set
        while mux.error is None and mux.in_flight and self._clock() < self._drain_end:
            await self._until(self._drain_end - self._clock())

    async def _proves_alive(self, mux: Multiplexer) -> bool:
        if self._probe is None:
            return False
        try:
            async with asyncio.timeout(self.settings.probe_timeout):
                await self._probe(mux)
        except (CallError, TimeoutError):
            if mux.suspect or mux.error is not None:
                return False
        mux.absolve()
        self._on_change(self)
        return True

    async def _until(self, seconds: float | None) -> None:
        """Until somebody left a message, or so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _bury(self, channel: Channel, reason: str) -> None:
        self._counters.closed[reason] += 1
        if self.mux is not None:
            self._counters.irregular.update(self.mux.irregular())
        if isinstance(channel, ChildChannel) and channel.pid is not None:
            self._counters.exits[channel.exit_kind] += 1
            self._before = channel.last_lines
            self._counters.stderr_dropped += channel.stderr_dropped
        self.mux = None

    def _become(self, state: SlotState) -> None:
        if state is not self.state:
            self.state = state
            self._on_change(self)


def _not_started(why: str) -> UpstreamError:
    message = f"the server did not start: {why}"
    return UpstreamError(Reason.START_FAILED, message, delivery=Delivery.NOT_SENT)


async def _close(channel: Channel, reason: str, forced: bool) -> None:
    closing = asyncio.ensure_future(channel.close(reason))
    if forced:
        await asyncio.sleep(0)  # a task that has not begun would not even learn that it was cancelled
        closing.cancel()
        await asyncio.wait([closing])
        return
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        closing.cancel()
        await asyncio.wait([closing])
        raise

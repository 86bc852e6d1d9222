"""The processes of one stdio server: which one takes a call, and who waits while there is none.

`Shared` isolation is a pool of one (or of N for a server declared replicable), `PerSession` a lazy pool of one for each
session, closed when idle. A changed secret or config replaces the processes one after the other, each only when its
successor is ready, so that a bad new value takes nothing down.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from mcp_sidecar.errors import CallError, Delivery, Reason, Rejected, UpstreamError
from mcp_sidecar.pipeline.call import Call, Reply
from mcp_sidecar.upstream.channel import Channel, Peer
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.pending import with_delivery
from mcp_sidecar.upstream.slot import Slot, SlotCounters, SlotSettings, SlotState
from mcp_sidecar.upstream.start_limiter import RestartBackoff, RestartSettings, StartLimiter


@dataclass(frozen=True, slots=True)
class ChildPoolSettings:
    """How many processes and how they are kept. Times in seconds."""

    size: int = 1
    acquire_timeout: float = 30.0
    """How long a call waits for a process that is starting."""
    start_timeout: float = 60.0
    """From spawning to the end of the handshake, waiting for a start permit not counted."""
    drain_timeout: float = 30.0
    """How long a process that is replaced may finish its calls."""
    probe_timeout: float = 5.0
    """How long a suspect process has to prove that it lives."""
    idle_after: float | None = None
    """Close a process that nobody used for so long; None: never."""
    lazy: bool = False
    """Start a process when a call wants it, not at once."""
    restart: RestartSettings = field(default_factory=RestartSettings)

    def slot(self) -> SlotSettings:
        """The part of each slot."""
        return SlotSettings(self.start_timeout, self.drain_timeout, self.probe_timeout, self.idle_after, self.lazy)


class ChildPool:
    """See the module. It starts with `start`, or with the first call.

    `open_channel` (makes one, opens nothing) and `make_peer` are called for each new process; `on_started` does the
    handshake (see Slot); `probe` asks a suspect process for a sign of life, without one it is just replaced;
    `on_change` is told whenever a slot changes its state.
    """

    def __init__(
        self,
        settings: ChildPoolSettings,
        open_channel: Callable[[], Channel],
        *,
        make_peer: Callable[[], Peer],
        on_started: Callable[[Multiplexer], Awaitable[None]],
        ids: Callable[[], int],
        limiter: StartLimiter,
        clock: Callable[[], float],
        rng: Callable[[], float] = random.random,
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]] | None = None,
        probe: Callable[[Multiplexer], Awaitable[object]] | None = None,
        report: Callable[[str, bytes], None] | None = None,
        on_change: Callable[[], None] | None = None,
        name: str = "server",
    ) -> None:
        self.settings = settings
        self.name = name
        self.generation = 0
        self.counters = SlotCounters()
        self.slots: list[Slot] = []
        self.closing = False
        self.waiting = 0
        """Calls that wait for a process."""
        self.on_change = on_change
        self._open_channel = open_channel
        self._make_peer = make_peer
        self._on_started = on_started
        self._ids = ids
        self._limiter = limiter
        self._clock = clock
        self._rng = rng
        self._spawn = spawn or _spawn
        self._probe = probe
        self._report = report
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._roller: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    # --- calls

    def ready(self) -> list[Multiplexer]:
        """All processes that are ready."""
        return [s.mux for s in self.slots if s.state is SlotState.READY and s.mux is not None and not s.mux.closed]

    def _best(self) -> Multiplexer | None:
        """The ready process with the fewest calls in flight; one that is suspect takes none before it proves itself."""
        best: Multiplexer | None = None
        fewest = sys.maxsize
        for slot in self.slots:
            mux = slot.mux
            if slot.state is not SlotState.READY or mux is None or mux.suspect or mux.closed:
                continue
            if mux.in_flight < fewest:
                best, fewest = mux, mux.in_flight
        return best

    async def acquire(self, call: Call | None = None) -> Multiplexer:
        """The multiplexer of a ready process; use it without awaiting anything else before.

        Waits while one starts, at most `acquire_timeout` or until the call's deadline. Raises UpstreamError with
        Delivery.NOT_SENT: START_FAILED (counted where this call waited for the start that failed), SERVER_NOT_READY
        while the slot may not start for longer than the call can wait, ACQUIRE_TIMEOUT; Rejected(SHUTTING_DOWN).
        """
        if call is not None:
            call.written = False
        return self._best() or await self._wait(call)

    async def request(
        self,
        method: str,
        params: bytes | None,
        *,
        on_event: Callable[[bytes], None] | None = None,
        call: Call | None = None,
    ) -> Reply:
        """`Multiplexer.request` on a process of the pool."""
        return await (await self.acquire(call)).request(method, params, on_event=on_event, call=call)

    async def _wait(self, call: Call | None) -> Multiplexer:
        if not self.slots and not self.closing:
            self.start()
        now = self._clock()
        patience = self.settings.acquire_timeout
        if call is not None:
            patience = min(patience, call.expires(now) - now)
        loop = asyncio.get_running_loop()
        self.waiting += 1
        try:
            async with asyncio.timeout(max(0.0, patience)):
                while True:
                    best = self._best()
                    if best is not None:
                        return best
                    self._refuse_if_hopeless(patience)
                    for asleep in self.slots:
                        asleep.want()
                    waiter = loop.create_future()
                    self._waiters.append(waiter)
                    try:
                        await waiter
                    finally:
                        if waiter in self._waiters:
                            self._waiters.remove(waiter)
        except TimeoutError:
            message = f"no process of the server became ready within {patience:.3g} s"
            raise UpstreamError(Reason.ACQUIRE_TIMEOUT, message, delivery=Delivery.NOT_SENT, counted=False) from None
        finally:
            self.waiting -= 1

    def _refuse_if_hopeless(self, patience: float) -> None:
        if self.closing:
            raise Rejected(Reason.SHUTTING_DOWN, "the server is being stopped")
        staying = [slot for slot in self.slots if not slot.retiring]
        if not staying or any(slot.state is not SlotState.BACKOFF for slot in staying):
            return
        first = min(staying, key=lambda slot: slot.backoff.remaining())
        remaining = first.backoff.remaining()
        if first.start_failed and first.error is not None:
            raise UpstreamError(
                Reason.START_FAILED,
                first.error.message,
                delivery=Delivery.NOT_SENT,
                retry_after=remaining,
                counted=False,
            )
        if remaining > patience:
            raise UpstreamError(
                Reason.SERVER_NOT_READY,
                f"the server ended {first.backoff.failures} times in a row and is started again later",
                delivery=Delivery.NOT_SENT,
                retry_after=remaining,
                counted=False,
            )

    def _slot_changed(self, slot: Slot) -> None:
        if slot.state is SlotState.READY:
            self._wake(None)
        elif slot.state is SlotState.CLOSING and slot.start_failed:
            if not any(other.state is SlotState.STARTING for other in self.slots):
                self._wake(slot.error)  # who waited for a start waited for this one
        elif slot.state in (SlotState.CLOSED, SlotState.BACKOFF):
            if slot.state is SlotState.CLOSED:
                self.slots.remove(slot)
            self._wake(None)
        self._changed.set()
        if self.on_change is not None:
            self.on_change()

    def _wake(self, error: CallError | None) -> None:
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if waiter.done():
                continue
            if isinstance(error, UpstreamError):
                waiter.set_exception(with_delivery(error, Delivery.NOT_SENT))
            else:
                waiter.set_result(None)

    # --- life

    def start(self) -> None:
        """Begin to keep `size` processes. Returns at once."""
        while len(self.slots) < self.settings.size:
            self._add()

    def _add(self) -> Slot:
        slot = Slot(
            make=self._make,
            settings=self.settings.slot(),
            generation=self.generation,
            limiter=self._limiter,
            backoff=RestartBackoff(self.settings.restart, clock=self._clock, rng=self._rng),
            clock=self._clock,
            counters=self.counters,
            on_change=self._slot_changed,
            on_started=self._on_started,
            probe=self._probe,
        )
        self.slots.append(slot)
        self._own(slot.own(), f"{self.name}-slot")
        return slot

    def _make(self) -> Multiplexer:
        return Multiplexer(
            self._open_channel(), ids=self._ids, clock=self._clock, peer=self._make_peer(), report=self._report
        )

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._spawn(work, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def replace(self, reason: str, settings: ChildPoolSettings | None = None) -> None:
        """A secret or the config changed: move to new processes, one more than usual at a time. Returns at once."""
        if self.closing:
            return
        if settings is not None:
            self.settings = settings
        self.generation += 1
        if self._roller is None or self._roller.done():
            self._roller = self._own(self._roll(reason), f"{self.name}-roll")

    async def _roll(self, reason: str) -> None:
        while not self.closing:
            old = [slot for slot in self.slots if slot.generation != self.generation and not slot.retiring]
            new = [slot for slot in self.slots if slot.generation == self.generation]
            surplus = len(old) + len(new) - self.settings.size
            serving = sum(slot.state is SlotState.READY for slot in [*old, *new])
            for slot in old:
                if slot.state is not SlotState.READY or serving > self.settings.size:
                    # It serves nobody, or its successor does.
                    slot.retire(reason)
                    break
            else:
                if len(new) < self.settings.size and surplus < 1:
                    self._add()
                elif not old:
                    for extra in new[self.settings.size :]:
                        extra.retire(reason)
                    return
                self._changed.clear()
                await self._changed.wait()

    def reconfigure(self, settings: ChildPoolSettings) -> None:
        """Use other times from now on, for the processes that run too; the size stays."""
        self.settings = replace(settings, size=self.settings.size)
        for slot in self.slots:
            slot.settings = self.settings.slot()
            slot.backoff.settings = settings.restart

    @property
    def in_flight(self) -> int:
        """Calls on all processes."""
        return sum(slot.in_flight for slot in self.slots)

    async def drain(self, grace: float) -> None:
        """Take no new calls, give those in flight `grace` seconds, and end every process. Cancelled, by force."""
        self._retire_all(grace)
        try:
            if self._tasks:
                await asyncio.wait(set(self._tasks))
        except asyncio.CancelledError:
            for task in self._tasks:
                task.cancel()
            raise

    async def close(self) -> None:
        """End every process now; returns when none is left."""
        await self.drain(0.0)

    def _retire_all(self, patience: float) -> None:
        self.closing = True
        if self._roller is not None:
            self._roller.cancel()
        for slot in list(self.slots):
            slot.retire("shutdown", patience)
        self._wake(None)

    def irregular(self) -> Counter[str]:
        """What all processes so far sent wrong or too late, by kind: never falls."""
        counts = Counter(self.counters.irregular)
        for slot in self.slots:
            if slot.mux is not None:
                counts.update(slot.mux.irregular())
        return counts

    def status(self) -> dict[str, object]:
        """For /status."""
        return {
            "generation": self.generation,
            "waiting": self.waiting,
            "slots": [slot.status() for slot in self.slots],
            "starts": self.counters.starts,
            "startFailures": dict(self.counters.start_failures),
            "exits": dict(self.counters.exits),
        }


def _spawn(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work, name=name)

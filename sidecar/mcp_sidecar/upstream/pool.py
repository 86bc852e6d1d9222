"""A pool of connections: how many there are, who may use which, and when each one ends.

Every connection has an owner task that opens and closes it; nobody else does. Places are reserved before anything is
awaited, so that `max_size` holds; waiters are served in order and woken by capacity, not only by a returned connection;
what a cancelled waiter was already given goes back (notes/resilience.md F22-F33). What a connection is, the pool does
not know.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Generic

from mcp_sidecar.errors import CallError, Delivery, Reason, Rejected, UpstreamError
from mcp_sidecar.upstream.lease import STATES, C, Lease, PoolSettings, Slot, Spawn, spawn_task
from mcp_sidecar.upstream.upkeep import Upkeep
from mcp_sidecar.upstream.waiters import Waiters

_log = logging.getLogger(__name__)

__all__ = ["Pool", "PoolSettings", "Spawn", "spawn_task"]


class Pool(Generic[C]):
    """See the module. Not thread-safe: everything happens on one event loop."""

    def __init__(
        self,
        open: Callable[[], Awaitable[C]],
        settings: PoolSettings | None = None,
        *,
        name: str = "upstream",
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        spawn: Spawn | None = None,
    ) -> None:
        """`open` makes a connection within bounded time or raises CallError."""
        self._open = open
        self.settings = settings or PoolSettings()
        self.name = name
        self.clock = clock
        self._rng = rng
        self._spawn = spawn or spawn_task
        self.slots: set[Slot[C]] = set()
        self.idle: list[Slot[C]] = []
        self._waiting: Waiters[C] = Waiters()
        self._starting = 0
        self._counted = 0
        """Connections that take a place of `max_size`: starting, ready, busy, ending; all but streams."""
        self._streams = 0
        self._leased = 0
        self._closing = False
        self._quiet: asyncio.Future[None] | None = None
        self._upkeep: Upkeep[C] = Upkeep(self)
        self.on_waited: Callable[[float], object] = float
        self.generation = 0
        self.opened = 0
        self.open_failures = 0
        self.leaks = 0
        self.acquire_timeouts = 0
        self.closes: Counter[str] = Counter()
        """Connections ended, by reason."""

    def try_acquire(self) -> Lease[C] | None:
        """An idle connection, the one used last, at once; None where there is none."""
        idle = self.idle
        while idle:
            slot = idle.pop()
            connection = slot.connection
            now = self.clock()
            if connection is None or not connection.usable:
                self.end(slot, connection.reason if connection is not None else "lost")
            elif now >= slot.expires:
                self.end(slot, "lifetime")
            elif now - slot.idle_since > self.settings.idle_timeout:
                self.end(slot, "idle")
            else:
                return self._lease(slot, connection, now)
        return None

    async def acquire(self) -> Lease[C]:
        """A connection: an idle one, a new one, or the next that becomes free, in the order of asking.

        Raises Rejected (QUEUE_FULL, SHUTTING_DOWN), UpstreamError(ACQUIRE_TIMEOUT) after `acquire_timeout`, or what
        opening raised; all NOT_SENT.
        """
        lease = self.try_acquire()
        if lease is not None:
            return lease
        if self._closing:
            raise _shutting_down()
        if len(self._waiting) >= self.settings.max_waiting:
            raise Rejected(Reason.QUEUE_FULL, "too many calls wait for a connection")
        waiter = self._waiting.add()
        self._grow(self.settings.min_size)
        began = self.clock()
        lease = await self._wait(waiter)
        self.on_waited(self.clock() - began)
        return lease

    async def acquire_stream(self) -> Lease[C]:
        """A connection outside of `max_size`, for an answer without end. Raises as `acquire`, or TOO_MANY_STREAMS."""
        lease = self.try_acquire()
        if lease is not None and self.as_stream(lease):
            return lease
        if lease is not None:
            self.release(lease)
        if self._closing:
            raise _shutting_down()
        if self._streams >= self.settings.max_streams:
            raise Rejected(Reason.TOO_MANY_STREAMS, f"{self.settings.max_streams} streams are open already")
        waiter: asyncio.Future[Lease[C]] = asyncio.get_running_loop().create_future()
        self._streams += 1
        self._start(waiter)
        return await self._wait(waiter)

    def as_stream(self, lease: Lease[C]) -> bool:
        """Give a lease's place in `max_size` back, since its answer has no end. False where there are too many."""
        slot = lease.slot
        if slot is None:
            raise RuntimeError("the lease was returned already")
        if slot.stream:
            return True
        if self._streams >= self.settings.max_streams:
            return False
        slot.stream = True
        self._streams += 1
        self._counted -= 1
        self._grow()
        return True

    def release(self, lease: Lease[C], end: str = "") -> None:
        """Return a lease. `end`: why the connection must not be used again, empty where it may."""
        slot = lease.slot
        if slot is None:
            raise RuntimeError("a lease was returned twice")
        lease.slot = None
        self._returned(slot)
        connection = lease.connection
        if end or not connection.usable or slot.ended.done():
            self.end(slot, connection.reason or end)
            return
        now = self.clock()
        if self._closing:
            self.end(slot, "shutdown")
        elif slot.generation != self.generation:
            self.end(slot, "rotated")
        elif now >= slot.expires:
            self.end(slot, "lifetime")
        elif (slot.stream and self._counted >= self.settings.max_size) or self._counted > self.settings.max_size:
            self.end(slot, "surplus")
        else:
            if slot.stream:
                slot.stream = False
                self._streams -= 1
                self._counted += 1
            self._offer(slot, connection, now)

    def rotate(self) -> None:
        """Use new connections from now on: idle ones end, leased ones when they are returned."""
        self.generation += 1
        while self.idle:
            self.end(self.idle.pop(), "rotated")

    def reconfigure(self, settings: PoolSettings) -> None:
        """Change sizes and times. What is open beyond a smaller size ends when it is returned."""
        self.settings = settings
        surplus = sum(not slot.ended.done() for slot in self.slots if not slot.stream) - settings.max_size
        for _ in range(min(surplus, len(self.idle))):
            self.end(self.idle.pop(0), "surplus")
        self._grow()
        if self.slots:
            self._upkeep.look()

    async def drain(self, timeout: float) -> bool:
        """Refuse new leases and wait until all are returned. False when they were not within `timeout` seconds."""
        self._stop()
        if self._leased == 0:
            return True
        if self._quiet is None:
            self._quiet = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._quiet)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End every connection, leased or not, and wait until they are closed."""
        self._stop()
        for slot in list(self.slots):
            if slot.connection is None and slot.task is not None:
                slot.task.cancel()
            else:
                self.end(slot, "shutdown")
        tasks = [slot.task for slot in self.slots if slot.task is not None]
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        self._upkeep.stop()

    @property
    def size(self) -> int:
        """Connections that exist or are being opened, streams too."""
        return len(self.slots)

    @property
    def waiting(self) -> int:
        """Callers that wait for a connection."""
        return self._waiting.alive

    @property
    def in_use(self) -> int:
        """Leases that are not returned."""
        return self._leased

    def counts(self) -> dict[str, int]:
        """Connections by state."""
        counts = dict.fromkeys(STATES, 0)
        for slot in self.slots:
            counts[slot.state(self.generation, self._closing)] += 1
        return counts

    def _stop(self) -> None:
        self._closing = True
        while self.idle:
            self.end(self.idle.pop(), "shutdown")
        while self._waiting:
            self._waiting.refuse(_shutting_down())
        for slot in self.slots:
            slot.refuse(_shutting_down())

    async def _wait(self, waiter: asyncio.Future[Lease[C]]) -> Lease[C]:
        timer = asyncio.get_running_loop().call_later(self.settings.acquire_timeout, self._give_up, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(waiter.result())  # it was given just as we were cancelled
            else:
                self._waiting.forget(waiter)
            raise
        finally:
            timer.cancel()

    def _give_up(self, waiter: asyncio.Future[Lease[C]]) -> None:
        if waiter.done():
            return
        self.acquire_timeouts += 1
        message = f"no connection was free within {self.settings.acquire_timeout:g} s"
        waiter.set_exception(UpstreamError(Reason.ACQUIRE_TIMEOUT, message, delivery=Delivery.NOT_SENT, counted=False))
        self._waiting.forget(waiter)

    def _grow(self, refill: int = 0) -> None:
        """Open what the waiters need and `max_size` allows, and up to `refill` connections in all.

        A refill belongs to an acquire alone: after a failed opening it would try again for ever.
        """
        if self._closing or not self._waiting:
            return
        most = self.settings.max_size
        while self._counted < most and (self._starting < len(self._waiting) or self._counted < refill):
            self._start(None)

    def _start(self, claim: asyncio.Future[Lease[C]] | None) -> None:
        slot: Slot[C] = Slot(self.generation, asyncio.get_running_loop().create_future(), claim)
        self.slots.add(slot)
        if claim is None:
            self._starting += 1
            self._counted += 1
        slot.task = self._spawn(self._own(slot), f"{self.name} connection")

    async def _own(self, slot: Slot[C]) -> None:
        """The life of one connection."""
        try:
            connection = await self._opening(slot)
            if connection is None:
                return
            slot.connection = connection
            connection.on_lost = lambda: self._lost(slot)
            try:
                if connection.usable:
                    self.opened += 1
                    self._opened(slot, connection)
                    reason = await slot.ended
                    self.closes[reason] += 1
                else:
                    # else the waiters would have it opened again and again
                    message = f"the server broke a new connection: {connection.reason}"
                    self._not_opened(slot, UpstreamError(Reason.CONNECT_FAILED, message, delivery=Delivery.NOT_SENT))
            finally:
                await connection.close()
        finally:
            self._gone(slot)

    async def _opening(self, slot: Slot[C]) -> C | None:
        claim = slot.claim
        try:
            return await self._open()
        except CallError as error:
            failure = error
        except Exception:  # noqa: BLE001 - logged; the waiter must learn of it
            _log.exception("opening a connection of %s failed", self.name)
            message = "a connection could not be opened"
            failure = UpstreamError(Reason.INTERNAL, message, delivery=Delivery.NOT_SENT)
        finally:
            if claim is None:
                self._starting -= 1
        self._not_opened(slot, failure)
        return None

    def _not_opened(self, slot: Slot[C], error: CallError) -> None:
        self.open_failures += 1
        if slot.claim is not None:
            slot.refuse(error)
        elif self._waiting.alive > self._starting:
            self._waiting.refuse(error)  # the first has no other opening to hope for

    def _opened(self, slot: Slot[C], connection: C) -> None:
        now = self.clock()
        slot.expires = now + self.settings.lifetime * (1 - 0.025 * self._rng())
        claim, slot.claim = slot.claim, None
        if self._closing:
            self.end(slot, "shutdown")
        elif claim is not None and not claim.done():
            claim.set_result(self._lease(slot, connection, now))
        elif slot.generation != self.generation:
            self.end(slot, "rotated")
        elif claim is not None:
            self.end(slot, "surplus")  # its stream was given up meanwhile
        else:
            self._offer(slot, connection, now)
        self._upkeep.look()

    def _lease(self, slot: Slot[C], connection: C, now: float) -> Lease[C]:
        slot.leased = True
        slot.leased_at = now
        slot.reported = False
        self._leased += 1
        return Lease(slot, connection, self._abandoned)

    def _offer(self, slot: Slot[C], connection: C, now: float) -> None:
        """To the first who waits, else to nobody yet."""
        waiter = self._waiting.next()
        if waiter is not None:
            waiter.set_result(self._lease(slot, connection, now))
            return
        slot.idle_since = now
        self.idle.append(slot)
        if not self._upkeep.armed:
            self._upkeep.look()

    def _returned(self, slot: Slot[C]) -> None:
        slot.leased = False
        slot.reported = False
        self._leased -= 1
        if self._leased == 0 and self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    def _abandoned(self, slot: Slot[C]) -> None:
        """A lease was dropped without being returned: a bug of its holder, whose loop may even be closed."""
        self.leaks += 1
        _log.error("a lease of %s was dropped without being returned", self.name)
        self._returned(slot)
        if not slot.ended.get_loop().is_closed():
            self.end(slot, "leaked")

    def _lost(self, slot: Slot[C]) -> None:
        if not slot.leased and slot.connection is not None and not slot.ended.done():
            try:
                self.idle.remove(slot)
            except ValueError:
                pass
            self.end(slot, slot.connection.reason or "lost")

    def end(self, slot: Slot[C], reason: str) -> None:
        """Let the owner close it. Its place is free when it is closed."""
        if not slot.ended.done():
            slot.ended.set_result(reason)

    def _gone(self, slot: Slot[C]) -> None:
        self.slots.discard(slot)
        if slot.stream:
            self._streams -= 1
        else:
            self._counted -= 1
        slot.refuse(_shutting_down())
        self._grow()
        if not self.slots:
            self._upkeep.stop()


def _shutting_down() -> Rejected:
    return Rejected(Reason.SHUTTING_DOWN, "the sidecar is shutting down")

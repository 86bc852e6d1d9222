"""The work queue: which MCPServers are to be looked at again, each once however often it was marked.

Level-triggered, as controller-runtime's work queue is: an event only says *look again*, so ten events are one piece of
work, a key is never worked on twice at the same time, and a key that was marked meanwhile comes again. Two lanes: what
somebody waits for (a changed object) goes before what may wait (the first listing, a resync). What to do with a key,
and when to look again without an event, is left to the reconciler.

Its size is bounded by the number of keys that exist.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_PATIENCE = 8
"""One of so many pieces of work is of those that may wait, however many are urgent: a retry is among them."""


class QueueClosed(Exception):
    """The queue ends: no more work."""


class WorkQueue(Generic[K]):
    """A de-duplicating queue with delays and per-key backoff.

    `clock` gives monotonic seconds and must be the event loop's; `rng` gives a float in [0, 1).
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        rng: Callable[[], float],
        backoff_base: float = 0.5,
        backoff_max: float = 120.0,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._base = backoff_base
        self._max = backoff_max
        self._urgent: deque[K] = deque()
        self._patient: deque[K] = deque()
        self._since: dict[K, float] = {}
        """Queued keys → since when."""
        self._lane: dict[K, bool] = {}
        """Queued keys → urgent or not. A key moved to the urgent lane stays in the other one as a leftover."""
        self._working: set[K] = set()
        self._again: dict[K, bool] = {}
        """Keys marked while they were worked on."""
        self._timers: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[K, int] = {}
        self._backing_off: set[K] = set()
        """Keys that failed and whose wait is not over, though a mark may have ended it early."""
        self._waiter: asyncio.Event = asyncio.Event()
        self._closed = False
        self._given = 0
        self.added = 0
        self.retried = 0

    def add(self, key: K, *, urgent: bool = True) -> None:
        """Mark a key. A wait that `add_after` began for it is over."""
        if self._closed:
            return
        self._cancel_timer(key)
        if key in self._working:
            self._again[key] = urgent or self._again.get(key, False)
            return
        queued = self._lane.get(key)
        if queued is None:
            self.added += 1
            self._since[key] = self._clock()
        elif queued or not urgent:
            return
        self._lane[key] = urgent
        (self._urgent if urgent else self._patient).append(key)
        self._waiter.set()

    def add_after(self, key: K, delay: float) -> None:
        """Mark a key `delay` seconds from now; the earliest of several waits counts."""
        if self._closed or key in self._lane or key in self._again:
            return
        due = self._clock() + max(delay, 0.0)
        known = self._timers.get(key)
        if known is not None:
            if known[0] <= due:
                return
            known[1].cancel()
        handle = asyncio.get_running_loop().call_at(due, self._due, key)
        self._timers[key] = (due, handle)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self._backing_off.discard(key)
        self.add(key, urgent=False)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer[1].cancel()

    async def get(self) -> K:
        """The next key. The caller must call `done` with it. Raises QueueClosed."""
        while True:
            if self._closed:
                raise QueueClosed
            key = self._pop()
            if key is not None:
                self._working.add(key)
                return key
            self._waiter.clear()
            await self._waiter.wait()

    def _pop(self) -> K | None:
        self._given += 1
        lanes = (self._urgent, True), (self._patient, False)
        for lane, urgent in lanes if self._given % _PATIENCE else lanes[::-1]:
            while lane:
                key = lane.popleft()
                if self._lane.get(key) == urgent:
                    del self._lane[key]
                    del self._since[key]
                    return key
        return None

    def done(self, key: K) -> None:
        """The work on a key ended. If it was marked meanwhile, it is queued again."""
        self._working.discard(key)
        urgent = self._again.pop(key, None)
        if urgent is not None:
            self.add(key, urgent=urgent)

    def retry(self, key: K, *, at_least: float = 0.0) -> float:
        """The work on a key failed: it comes again after its backoff (doubling, half of it jitter), not sooner than
        `at_least` and not later than the longest backoff. Seconds until then.

        A failure that a mark brought on before the last wait was over does not lengthen it: ten events within a second
        say nothing of how long the cause lasts.
        """
        if key not in self._backing_off:
            self._failures[key] = self._failures.get(key, 0) + 1
            self._backing_off.add(key)
        self.retried += 1
        delay = min(self._base * 2.0 ** min(self._failures[key] - 1, 30), self._max) * (0.5 + self._rng() / 2)
        delay = min(max(delay, at_least), self._max)
        self.add_after(key, delay)
        return delay

    def succeeded(self, key: K) -> None:
        """The work on a key went well: its backoff starts anew."""
        self._failures.pop(key, None)
        self._backing_off.discard(key)

    def forget(self, key: K) -> None:
        """The key exists no more: nothing waits for it."""
        self.succeeded(key)
        self._again.pop(key, None)
        self._cancel_timer(key)
        if self._lane.pop(key, None) is not None:
            del self._since[key]

    def close(self) -> None:
        """No more work is given out; every waiting `get` raises QueueClosed."""
        self._closed = True
        for _, handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        self._waiter.set()

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        return len(self._lane)

    @property
    def working(self) -> int:
        """Keys that are worked on."""
        return len(self._working)

    @property
    def waiting(self) -> int:
        """Keys that come later."""
        return len(self._timers)

    @property
    def oldest(self) -> float:
        """Seconds that the longest waiting key has waited."""
        return self._clock() - min(self._since.values()) if self._since else 0.0

"""Asks the sidecars of every MCPServer what they know, and marks the MCPServer when an answer is new.

Every 2 s while something changes, else once a minute with jitter (design.md, "Status of the pods"); in between while
something stays wrong. The same work queue as the reconciler's spreads the work over time and workers. What an answer
may be is `sidecar_status`; what it means is `status`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mcp_operator.observed import PodView
from mcp_operator.queue import QueueClosed, WorkQueue
from mcp_operator.sidecar_status import SidecarReport, Unreadable
from mcp_operator.store import Key

log = logging.getLogger(__name__)

Answer = SidecarReport | Unreadable

_SETTLING = 1.5
"""Factor by which the wait grows with each answer that tells nothing new."""
_UNSETTLED_MAX = 10.0
"""Longest wait, seconds, while something is wrong: how soon healing is seen."""


class Poller(Protocol):
    """Asks pods."""

    async def poll(self, pods: Iterable[PodView]) -> Mapping[str, Answer]:
        """Answers by the uid of the pod."""


@dataclass(frozen=True)
class PollIntervals:
    """Seconds between two questions."""

    active: float = 2.0
    idle: float = 60.0


@dataclass(slots=True)
class _Watched:
    settled: bool = False
    quiet: int = 0
    """Answers in a row that told nothing new."""


class PodReports:
    """The last answers, by MCPServer and pod."""

    def __init__(
        self,
        poller: Poller,
        pods: Callable[[Key], tuple[PodView, ...]],
        changed: Callable[[Key], None],
        *,
        clock: Callable[[], float],
        rng: Callable[[], float],
        intervals: PollIntervals | None = None,
        workers: int = 8,
    ) -> None:
        self._poller = poller
        self._pods = pods
        self._changed = changed
        self._rng = rng
        self._intervals = intervals or PollIntervals()
        self._workers = workers
        self._queue: WorkQueue[Key] = WorkQueue(clock=clock, rng=rng)
        self._watched: dict[Key, _Watched] = {}
        self._answers: dict[Key, Mapping[str, Answer]] = {}
        self.polls = 0

    def of(self, key: Key) -> Mapping[str, Answer]:
        """The last answers of the pods of an MCPServer, by pod uid."""
        return self._answers.get(key, {})

    def follow(self, key: Key, *, settled: bool) -> None:
        """Ask its pods from now on. `settled`: nothing changes and nothing is wrong, so seldom."""
        watched = self._watched.get(key)
        if watched is None:
            self._watched[key] = _Watched(settled)
            self._queue.add(key)
            return
        if watched.settled and not settled:
            watched.quiet = 0
            self._queue.add_after(key, self._intervals.active)
        watched.settled = settled

    def ask_now(self, key: Key) -> None:
        """Something was changed that the pods will tell of."""
        watched = self._watched.get(key)
        if watched is not None:
            watched.quiet = 0
            self._queue.add_after(key, min(0.5, self._intervals.active))

    def forget(self, key: Key) -> None:
        """The MCPServer is gone, or has no pods."""
        self._watched.pop(key, None)
        self._answers.pop(key, None)
        self._queue.forget(key)

    async def run(self) -> None:
        """Ask until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(), name=f"poll-{number}")
        finally:
            self._queue.close()

    async def _work(self) -> None:
        while True:
            try:
                key = await self._queue.get()
            except QueueClosed:
                return
            try:
                await self._ask(key)
            except Exception:
                log.exception("asking the pods of %s/%s failed", *key)
            finally:
                self._queue.done(key)
            self._again(key)

    async def _ask(self, key: Key) -> None:
        pods = [pod for pod in self._pods(key) if pod.ip and not pod.finished]
        answers = await self._poller.poll(pods) if pods else {}
        self.polls += len(pods)
        watched = self._watched.get(key)
        if watched is None:
            return
        if answers != self._answers.get(key, {}):
            self._answers[key] = answers
            watched.quiet = 0
            self._changed(key)
        else:
            watched.quiet += 1

    def _again(self, key: Key) -> None:
        watched = self._watched.get(key)
        if watched is None:
            return
        if watched.settled:
            wait = self._intervals.idle * (0.9 + self._rng() / 5)
        else:
            longest = max(self._intervals.active, min(_UNSETTLED_MAX, self._intervals.idle))
            # 2 s for the first half minute, then slower
            wait = min(self._intervals.active * _SETTLING ** max(watched.quiet - 15, 0), longest)
        self._queue.add_after(key, wait)

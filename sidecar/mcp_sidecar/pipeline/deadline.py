"""Bounds a call as a whole: nothing is begun for a call whose time is over.

`total_timeout` runs from the arrival of the call; time that the server waits for its caller is not counted
(`Call.expires`). The stage needs no timer of its own: whatever waits further in (attempts, waits between them, the
way back into the bulkhead) ends at `Call.expires` by itself, and so does the queue of the bulkhead, further out.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from mcp_sidecar.errors import Reason, Rejected
from mcp_sidecar.pipeline.call import Call, Handler, Reply

_NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class DeadlineSettings:
    """Seconds from `Call.started` for calls whose caller set no deadline."""

    total_timeout: float = 300.0


class Deadline:
    """The stage. `stamp` is for the front: the deadline must be known before the call first waits."""

    __slots__ = ("clock", "exceeded", "settings")

    def __init__(self, settings: DeadlineSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.clock = clock
        self.exceeded = 0

    def reconfigure(self, settings: DeadlineSettings) -> None:
        """Take new settings, for calls that arrive from now on."""
        self.settings = settings

    def stamp(self, call: Call) -> None:
        """Give the call its deadline, or keep an earlier one that its caller set."""
        call.deadline = min(call.deadline, call.started + self.settings.total_timeout)

    def __call__(self, call: Call, next: Handler) -> Awaitable[Reply]:
        """Answer the call if there is time left. Raises Rejected(DEADLINE_EXCEEDED)."""
        if call.deadline == _NEVER:
            self.stamp(call)
        now = self.clock()
        if now >= call.expires(now):
            self.exceeded += 1
            raise Rejected(Reason.DEADLINE_EXCEEDED, "the time of the call is over", delivery=call.delivery)
        return next(call)

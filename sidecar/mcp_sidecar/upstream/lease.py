"""What a pool is set to, what it keeps of each connection, and the lease: the use of one by one attempt.

A lease is returned exactly once: a second return is an error, and one that is dropped without being returned, by a bug
of its holder, is noticed when it is collected. When connections are opened, leased and closed is the pool's to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from mcp_sidecar.errors import CallError


class Poolable(Protocol):
    """What a pool asks of a connection."""

    on_lost: Callable[[], None] | None
    """Set by the pool: called when it can be used no more although nobody uses it."""
    reason: str
    """Why it can be used no more, from a closed set."""

    @property
    def usable(self) -> bool:
        """Whether it may be used again."""

    async def close(self) -> None:
        """End it, whatever is under way, in bounded time."""


C = TypeVar("C", bound=Poolable)


@dataclass(frozen=True)
class PoolSettings:
    """Sizes in connections, times in seconds. Defaults: design.md, "Upstreams"."""

    max_size: int = 10
    min_size: int = 2
    """Opened together with the first; refilled under traffic only, so that a quiet sidecar holds nothing open."""
    acquire_timeout: float = 30.0
    idle_timeout: float = 4.0
    """Below the usual keep-alive of servers (5 s): an idle connection must not be closed as a request goes out."""
    lifetime: float = 1800.0
    """Less up to 2.5 %, so that connections opened together do not end together."""
    leak_after: float = 900.0
    """A lease held longer, streams apart, is reported as leaked."""
    max_streams: int = 1000
    max_waiting: int = 1000


Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]


def spawn_task(coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Spawn on the running loop."""
    return asyncio.get_running_loop().create_task(coroutine, name=name)


STARTING: Final = "starting"
READY: Final = "ready"
BUSY: Final = "busy"
DRAINING: Final = "draining"
STREAM: Final = "stream"
STATES: Final = (STARTING, READY, BUSY, DRAINING, STREAM)


class Slot(Generic[C]):
    """One connection in a pool, from before it is opened until after it is closed."""

    __slots__ = (
        "claim",
        "connection",
        "ended",
        "expires",
        "generation",
        "idle_since",
        "leased",
        "leased_at",
        "reported",
        "stream",
        "task",
    )

    def __init__(self, generation: int, ended: asyncio.Future[str], claim: asyncio.Future[Lease[C]] | None) -> None:
        self.connection: C | None = None
        self.generation = generation
        self.ended = ended
        self.claim = claim
        """The one who waits for just this connection: a stream."""
        self.stream = claim is not None
        self.leased = False
        self.leased_at = 0.0
        self.idle_since = 0.0
        self.expires = 0.0
        self.reported = False
        self.task: asyncio.Task[None] | None = None

    def refuse(self, error: CallError) -> None:
        """Fail who waits for just this connection, if anybody does."""
        if self.claim is not None and not self.claim.done():
            self.claim.set_exception(error)

    def state(self, generation: int, closing: bool) -> str:
        """One of STATES, where the pool is at `generation`."""
        if self.ended.done():
            return DRAINING
        if self.connection is None:
            return STARTING
        if closing or self.generation != generation:
            return DRAINING
        if self.stream:
            return STREAM
        return BUSY if self.leased else READY


class Lease(Generic[C]):
    """The use of one connection by one attempt. Returned exactly once, by `Pool.release`."""

    __slots__ = ("_dropped", "connection", "slot")

    def __init__(self, slot: Slot[C], connection: C, dropped: Callable[[Slot[C]], None]) -> None:
        self.slot: Slot[C] | None = slot
        """None once it was returned."""
        self.connection = connection
        self._dropped = dropped

    def __del__(self) -> None:
        # a lease that nobody holds any more can never be returned: take the place back
        if self.slot is not None:
            self._dropped(self.slot)

"""What time does to a pool: idle and old connections end, leases held too long are reported.

One timer while anything is open, none while nothing is: a quiet sidecar sleeps.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic

from mcp_sidecar.upstream.lease import C, Slot

if TYPE_CHECKING:
    from mcp_sidecar.upstream.pool import Pool

_log = logging.getLogger(__name__)


class Upkeep(Generic[C]):
    """The clockwork of one pool."""

    def __init__(self, pool: Pool[C]) -> None:
        self._pool = pool
        self._timer: asyncio.TimerHandle | None = None

    @property
    def armed(self) -> bool:
        """Whether a look is due at some time. It then is early enough for whatever becomes idle meanwhile."""
        return self._timer is not None

    def stop(self) -> None:
        """Nothing is open any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self) -> None:
        """Close what has been idle or lived too long, report leaks, and come again while anything is open."""
        self.stop()
        pool = self._pool
        settings, now = pool.settings, pool.clock()
        due = now + min(settings.idle_timeout, settings.leak_after)  # of a lease that begins meanwhile
        kept: list[Slot[C]] = []
        for slot in pool.idle:
            ends = min(slot.idle_since + settings.idle_timeout, slot.expires)
            if ends <= now:
                pool.end(slot, "lifetime" if slot.expires <= now else "idle")
            else:
                kept.append(slot)
                due = min(due, ends)
        pool.idle[:] = kept
        for slot in pool.slots:
            if slot.leased and slot.expires > now:
                due = min(due, slot.expires)  # it may be idle by then
            if slot.leased and not slot.stream and not slot.reported:
                leaks = slot.leased_at + settings.leak_after
                if leaks <= now:
                    slot.reported = True
                    pool.leaks += 1
                    _log.error("a connection of %s is in use for more than %g s", pool.name, settings.leak_after)
                else:
                    due = min(due, leaks)
        if any(not slot.ended.done() for slot in pool.slots):
            self._timer = asyncio.get_running_loop().call_later(max(due - now, 0.001), self.look)

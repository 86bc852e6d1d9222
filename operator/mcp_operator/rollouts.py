"""A new sidecar image rolls the fleet a few MCPServers at a time, and stops when one fails.

An upgrade of the operator changes the image in every MCPServer at once. Without a bound a thousand rollouts begin
together, and a broken image replaces the fleet (design.md, "Fleet"). An MCPServer that waits for its turn keeps the
image it has, while every other change of it is applied at once. Nothing is stored: what runs which image is read from
the Deployments, so another leader goes on where this one stopped.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

K = TypeVar("K", bound=Hashable)

Turn = Literal["Go", "Wait", "Stopped"]


@dataclass(slots=True)
class _Rollout:
    image: str
    adopted: bool = False
    """Found on its way: an earlier leader's, or a change of the user's. It takes a place and cannot stop the fleet."""
    failed: bool = False


class FleetRollout(Generic[K]):
    """Who may take the new image now."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: dict[K, _Rollout] = {}

    def turn(self, key: K, running: str | None, wanted: str) -> Turn:
        """Whether this MCPServer may roll from image `running` (None: it has no pods yet) to `wanted`."""
        if running is None or running == wanted:
            return "Go"
        mine = self._running.get(key)
        if mine is not None and mine.image == wanted:
            return "Go"
        if any(rollout.failed and rollout.image == wanted for rollout in self._running.values()):
            return "Stopped"
        if len(self._running) >= self._limit:
            return "Wait"
        self._running[key] = _Rollout(wanted)
        return "Go"

    def observe(self, key: K, image: str | None, state: Literal["Rolling", "Complete", "Failed"]) -> bool:
        """What became of the Deployment of an MCPServer whose template has `image`; True where others may go on now."""
        rollout = self._running.get(key)
        if rollout is None:
            if state == "Rolling" and image is not None:
                self._running[key] = _Rollout(image, adopted=True)
            return False
        if state == "Complete" or image is None:
            if image is not None and image != rollout.image:
                return False
            del self._running[key]
            return True
        if image == rollout.image:
            rollout.failed = state == "Failed" and not rollout.adopted
        return False

    def forget(self, key: K) -> bool:
        """The MCPServer is gone; True where others may go on now."""
        return self._running.pop(key, None) is not None

    @property
    def running(self) -> int:
        """Rollouts that are not complete."""
        return len(self._running)

    @property
    def failed(self) -> tuple[K, ...]:
        """Those that failed and hold up the others."""
        return tuple(key for key, rollout in self._running.items() if rollout.failed)

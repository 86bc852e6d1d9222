"""A new version of the operator rolls the fleet a few MCPServers at a time, and stops when one fails.

An upgrade changes the image of the sidecar in every MCPServer at once, and may change more of the pods. Without a bound
a thousand rollouts begin together, and a broken image replaces the fleet (design.md, "Fleet"). An MCPServer that waits
for its turn keeps the pods it has, while every other change of it is applied at once. One that serves nobody needs no
turn and cannot fail: in a large fleet something is always broken, and that must not hold up the others.

Nothing is stored: what runs which pods is read from Deployments and ReplicaSets, so another leader goes on where this
one stopped, stopped fleets included.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, Literal, TypeVar

from mcp_operator.observed import DeploymentView, ReplicaSetView

K = TypeVar("K", bound=Hashable)

Turn = Literal["Go", "Wait", "Stopped"]
State = Literal["Rolling", "Complete", "Failed"]


class FleetRollout(Generic[K]):
    """Who may take the new pods now. What is returned as keys must be looked at again: its turn is another."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rolling: dict[K, bool] = {}
        """Whether it failed."""
        self._waiting: dict[K, None] = {}

    def turn(self, key: K, *, serving: bool) -> Turn:
        """Whether an MCPServer with the pods of another version may take the new ones."""
        if key in self._rolling or not serving:
            self._waiting.pop(key, None)
            return "Go"
        if not self.failed and len(self._rolling) < self._limit:
            self._waiting.pop(key, None)
            self._rolling[key] = False
            return "Go"
        self._waiting.setdefault(key)
        return "Stopped" if self.failed else "Wait"

    def observe(self, key: K, state: State, *, upgrading: bool) -> tuple[K, ...]:
        """What became of an MCPServer whose Deployment has the new pods."""
        self._waiting.pop(key, None)
        known = key in self._rolling
        if state == "Complete":
            return self.forget(key)
        if not (known or upgrading):
            return ()
        stopper = self.stopper
        self._rolling[key] = state == "Failed"
        return self._others(stopper)

    def forget(self, key: K) -> tuple[K, ...]:
        """It is complete, or gone."""
        self._waiting.pop(key, None)
        if key not in self._rolling:
            return ()
        stopper = self.stopper
        del self._rolling[key]
        return self._others(stopper, gone=True)

    def _others(self, stopper: K | None, *, gone: bool = False) -> tuple[K, ...]:
        if stopper != self.stopper:
            return tuple(self._waiting)  # those that wait say for whom
        if stopper is not None or not gone:
            return ()
        # More than there are places for, and others the next time: one that cannot go must not hold up the rest.
        chosen = tuple(self._waiting)[: 2 * max(1, self._limit - len(self._rolling))]
        for key in chosen:
            del self._waiting[key]
            self._waiting[key] = None
        return chosen

    @property
    def running(self) -> int:
        """Rollouts that are not complete."""
        return len(self._rolling)

    @property
    def failed(self) -> tuple[K, ...]:
        """Those that failed and hold up the others."""
        return tuple(key for key, failed in self._rolling.items() if failed)

    @property
    def stopper(self) -> K | None:
        """The first of those that failed: one name is enough to begin with."""
        return next(iter(self.failed), None)


def serving(deployment: DeploymentView, replica_sets: Iterable[ReplicaSetView]) -> bool:
    """Whether pods of the newest template serve, so that an upgrade could do harm."""
    newest = [each for each in replica_sets if each.template == deployment.template]
    return any(each.available for each in newest) if newest else deployment.available > 0


def upgrading(deployment: DeploymentView, replica_sets: Iterable[ReplicaSetView]) -> bool:
    """Whether the newest template replaces pods that serve, and the operator's upgrade made it.

    That shows in another image of the sidecar, or in another template from the same fields of the user's. A template
    that never worked does not count, even where older pods still serve behind it.
    """
    older = [each for each in replica_sets if each.template != deployment.template and not each.deleting]
    before = max(older, key=lambda each: each.revision, default=None)
    if before is None or not before.available:
        return False
    old, new = before.provenance, deployment.provenance
    same_user = old is not None and new is not None and old.user == new.user and old.template != new.template
    return same_user or before.image != deployment.image


def state_of(deployment: DeploymentView) -> State:
    """How far the rollout of the newest template got."""
    if deployment.complete:
        return "Complete"
    halted = any(each.type == "Progressing" and each.status == "False" for each in deployment.conditions)
    return "Failed" if deployment.observed and halted else "Rolling"

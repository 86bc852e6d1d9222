"""Which pods an MCPServer gets now: those of this version of the operator, or while others have their turn its own.

Joins what is seen of Deployments to the order of the fleet (`rollouts`). A turn is needed where the operator alone
would change the pods: another image of the sidecar, or another template from the same fields of the user's
(`Provenance`). Then everything of the pods stays as it is. What the user changes rolls at once, as this version renders
it, but with the image of before: a new image that is broken must not hold it up. The image of before is the one that we
applied last; only a new process, which does not remember, takes it from the Deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mcp_operator.api.v1alpha1 import MCPServer
from mcp_operator.desired import Desired, Images
from mcp_operator.desired.containers import main_image, runs_command
from mcp_operator.inventory import Inventory, Owned
from mcp_operator.rollouts import FleetRollout, Turn, serving, state_of, upgrading
from mcp_operator.store import Key, Store


@dataclass(frozen=True, slots=True)
class Turned:
    """Whose turn it is."""

    turn: Turn
    images: Images
    """To render pods with."""
    holds: bool = False
    """The whole pod template stays as it is."""
    failed: Key | None = None
    """Which MCPServer holds up the fleet, where the turn is `Stopped`."""


class PodTurns:
    """Of all MCPServers. `look_again` is called with those whose turn may have come."""

    def __init__(
        self,
        rollouts: FleetRollout[Key],
        store: Store,
        inventory: Inventory,
        images: Images,
        look_again: Callable[[Iterable[Key]], None],
    ) -> None:
        self._rollouts = rollouts
        self._store = store
        self._inventory = inventory
        self._images = images
        self._look_again = look_again
        self._rollouts_known = False
        self._applied: dict[Key, str] = {}
        """The image of the main container in the Deployment that we applied last."""
        self._taken: set[Key] = set()
        """Whose turn it is in the pass that is under way."""

    def observe(self, key: Key, owned: Owned) -> None:
        """See how far its rollout got, whatever the spec says by now."""
        deployment, images = owned.deployment, self._images
        if deployment is None or deployment.paused:  # nothing of it rolls
            self._look_again(self._rollouts.forget(key))
        elif deployment.image in (images.sidecar, images.sidecar_runtime):
            replaces = upgrading(deployment, owned.replica_sets)
            self._look_again(self._rollouts.observe(key, state_of(deployment), upgrading=replaces))

    def take(self, key: Key, server: MCPServer, owned: Owned, wanted: Desired) -> Turned:
        """What to apply now. `wanted` is what this version of the operator makes of it. `settle` must follow."""
        deployment, images = owned.deployment, self._images
        if deployment is None:
            return Turned("Go", images)
        if deployment.runs_command != runs_command(server):
            return Turned("Go", images)  # another image by the user's will, and the one of before would not do
        before, new = deployment.provenance, wanted.provenance
        if before is not None and before.template == new.template:
            return Turned("Go", images)
        holds = before is not None and before.user == new.user
        running = self._applied.get(key) or deployment.image
        if not holds and running in ("", images.sidecar, images.sidecar_runtime):
            return Turned("Go", images)
        if not self._rollouts_known:
            # What an earlier leader began has its places before anybody else gets one.
            self._rollouts_known = True
            for other in tuple(self._store):
                if (entry := self._store.get(other)) is not None:
                    self.observe(other, self._inventory.of(other, entry.uid))
        turn = self._rollouts.turn(key, serving=serving(deployment, owned.replica_sets))
        if turn == "Go":
            self._taken.add(key)
            return Turned(turn, images)
        if running:
            images = replace(images, sidecar=running, sidecar_runtime=running)
        return Turned(turn, images, holds, self._rollouts.stopper if turn == "Stopped" else None)

    def settle(self, key: Key, server: MCPServer, images: Images | None) -> None:
        """The pass is over. `images`: those of the Deployment that stands now, None where it was not applied.

        Who cannot use a turn gives it back, or some that are refused would hold up all others.
        """
        if images is not None:
            self._applied[key] = main_image(server, images)
        elif key in self._taken:
            self._look_again(self._rollouts.forget(key))
        self._taken.discard(key)

    def forget(self, key: Key) -> None:
        """The MCPServer is gone."""
        self._applied.pop(key, None)
        self._look_again(self._rollouts.forget(key))

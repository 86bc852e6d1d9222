"""Which sidecar image the pods of an MCPServer get now: the new one, or while others have their turn that of before.

Joins what is seen of Deployments to the order of the fleet (`rollouts`). The image of before is the one that we applied
last; only a new process, which does not remember, takes it from the Deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from mcp_operator.api.v1alpha1 import MCPServer
from mcp_operator.desired import Images
from mcp_operator.desired.containers import main_image, runs_command
from mcp_operator.inventory import Inventory, Owned
from mcp_operator.rollouts import FleetRollout, Turn, serving, state_of, upgrading
from mcp_operator.store import Key, Store


class ImageTurns:
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

    def take(self, key: Key, server: MCPServer, owned: Owned) -> tuple[Images, Turn]:
        """The images to apply now. `settle` must follow."""
        deployment, images = owned.deployment, self._images
        if deployment is None:
            return images, "Go"
        if deployment.runs_command != runs_command(server):
            return images, "Go"  # another image by the user's will, and the one of before would not do
        running = self._applied.get(key) or deployment.image
        if running in ("", images.sidecar, images.sidecar_runtime):
            return images, "Go"
        if not self._rollouts_known:
            # What an earlier leader began has its places before anybody else gets one.
            self._rollouts_known = True
            for other in tuple(self._store):
                if (entry := self._store.get(other)) is not None:
                    self.observe(other, self._inventory.of(other, entry.uid))
        turn = self._rollouts.turn(key, serving=serving(deployment, owned.replica_sets))
        if turn == "Go":
            self._taken.add(key)
            return images, turn
        return replace(images, sidecar=running, sidecar_runtime=running), turn

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

"""What exists of every MCPServer, as the watches last told: the reconciler's picture of the cluster.

One informer for each kind of object feeds it; it sorts their views by the MCPServer that the label names and says which
MCPServer must be looked at. A label proves nothing, so what counts as owned is decided by uids along the chain
MCPServer → Deployment → ReplicaSet → Pod. Reading and repairing are left to the informers and to `applier`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mcp_operator.kube.resources import DEPLOYMENTS, PODS, REPLICA_SETS, Resource
from mcp_operator.observed import ChildView, DeploymentView, Owner, PodView, ReplicaSetView
from mcp_operator.store import Key

View = ChildView | DeploymentView | ReplicaSetView | PodView
Applied = ChildView | DeploymentView
"""A view of an object that we apply."""


class _Owned(Protocol):
    @property
    def owner(self) -> Owner | None:
        """Its controller."""


@dataclass(slots=True)
class _Views:
    applied: dict[tuple[str, str], Applied] = field(default_factory=dict)
    replica_sets: dict[str, ReplicaSetView] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (self.applied or self.replica_sets or self.pods)


@dataclass(frozen=True, slots=True)
class Owned:
    """What the MCPServer of one uid owns."""

    deployment: DeploymentView | None
    replica_sets: tuple[ReplicaSetView, ...]
    pods: tuple[PodView, ...]
    applied: Mapping[tuple[str, str], Applied]
    """By kind and name; the Deployment too."""


class Inventory:
    """Views by MCPServer. `changed(key)`: look at it again. `lost(key, kind, name, uid)`: an applied object is gone,
    or has another owner."""

    def __init__(
        self, changed: Callable[[Key], None], lost: Callable[[Key, str, str, str], None] = lambda *_: None
    ) -> None:
        self._changed = changed
        self._lost = lost
        self._servers: dict[Key, _Views] = {}

    def observer(self, resource: Resource) -> Callable[[object, View | None, View | None], None]:
        """The `on_change` of the informer of one kind."""
        kind = resource.kind

        def on_change(_: object, old: View | None, new: View | None) -> None:
            if old == new:
                return
            for view, present in ((old, False), (new, True)):
                if view is None or (not present and new is not None and new.server == view.server):
                    continue
                self._keep(resource, kind, view, present)
            if old is not None and new is not None and (old.uid, old.owner) != (new.uid, new.owner):
                self._lose(kind, old)  # made anew while nobody watched, or taken from us
            for key in {(view.namespace, view.server) for view in (old, new) if view is not None and view.server}:
                self._changed(key)

        return on_change

    def _keep(self, resource: Resource, kind: str, view: View, present: bool) -> None:
        if not view.server:
            return
        key = (view.namespace, view.server)
        views = self._servers.setdefault(key, _Views())
        if resource is PODS:
            assert isinstance(view, PodView)
            _set(views.pods, view.name, view, present)
        elif resource is REPLICA_SETS:
            assert isinstance(view, ReplicaSetView)
            _set(views.replica_sets, view.name, view, present)
        else:
            assert isinstance(view, ChildView | DeploymentView)
            _set(views.applied, (kind, view.name), view, present)
            if not present:
                self._lose(kind, view)
        if views.empty:
            del self._servers[key]

    def _lose(self, kind: str, view: View) -> None:
        if isinstance(view, ChildView | DeploymentView):
            self._lost((view.namespace, view.server), kind, view.name, view.uid)

    def of(self, key: Key, uid: str) -> Owned:
        """What the MCPServer with this uid owns."""
        views = self._servers.get(key)
        if views is None:
            return Owned(None, (), (), {})
        applied = {place: view for place, view in views.applied.items() if _owner(view) == uid}
        deployment = applied.get((DEPLOYMENTS.kind, key[1]))
        if not isinstance(deployment, DeploymentView):
            return Owned(None, (), (), applied)
        sets = tuple(view for view in views.replica_sets.values() if _owner(view) == deployment.uid)
        uids = {view.uid for view in sets}
        pods = tuple(view for view in views.pods.values() if _owner(view) in uids)
        return Owned(deployment, sets, pods, applied)


def _set(views: dict, place: object, view: View, present: bool) -> None:  # type: ignore[type-arg]
    if present:
        views[place] = view
    else:
        views.pop(place, None)


def _owner(view: _Owned) -> str | None:
    return view.owner.uid if view.owner is not None else None

"""A cluster in memory for tests of the reconciler: objects, server-side apply, and watches that are played by hand.

It keeps what the operator writes, counts requests, refuses what a test tells it to, and tells the operator's store and
inventory what changed only when the test says so (`catch_up`): so a watch can be late, or tell nothing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

from mcp_operator.errors import AlreadyExists, KubeError
from mcp_operator.inventory import Inventory
from mcp_operator.kube.client import Page
from mcp_operator.kube.resources import DEPLOYMENTS, MCP_SERVERS, PODS, REPLICA_SETS, RESOURCES, Resource, resource_of
from mcp_operator.observed import ChildView, DeploymentView, PodView, ReplicaSetView
from mcp_operator.store import Store

Place = tuple[str, str, str]
"""Kind, namespace and name."""

_VIEWS: Mapping[str, Callable[[Any], Any]] = {
    DEPLOYMENTS.kind: DeploymentView.of,
    REPLICA_SETS.kind: ReplicaSetView.of,
    PODS.kind: PodView.of,
}
_UNWATCHED = ("Event", "Secret", "MCPServer")
_BY_KIND = {resource.kind: resource for resource in RESOURCES}


class PlayedCluster:
    """Also the API client of everything that the reconciler uses."""

    def __init__(self) -> None:
        self.objects: dict[Place, dict[str, Any]] = {}
        self.requests: list[str] = []
        """`verb Kind name`, in order."""
        self.refusals: dict[tuple[str, str], KubeError] = {}
        """By verb and kind."""
        self.version = 100
        self._views: dict[Place, Any] = {}

    # Requests

    async def get(
        self, resource: Resource, namespace: str, name: str, *, metadata_only: bool = False
    ) -> dict[str, Any] | None:
        self._ask("get", resource.kind, name)
        return copy.deepcopy(self.objects.get((resource.kind, namespace, name)))

    async def page(
        self, resource: Resource, namespace: str | None = None, *, field_selector: str = "", limit: int = 0
    ) -> Page:
        """Events about one object; limits are for others."""
        self._ask("list", resource.kind, namespace or "")
        uid = field_selector.partition("involvedObject.uid=")[2].partition(",")[0]
        found = [each for place, each in self.objects.items() if place[0] == resource.kind]
        return Page([copy.deepcopy(each) for each in found if each["involvedObject"]["uid"] == uid], "1", "")

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        kind, metadata = manifest["kind"], manifest["metadata"]
        self._ask("create", kind, metadata["name"])
        if (kind, metadata["namespace"], metadata["name"]) in self.objects:
            raise AlreadyExists(409, "AlreadyExists", "there")
        return copy.deepcopy(self.put(manifest))

    async def apply(self, manifest: Mapping[str, Any], *, metadata_only: bool = False) -> dict[str, Any]:
        resource, metadata = resource_of(manifest), manifest["metadata"]
        self._ask("apply", resource.kind, metadata["name"])
        place = (resource.kind, metadata["namespace"], metadata["name"])
        before = self.objects.get(place)
        wanted = json.dumps(manifest, sort_keys=True)
        if before is None or before.get("lastApplied") != wanted:
            made = copy.deepcopy(dict(manifest))
            made["lastApplied"] = wanted
            entry = {"manager": "outrigger", "operation": "Apply", "fieldsV1": {}, "time": f"t{self.version}"}
            made["metadata"]["managedFields"] = [entry]
            if before is not None:
                made["metadata"]["generation"] = before["metadata"].get("generation", 1) + 1
                made["status"] = before.get("status", {})
            if resource.kind == "Service":
                made["spec"]["clusterIPs"] = ["10.96.0.7"]
            self.put(made)
        found = copy.deepcopy(self.objects[place])
        return {"metadata": found["metadata"]} if metadata_only else found

    async def apply_status(
        self, resource: Resource, namespace: str, name: str, status: Mapping[str, Any]
    ) -> dict[str, Any]:
        self._ask("status", resource.kind, name)
        found = self.objects[resource.kind, namespace, name]
        self.put({**found, "status": copy.deepcopy(dict(status))}, same_spec=True)
        return {"metadata": copy.deepcopy(self.objects[resource.kind, namespace, name]["metadata"])}

    async def annotate(
        self, resource: Resource, namespace: str, name: str, annotations: Mapping[str, str]
    ) -> dict[str, Any]:
        self._ask("annotate", resource.kind, name)
        found = copy.deepcopy(self.objects[resource.kind, namespace, name])
        found["metadata"].setdefault("annotations", {}).update(annotations)
        return self.put(found, same_spec=True)

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> bool:
        self._ask("delete", resource.kind, name)
        return self.objects.pop((resource.kind, namespace, name), None) is not None

    def _ask(self, verb: str, kind: str, name: str) -> None:
        self.requests.append(f"{verb} {kind} {name}")
        if (verb, kind) in self.refusals:
            raise self.refusals[verb, kind]

    @property
    def writes(self) -> list[str]:
        """Requests that are no reads."""
        return [request for request in self.requests if not request.startswith("get ")]

    # What others do

    def put(self, manifest: Mapping[str, Any], *, same_spec: bool = False) -> dict[str, Any]:
        """Make or replace an object."""
        made = copy.deepcopy(dict(manifest))
        metadata = made["metadata"]
        place = (made["kind"], metadata["namespace"], metadata["name"])
        before = self.objects.get(place)
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        metadata.setdefault("uid", before["metadata"]["uid"] if before else f"uid-{self.version}")
        metadata.setdefault("generation", 1)
        if before is not None and made["kind"] == "MCPServer" and not same_spec:
            metadata["generation"] = before["metadata"]["generation"] + (made["spec"] != before["spec"])
        self.objects[place] = made
        return made

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object and what it owns."""
        gone = self.objects.pop((kind, namespace, name))
        for place, found in list(self.objects.items()):
            owners = found["metadata"].get("ownerReferences", ())
            if any(owner["uid"] == gone["metadata"]["uid"] for owner in owners) and place in self.objects:
                self.remove(*place)

    # What watches tell

    def watch_anew(self) -> None:
        """Whoever catches up next has seen nothing yet."""
        self._views.clear()

    def catch_up(self, store: Store, inventory: Inventory) -> None:
        """Tell everything that is new."""
        for place in [place for place in self._views if place not in self.objects]:
            inventory.observer(_BY_KIND[place[0]])(place[1:], self._views.pop(place), None)
        for place, found in list(self.objects.items()):
            if place[0] not in _UNWATCHED:
                view = _VIEWS.get(place[0], ChildView.of)(found)
                before, self._views[place] = self._views.get(place), view
                inventory.observer(_BY_KIND[place[0]])(place[1:], before, view)
        for key in tuple(store):
            entry = store.get(key)
            if entry is not None and (MCP_SERVERS.kind, *key) not in self.objects:
                store.put(entry.manifest, "DELETED")
        for place, found in self.objects.items():
            if place[0] == MCP_SERVERS.kind:
                store.put(copy.deepcopy(found), "MODIFIED")

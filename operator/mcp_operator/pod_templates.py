"""The pod templates of before, for MCPServers that wait for their turn of the fleet.

A new version of the operator may render pods otherwise in more than the image. Who waits keeps the whole template as it
stands, while the rest of the Deployment (replicas, labels) is applied as ever. The template is read from the Deployment
itself, so a restart or another leader finds it too; it is kept as text until the turn comes, so that a look at one that
waits costs no request, and what somebody changes meanwhile is put right. Whose turn it is, is left to `turns`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from mcp_operator.desired import Desired, Provenance
from mcp_operator.desired.provenance import PROVENANCE_ANNOTATION
from mcp_operator.kube.owned_fields import owned_fields
from mcp_operator.kube.resources import DEPLOYMENTS, Resource
from mcp_operator.observed import DeploymentView, config_map_of
from mcp_operator.observed_metadata import FIELD_MANAGER
from mcp_operator.store import Key


class Reader(Protocol):
    """What is needed of the API."""

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        """The object, None where there is none."""


@dataclass(frozen=True, slots=True)
class _Held:
    provenance: Provenance
    config_map: str
    text: bytes


class PodTemplates:
    """Of all MCPServers that wait."""

    def __init__(self, client: Reader) -> None:
        self._client = client
        self._held: dict[Key, _Held] = {}

    async def hold(self, key: Key, wanted: Desired, deployment: DeploymentView) -> Desired:
        """`wanted` with the pods of before; as it is where nothing is known of those. Raises KubeError."""
        held = self._held.get(key)
        if held is None or held.provenance != deployment.provenance:
            held = await self._read(key)
        if held is None:
            return wanted
        self._held[key] = held
        return wanted.holding(msgspec.json.decode(held.text), held.config_map, held.provenance)

    def forget(self, key: Key) -> None:
        """Its turn has come, or it is gone."""
        self._held.pop(key, None)

    def __len__(self) -> int:
        return len(self._held)

    async def _read(self, key: Key) -> _Held | None:
        found = await self._client.get(DEPLOYMENTS, *key)
        if found is None:
            return None
        annotations = found["metadata"].get("annotations") or {}
        provenance = Provenance.parse(annotations.get(PROVENANCE_ANNOTATION, ""))
        template = (owned_fields(found, FIELD_MANAGER).get("spec") or {}).get("template")
        if provenance is None or not template:
            return None
        return _Held(provenance, config_map_of(found["spec"]["template"]), msgspec.json.encode(template))

"""Makes the objects of an MCPServer as they are wanted: applies what differs, repairs what drifted, prunes the rest.

It remembers what it applied (a digest of the manifest, and the hash of our fields in the API server's answer), so that
an MCPServer to which nothing happened costs no request; a new process applies everything once, which the API server
answers without a write. An object of our name that is not ours is never touched (design.md, "Names").

Which objects are wanted is decided by `desired`; what a refusal means for the user, by `status`.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from mcp_operator.diagnosis import current_replica_set
from mcp_operator.errors import BeingReplaced, KubeError, NameConflict
from mcp_operator.inventory import Applied, Owned
from mcp_operator.kube.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    NETWORK_POLICIES,
    POD_DISRUPTION_BUDGETS,
    POD_MONITORS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Resource,
    resource_of,
)
from mcp_operator.observed import DeploymentView
from mcp_operator.observed import applied as applied_fields
from mcp_operator.repairs import AT_ONCE, Place, Repairs
from mcp_operator.session_key import owned_by, owner_of
from mcp_operator.store import Key

log = logging.getLogger(__name__)

Manifest = Mapping[str, Any]

APPLIED = (
    SERVICE_ACCOUNTS,
    CONFIG_MAPS,
    SERVICES,
    NETWORK_POLICIES,
    POD_DISRUPTION_BUDGETS,
    HORIZONTAL_POD_AUTOSCALERS,
    POD_MONITORS,
    DEPLOYMENTS,
)
"""The kinds that are applied, watched and pruned."""

_RESOURCES = {resource.kind: resource for resource in APPLIED}


class ApplyClient(Protocol):
    """What is needed of the API."""

    async def get(
        self, resource: Resource, namespace: str, name: str, *, metadata_only: bool = False
    ) -> dict[str, Any] | None:
        """The object, None where there is none."""

    async def apply(self, manifest: Manifest, *, metadata_only: bool = False) -> dict[str, Any]:
        """Server-side apply. `metadata_only`: of the answer."""

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> bool:
        """Delete the object with this uid."""


@dataclass(slots=True)
class _Record:
    digest: bytes
    applied: str
    uid: str
    before: str
    """Hash that the watch showed at the time of the apply, and shows until it has caught up; empty then."""


@dataclass(slots=True)
class Outcome:
    """What became of one pass over the objects of an MCPServer."""

    written: int = 0
    refused: KubeError | BeingReplaced | None = None
    """The first refusal that will not go away by itself; the other objects were applied."""
    config_replaced: bool = False
    """The content of a ConfigMap that pods mount was changed in place."""
    deployed: bool = True
    """The Deployment is as it is wanted."""
    again: float = math.inf
    """Seconds until there is more to do without an event."""


@dataclass(slots=True)
class _Server:
    uid: str
    records: dict[Place, _Record] = field(default_factory=dict)
    claimed: set[Place] = field(default_factory=set)
    """Names found free in this pass."""
    deployment: DeploymentView | None = None
    """As the API server answered, until the watch tells of it."""
    repairs: Repairs = field(default_factory=Repairs)

    def keep(self, place: Place, digest: bytes, answer: Mapping[str, Any], view: Applied | None) -> None:
        """Remember what was applied, and how the watch saw the object then."""
        metadata = answer["metadata"]
        before = view.applied if view is not None else ""
        self.records[place] = _Record(digest, applied_fields(metadata), metadata["uid"], before)


class Applier:
    """Applies and prunes. One pass for an MCPServer at a time."""

    def __init__(self, client: ApplyClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._servers: dict[Key, _Server] = {}
        self.repaired = 0
        """Objects that somebody else had changed or deleted."""

    def lost(self, key: Key, kind: str, name: str, uid: str) -> None:
        """A watch says that an object is gone, or is not ours any more; what was applied is forgotten."""
        server = self._servers.get(key)
        if server is not None:
            record = server.records.get((kind, name))
            if record is not None and record.uid == uid:
                del server.records[kind, name]
                self._repaired(key, server, (kind, name))
            if server.deployment is not None and server.deployment.uid == uid:
                server.deployment = None

    def forget(self, key: Key) -> None:
        """The MCPServer is gone."""
        self._servers.pop(key, None)

    def deployment(self, key: Key, seen: DeploymentView | None) -> DeploymentView | None:
        """The Deployment as it is known best: as the watch told, or as our own write left it if that is newer.

        What is said after a write on the word of a watch from before it is about the spec of before.
        """
        server = self._servers.get(key)
        written = server.deployment if server is not None else None
        if server is None or written is None:
            return seen
        if seen is not None and (seen.uid != written.uid or seen.generation >= written.generation):
            server.deployment = None
            return seen
        return written

    async def apply_service(
        self, key: Key, uid: str, manifests: Sequence[Manifest], owned: Owned, confirm: Callable[[], Awaitable[None]]
    ) -> tuple[str, ...]:
        """Apply the Service alone where it is due; its addresses, none where it was not applied.

        Every name is claimed first, so that nothing is touched where one is taken. A refusal is left to `apply`.
        Raises as `apply`.
        """
        server = self._server(key, uid)
        server.claimed.clear()
        due = self._due(server, manifests, owned)
        await self._claim_names(key, server, due, owned, confirm)
        for place, manifest, digest in due:
            if resource_of(manifest) is SERVICES:
                self._count_repair(key, server, place, digest)
                try:
                    answer = await self._client.apply(manifest)
                except KubeError as error:
                    error.about = " ".join(place)
                    if error.transient or error.terminating:
                        raise
                    return ()
                server.keep(place, digest, answer, owned.applied.get(place))
                return cluster_ips(answer)
        return ()

    async def apply(
        self, key: Key, uid: str, manifests: Sequence[Manifest], owned: Owned, confirm: Callable[[], Awaitable[None]]
    ) -> Outcome:
        """Apply what is not as it should be, in the order given.

        `confirm` is awaited before the first write. Raises NameConflict before anything is touched, BeingReplaced, and
        every KubeError that may go away by itself.
        """
        server = self._server(key, uid)
        due = self._due(server, manifests, owned)
        await self._claim_names(key, server, due, owned, confirm)
        outcome = Outcome(again=self._postponed(server, manifests))
        foundation_refused = False
        for place, manifest, digest in due:
            resource = resource_of(manifest)
            if resource is DEPLOYMENTS and foundation_refused:
                outcome.deployed = False
                continue  # its pods could not start
            known = place in server.records
            self._count_repair(key, server, place, digest)
            try:
                answer = await self._client.apply(manifest, metadata_only=resource is not DEPLOYMENTS)
            except KubeError as error:
                error.about = " ".join(place)
                if error.transient or error.terminating:
                    raise
                server.records.pop(place, None)
                outcome.refused = outcome.refused or error
                foundation_refused = foundation_refused or resource in (CONFIG_MAPS, SERVICE_ACCOUNTS)
                outcome.deployed = outcome.deployed and resource is not DEPLOYMENTS
                continue
            server.keep(place, digest, answer, owned.applied.get(place))
            outcome.written += 1
            if resource is DEPLOYMENTS:
                server.deployment = DeploymentView.of(answer)
            if resource is CONFIG_MAPS:
                # A new process applies all of them: that replaces nothing where an earlier one had done so.
                view = owned.applied.get(place)
                changed = view is not None and view.applied != server.records[place].applied
                outcome.config_replaced = outcome.config_replaced or known or changed
        server.claimed.clear()
        return outcome

    def _server(self, key: Key, uid: str) -> _Server:
        server = self._servers.get(key)
        if server is None or server.uid != uid:
            server = self._servers[key] = _Server(uid)
        return server

    def _due(self, server: _Server, manifests: Iterable[Manifest], owned: Owned) -> list[tuple[Place, Manifest, bytes]]:
        """What was never applied, is wanted otherwise now, or was changed by somebody else and not too often."""
        due: list[tuple[Place, Manifest, bytes]] = []
        now = self._clock()
        for manifest in manifests:
            place = _place(manifest)
            digest = _digest(manifest)
            record = server.records.get(place)
            changed = record is not None and record.digest != digest
            if changed or (
                (record is None or _drifted(owned.applied.get(place), record)) and not server.repairs.wait(place, now)
            ):
                due.append((place, manifest, digest))
        return due

    def _postponed(self, server: _Server, manifests: Iterable[Manifest]) -> float:
        """Seconds until the next object may be repaired that has been too often."""
        now = self._clock()
        waits = [server.repairs.wait(_place(manifest), now) for manifest in manifests]
        return min((wait for wait in waits if wait > 0.0), default=math.inf)

    def _count_repair(self, key: Key, server: _Server, place: Place, digest: bytes) -> None:
        record = server.records.get(place)
        if record is not None and record.digest == digest:
            self._repaired(key, server, place)

    def _repaired(self, key: Key, server: _Server, place: Place) -> None:
        self.repaired += 1
        if server.repairs.made(place, self._clock()) == AT_ONCE:
            log.warning("%s %s of MCPServer %s/%s is changed by somebody else again and again", *place, *key)

    async def _claim_names(
        self,
        key: Key,
        server: _Server,
        due: Iterable[tuple[Place, Manifest, bytes]],
        owned: Owned,
        confirm: Callable[[], Awaitable[None]],
    ) -> None:
        """The names of all that is due are free or ours, else NameConflict."""
        for number, (place, manifest, _) in enumerate(due):
            if number == 0:
                await confirm()
            if place in server.records or place in owned.applied or place in server.claimed:
                continue
            await self._claim(key, server.uid, resource_of(manifest), place)
            server.claimed.add(place)

    async def prune(
        self, key: Key, manifests: Iterable[Manifest], owned: Owned, *, spare_accounts: bool = False
    ) -> int:
        """Delete what is owned and no longer wanted. A ConfigMap stays while a ReplicaSet refers to it.

        Which do is known once the watches have told of the ReplicaSet of the newest Deployment: until then all stay.
        `spare_accounts`: the Deployment keeps pods of before, which need their ServiceAccount.
        """
        wanted = {_place(manifest) for manifest in manifests}
        server = self._servers.get(key)
        deployment = self.deployment(key, owned.deployment)
        told = deployment is not None and current_replica_set(deployment, owned.replica_sets) is not None
        kept = {view.config_map for view in owned.replica_sets}
        deleted = 0
        for (kind, name), view in list(owned.applied.items()):
            if (kind, name) in wanted or view.deleting:
                continue
            if kind == CONFIG_MAPS.kind and (not told or name in kept):
                continue
            if kind == SERVICE_ACCOUNTS.kind and spare_accounts:
                continue
            resource = _RESOURCES.get(kind)
            if resource is not None:
                if server is not None:
                    server.records.pop((kind, name), None)
                await self._client.delete(resource, key[0], name, uid=view.uid)
                deleted += 1
        return deleted

    async def _claim(self, key: Key, uid: str, resource: Resource, place: Place) -> None:
        """The name is free or ours, else NameConflict."""
        found = await self._client.get(resource, key[0], place[1], metadata_only=True)
        if found is None or owned_by(found, uid):
            return
        owner = owner_of(found)
        if owner == f"MCPServer {key[1]}":
            raise BeingReplaced(f"{place[0]} {place[1]} of the deleted MCPServer {key[1]} is not gone yet")
        raise NameConflict(place[0], place[1], owner)


def _drifted(view: Applied | None, record: _Record) -> bool:
    """Whether the watch shows another state of our fields than our last apply left."""
    if view is None or view.applied == record.applied:
        if view is not None:
            record.before = ""
        return False
    return view.applied != record.before


def cluster_ips(service: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses of a Service; none where it is headless."""
    spec = service.get("spec") or {}
    found = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return tuple(ip for ip in found if ip and ip != "None")


def _place(manifest: Manifest) -> Place:
    return manifest["kind"], manifest["metadata"]["name"]


def _digest(manifest: Manifest) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(manifest, order="sorted"), digest_size=12).digest()

"""What is wanted of an MCPServer in one pass: the manifests, from its spec and from the values that the spec refers to.

Joins the pure computation (`desired`) to what it depends on besides the spec: values of Secrets that roll pods or
replace processes, and the pods of before where a turn of the fleet is waited for. Applying is left to `applier`, the
order of a pass to `reconciler`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcp_operator.api.v1alpha1 import MCPServer
from mcp_operator.desired import Cluster, Desired, Images, desired, process_references
from mcp_operator.inventory import Owned
from mcp_operator.pod_templates import PodTemplates
from mcp_operator.references import References, Resolution, digest
from mcp_operator.store import Key
from mcp_operator.turns import Turned


@dataclass(frozen=True, slots=True)
class Basis:
    """What a plan is made from."""

    key: Key
    server: MCPServer
    owned: Owned
    session_key: bytes
    """Under which the versions of values are made; empty where it is not there yet."""


class Plans:
    """Of all MCPServers."""

    def __init__(self, references: References, templates: PodTemplates) -> None:
        self._references = references
        self._templates = templates
        self._revisions: dict[Key, str] = {}
        """What was last told to the bridge of its values; losing it costs nothing."""

    async def of(self, basis: Basis, cluster: Cluster, images: Images) -> tuple[Desired, Resolution]:
        """What is wanted, and what is known of the values that it needs. Raises KubeError."""
        server, deployment = basis.server, basis.owned.deployment
        wanted = desired(server, cluster, images)
        resolution = await self._references.resolve(basis.key, wanted.references, basis.session_key)
        checksum = resolution.checksum
        in_environment = {(each.kind, each.name, each.key) for each in wanted.references if each.in_environment}
        missing = any((each.kind, each.name, each.key) in in_environment for each in resolution.missing)
        if deployment is not None and in_environment and (missing or not basis.session_key):
            # Pods that work are not replaced by pods that cannot start, nor since we cannot tell what changed.
            checksum = deployment.environment_checksum or checksum
        revision = self._revision(basis, resolution)
        if not checksum and not revision:
            return wanted, resolution
        return desired(server, cluster, images, checksum=checksum, revision=revision), resolution

    async def turned(self, basis: Basis, cluster: Cluster, wanted: Desired, turned: Turned) -> Desired:
        """`wanted` as the turn of the fleet lets it be. Raises KubeError."""
        if turned.turn == "Go":
            self._templates.forget(basis.key)
            return wanted
        before, _ = await self.of(basis, cluster, turned.images)
        if not turned.holds or basis.owned.deployment is None:
            return before
        return await self._templates.hold(basis.key, before, basis.owned.deployment)

    def expect_changes(self, key: Key) -> None:
        """Somebody works on it: what it refers to is read anew."""
        self._references.expect_changes(key)

    def forget(self, key: Key) -> None:
        """The MCPServer is gone."""
        self._references.forget(key)
        self._templates.forget(key)
        self._revisions.pop(key, None)

    def _revision(self, basis: Basis, resolution: Resolution) -> str:
        """Stands for the values that the bridge reads. While one is missing, processes that work are not replaced."""
        references = process_references(basis.server)
        read = {(each.kind, each.name, each.key) for each in references}
        if not any((each.kind, each.name, each.key) in read for each in resolution.missing):
            found = digest(resolution.versions, references)
            if found:
                self._revisions[basis.key] = found
            else:
                self._revisions.pop(basis.key, None)
        return self._revisions.get(basis.key, "")

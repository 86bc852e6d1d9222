"""What an MCPServer needs in the cluster: pure functions from it to manifests.

No clock, no randomness, no I/O: the same MCPServer gives the same bytes, whatever the order of its keys. So applying it
again changes nothing, and a test can show every manifest. Reading what is there, applying and pruning are the
reconciler's part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mcp_operator.api.v1alpha1 import MCPServer
from mcp_operator.desired.autoscaling import autoscaler
from mcp_operator.desired.cluster import Cluster, Images
from mcp_operator.desired.config import config
from mcp_operator.desired.config_map import config_hash, config_map, config_map_name, config_text
from mcp_operator.desired.containers import main_image
from mcp_operator.desired.deployment import deployment, service_account, with_template
from mcp_operator.desired.disruption import disruption_budget
from mcp_operator.desired.metadata import Manifest, labels, selector, selector_labels
from mcp_operator.desired.monitoring import pod_monitor
from mcp_operator.desired.needs import Reference, environment_references, process_references, references
from mcp_operator.desired.network_policy import network_policy
from mcp_operator.desired.pod import pod_template
from mcp_operator.desired.problems import problems
from mcp_operator.desired.provenance import Provenance, provenance
from mcp_operator.desired.service import service, url
from mcp_operator.desired.session import session_secret, session_secret_key, session_secret_name
from mcp_operator.errors import Problem

__all__ = [
    "Cluster",
    "Desired",
    "Images",
    "Manifest",
    "Provenance",
    "Reference",
    "desired",
    "environment_references",
    "labels",
    "process_references",
    "selector_labels",
    "session_secret",
    "session_secret_key",
    "session_secret_name",
]


@dataclass(frozen=True)
class Desired:
    """Everything that is wanted for one MCPServer. The manifests are the caller's to send, not to change."""

    manifests: tuple[Manifest, ...]
    """In the order to apply them: what a pod needs comes before the pods."""
    config_map: str
    """Name of the ConfigMap that new pods use. Others of the MCPServer belong to older pods."""
    config_json: str
    """The text of its `config.json`."""
    config_hash: str
    """What sidecars that run this text report: 16 hex digits."""
    references: tuple[Reference, ...]
    """Keys of Secrets and ConfigMaps that must be there, the operator's own session key left out."""
    session_secret: str
    """Name of the Secret with the session key."""
    url: str
    """Where callers inside the cluster reach it."""
    selector: str
    """Selector of the pods as text, for the scale subresource."""
    problems: tuple[Problem, ...]
    """Why it cannot work as it is written; with any, the manifests are not to be applied."""
    provenance: Provenance
    """Of the pod template."""
    config_waits: bool = False
    """The pods keep a ConfigMap that this operator would write otherwise, so it is left as it is."""

    def holding(self, template: Mapping[str, Any], config_map: str, provenance: Provenance) -> Desired:
        """The same with the pod template of before, which mounts `config_map`.

        A ConfigMap of another name is for other pods: those of before must not see their part of it change.
        """
        waits = config_map != self.config_map
        return replace(
            self,
            manifests=tuple(
                with_template(each, template, provenance) if each["kind"] == "Deployment" else each
                for each in self.manifests
                if not (waits and each["kind"] == "ConfigMap")
            ),
            config_map=config_map,
            provenance=provenance,
            config_waits=waits,
        )


def desired(server: MCPServer, cluster: Cluster, images: Images, *, checksum: str = "", revision: str = "") -> Desired:
    """The manifests for `server`, and what else follows from it.

    `checksum` stands for the values that containers have in their environment (`environment_references`): a change of
    it replaces the pods. `revision` stands for those that the bridge reads (`process_references`): a change of it
    replaces the server's processes.
    """
    whole = config(server, cluster, revision)
    text = config_text(whole)
    name = config_map_name(server, main_image(server, images))
    template = pod_template(server, images, name, checksum)
    origin = provenance(server, template, checksum)
    wanted = (
        service_account(server),
        config_map(server, name, text),
        service(server),
        network_policy(server, cluster),
        disruption_budget(server),
        autoscaler(server),
        pod_monitor(server, cluster),
        deployment(server, template, origin),
    )
    return Desired(
        manifests=tuple(manifest for manifest in wanted if manifest is not None),
        config_map=name,
        config_json=text,
        config_hash=config_hash(text),
        references=references(server),
        session_secret=session_secret_name(server),
        url=url(server, cluster),
        selector=selector(server),
        problems=problems(server, cluster, whole),
        provenance=origin,
    )

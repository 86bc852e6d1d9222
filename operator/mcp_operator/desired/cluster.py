"""What the manifests depend on besides the MCPServer: the cluster, and the images that the operator was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mcp_operator.api.v1alpha1 import NetworkPolicyPeer


@dataclass(frozen=True)
class Cluster:
    """What is known of the cluster. The defaults fit where there is none, as for `outrigger render`."""

    domain: str = "cluster.local"
    """DNS domain of Services."""
    has_pod_monitor: bool = False
    """Whether the API server serves `monitoring.coreos.com/v1` PodMonitor."""
    cluster_ips: tuple[str, ...] = ()
    """Addresses of the MCPServer's own Service; empty before it exists. `None` (headless) is ignored."""
    operator_namespace: str = ""
    """Where the operator's pods are, which read the admin port of the sidecars; empty when it runs in no pod."""
    operator_labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the operator's pods; empty for every pod of its namespace."""
    monitoring_from: tuple[NetworkPolicyPeer, ...] = ()
    """Who else may reach the admin port of all MCPServers."""


@dataclass(frozen=True)
class Images:
    """The images that pods get besides the server's own."""

    sidecar: str = "outrigger.local/sidecar:latest"
    sidecar_runtime: str = "outrigger.local/sidecar-runtime:latest"
    """With Node and uv: runs `stdio` servers without an image."""
    pull_policy: str = ""
    """`imagePullPolicy` of ours; empty leaves it to the cluster."""
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets, in the namespace of the MCPServer, that the kubelet pulls images with."""

"""The NetworkPolicy: who may connect to the pods, and what they may connect to.

Callers reach the MCP port from the pods of the same namespace and from `networkPolicy.from`. A Service of type NodePort
or LoadBalancer is made for callers from outside, whose addresses nobody knows: without `networkPolicy.from` it opens
the MCP port to everybody; with it, to those alone. The admin port is for the operator, for whom its configuration names
(`monitoringFrom`) and for `monitoring.from`; the kubelet's probes come from the pod's own node, which policies do not
stop.
"""

from __future__ import annotations

from typing import Any

from mcp_operator.api.v1alpha1 import MCPServer, Monitoring, NetworkPolicy, NetworkPolicyPeer, Service, written
from mcp_operator.desired.cluster import Cluster
from mcp_operator.desired.metadata import Manifest, manifest, selector_labels, without_nulls
from mcp_operator.desired.service import ADMIN_PORT, MCP_PORT


def network_policy(server: MCPServer, cluster: Cluster) -> Manifest | None:
    """The NetworkPolicy `<name>`; None where it is disabled."""
    wanted = server.spec.network_policy or NetworkPolicy()
    if wanted.mode == "Disabled":
        return None
    spec: dict[str, Any] = {
        "podSelector": {"matchLabels": selector_labels(server)},
        "policyTypes": ["Ingress"],
        "ingress": [_to_front(server, wanted)],
    }
    if admin := _to_admin(server, cluster):
        spec["ingress"].append(admin)
    if wanted.egress is not None:
        spec["policyTypes"].append("Egress")
        # Replicas forward calls of sessions to the one that holds them, whatever else is allowed.
        siblings = {"to": [{"podSelector": {"matchLabels": selector_labels(server)}}]}
        spec["egress"] = [*(without_nulls(rule) for rule in wanted.egress), siblings]
    return {**manifest(server, "networking.k8s.io/v1", "NetworkPolicy"), "spec": spec}


def _to_front(server: MCPServer, wanted: NetworkPolicy) -> dict[str, Any]:
    service = server.spec.service or Service()
    rule: dict[str, Any] = {"ports": [{"port": MCP_PORT, "protocol": "TCP"}]}
    if service.type == "ClusterIP" or wanted.from_:
        rule["from"] = [{"podSelector": {}}, *(_peer(peer) for peer in wanted.from_)]
    return rule


def _to_admin(server: MCPServer, cluster: Cluster) -> dict[str, Any] | None:
    callers = [_peer(peer) for peer in (*cluster.monitoring_from, *(server.spec.monitoring or Monitoring()).from_)]
    if cluster.operator_namespace:
        operator: dict[str, Any] = {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": cluster.operator_namespace}}
        }
        if cluster.operator_labels:
            operator["podSelector"] = {"matchLabels": dict(sorted(cluster.operator_labels.items()))}
        callers.insert(0, operator)
    return {"ports": [{"port": ADMIN_PORT, "protocol": "TCP"}], "from": callers} if callers else None


def _peer(peer: NetworkPolicyPeer) -> dict[str, Any]:
    """As the API has it, without the empty lists that it would drop."""
    return {
        name: {inner: value for inner, value in content.items() if value not in ([], {})}
        for name, content in written(peer).items()
    }

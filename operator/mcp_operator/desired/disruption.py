"""The PodDisruptionBudget: how many pods a drain of nodes may take away at once."""

from __future__ import annotations

from mcp_operator.api.v1alpha1 import Disruption, MCPServer
from mcp_operator.desired.metadata import Manifest, manifest, selector_labels


def disruption_budget(server: MCPServer) -> Manifest | None:
    """From two replicas up; with one it would only stop drains. None where there is none.

    Pods that are not ready may always be evicted (`AlwaysAllow`): a broken server must not hold a node.
    """
    wanted, scaling = server.spec.disruption or Disruption(), server.spec.autoscaling
    least = server.spec.replicas if scaling is None else max(server.spec.replicas, scaling.min_replicas)
    if wanted.mode == "Disabled" or least < 2:
        return None
    if wanted.min_available is not None:
        bound = {"minAvailable": wanted.min_available}
    else:
        bound = {"maxUnavailable": 1 if wanted.max_unavailable is None else wanted.max_unavailable}
    return {
        **manifest(server, "policy/v1", "PodDisruptionBudget"),
        "spec": {
            "selector": {"matchLabels": selector_labels(server)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            **bound,
        },
    }

"""The HorizontalPodAutoscaler. It scales the MCPServer, not the Deployment: so there is one place that says how many
pods are wanted, and nobody else writes the Deployment."""

from __future__ import annotations

from typing import Any

from mcp_operator.api.v1alpha1 import API_VERSION, KIND, Autoscaling, MCPServer
from mcp_operator.desired.metadata import Manifest, manifest, without_nulls

DEFAULT_CPU_PERCENT = 80


def autoscaler(server: MCPServer) -> Manifest | None:
    """The autoscaler `<name>`; None where none is asked for."""
    wanted = server.spec.autoscaling
    if wanted is None:
        return None
    spec: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": API_VERSION, "kind": KIND, "name": server.metadata.name},
        "minReplicas": wanted.min_replicas,
        "maxReplicas": wanted.max_replicas,
        "metrics": _metrics(wanted),
    }
    if wanted.behavior:
        spec["behavior"] = without_nulls(wanted.behavior)
    return {**manifest(server, "autoscaling/v2", "HorizontalPodAutoscaler"), "spec": spec}


def _metrics(wanted: Autoscaling) -> list[dict[str, Any]]:
    """The user's, and the processor of the sidecar where that is asked for or nothing else is."""
    metrics = [without_nulls(metric) for metric in wanted.metrics]
    percent = wanted.target_cpu_utilization_percentage
    if percent is None and not metrics:
        percent = DEFAULT_CPU_PERCENT
    if percent is None:
        return metrics
    target = {"type": "Utilization", "averageUtilization": percent}
    cpu = {
        "type": "ContainerResource",
        "containerResource": {"name": "cpu", "container": "sidecar", "target": target},
    }
    return [cpu, *metrics]

"""The PodMonitor, by which the Prometheus operator finds the sidecars' metrics."""

from __future__ import annotations

from mcp_operator.api.v1alpha1 import MCPServer
from mcp_operator.desired.cluster import Cluster
from mcp_operator.desired.metadata import Manifest, manifest, selector_labels
from mcp_operator.desired.service import ADMIN_PORT
from mcp_sidecar.config import show_duration


def pod_monitor(server: MCPServer, cluster: Cluster) -> Manifest | None:
    """The PodMonitor `<name>`; None where it is not asked for or the cluster has no such kind."""
    wanted = server.spec.monitoring
    if wanted is None or wanted.pod_monitor == "Disabled" or not cluster.has_pod_monitor:
        return None
    endpoint = {
        "port": ADMIN_PORT,
        "path": "/metrics",
        "interval": show_duration(wanted.interval),
        "scrapeTimeout": show_duration(wanted.scrape_timeout),
    }
    return {
        **manifest(server, "monitoring.coreos.com/v1", "PodMonitor", extra_labels=wanted.labels),
        "spec": {"selector": {"matchLabels": selector_labels(server)}, "podMetricsEndpoints": [endpoint]},
    }

"""The Service of an MCPServer, and the URL and host names that callers reach it by."""

from __future__ import annotations

from typing import Any

from mcp_operator.api.v1alpha1 import Front, MCPServer, Service
from mcp_operator.desired.cluster import Cluster
from mcp_operator.desired.metadata import Manifest, manifest, selector_labels

MCP_PORT = "mcp"
ADMIN_PORT = "admin"
"""Names of the ports of the pods."""

MCP_PATH = "/mcp"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")


def scheme(server: MCPServer) -> str:
    """How callers speak to the front: `http`, or `https` with `front.tls`."""
    return "http" if (server.spec.front or Front()).tls is None else "https"


def url(server: MCPServer, cluster: Cluster) -> str:
    """The MCP endpoint inside the cluster."""
    name, namespace = server.metadata.name, server.metadata.namespace
    port = (server.spec.service or Service()).port
    return f"{scheme(server)}://{name}.{namespace}.svc.{cluster.domain}:{port}{MCP_PATH}"


def host_names(server: MCPServer, cluster: Cluster) -> tuple[str, ...]:
    """Values of `Host` that callers inside the cluster may use; a pod's own address is the sidecar's to add."""
    name, namespace = server.metadata.name, server.metadata.namespace
    addresses = (f"[{ip}]" if ":" in ip else ip for ip in cluster.cluster_ips if ip and ip != "None")
    return (
        name,
        f"{name}.{namespace}",
        f"{name}.{namespace}.svc",
        f"{name}.{namespace}.svc.{cluster.domain}",
        *addresses,
        *LOCAL_HOSTS,
    )


def service(server: MCPServer) -> Manifest:
    """The Service `<name>`.

    `appProtocol` is `http` or `https`: gateways route by it, and `kubernetes.io/h2c` would be wrong, since the front
    speaks HTTP/1.1.
    """
    wanted = server.spec.service or Service()
    port: dict[str, Any] = {
        "name": MCP_PORT,
        "port": wanted.port,
        "targetPort": MCP_PORT,
        "protocol": "TCP",
        "appProtocol": scheme(server),
    }
    return {
        **manifest(server, "v1", "Service", extra_labels=wanted.labels, annotations=wanted.annotations),
        "spec": {
            "type": wanted.type,
            "selector": selector_labels(server),
            "sessionAffinity": "None",
            "ports": [port],
        },
    }

"""What every object of an MCPServer has in common: its name, its labels, who owns it.

The selector of pods holds the name and the instance only: a Deployment's selector can never be changed, so nothing that
may change is in it. What an object is for is left to the module that makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_operator.api.v1alpha1 import API_VERSION, KIND, MCPServer

Manifest = dict[str, Any]
"""A Kubernetes object as JSON data: no nulls, nothing that the API server would drop."""

MANAGED_BY = "outrigger"
"""Value of `app.kubernetes.io/managed-by`, which the operator's watches select."""

CHECKSUM_ANNOTATION = "outrigger.dev/environment-checksum"
"""On a pod template: changes with the values that a container has in its environment."""


def selector_labels(server: MCPServer) -> dict[str, str]:
    """The labels that a Deployment, a Service, … find the pods by. They never change."""
    return {"app.kubernetes.io/instance": server.metadata.name, "app.kubernetes.io/name": "mcpserver"}


def selector(server: MCPServer) -> str:
    """`selector_labels` as the text that the scale subresource shows (`status.selector`)."""
    return ",".join(f"{name}={value}" for name, value in sorted(selector_labels(server).items()))


def labels(server: MCPServer) -> dict[str, str]:
    """The labels of everything that the operator makes for an MCPServer."""
    return {
        **selector_labels(server),
        "app.kubernetes.io/component": "server",
        "app.kubernetes.io/managed-by": MANAGED_BY,
        "app.kubernetes.io/part-of": "outrigger",
        "outrigger.dev/mcpserver": server.metadata.name,
    }


def owner_reference(server: MCPServer) -> dict[str, Any]:
    """Makes the garbage collector take an object away with its MCPServer, and shows whose it is.

    Without `blockOwnerDeletion`: clusters that check it (admission plugin OwnerReferencesPermissionEnforcement) would
    want the operator to have rights on finalizers of MCPServers, of which it has none.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": server.metadata.name,
        "uid": server.metadata.uid,
        "controller": True,
    }


def manifest(
    server: MCPServer,
    api_version: str,
    kind: str,
    name: str | None = None,
    *,
    extra_labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """An object of an MCPServer without its content, called like it unless `name` is given.

    Labels and annotations of the user never replace ours.
    """
    metadata: dict[str, Any] = {
        "name": name or server.metadata.name,
        "namespace": server.metadata.namespace,
        "labels": {**(extra_labels or {}), **labels(server)},
    }
    if server.metadata.uid:  # without a cluster nobody owns anything
        metadata["ownerReferences"] = [owner_reference(server)]
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def without_nulls(value: Any) -> Any:
    """JSON data of the user's without nulls, which server-side apply would take for values."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value if item is not None]
    return value

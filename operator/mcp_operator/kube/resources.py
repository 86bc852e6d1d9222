"""The kinds that the operator deals with, and where each is found.

A fixed table instead of discovery: the kinds are known, a path costs no request and no cache file, and `access` can
name exactly what is used. Requests are `client`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object as the API server serves it. All of ours live in namespaces."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """`apps/v1`; `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_path(self) -> str:
        """Path of the group's discovery document: `/apis/apps/v1`, `/api/v1`."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Path of one object, of the kind in a namespace (no `name`), or of the kind everywhere (no `namespace`).

        Names are escaped whole: one that came from a user can never lead to another path.
        """
        parts = [self.group_path]
        if namespace is not None:
            parts += ["namespaces", _segment(namespace)]
        parts.append(self.plural)
        if name is not None:
            parts.append(_segment(name))
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


def _segment(name: str) -> str:
    if name in ("", ".", ".."):  # a parent, or the collection instead of an object
        raise ValueError(f"{name!r} cannot be the name of an object")
    return quote(name, safe="")


MCP_SERVERS = Resource("outrigger.dev", "v1alpha1", "mcpservers", "MCPServer")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
POD_DISRUPTION_BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
HORIZONTAL_POD_AUTOSCALERS = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
POD_MONITORS = Resource("monitoring.coreos.com", "v1", "podmonitors", "PodMonitor")
EVENTS = Resource("", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")

RESOURCES = (
    MCP_SERVERS,
    DEPLOYMENTS,
    REPLICA_SETS,
    PODS,
    SERVICES,
    CONFIG_MAPS,
    SECRETS,
    SERVICE_ACCOUNTS,
    NETWORK_POLICIES,
    POD_DISRUPTION_BUDGETS,
    HORIZONTAL_POD_AUTOSCALERS,
    POD_MONITORS,
    EVENTS,
    LEASES,
)

_BY_KIND = {(resource.api_version, resource.kind): resource for resource in RESOURCES}


def resource_of(manifest: Mapping[str, Any]) -> Resource:
    """The resource of a manifest, by `apiVersion` and `kind`; ValueError where it is none of ours."""
    key = (manifest.get("apiVersion", ""), manifest.get("kind", ""))
    try:
        return _BY_KIND[key]
    except KeyError:
        raise ValueError(f"{key[0]} {key[1]} is not a kind that the operator deals with") from None

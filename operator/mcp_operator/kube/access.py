"""Which rights the operator needs in the API, and why: the one table.

`client` refuses whatever is not in it, and the roles are generated from it: rights that the code does not use, or uses
and does not have, cannot come about. Binding them is left to who installs the operator (the chart, `outrigger rbac`).

Discovery (`/apis/…`) needs no right of its own: Kubernetes grants it to everybody who is authenticated.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from mcp_operator.kube.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    LEASES,
    MCP_SERVERS,
    NETWORK_POLICIES,
    POD_DISRUPTION_BUDGETS,
    POD_MONITORS,
    PODS,
    REPLICA_SETS,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Resource,
)

Manifest = dict[str, Any]

LEASE_NAME = "outrigger-operator"
"""The Lease's default name; the configuration may give another."""

_RBAC = "rbac.authorization.k8s.io"


class Scope(enum.Enum):
    """Where a right is needed."""

    WATCHED = "the namespaces whose MCPServers the operator works for"
    OWN = "the operator's own namespace"


class Access(NamedTuple):
    """Rights on one resource. Server-side apply is the verb `patch`, and also `create` where the object is new."""

    resource: Resource
    verbs: tuple[str, ...]
    why: str
    subresource: str = ""
    scope: Scope = Scope.WATCHED


_WATCH = ("list", "watch")
_KEEP = ("get", "list", "watch", "create", "patch")
_PRUNE = (*_KEEP, "delete")

ACCESS = (
    Access(MCP_SERVERS, ("get", *_WATCH), "what users want"),
    Access(MCP_SERVERS, ("patch",), "conditions and what is known of the server", "status"),
    Access(DEPLOYMENTS, _KEEP, "the pods of an MCPServer"),
    Access(SERVICES, _KEEP, "its address, whose ClusterIP is an allowed host"),
    Access(SERVICE_ACCOUNTS, _PRUNE, "an identity without rights; none where the user names another"),
    Access(CONFIG_MAPS, _PRUNE, "the sidecar's configuration; those that an MCPServer names are read"),
    Access(NETWORK_POLICIES, _PRUNE, "who may connect; none where it is disabled"),
    Access(POD_DISRUPTION_BUDGETS, _PRUNE, "from two replicas up"),
    Access(HORIZONTAL_POD_AUTOSCALERS, _PRUNE, "where autoscaling is asked for"),
    Access(POD_MONITORS, _PRUNE, "where monitoring is asked for and the cluster knows the kind"),
    Access(REPLICA_SETS, _WATCH, "which configuration still has pods, and why there are none"),
    Access(PODS, (*_WATCH, "patch"), "what is wrong with them; an annotation makes the kubelet refresh a ConfigMap"),
    Access(SECRETS, ("get", "create"), "those that an MCPServer names are read; the session key is made once"),
    Access(
        EVENTS, ("list", "create", "patch"), "what happened, for `kubectl describe`; why a pod of ours is not prepared"
    ),
    Access(LEASES, ("get", "create", "update"), "which of several operators works", scope=Scope.OWN),
)

ALLOWED = frozenset((access.resource, access.subresource, verb) for access in ACCESS for verb in access.verbs)
"""(resource, subresource or "", verb) of every request that the operator may make."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Who gets the rights: the operator's service account."""

    namespace: str
    name: str = "outrigger-operator"


def cluster_role(name: str = "outrigger-operator") -> Manifest:
    """What the operator needs in every namespace, where it works for all of them."""
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": _labels()},
        "rules": _rules(Scope.WATCHED),
    }


def cluster_role_binding(account: ServiceAccount, name: str = "outrigger-operator") -> Manifest:
    """Gives `cluster_role(name)` to `account`."""
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name, "labels": _labels()},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
        "subjects": [_subject(account)],
    }


def roles(namespaces: Iterable[str], account: ServiceAccount, name: str = "outrigger-operator") -> list[Manifest]:
    """The same rights in `namespaces` only: a Role and its RoleBinding in each, nothing cluster-wide."""
    return [manifest for namespace in namespaces for manifest in _role(name, namespace, _rules(Scope.WATCHED), account)]


def leader_role(
    account: ServiceAccount, name: str = "outrigger-operator-leader", *, lease: str = LEASE_NAME
) -> list[Manifest]:
    """The Lease, in the operator's own namespace: a Role and its RoleBinding."""
    rules: list[Manifest] = []
    for rule in _rules(Scope.OWN):
        named = [verb for verb in rule["verbs"] if verb != "create"]
        # A create is authorized before its object has a name: RBAC cannot narrow it.
        rules += [rule | {"verbs": ["create"]}, rule | {"verbs": named, "resourceNames": [lease]}]
    return _role(name, account.namespace, rules, account)


def manifests(
    account: ServiceAccount,
    *,
    namespaces: Iterable[str] = (),
    name: str = "outrigger-operator",
    lease: str = LEASE_NAME,
) -> list[Manifest]:
    """All roles and bindings. With `namespaces` nothing is cluster-wide; without, the operator works everywhere."""
    within = tuple(namespaces)
    watched = roles(within, account, name) if within else [cluster_role(name), cluster_role_binding(account, name)]
    return [*watched, *leader_role(account, f"{name}-leader", lease=lease)]


def _rules(scope: Scope) -> list[Manifest]:
    return [
        {
            "apiGroups": [access.resource.group],
            "resources": [
                f"{access.resource.plural}/{access.subresource}" if access.subresource else access.resource.plural
            ],
            "verbs": list(access.verbs),
        }
        for access in ACCESS
        if access.scope is scope
    ]


def _role(name: str, namespace: str, rules: list[Manifest], account: ServiceAccount) -> list[Manifest]:
    metadata = {"name": name, "namespace": namespace, "labels": _labels()}
    return [
        {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
            "subjects": [_subject(account)],
        },
    ]


def _labels() -> dict[str, str]:
    return {"app.kubernetes.io/name": "outrigger-operator", "app.kubernetes.io/part-of": "outrigger"}


def _subject(account: ServiceAccount) -> Manifest:
    return {"kind": "ServiceAccount", "namespace": account.namespace, "name": account.name}

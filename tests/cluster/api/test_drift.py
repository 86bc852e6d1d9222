"""What somebody else changes, deletes or leaves over: repaired, made anew, pruned; and what is not ours stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster.api import Api, eventually
from cluster.operator_process import OperatorProcess
from cluster.servers import condition, mcp_server, owned, settled, wait_for
from cluster.sidecars import mounted

# every kind of child that is applied, with an edit of a field of ours
EVERYTHING: dict[str, Any] = {
    "replicas": 2,
    "autoscaling": {"minReplicas": 2, "maxReplicas": 4},
    "monitoring": {"podMonitor": "Enabled"},
    "service": {"labels": {"team": "ours"}},
}
EDITS: dict[str, Any] = {
    "configmaps": {"data": {"config.json": "{}"}},
    "deployments": {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 600}}}},
    "horizontalpodautoscalers": {"spec": {"maxReplicas": 9}},
    "networkpolicies": {"spec": {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": "other"}}}},
    "poddisruptionbudgets": {"spec": {"maxUnavailable": 2}},
    "podmonitors": {"spec": {"selector": {"matchLabels": {"app.kubernetes.io/instance": "other"}}}},
    "serviceaccounts": {"automountServiceAccountToken": True},
    "services": {"spec": {"selector": {"app.kubernetes.io/instance": "other"}}},
}


def child(api: Api, namespace: str, resource: str) -> dict[str, Any]:
    """The only object of ours of this resource."""

    def look() -> dict[str, Any]:
        labels = "app.kubernetes.io/instance=one,app.kubernetes.io/managed-by=outrigger"
        found = api.list(resource, namespace, labelSelector=labels)
        assert len(found) == 1, f"{len(found)} {resource}"
        return found[0]

    return eventually(look, f"one of {resource}")


def content(found: dict[str, Any]) -> dict[str, Any]:
    """All of it but what the API server counts."""
    metadata = {name: found["metadata"].get(name) for name in ("name", "labels", "ownerReferences")}
    rest = {name: value for name, value in found.items() if name not in ("metadata", "status")}
    return {**rest, "metadata": metadata}


@pytest.mark.parametrize("resource", EDITS)
def test_edit_is_taken_back(
    api: Api, pod_monitors: None, operator: OperatorProcess, namespace: str, resource: str
) -> None:
    api.create(mcp_server(namespace, **EVERYTHING))
    settled(api, namespace)
    before = child(api, namespace, resource)
    changed = api.patch(resource, namespace, before["metadata"]["name"], EDITS[resource])
    assert content(changed) != content(before)
    eventually(lambda: content(child(api, namespace, resource)) == content(before), f"{resource} repaired", timeout=10)


@pytest.mark.parametrize("resource", EDITS)
def test_delete_is_taken_back(
    api: Api, pod_monitors: None, operator: OperatorProcess, namespace: str, resource: str
) -> None:
    api.create(mcp_server(namespace, **EVERYTHING))
    settled(api, namespace)
    before = child(api, namespace, resource)
    api.delete(resource, namespace, before["metadata"]["name"])

    def made_anew() -> bool:
        now = child(api, namespace, resource)
        return (
            now["metadata"]["uid"] != before["metadata"]["uid"]
            and content(now)["metadata"]["name"] == (before["metadata"]["name"])
        )

    eventually(made_anew, f"{resource} made anew", timeout=10)


def test_session_key_is_made_anew_and_otherwise_kept(api: Api, operator: OperatorProcess, namespace: str) -> None:
    api.create(mcp_server(namespace))
    settled(api, namespace)
    before = api.get("secrets", namespace, "one-session")
    assert before is not None
    api.patch("mcpservers", namespace, "one", {"spec": {"replicas": 2}})
    settled(api, namespace)
    after = api.get("secrets", namespace, "one-session")
    assert after is not None
    assert after["data"] == before["data"]


@pytest.mark.parametrize(
    ("resource", "on", "off"),
    [
        ("poddisruptionbudgets", {"replicas": 2}, {"replicas": 1}),
        ("poddisruptionbudgets", {"replicas": 2}, {"replicas": 2, "disruption": {"mode": "Disabled"}}),
        ("networkpolicies", {}, {"networkPolicy": {"mode": "Disabled"}}),
        ("horizontalpodautoscalers", {"autoscaling": {"minReplicas": 1, "maxReplicas": 2}}, {}),
        ("podmonitors", {"monitoring": {"podMonitor": "Enabled"}}, {"monitoring": {"podMonitor": "Disabled"}}),
    ],
)
def test_what_is_not_wanted_any_more_goes(
    api: Api,
    pod_monitors: None,
    operator: OperatorProcess,
    namespace: str,
    resource: str,
    on: dict[str, Any],
    off: dict[str, Any],
) -> None:
    api.apply(mcp_server(namespace, **on))
    settled(api, namespace)
    assert child(api, namespace, resource)
    api.apply(mcp_server(namespace, **off))
    eventually(lambda: not api.list(resource, namespace), f"no {resource}")
    api.apply(mcp_server(namespace, **on))
    assert child(api, namespace, resource)


def test_old_configurations_go_with_their_replica_sets(api: Api, operator: OperatorProcess, namespace: str) -> None:
    """Kept while a ReplicaSet refers to them, so that a rollback works."""
    api.apply(mcp_server(namespace))
    settled(api, namespace)
    seen: list[str] = []
    for mark in "abc":
        seen.append(child_config(api, namespace))
        # the Deployment controller makes none of a template that is gone before it has looked
        eventually(lambda: replica_sets(api, namespace, seen[-1]), "a ReplicaSet of the configuration")
        api.apply(mcp_server(namespace, stdio={"command": "serve", "args": [mark]}))
        eventually(lambda: child_config(api, namespace) not in seen, "a new configuration")
    assert configurations(api, namespace) >= set(seen)

    def pruned() -> bool:
        # which of the old ones it scales down first is the Deployment controller's choice: no pod is ready
        for name in seen:
            for one in replica_sets(api, namespace, name):
                if not one["spec"]["replicas"]:
                    api.delete("replicasets", namespace, one["metadata"]["name"])
        return not configurations(api, namespace) >= set(seen)

    eventually(pruned, "an old configuration pruned", timeout=30)
    kept = {name for name in seen if replica_sets(api, namespace, name)}
    assert configurations(api, namespace) >= {child_config(api, namespace), *kept}


def configurations(api: Api, namespace: str) -> set[str]:
    """The names of the ConfigMaps of MCPServer `one`."""
    return {name for resource, name in owned(api, namespace, "one") if resource == "configmaps"}


def replica_sets(api: Api, namespace: str, config: str) -> list[dict[str, Any]]:
    """Those whose pods mount this ConfigMap."""
    found = api.list("replicasets", namespace)
    return [one for one in found if mounted(one["spec"]["template"]["spec"]) == config]


def child_config(api: Api, namespace: str) -> str:
    """The ConfigMap that the Deployment's newest pods mount."""
    deployment = api.get("deployments", namespace, "one")
    assert deployment is not None
    return mounted(deployment["spec"]["template"]["spec"])


def test_fields_of_another_manager_stay(api: Api, operator: OperatorProcess, namespace: str) -> None:
    api.create(mcp_server(namespace))
    settled(api, namespace)
    for resource in ("services", "deployments"):
        api.patch(resource, namespace, "one", {"metadata": {"annotations": {"example.com/theirs": "1"}}})
    api.patch("mcpservers", namespace, "one", {"spec": {"service": {"annotations": {"example.com/ours": "1"}}}})

    def both() -> bool:
        service = api.get("services", namespace, "one")
        assert service is not None
        return {"example.com/theirs", "example.com/ours"} <= service["metadata"]["annotations"].keys()

    eventually(both, "both annotations")
    deployment = api.get("deployments", namespace, "one")
    assert deployment is not None
    assert deployment["metadata"]["annotations"]["example.com/theirs"] == "1"


def test_a_field_that_another_manager_took_is_taken_back(api: Api, operator: OperatorProcess, namespace: str) -> None:
    api.create(mcp_server(namespace))
    settled(api, namespace)
    service = api.get("services", namespace, "one")
    assert service is not None
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "one", "namespace": namespace},
        "spec": {"selector": {"app.kubernetes.io/name": "theirs"}},
    }
    api.apply(theirs, manager="somebody", force=True)

    def ours() -> bool:
        found = api.get("services", namespace, "one")
        return found is not None and found["spec"]["selector"] == service["spec"]["selector"]

    eventually(ours, "our selector", timeout=10)


FOREIGN: dict[str, Callable[[str], dict[str, Any]]] = {
    "services": lambda ns: {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "one", "namespace": ns},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}},
    },
    "deployments": lambda ns: {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "one", "namespace": ns},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "theirs"}},
            "template": {
                "metadata": {"labels": {"app": "theirs"}},
                "spec": {"containers": [{"name": "one", "image": "theirs"}]},
            },
        },
    },
    "serviceaccounts": lambda ns: {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "one", "namespace": ns},
    },
    "secrets": lambda ns: {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "one-session", "namespace": ns},
        "stringData": {"theirs": "x"},
    },
}


@pytest.mark.parametrize("resource", FOREIGN)
def test_a_name_that_is_taken(api: Api, operator: OperatorProcess, namespace: str, resource: str) -> None:
    theirs = api.create(FOREIGN[resource](namespace))
    name = theirs["metadata"]["name"]
    api.create(mcp_server(namespace))
    server = wait_for(api, namespace, "one", "Ready", "False", "NameConflict")
    message = condition(server, "Ready")["message"]
    assert name in message
    assert theirs["kind"] in message
    untouched = api.get(resource, namespace, name)
    assert untouched is not None
    assert content(untouched) == content(theirs)
    eventually(lambda: "NameConflict" in {event["reason"] for event in api.list("events", namespace)}, "an Event")

    api.delete(resource, namespace, name)
    settled(api, namespace)

    def healed() -> bool:
        found = condition(api.get("mcpservers", namespace, "one"), "Ready")
        return bool(found["reason"] != "NameConflict") and (resource, name) in owned(api, namespace, "one")

    eventually(healed, "no conflict any more", timeout=90)

"""What a field manager owns of an object, found again in the object."""

from __future__ import annotations

from typing import Any

from mcp_operator.kube.owned_fields import owned_fields

CONTAINERS = {
    'k:{"name":"sidecar"}': {
        ".": {},
        "f:name": {},
        "f:image": {},
        "f:args": {},
        "f:ports": {'k:{"containerPort":8080,"protocol":"TCP"}': {".": {}, "f:containerPort": {}, "f:name": {}}},
        "f:securityContext": {"f:readOnlyRootFilesystem": {}},
    }
}
FIELDS = {"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": CONTAINERS, "f:hosts": {'v:"b"': {}}}}


def obj(**entry: Any) -> dict[str, Any]:
    ours = {"manager": "outrigger", "operation": "Apply", "fieldsV1": FIELDS, **entry}
    other = {"manager": "mesh", "operation": "Update", "fieldsV1": {"f:spec": {"f:nodeName": {}}}}
    return {
        "kind": "Pod",
        "metadata": {"labels": {"a": "1", "b": "theirs"}, "managedFields": [other, ours]},
        "spec": {
            "nodeName": "theirs",
            "hosts": ["a", "b"],
            "containers": [
                {"name": "mesh", "image": "theirs"},
                {
                    "name": "sidecar",
                    "image": "s:1",
                    "args": ["one", {"two": 2}],
                    "terminationMessagePath": "a default",
                    "ports": [{"containerPort": 9, "protocol": "TCP"}, {"containerPort": 8080, "protocol": "TCP"}],
                    "securityContext": {"readOnlyRootFilesystem": True, "runAsUser": 7},
                },
            ],
        },
    }


def test_what_was_applied_is_found_and_nothing_of_others() -> None:
    assert owned_fields(obj(), "outrigger") == {
        "metadata": {"labels": {"a": "1"}},
        "spec": {
            "hosts": ["b"],
            "containers": [
                {
                    "name": "sidecar",
                    "image": "s:1",
                    "args": ["one", {"two": 2}],
                    "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                    "securityContext": {"readOnlyRootFilesystem": True},
                }
            ],
        },
    }


def test_what_is_gone_is_not_found() -> None:
    found = obj()
    del found["spec"]["containers"]
    found["metadata"]["labels"] = {}
    assert owned_fields(found, "outrigger") == {"metadata": {"labels": {}}, "spec": {"hosts": ["b"]}}


def test_only_what_was_applied_counts_and_no_subresource() -> None:
    assert owned_fields(obj(operation="Update"), "outrigger") == {}
    assert owned_fields(obj(subresource="status"), "outrigger") == {}
    assert owned_fields(obj(), "another") == {}
    assert owned_fields({"metadata": {}}, "outrigger") == {}

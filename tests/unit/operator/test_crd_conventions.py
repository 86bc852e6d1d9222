"""The CRD keeps the conventions of the Kubernetes API, as kube-api-linter checks them, and an API server's limits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from mcp_operator.api.crd import crd

CRD = crd()
VERSION = CRD["spec"]["versions"][0]
ROOT = VERSION["schema"]["openAPIV3Schema"]
ANNOTATION_LIMIT = 256 << 10
"""`kubectl apply` without --server-side keeps a copy in an annotation."""

# The sidecar's config has these names and shapes, and the core API those: one spelling for both is worth more here.
BOOLEANS = {
    "spec.audit.enabled",
    "spec.cache.enabled",
    "spec.circuitBreaker.enabled",
    "spec.health.enabled",
    "spec.log.calls",
    "spec.metrics.enabled",
    "spec.metrics.toolHistograms",
    "spec.podTemplate.server.securityContext.readOnlyRootFilesystem",
    "spec.podTemplate.server.volumeMounts[].readOnly",
    "spec.podTemplate.sidecar.securityContext.readOnlyRootFilesystem",
    "spec.podTemplate.sidecar.volumeMounts[].readOnly",
    "spec.podTemplate.volumes[].configMap.optional",
    "spec.podTemplate.volumes[].persistentVolumeClaim.readOnly",
    "spec.podTemplate.volumes[].secret.optional",
    "spec.retry.budget.enabled",
    "spec.retry.retryOn429",
    "spec.retry.retryOn503",
}
RATES = {"spec.limits.rate.requestsPerSecond", "spec.retry.budget.minPerSecond"}
MAPS = {
    "spec.cache.tools",
    "spec.monitoring.labels",
    "spec.podTemplate.annotations",
    "spec.podTemplate.labels",
    "spec.podTemplate.nodeSelector",
    "spec.retry.tools",
    "spec.service.annotations",
    "spec.service.labels",
}
RAW = {
    "spec.autoscaling.behavior",
    "spec.autoscaling.metrics[]",
    "spec.networkPolicy.egress[]",
    "spec.podTemplate.affinity",
    "spec.podTemplate.volumes[].ephemeral.volumeClaimTemplate",
    "spec.podTemplate.volumes[].projected.sources[]",
}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if path:
        yield path, schema
    for name, inner in schema.get("properties", {}).items():
        if path or name in ("spec", "status"):
            yield from nodes(inner, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*")


NODES = dict(nodes(ROOT))


def of(kind: str) -> dict[str, dict[str, Any]]:
    return {path: node for path, node in NODES.items() if node.get("type") == kind}


def test_every_node_has_a_type_and_every_field_a_description() -> None:
    for path, node in NODES.items():
        assert ("type" in node) != node.get("x-kubernetes-int-or-string", False), path
        if not path.endswith(("[]", ".*")):
            assert re.search(r"^[A-Z`].*\.$", node["description"], re.DOTALL), (path, node["description"])


def test_names_are_camel_case() -> None:
    for path in NODES:
        last = path.rpartition(".")[2].removesuffix("[]")
        assert re.fullmatch(r"[a-z][a-zA-Z0-9]*|\*", last), path


def test_every_string_list_and_map_has_a_bound() -> None:
    for path, node in NODES.items():
        if node.get("type") == "string" or node.get("x-kubernetes-int-or-string"):
            assert "enum" in node or "format" in node or node["maxLength"] > 0, path
        elif node.get("type") == "array":
            assert node["maxItems"] > 0, path
        elif "additionalProperties" in node:
            assert node["maxProperties"] > 0, path


def test_every_number_of_the_spec_has_bounds() -> None:
    for path, node in {**of("integer"), **of("number")}.items():
        if path.startswith("spec"):
            assert {"minimum", "maximum"} <= set(node), path


def test_integers_say_how_wide_they_are() -> None:
    assert {node.get("format") for node in of("integer").values()} <= {"int32", "int64"}


def test_every_list_says_how_it_is_merged() -> None:
    for path, node in of("array").items():
        kind = node["x-kubernetes-list-type"]
        keys = node.get("x-kubernetes-list-map-keys", [])
        assert bool(keys) == (kind == "map"), path
        assert set(keys) <= set(node["items"].get("required", [])), path
        if node["items"]["type"] != "object":
            assert kind in ("set", "atomic"), path


@pytest.mark.parametrize(
    "kind, allowed", [("boolean", BOOLEANS), ("number", RATES)], ids=["no new booleans", "no new floats"]
)
def test_what_conventions_advise_against_is_named(kind: str, allowed: set[str]) -> None:
    assert set(of(kind)) == allowed


def test_maps_are_labels_or_the_sidecars() -> None:
    maps = {path for path, node in NODES.items() if "additionalProperties" in node}
    others = {path for path in maps - MAPS if not path.endswith((".matchLabels", ".limits", ".requests"))}
    assert others == set()
    assert maps >= MAPS


def test_only_objects_of_the_kubernetes_api_are_open() -> None:
    assert {path for path, node in NODES.items() if "x-kubernetes-preserve-unknown-fields" in node} == RAW


def test_nothing_is_nullable_and_nothing_required_has_a_default() -> None:
    for path, node in NODES.items():
        assert "nullable" not in node, path
        required = node.get("required", [])
        assert set(required) <= set(node.get("properties", {})), path
        assert not [name for name in required if "default" in node["properties"][name]], path
        assert "null" not in node.get("enum", []), path


def test_there_is_no_phase() -> None:
    assert not [path for path in NODES if path.lower().endswith(("phase", ".state"))]


def test_status_is_optional_and_conditions_have_the_usual_shape() -> None:
    assert "status" not in ROOT["required"]
    conditions = ROOT["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    item = conditions["items"]
    assert set(item["required"]) == {"lastTransitionTime", "message", "reason", "status", "type"}
    assert item["properties"]["status"]["enum"] == ["True", "False", "Unknown"]
    assert item["properties"]["lastTransitionTime"]["format"] == "date-time"
    assert item["properties"]["observedGeneration"] == {
        "description": "The metadata.generation that it was found for.",
        "type": "integer",
        "format": "int64",
        "minimum": 0,
    }


def test_rules_say_what_to_write_and_where() -> None:
    for path, node in {"": ROOT, **NODES}.items():
        for rule in node.get("x-kubernetes-validations", []):
            assert set(rule) <= {"rule", "message", "fieldPath"}, path
            assert len(rule["message"]) <= 2048, path
            assert not rule["message"].endswith("."), path
            target: Any = node
            for step in rule.get("fieldPath", "").split(".")[1:]:
                target = target["properties"][step]


def test_what_rolls_says_so() -> None:
    assert NODES["spec.stdio.command"]["description"].endswith(" Rolls the pods.")
    assert NODES["spec.podTemplate.sidecar.resources.limits"]["description"].endswith(" Rolls the pods.")
    for live in ("spec.stdio.maxSessions", "spec.retry.maxRetries", "spec.front.tokens[].tools", "spec.replicas"):
        assert "Rolls" not in NODES[live]["description"], live


def test_bounds_and_defaults_are_in_the_description() -> None:
    assert NODES["spec.pool.max"]["description"] == (
        "Connections at most; streams are not counted. 1 to 10000. Default: 10."
    )
    assert NODES["spec.timeouts.totalTimeout"]["description"].endswith("Default: 5m, or timeout if that is longer.")


def test_names_and_scope() -> None:
    assert CRD["metadata"]["name"] == "mcpservers.outrigger.dev"
    assert CRD["spec"]["scope"] == "Namespaced"
    assert CRD["spec"]["names"] == {
        "categories": ["mcp"],
        "kind": "MCPServer",
        "listKind": "MCPServerList",
        "plural": "mcpservers",
        "singular": "mcpserver",
    }
    assert (VERSION["name"], VERSION["served"], VERSION["storage"]) == ("v1alpha1", True, True)


def test_subresources() -> None:
    assert VERSION["subresources"] == {
        "scale": {
            "labelSelectorPath": ".status.selector",
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
        },
        "status": {},
    }
    assert {"spec.replicas", "status.replicas", "status.selector"} <= set(NODES)


def test_columns_show_fields_that_exist() -> None:
    columns = VERSION["additionalPrinterColumns"]
    names = [column["name"] for column in columns]
    assert names == ["Ready", "Reason", "Era", "Tools", "Replicas", "URL", "Message", "Age"]
    for column in columns:
        path = column["jsonPath"].lstrip(".")
        plain = re.sub(r"\[\?\(.*?\)\]", "[]", path)
        assert plain in NODES or plain == "metadata.creationTimestamp", path


def test_it_can_be_applied_by_any_kubectl() -> None:
    assert len(json.dumps(CRD)) < ANNOTATION_LIMIT * 3 // 4

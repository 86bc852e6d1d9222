"""The CRD on a real API server: every rule, what is said about every field, columns, defaults, scale."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.api import Api, ApiError, eventually
from cluster.crds import install_crds
from cluster.servers import KINDS, mcp_server
from mcp_operator.api.rules import RULES, Rule
from mcp_operator.api.v1alpha1 import default

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
GOLDEN = Path(__file__).resolve().parents[2] / "unit" / "operator" / "golden"

Kubectl = Callable[..., str]


def placed(manifest: dict[str, Any], namespace: str) -> dict[str, Any]:
    metadata = {name: value for name, value in manifest["metadata"].items() if name != "uid"}
    return manifest | {"metadata": metadata | {"namespace": namespace}}


@pytest.fixture(scope="module")
def anywhere(api: Api) -> str:
    """A namespace for dry runs."""
    return "default"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_rule_accepts_and_refuses(api: Api, anywhere: str, rule: Rule) -> None:
    api.create(placed(rule.accepted, anywhere), dryRun="All", fieldValidation="Strict")
    with pytest.raises(ApiError) as refused:
        api.create(placed(rule.refused, anywhere), dryRun="All", fieldValidation="Strict")
    assert refused.value.status == 422
    assert rule.message in refused.value.message
    # one cause, or a user would be told what is not wrong
    assert refused.value.message.count("Invalid value") == 1, refused.value.message


def walk(schema: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, inner in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        found.append((where, inner))
        found += walk(inner, where)
        found += walk(inner.get("items", {}), where)
        more = inner.get("additionalProperties")
        found += walk(more, where) if isinstance(more, dict) else []
    return found


def schema_of(api: Api) -> dict[str, Any]:
    crd = api.get("customresourcedefinitions", None, "mcpservers.outrigger.dev")
    assert crd is not None
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def test_every_field_is_explained(api: Api) -> None:
    fields = walk(schema_of(api)["properties"]["spec"], "spec") + walk(schema_of(api)["properties"]["status"], "status")
    assert len(fields) > 100
    assert [path for path, inner in fields if len(inner.get("description", "")) < 9] == []


@pytest.mark.parametrize("field", ["", ".spec", ".spec.stdio", ".spec.retry", ".spec.front.tls", ".status.conditions"])
def test_explain_reads_like_documentation(kubectl: Kubectl, field: str) -> None:
    def explain() -> str:
        # the API server publishes what it knows of a CRD a moment after it serves it
        try:
            return kubectl("explain", f"mcpservers{field}")
        except subprocess.CalledProcessError as error:
            raise AssertionError(error.stderr) from error

    said = eventually(explain, "an explanation")
    assert "DESCRIPTION:" in said
    assert "<empty>" not in said.replace("\n", " ")
    assert "<no description>" not in said


def test_columns(api: Api, kubectl: Kubectl, namespace: str) -> None:
    api.create(mcp_server(namespace))
    header, row = kubectl("get", "mcpservers", "-n", namespace).splitlines()
    assert header.split()[0] == "NAME"
    assert {"READY", "REASON", "ERA", "TOOLS", "REPLICAS", "AGE"} <= set(header.split())
    assert row.split()[0] == "one"
    wide = kubectl("get", "mcpservers", "-n", namespace, "-o", "wide").splitlines()[0]
    assert "URL" in wide.split()


def test_category(api: Api, kubectl: Kubectl, namespace: str) -> None:
    api.create(mcp_server(namespace))
    assert "mcpserver.outrigger.dev/one" in kubectl("get", "mcp", "-n", namespace, "-o", "name")


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_of_the_code(api: Api, anywhere: str, kind: str) -> None:
    manifest = mcp_server(anywhere, kind=kind, cache={}, retry={}, circuitBreaker={}, front={}, service={})
    made = api.create(manifest, dryRun="All")
    assert made["spec"] == default(manifest)["spec"]


def test_unknown_field_is_refused(api: Api, anywhere: str) -> None:
    with pytest.raises(ApiError, match=r'unknown field "spec\.replica"'):
        api.create(mcp_server(anywhere, replica=2), dryRun="All", fieldValidation="Strict")


def test_scale(api: Api, no_operator: None, kubectl: Kubectl, namespace: str) -> None:
    api.create(mcp_server(namespace))
    kubectl("scale", "mcpserver/one", "-n", namespace, "--replicas=3")
    found = api.get("mcpservers", namespace, "one")
    assert found is not None
    assert found["spec"]["replicas"] == 3
    status = {"status": {"replicas": 3, "selector": "app.kubernetes.io/instance=one"}}
    api.patch("mcpservers", namespace, "one", status, subresource="status")
    scale = json.loads(kubectl("get", "mcpserver/one", "-n", namespace, "--subresource=scale", "-o", "json"))
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (3, 3)
    assert scale["status"]["selector"] == "app.kubernetes.io/instance=one"


def test_status_is_a_subresource(api: Api, no_operator: None, namespace: str) -> None:
    api.create(mcp_server(namespace) | {"status": {"tools": 7}})
    made = api.get("mcpservers", namespace, "one")
    assert made is not None
    assert "tools" not in (made.get("status") or {})
    generation = made["metadata"]["generation"]
    changed = api.patch("mcpservers", namespace, "one", {"status": {"tools": 7}}, subresource="status")
    assert (changed["metadata"]["generation"], changed["status"]["tools"]) == (generation, 7)


def manifests() -> list[Any]:
    found = []
    for file in sorted(GOLDEN.rglob("*.yaml")):
        for number, manifest in enumerate(yaml.safe_load_all(file.read_text())):
            if isinstance(manifest, dict) and "kind" in manifest:
                name = f"{file.relative_to(GOLDEN).with_suffix('')}-{number}-{manifest['kind']}"
                found.append(pytest.param(manifest, id=name))
    return found


@pytest.mark.parametrize("manifest", manifests())
def test_golden_manifest_is_accepted(api: Api, pod_monitors: None, anywhere: str, manifest: dict[str, Any]) -> None:
    api.apply(placed(manifest, anywhere), dryRun="All")


def test_goldens_are_there() -> None:
    assert len(manifests()) >= 20


def test_manifests_of_the_examples_are_accepted(api: Api, anywhere: str) -> None:
    found = 0
    for file in EXAMPLES.rglob("*.yaml"):
        for manifest in yaml.safe_load_all(file.read_text()):
            if isinstance(manifest, dict) and manifest.get("kind") == "MCPServer":
                api.create(placed(manifest, anywhere), dryRun="All", fieldValidation="Strict")
                found += 1
    assert found > 0


def test_crd_that_is_applied_again_does_not_change(api: Api) -> None:
    def generation() -> int:
        crd = api.get("customresourcedefinitions", None, "mcpservers.outrigger.dev")
        assert crd is not None
        return int(crd["metadata"]["generation"])

    before = generation()
    install_crds(api)
    assert generation() == before

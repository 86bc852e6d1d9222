"""Every scenario of charts/outrigger/ci renders to what an API server would take, and to restricted pods."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chart import kubernetes_schemas
from chart.rendering import CHART, NAMESPACE, SCENARIOS, Manifest, Rendered, render, render_text, run_helm
from chart.tools import kubeconform
from pod_security import violations

scenarios = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name.removesuffix("-values.yaml"))


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> str:
    return kubernetes_schemas.write_into(tmp_path_factory.mktemp("schemas"))


def conform(text: str, schemas: str) -> str:
    """What kubeconform complains of."""
    command = [kubeconform(), "-strict", "-output", "text", "-schema-location", schemas]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def pod_specs(manifests: Rendered) -> Iterator[tuple[str, dict[str, Any]]]:
    for manifest in manifests:
        if manifest["kind"] == "Pod":
            yield manifest["metadata"]["name"], manifest["spec"]
        elif "template" in manifest.get("spec", {}):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def test_there_are_scenarios() -> None:
    assert {path.name for path in SCENARIOS} >= {"default-values.yaml", "everything-values.yaml"}


@scenarios
def test_lint(scenario: Path) -> None:
    said = run_helm("lint", "--strict", CHART, "--values", scenario)
    assert "0 chart(s) failed" in said
    assert "[WARNING]" not in said


@scenarios
def test_conforms_to_the_schemas_of_its_kinds(scenario: Path, schemas: str) -> None:
    assert conform(render_text(scenario), schemas) == ""


@pytest.mark.parametrize(
    "old, new",
    [
        ("readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true"),
        ("replicas: 2", "replicas: two"),
        ("kind: PodDisruptionBudget", "kind: PodDisruptionBudge"),
        ("isolation: PerSession", "isolation: PerCaller"),
    ],
)
def test_what_does_not_conform_is_seen(schemas: str, old: str, new: str) -> None:
    text = render_text()
    assert old in text
    assert conform(text.replace(old, new), schemas)


@scenarios
def test_pods_are_restricted(scenario: Path) -> None:
    specs = dict(pod_specs(render(scenario)))
    assert specs
    assert {name: found for name, spec in specs.items() if (found := violations(spec))} == {}


@scenarios
def test_containers(scenario: Path) -> None:
    for name, spec in pod_specs(render(scenario)):
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["image"].rpartition(":")[2] != "latest", name
        assert spec["enableServiceLinks"] is False


@scenarios
def test_every_object_says_whose_it_is(scenario: Path) -> None:
    manifests = render(scenario)
    ours = [one for one in manifests if not one["metadata"]["name"].endswith(("-extra", "-text"))]
    for manifest in ours:
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "outrigger", manifest
        assert labels["app.kubernetes.io/managed-by"] == "Helm", manifest
        assert labels["app.kubernetes.io/part-of"] == "outrigger", manifest
        assert labels["helm.sh/chart"].startswith("outrigger-"), manifest


@scenarios
def test_namespaces_are_written(scenario: Path) -> None:
    """`helm template | kubectl apply` puts everything where `helm install` does."""
    cluster_wide = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    for manifest in render(scenario):
        if manifest["metadata"]["name"].endswith(("-extra", "-text")):
            continue
        assert ("namespace" in manifest["metadata"]) == (manifest["kind"] not in cluster_wide), manifest


@scenarios
def test_nothing_is_made_twice(scenario: Path) -> None:
    manifests = render(scenario)
    assert len(manifests.keys()) == len(manifests)


@scenarios
def test_rendering_is_repeatable(scenario: Path) -> None:
    """Nothing random, nothing looked up: GitOps tools see a difference only where there is one."""
    again = run_helm("template", "outrigger", CHART, "--namespace", NAMESPACE, "--values", scenario)
    assert again == render_text(scenario)
    for template in (CHART / "templates").rglob("*"):
        if template.is_file():
            text = template.read_text()
            for function in ("lookup ", "rand", "genCA", "genSigned", "uuidv4", " now", ".Capabilities"):
                assert function not in text.replace("helm.sh", ""), f"{template.name}: {function}"


def test_minimal_makes_little() -> None:
    manifests = render(CHART / "ci" / "minimal-values.yaml")
    assert manifests.keys() == {
        ("ConfigMap", NAMESPACE, "outrigger-operator"),
        ("Deployment", NAMESPACE, "outrigger-operator"),
    }
    account: Manifest = manifests.of("Deployment")["spec"]["template"]["spec"]
    assert account["serviceAccountName"] == "given"

"""What `helm package` makes: in step with the project, small enough for a release's Secret, without what tests need."""

from __future__ import annotations

import base64
import gzip
import json
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.rendering import CHART, SCENARIOS, render_text, run_helm

ROOT = CHART.parents[1]
HEAD: dict[str, Any] = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
MOST = 700_000
"""Bytes of a release in its Secret: a Secret may hold 1 MiB, and dashboards, rules and the CRD will grow."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Path in the package → content."""
    folder = tmp_path_factory.mktemp("package")
    run_helm("package", CHART, "--destination", folder)
    (package,) = folder.glob("*.tgz")
    assert package.name == f"outrigger-{HEAD['version']}.tgz"
    with tarfile.open(package) as archive:
        files = {member.name: archive.extractfile(member) for member in archive.getmembers() if member.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_is_of_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert HEAD["appVersion"] == project
    assert HEAD["version"] == project
    images = yaml.safe_load(HEAD["annotations"]["artifacthub.io/images"])
    assert {one["image"] for one in images} == {f"outrigger.local/{one['name']}:{project}" for one in images}
    assert {one["name"] for one in images} == {"operator", "sidecar", "sidecar-runtime"}


def test_annotations_are_of_the_crd() -> None:
    (crd,) = yaml.safe_load(HEAD["annotations"]["artifacthub.io/crds"])
    made = yaml.safe_load((ROOT / "crds" / "outrigger.dev_mcpservers.yaml").read_text(encoding="utf-8"))
    assert (crd["kind"], crd["name"]) == (made["spec"]["names"]["kind"], made["metadata"]["name"])
    assert crd["version"] == made["spec"]["versions"][0]["name"]
    (example,) = yaml.safe_load(HEAD["annotations"]["artifacthub.io/crdsExamples"])
    assert example == yaml.safe_load((ROOT / "examples" / "everything.yaml").read_text(encoding="utf-8"))


def test_holds_what_users_need(packed: dict[str, bytes]) -> None:
    names = {name.removeprefix("outrigger/") for name in packed}
    assert {"Chart.yaml", "README.md", "values.yaml", "values.schema.json", "templates/NOTES.txt"} <= names
    assert {name.partition("/")[0] for name in names} <= {
        ".helmignore", "Chart.yaml", "README.md", "files", "templates", "values.schema.json", "values.yaml",
    }  # fmt: skip
    for folder in ("dashboards", "rules"):
        written = {f"files/{folder}/{path.name}" for path in (CHART / "files" / folder).iterdir()}
        assert {name for name in names if name.startswith(f"files/{folder}/")} == written


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_a_release_fits_into_its_secret(packed: dict[str, bytes], scenario: Path) -> None:
    """As Helm stores it: the chart and what it rendered, as JSON, compressed, in base64 twice."""
    files = {name: base64.b64encode(content).decode() for name, content in packed.items()}
    text = json.dumps({"chart": files, "manifest": render_text(scenario)})
    assert len(base64.b64encode(base64.b64encode(gzip.compress(text.encode())))) < MOST


def test_refuses_an_old_cluster() -> None:
    said = run_helm("template", "outrigger", CHART, "--kube-version", "1.30.0")
    assert "kind: Deployment" in said
    run_helm("template", "outrigger", CHART, "--kube-version", "v1.30.2-gke.100")
    with pytest.raises(Exception, match="requires kubeVersion"):
        run_helm("template", "outrigger", CHART, "--kube-version", "1.29.9")

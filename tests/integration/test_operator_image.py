"""The operator's image, unpacked and run with nothing of this machine but the kernel."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from images.__main__ import build
from images.contents import recipes
from mcp_operator import __version__
from unpacked_image import Root, unpacked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "mcpservers" / "notes.yaml"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    wanted = [recipe for recipe in recipes() if recipe.name == "operator"]
    archives = build(wanted, tmp_path_factory.mktemp("images"))
    return unpacked(archives["operator"], tmp_path_factory.mktemp("unpacked") / "root")


def test_it_runs_the_operator(root: Root) -> None:
    assert root.command == ["outrigger", "run"]
    assert root.run("outrigger", "version").stdout == f"outrigger {__version__}\n"


def test_operator_starts_and_looks_for_an_api_server(root: Root) -> None:
    done = root.run(*root.command)
    assert done.returncode == 2
    assert "outrigger: there is no kubeconfig" in done.stderr
    assert "Traceback" not in done.stderr


def test_everything_that_it_does_can_be_imported(root: Root) -> None:
    probe = "import mcp_operator.runtime, mcp_operator.handlers, mcp_operator.cli_render, mcp_operator.kube.lease"
    done = root.run("python", "-c", probe)
    assert done.returncode == 0, done.stderr


def test_api_server_that_is_not_there_is_said_in_words(root: Root) -> None:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (root.path / "opt/kubeconfig").write_text(json.dumps(config))
    done = root.run("outrigger", "status", "--kubeconfig", "/opt/kubeconfig")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("outrigger: ")
    assert "Traceback" not in done.stderr


def test_manifests_are_rendered_in_it(root: Root) -> None:
    (root.path / "opt/notes.yaml").write_text(EXAMPLE.read_text())
    done = root.run("outrigger", "render", "-f", "/opt/notes.yaml")
    assert done.returncode == 0, done.stderr
    assert "kind: Deployment" in done.stdout


def test_data_plane_is_not_in_it(root: Root) -> None:
    names = ("mcp", "httptools", "mcp_sidecar.app", "mcp_sidecar.front", "mcp_sidecar.upstream")
    probe = f"import importlib.util as u; print(*[name for name in {names} if u.find_spec(name)])"
    assert root.run("python", "-c", probe).stdout == "\n"
    done = root.run("outrigger", "up", "-f", "/opt/notes.yaml")
    assert done.returncode == 1
    assert "the sidecar is not installed" in done.stderr


def test_it_has_byte_code_for_every_module(root: Root) -> None:
    site = next(root.path.glob("opt/outrigger/lib/python3*/site-packages"))
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    missing = [
        module
        for module in site.rglob("mcp_operator/**/*.py")
        if not (module.parent / "__pycache__" / f"{module.stem}.{tag}.pyc").exists()
    ]
    assert missing == []


def test_it_does_not_name_this_machine(root: Root) -> None:
    here = str(Path(__file__).resolve().parents[2]).encode()
    site = next(root.path.glob("opt/outrigger/lib/python3*/site-packages"))
    assert [path for path in site.rglob("*") if path.is_file() and here in path.read_bytes()] == []

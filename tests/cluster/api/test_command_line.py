"""The commands of `outrigger` against a real API server: what they print is taken, what is there is shown."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.api import Api, eventually
from cluster.control_plane import Cluster
from cluster.operator_process import OperatorProcess, program
from cluster.servers import mcp_server, settled

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "mcpservers"
FILES = sorted(EXAMPLES.glob("*.yaml"))

Kubectl = Callable[..., str]


def outrigger(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(program(*arguments), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout or done.stderr


def test_crds_can_be_applied(kubectl: Kubectl) -> None:
    said = kubectl(
        "apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-", input=outrigger("crds")
    )
    assert "mcpservers.outrigger.dev" in said


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_are_taken_as_they_are(kubectl: Kubectl, namespace: str, path: Path) -> None:
    text = path.read_text()
    kubectl("apply", "--server-side", "-n", namespace, "-f", "-", input=text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("pod_monitors")
def test_what_is_rendered_can_be_applied(kubectl: Kubectl, api: Api, namespace: str, path: Path) -> None:
    rendered = outrigger("render", "-f", str(path), "-n", namespace, "--session-keys", "random")
    kubectl("apply", "--server-side", "-f", "-", input=rendered)
    # real admission: the namespace wants restricted pods
    eventually(lambda: api.list("pods", namespace), "a pod")


def test_rights_can_be_applied(kubectl: Kubectl) -> None:
    said = kubectl("apply", "--dry-run=server", "-f", "-", input=outrigger("rbac", "--operator-namespace", "default"))
    assert "clusterrole.rbac.authorization.k8s.io/outrigger-operator" in said


def test_nothing_to_show_is_said(cluster: Cluster, namespace: str) -> None:
    said = outrigger("status", "--kubeconfig", str(cluster.kubeconfig), "-n", namespace)
    assert said == f"no MCPServers in namespace {namespace}\n"


def test_status_shows_what_is_wrong(cluster: Cluster, api: Api, operator: OperatorProcess, namespace: str) -> None:
    secret = {"valueFrom": {"secretKeyRef": {"name": "missing", "key": "token"}}}
    api.create(
        mcp_server(
            namespace, kind="remote", remote={"url": "http://127.0.0.1:9/mcp", "headers": [{"name": "X", **secret}]}
        )
    )
    settled(api, namespace)
    flags = ("--kubeconfig", str(cluster.kubeconfig), "-n", namespace)
    said = eventually(lambda: text if "missing" in (text := outrigger("status", *flags)) else None, "the Secret's name")
    header, row, *_ = said.splitlines()
    assert header.split()[:3] == ["NAME", "READY", "REASON"]
    assert row.split()[:2] == ["one", "False"]
    outrigger("status", *flags, "--check", code=1)
    everywhere = outrigger("status", "--kubeconfig", str(cluster.kubeconfig), "-A", "-o", "wide")
    assert any(line.split()[:2] == [namespace, "one"] for line in everywhere.splitlines())
    found = json.loads(outrigger("status", *flags, "-o", "json"))
    assert [one["metadata"]["name"] for one in found["items"]] == ["one"]

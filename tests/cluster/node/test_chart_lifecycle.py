"""The chart's whole life on a real cluster: install, upgrade from the last packaged chart, rollback, uninstall.

It comes before every test that shares the installed release (by its file's name), and leaves nothing behind.
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from chart.rendering import CHART
from cluster import deployed
from cluster.api import Api, eventually
from cluster.deployed import Deployed
from cluster.kubectl import Command
from cluster.node_cluster import NodeCluster
from cluster.operator_process import QUICK

pytestmark = pytest.mark.timeout(420)

Object = dict[str, Any]

PACKAGES = Path(__file__).resolve().parents[2] / "chart" / "packages"
CRD = "mcpservers.outrigger.dev"
NAMESPACE = "outrigger-system"
OPERATOR = "outrigger-operator"
WAIT = ("--wait", "--timeout", "150s")
OF_HELM = ("configmaps", "deployments", "networkpolicies", "poddisruptionbudgets", "rolebindings", "roles", "services")
OF_SERVERS = ("configmaps", "deployments", "networkpolicies", "pods", "replicasets", "secrets", "services")


@pytest.fixture(scope="module")
def empty(node_cluster: NodeCluster, helm: Command) -> NodeCluster:
    """The cluster, with no release on it."""
    assert json.loads(helm("list", "--all-namespaces", "--output", "json")) == [], "these tests must come first"
    eventually(lambda: node_cluster.api.request("GET", "/openapi/v2"), "the description of the API", timeout=60.0)
    return node_cluster


@pytest.fixture
def clean(empty: NodeCluster, helm: Command, api: Api) -> Iterator[None]:
    """Whatever a test leaves is removed: releases, the CRD, namespaces of releases."""
    yield
    for release in json.loads(helm("list", "--all-namespaces", "--output", "json")):
        at = ("--namespace", release["namespace"])
        helm("uninstall", release["name"], *at, "--wait", "--timeout", "100s", timeout=120)
    api.delete("customresourcedefinitions", None, CRD)
    eventually(lambda: api.get("customresourcedefinitions", None, CRD) is None, "no CRD", timeout=60.0)
    for role in api.list("clusterroles"):
        assert not role["metadata"]["name"].startswith(("outrigger", "one-", "two-")), role["metadata"]["name"]


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """Values of an operator that looks and polls often.

    Not the long lease of `QUICK`: with the release its rights go, so that nobody gives the Lease back, and the next
    release's operator waits until it is stale.
    """
    path = tmp_path / "quick.json"
    settings = {name: value for name, value in QUICK.items() if name != "leaderElection"}
    path.write_text(json.dumps({"operator": {"config": settings}}))
    return path


@pytest.fixture
def last_chart(tmp_path: Path) -> Path:
    """The last packaged chart, with a CRD that lacks a column of today's."""
    package = max(PACKAGES.glob("outrigger-*.tgz"), key=lambda path: Version(path.stem.removeprefix("outrigger-")))
    with tarfile.open(package) as archive:
        archive.extractall(tmp_path, filter="data")
    crd = tmp_path / "outrigger" / "templates" / "crds" / "mcpservers.yaml"
    text = crd.read_text()
    older = re.sub(r"        - name: Era\n(          .*\n)+", "", text, count=1)
    assert older != text
    crd.write_text(older)
    return tmp_path / "outrigger"


def columns(api: Api) -> set[str]:
    """What `kubectl get mcpservers` shows."""
    crd = api.get("customresourcedefinitions", None, CRD)
    assert crd is not None
    return {column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]}


def uids(server: Deployed) -> set[str]:
    """Of its pods."""
    return {pod["metadata"]["uid"] for pod in server.pods()}


def answers(server: Deployed, text: str) -> bool:
    """Whether a call through its Service does what it should."""
    return bool(json.loads(server.text("echo", text=text)) == {"text": text})


def changed(server: Deployed, revision: str) -> None:
    """The operator works: a change of the user's becomes new pods."""
    before = uids(server)
    server.roll(revision)
    server.ready()
    assert not before & uids(server)


def names(api: Api, resource: str, namespace: str | None = None) -> set[str]:
    """The names of all of these."""
    return {one["metadata"]["name"] for one in api.list(resource, namespace)}


def test_upgrade_rollback_uninstall(
    clean: None, api: Api, helm: Command, quick: Path, last_chart: Path, namespace: str
) -> None:
    """One release from the last packaged chart on; its MCPServer serves all the time, from the same pods."""
    at = ("--namespace", NAMESPACE)
    helm("install", "outrigger", last_chart, *at, "--create-namespace", "--values", quick, *WAIT, timeout=180)
    assert "Era" not in columns(api)
    server = deployed.deploy(api, namespace).ready()
    pods = uids(server)
    assert answers(server, "before")

    helm("upgrade", "outrigger", CHART, *at, "--reset-then-reuse-values", *WAIT, timeout=180)
    assert "Era" in columns(api)
    server.ready()
    assert uids(server) == pods
    assert answers(server, "upgraded")
    changed(server, "upgraded")

    helm("rollback", "outrigger", "1", *at, *WAIT, timeout=180)
    assert "Era" not in columns(api)
    changed(server, "rolled-back")
    helm("upgrade", "outrigger", CHART, *at, "--reset-then-reuse-values", *WAIT, timeout=180)
    server.ready()
    pods = uids(server)

    # crds.keep: what serves goes on, what is the operator's goes
    helm("uninstall", "outrigger", *at, "--wait", timeout=120)
    eventually(lambda: not api.list("pods", NAMESPACE), "no pod of the operator", timeout=60.0)
    assert {resource: names(api, resource, NAMESPACE) - {"kube-root-ca.crt"} for resource in OF_HELM} == {
        resource: set() for resource in OF_HELM
    }
    assert not {name for name in names(api, "clusterroles") if name.startswith("outrigger")}
    assert columns(api) >= {"Era"}
    assert server.object["status"]["readyReplicas"] == 1
    assert answers(server, "alone")
    assert uids(server) == pods

    # a new release takes over what it finds
    helm("install", "outrigger", CHART, *at, "--values", quick, *WAIT, timeout=180)
    changed(server, "taken-over")

    # crds.keep=false: nothing stays
    helm("upgrade", "outrigger", CHART, *at, "--reset-then-reuse-values", "--set", "crds.keep=false", timeout=120)
    helm("uninstall", "outrigger", *at, "--wait", timeout=120)
    eventually(lambda: api.get("customresourcedefinitions", None, CRD) is None, "no CRD", timeout=60.0)

    def nothing() -> bool:
        left = {resource: names(api, resource, namespace) - {"kube-root-ca.crt", "scripts"} for resource in OF_SERVERS}
        assert not any(left.values()), left
        return True

    eventually(nothing, "nothing of the MCPServer left", timeout=90.0)
    assert not any(names(api, resource, NAMESPACE) - {"kube-root-ca.crt"} for resource in OF_HELM)
    assert names(api, "secrets", NAMESPACE) == set()
    assert names(api, "leases", NAMESPACE) == {OPERATOR}, "what the README says stays"


def test_two_releases_in_namespaces_of_their_own(
    clean: None, api: Api, helm: Command, quick: Path, make_namespace: Callable[..., str]
) -> None:
    """Roles only: each works for its namespace; what is elsewhere is not touched."""
    first, second, other = make_namespace(), make_namespace(), make_namespace()
    common = ("--values", quick, "--set", "rbac.aggregateRoles=false,replicas=1", *WAIT)
    helm("install", "one", CHART, "--namespace", first, *common, "--set", f"watchNamespaces={{{first}}}", timeout=180)
    more = ("--set", f"watchNamespaces={{{second}}},crds.enabled=false")
    helm("install", "two", CHART, "--namespace", second, *common, *more, timeout=180)
    assert not {name for name in names(api, "clusterroles") if "outrigger" in name}

    servers = [deployed.deploy(api, namespace) for namespace in (first, second)]
    untouched = deployed.deploy(api, other)
    for server in servers:
        server.ready()
        assert answers(server, server.namespace)
    assert "status" not in untouched.object
    assert not api.list("deployments", other)

    helm("uninstall", "two", "--namespace", second, "--wait", timeout=120)
    changed(servers[0], "alone")
    assert answers(servers[1], "still")


def test_helm_test_makes_a_call(clean: None, api: Api, helm: Command, quick: Path) -> None:
    """`helm test` calls a tool through the Service, says so, and leaves nothing; where nothing works, it fails."""
    at = ("--namespace", NAMESPACE)
    helm("install", "outrigger", CHART, *at, "--create-namespace", "--values", quick, *WAIT, timeout=180)
    said = helm("test", "outrigger", *at, "--logs", "--timeout", "200s", timeout=240)
    assert "Phase:          Succeeded" in said
    assert "Failed" not in said
    assert "This is a simple text response for testing." in said
    assert f"http://outrigger-test.{NAMESPACE}.svc:8080/mcp" in said
    assert names(api, "mcpservers", NAMESPACE) == set()
    eventually(lambda: len(api.list("pods", NAMESPACE)) == 2, "the operator's pods only", timeout=60.0)

    api.patch("deployments", NAMESPACE, OPERATOR, {"spec": {"replicas": 0}})
    eventually(lambda: not api.list("pods", NAMESPACE), "no operator", timeout=60.0)
    with pytest.raises(subprocess.CalledProcessError):
        helm("test", "outrigger", *at, "--timeout", "8s", timeout=60)
    assert names(api, "mcpservers", NAMESPACE) == set()
    api.delete("pods", NAMESPACE, "outrigger-test")  # kept for whoever asks why


def test_edit_and_view_reach_mcp_servers(
    clean: None, api: Api, helm: Command, kubectl: Command, namespace: str
) -> None:
    """The cluster's own roles: `edit` may write MCPServers, `view` may read them."""
    helm("install", "outrigger", CHART, "--namespace", NAMESPACE, "--create-namespace", "--set", "replicas=0")
    for role in ("edit", "view"):
        kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}", "--namespace", namespace)

    def can(user: str, verb: str, subresource: str = "") -> bool:
        what = ("mcpservers", f"--subresource={subresource}", f"--as={user}", "--namespace", namespace)
        try:
            return kubectl("auth", "can-i", verb, *what).startswith("yes")
        except subprocess.CalledProcessError:
            return False

    def aggregated() -> bool:
        asked = ("edit", "create"), ("edit", "list"), ("edit", "update", "scale"), ("view", "list")
        return all(can(*each) for each in asked)

    eventually(aggregated, "the roles aggregated", timeout=60.0)
    for verb in ("get", "list", "watch"):
        assert can("view", verb)
        assert can("edit", verb)
    for verb in ("create", "update", "patch", "delete", "deletecollection"):
        assert can("edit", verb)
        assert not can("view", verb)
    assert can("edit", "update", "scale")
    assert not can("edit", "update", "status")


def test_the_last_package_is_an_older_chart() -> None:
    """Kept at each release: `helm package charts/outrigger -d tests/chart/packages`."""
    version = Version(yaml.safe_load((CHART / "Chart.yaml").read_text())["version"])
    kept = [Version(path.stem.removeprefix("outrigger-")) for path in PACKAGES.glob("outrigger-*.tgz")]
    assert kept
    assert max(kept) < version

"""The operator runs with exactly the rights that it asks for: enough for all it does, and not one more that it uses."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from cluster.api import Api, ApiError, eventually
from cluster.control_plane import ControlPlane
from cluster.crds import install_crds
from cluster.operator_process import ACCOUNT, OperatorProcess, install, uninstall
from cluster.servers import KINDS, mcp_server, settled, wait_for

Start = Callable[..., OperatorProcess]
NAMESPACE = "outrigger-test"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"


def refusals(control_plane: ControlPlane, mark: int, user: str) -> set[tuple[str, str]]:
    """(verb, resource) of every request of the user that was forbidden; not where a namespace of before is going."""
    namespaces = control_plane.api.list("namespaces")
    there = {one["metadata"]["name"] for one in namespaces if "deletionTimestamp" not in one["metadata"]} | {""}
    return {
        (one.verb, one.resource)
        for one in control_plane.audit(mark)
        if one.user == user and one.code == 403 and one.namespace in there
    }


def test_nothing_is_refused(
    api: Api, control_plane: ControlPlane, pod_monitors: None, start_operator: Start, namespace: str
) -> None:
    mark = control_plane.audit_mark()
    operator = start_operator().wait_until_leading()
    for kind in KINDS:
        everything = {"replicas": 2, "monitoring": {"podMonitor": "Enabled"}, "autoscaling": {"maxReplicas": 3}}
        api.apply(mcp_server(namespace, kind, kind=kind, **everything))
        settled(api, namespace, kind)
        api.apply(mcp_server(namespace, kind, kind=kind, networkPolicy={"mode": "Disabled"}))
        settled(api, namespace, kind)
    broken = mcp_server(namespace, "broken", kind="http")
    broken["spec"]["http"] = {**broken["spec"]["http"], "envFrom": [{"secretRef": {"name": "nowhere"}}]}
    api.create(broken)
    wait_for(api, namespace, "broken", "SecretsResolved", "False", "SecretMissing")
    eventually(lambda: api.list("events", namespace), "an Event")
    api.delete("mcpservers", namespace, "stdio")
    operator.stop()
    assert refusals(control_plane, mark, USER) == set()


@pytest.mark.parametrize("verb", ["list", "watch", "update", "patch", "delete"])
def test_secrets_are_read_by_name_only(
    api: Api, operator: OperatorProcess, kubectl: Callable[..., str], verb: str, namespace: str
) -> None:
    assert can(kubectl, "get", "secrets", namespace)
    assert can(kubectl, "create", "secrets", namespace)
    assert not can(kubectl, verb, "secrets", namespace)


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("create", "pods"),
        ("delete", "pods"),
        ("create", "pods/exec"),
        ("create", "pods/attach"),
        ("get", "pods/proxy"),
        ("get", "pods/log"),
        ("update", "mcpservers.outrigger.dev"),
        ("patch", "mcpservers.outrigger.dev"),
        ("delete", "mcpservers.outrigger.dev"),
        ("delete", "deployments.apps"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
        ("impersonate", "users"),
        ("create", "serviceaccounts/token"),
        ("list", "nodes"),
        ("list", "namespaces"),
    ],
)
def test_what_it_may_not(operator: OperatorProcess, kubectl: Callable[..., str], verb: str, resource: str) -> None:
    assert not can(kubectl, verb, resource, "default")


def can(kubectl: Callable[..., str], verb: str, resource: str, namespace: str) -> bool:
    resource, _, subresource = resource.partition("/")
    more = [f"--subresource={subresource}"] if subresource else []
    try:
        said = kubectl("auth", "can-i", verb, resource, *more, "-n", namespace, f"--as={USER}")
    except subprocess.CalledProcessError as error:  # it exits with 1 for a no
        said = error.stdout
    return {"yes": True, "no": False}[said.strip().partition(" ")[0]]


def test_it_really_cannot_list_secrets(operator: OperatorProcess, control_plane: ControlPlane) -> None:
    access = control_plane.service_account(NAMESPACE, ACCOUNT)
    with pytest.raises(ApiError) as refused:
        access.api().list("secrets")
    assert refused.value.status == 403


def test_in_some_namespaces_only(
    api: Api, control_plane: ControlPlane, start_operator: Start, make_namespace: Callable[[], str]
) -> None:
    """Roles only: nothing cluster-wide is granted, asked for, or needed."""
    own, watched, other = f"{NAMESPACE}-own", make_namespace(), make_namespace()
    mark = control_plane.audit_mark()
    clusterwide = [api.get(kind, None, ACCOUNT) for kind in ("clusterroles", "clusterrolebindings")]
    for kind in ("clusterrolebindings", "clusterroles"):
        api.delete(kind, None, ACCOUNT)
    try:
        access = install(control_plane, own, [watched])
        operator = start_operator(name="namespaced", access=access, namespace=own, watch_namespaces=[watched])
        operator.wait_until_leading()
        assert api.get("clusterroles", None, ACCOUNT) is None
        api.create(mcp_server(other))
        api.create(mcp_server(watched))
        settled(api, watched)
        api.delete("services", watched, "one")
        eventually(lambda: api.get("services", watched, "one"), "the Service made anew")
        api.create(mcp_server(watched, "two"))
        settled(api, watched, "two")
        assert not api.list("deployments", other)
        assert not (api.get("mcpservers", other, "one") or {}).get("status")
        operator.stop()
        assert refusals(control_plane, mark, f"system:serviceaccount:{own}:{ACCOUNT}") == set()
    finally:
        uninstall(control_plane, own)
        for manifest in filter(None, clusterwide):
            manifest["metadata"] = {name: manifest["metadata"][name] for name in ("name", "labels")}
            api.apply({"apiVersion": "rbac.authorization.k8s.io/v1", **manifest})


def test_waits_for_its_crd(control_plane: ControlPlane, start_operator: Start) -> None:
    """Started before the CRD is there: it says so, and begins when it comes."""
    api = control_plane.api
    for server in api.list("mcpservers"):
        api.delete("mcpservers", server["metadata"]["namespace"], server["metadata"]["name"])
    api.delete("customresourcedefinitions", None, "mcpservers.outrigger.dev")
    eventually(lambda: api.get("customresourcedefinitions", None, "mcpservers.outrigger.dev") is None, "no CRD")
    try:
        operator = start_operator(ready=False)
        eventually(lambda: "outrigger crds" in operator.process.log(), "what to do in its log")
    finally:
        install_crds(api)
    operator.wait_until_leading()

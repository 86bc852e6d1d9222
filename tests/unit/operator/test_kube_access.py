"""The operator's rights: as few as possible, and the same in every form."""

import pytest

from mcp_operator.kube.access import ACCESS, ALLOWED, Scope, ServiceAccount, cluster_role, leader_role, manifests, roles
from mcp_operator.kube.resources import LEASES, MCP_SERVERS, PODS, RESOURCES, SECRETS, Resource, resource_of

OPERATOR = ServiceAccount("outrigger-system", "operator")


def verbs(resource: Resource, subresource: str = "") -> set[str]:
    return {verb for one, sub, verb in ALLOWED if (one, sub) == (resource, subresource)}


def test_secrets_are_never_listed_nor_changed() -> None:
    assert verbs(SECRETS) == {"get", "create"}


def test_nothing_but_the_status_of_an_mcp_server_is_written() -> None:
    assert verbs(MCP_SERVERS) == {"get", "list", "watch"}
    assert verbs(MCP_SERVERS, "status") == {"patch"}


def test_pods_are_neither_made_nor_deleted_nor_entered() -> None:
    assert verbs(PODS) == {"list", "watch", "patch"}
    assert {sub for one, sub, _ in ALLOWED if one is PODS} == {""}


def test_no_wildcards_no_escalation() -> None:
    for manifest in manifests(OPERATOR):
        for rule in manifest.get("rules", []):
            text = str(rule)
            assert "*" not in text
            assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])
            assert not {"rbac.authorization.k8s.io", "apiextensions.k8s.io"} & set(rule["apiGroups"])


def test_every_resource_is_in_the_table_with_a_reason() -> None:
    assert {access.resource for access in ACCESS} == set(RESOURCES)
    assert all(len(access.why) > 10 for access in ACCESS)


def test_cluster_role_is_the_table() -> None:
    granted = {
        (group, *(plural.split("/") if "/" in plural else (plural, "")), verb)
        for rule in cluster_role()["rules"]
        for group in rule["apiGroups"]
        for plural in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {(one.group, one.plural, sub, verb) for one, sub, verb in ALLOWED if one is not LEASES}
    assert granted == asked


def test_namespaced_mode_needs_nothing_cluster_wide() -> None:
    made = manifests(OPERATOR, namespaces=("a", "b"))
    assert {manifest["kind"] for manifest in made} == {"Role", "RoleBinding"}
    assert [manifest["metadata"]["namespace"] for manifest in made] == ["a", "a", "b", "b", *["outrigger-system"] * 2]
    role, binding = roles(["a"], OPERATOR)
    assert role["rules"] == cluster_role()["rules"]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "outrigger-operator"}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "namespace": "outrigger-system", "name": "operator"}]


def test_lease_is_this_one_in_the_operators_namespace() -> None:
    role, binding = leader_role(OPERATOR, lease="the-lease")
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "outrigger-system"
    assert role["rules"] == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "verbs": ["get", "update"],
            "resourceNames": ["the-lease"],
        },
    ]
    assert {access.resource for access in ACCESS if access.scope is Scope.OWN} == {LEASES}


def test_names_of_roles_do_not_collide() -> None:
    named = [
        (manifest["kind"], manifest["metadata"].get("namespace"), manifest["metadata"]["name"])
        for manifest in manifests(ServiceAccount("a"), namespaces=("a", "b"))
    ]
    assert len(named) == len(set(named)) == 6


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (PODS, "/api/v1/namespaces/prod/pods/one"),
        (MCP_SERVERS, "/apis/outrigger.dev/v1alpha1/namespaces/prod/mcpservers/one"),
    ],
)
def test_paths(resource: Resource, expected: str) -> None:
    assert resource.path("prod", "one") == expected
    assert resource.path("prod", "one", "status") == f"{expected}/status"
    assert resource.path("prod") == expected.removesuffix("/one")
    assert resource.path() == expected.replace("/namespaces/prod", "").removesuffix("/one")


def test_name_of_a_user_cannot_lead_elsewhere() -> None:
    assert SECRETS.path("prod", "../pods/x?y#z") == "/api/v1/namespaces/prod/secrets/..%2Fpods%2Fx%3Fy%23z"
    for name in ("", ".", ".."):
        with pytest.raises(ValueError, match="name of an object"):
            SECRETS.path("prod", name)


def test_resource_of_a_manifest() -> None:
    for resource in RESOURCES:
        assert resource_of({"apiVersion": resource.api_version, "kind": resource.kind}) is resource
    with pytest.raises(ValueError, match="v1 Node"):
        resource_of({"apiVersion": "v1", "kind": "Node"})
    assert (str(PODS), str(MCP_SERVERS)) == ("pods", "mcpservers.outrigger.dev")

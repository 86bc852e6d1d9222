"""What the chart makes of its values, object by object."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import yaml

from chart.rendering import CHART, NAMESPACE, Rendered, merged, nested, notes, render
from mcp_operator.config_loading import load
from mcp_operator.kube import access

OPERATOR = "outrigger-operator"


def config(manifests: Rendered) -> dict[str, Any]:
    text = manifests.of("ConfigMap", OPERATOR)["data"]["config.yaml"]
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def container(manifests: Rendered) -> dict[str, Any]:
    (only,) = manifests.of("Deployment")["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = only
    return found


# The operator


def test_the_operator_takes_its_configuration(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that the chart writes is one that `outrigger run` loads, with what the user gave."""
    values = {
        "watchNamespaces": ["tools"],
        "image": {"registry": "registry.example/x", "tag": "9.9", "pullSecrets": ["key"]},
        "monitoring": {"from": [{"podSelector": {}}]},
        "operator": {"config": {"workers": 9, "log": {"level": "Debug"}, "images": {"sidecar": "own/sidecar:1"}}},
    }
    manifests = render(values)
    file = tmp_path / "config.yaml"
    file.write_text(manifests.of("ConfigMap", OPERATOR)["data"]["config.yaml"])
    arguments = container(manifests)["args"]
    assert arguments[:2] == ["run", "--config"]
    loaded = load(str(file), environ={})
    assert loaded.watch_namespaces == ("tools",)
    assert loaded.workers == 9
    assert len(loaded.monitoring_from) == 1
    assert loaded.log.level == "Debug"
    assert loaded.images.sidecar_image == "own/sidecar:1"
    assert loaded.images.sidecar_runtime_image == "registry.example/x/sidecar-runtime:9.9"
    assert loaded.images.pull_secrets == ("key",)
    labels = manifests.of("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert loaded.operator_labels.items() <= labels.items()
    (mount,) = (one for one in container(manifests)["volumeMounts"] if one["name"] == "config")
    assert arguments[2] == f"{mount['mountPath']}/config.yaml"


def test_a_change_of_its_configuration_rolls_the_operator() -> None:
    def annotations(values: dict[str, Any]) -> dict[str, str]:
        manifests = render(values)
        found: dict[str, str] = manifests.of("Deployment")["spec"]["template"]["metadata"]["annotations"]
        text = manifests.of("ConfigMap", OPERATOR)["data"]["config.yaml"].rstrip("\n")
        assert found["checksum/config"] == hashlib.sha256(text.encode()).hexdigest()
        return found

    assert annotations({}) != annotations({"operator": {"config": {"workers": 9}}})
    assert annotations({}) == annotations({"commonLabels": {"a": "b"}, "resources": {}})


def test_the_selector_is_what_no_value_changes() -> None:
    plain = render()
    everything = render(CHART / "ci" / "everything-values.yaml")
    assert plain.of("Deployment")["spec"]["selector"] == everything.of("Deployment")["spec"]["selector"]
    for manifests in (plain, everything):
        labels = manifests.of("Deployment")["spec"]["template"]["metadata"]["labels"].items()
        for selector in (
            manifests.of("Deployment")["spec"]["selector"]["matchLabels"],
            manifests.of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            manifests.of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
            manifests.of("Service")["spec"]["selector"],
        ):
            assert selector.items() <= labels


def test_the_test_pod_is_not_the_operators() -> None:
    manifests = render()
    selector = manifests.of("Deployment")["spec"]["selector"]["matchLabels"]
    assert not selector.items() <= manifests.of("Pod")["metadata"]["labels"].items()


def test_users_labels_never_replace_the_charts() -> None:
    name = "app.kubernetes.io/name"
    manifests = render({"commonLabels": {name: "x"}, "podLabels": {name: "x"}, "dashboards": {"labels": {name: "x"}}})
    for manifest in manifests:
        assert manifest["metadata"]["labels"][name] != "x"


def test_probes_and_ports() -> None:
    manifests = render()
    operator = container(manifests)
    assert operator["ports"] == [{"name": "admin", "containerPort": 8081}]
    assert operator["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "admin"}
    assert operator["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
    assert {"name": "OUTRIGGER_OPERATOR__ADMIN__HOST", "value": "0.0.0.0"} in operator["env"]
    moved = render(nested("operator.config", {"admin": {"port": 9999, "host": "10.0.0.1"}}))
    assert container(moved)["ports"][0]["containerPort"] == 9999
    assert moved.of("Service")["spec"]["ports"][0]["port"] == 9999
    assert moved.of("NetworkPolicy")["spec"]["ingress"][0]["ports"] == [{"port": 9999, "protocol": "TCP"}]
    assert {"name": "OUTRIGGER_OPERATOR__ADMIN__HOST", "value": "10.0.0.1"} in container(moved)["env"]


def test_images() -> None:
    digest = "sha256:" + "a" * 64
    values = {"image": {"registry": "r.example/p", "tag": "1.2", "digests": {"sidecarRuntime": digest}}}
    manifests = render(values)
    assert container(manifests)["image"] == "r.example/p/operator:1.2"
    assert config(manifests)["images"]["sidecarRuntime"] == f"r.example/p/sidecar-runtime:1.2@{digest}"
    assert "sidecar" not in config(manifests)["images"]
    assert manifests.of("Pod")["spec"]["containers"][0]["image"] == f"r.example/p/sidecar-runtime:1.2@{digest}"
    pinned = render(merged(values, nested("image.digests.operator", digest)))
    assert container(pinned)["image"] == f"r.example/p/operator:1.2@{digest}"


def test_disruption_budget() -> None:
    assert render().of("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert render({"replicas": 1}).all("PodDisruptionBudget") == []
    least = render(nested("podDisruptionBudget.minAvailable", 0)).of("PodDisruptionBudget")["spec"]
    assert least["minAvailable"] == 0
    assert "maxUnavailable" not in least


def test_network_policy() -> None:
    spec = render().of("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"][0]["from"] == [{"namespaceSelector": {}}]
    peers = [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]
    rules = [{"ports": [{"port": 6443}]}]
    spec = render({"networkPolicy": {"from": peers, "egress": rules}}).of("NetworkPolicy")["spec"]
    assert spec["ingress"][0]["from"] == peers
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == rules


def test_spread_selects_its_own_pods() -> None:
    own = {"matchLabels": {"app.kubernetes.io/name": OPERATOR, "app.kubernetes.io/instance": "outrigger"}}
    given = {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    full = {**given, "labelSelector": {"matchLabels": {"a": "b"}}}
    spec = render({"topologySpreadConstraints": [given, full]}).of("Deployment")["spec"]["template"]["spec"]
    first, second = spec["topologySpreadConstraints"]
    assert first == {**given, "labelSelector": own}
    assert second["labelSelector"]["matchLabels"]["a"] == "b"


# Rights


@pytest.mark.parametrize("namespaces", [[], ["tools"], ["tools", "research"]])
def test_rights_are_those_that_the_operator_asks_for(namespaces: list[str]) -> None:
    """The same as `outrigger rbac` prints, but for labels."""

    def bare(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
        without = [
            {**one, "metadata": {name: text for name, text in one["metadata"].items() if name != "labels"}}
            for one in made
        ]
        return sorted(without, key=lambda one: str((one["kind"], one["metadata"])))

    wanted = access.manifests(access.ServiceAccount(NAMESPACE, OPERATOR), namespaces=namespaces)
    rendered = render({"watchNamespaces": namespaces, "rbac": {"aggregateRoles": False}})
    kinds = {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    assert bare([one for one in rendered if one["kind"] in kinds]) == bare(wanted)


def test_the_lease_is_the_one_that_the_rights_name() -> None:
    rendered = render(nested("operator.config.leaderElection.leaseName", "mine"))
    rules = rendered.of("Role", f"{OPERATOR}-leader")["rules"]
    assert [rule.get("resourceNames") for rule in rules] == [None, ["mine"]]
    assert config(rendered)["leaderElection"]["leaseName"] == "mine"


def test_no_right_in_the_cluster_with_namespaces() -> None:
    rendered = render({"watchNamespaces": ["tools"], "rbac": {"aggregateRoles": False}})
    assert not [one for one in rendered if one["kind"].startswith("ClusterRole")]


def test_aggregated_roles() -> None:
    rendered = render()
    editor = rendered.of("ClusterRole", "outrigger-mcpserver-editor")
    viewer = rendered.of("ClusterRole", "outrigger-mcpserver-viewer")
    aggregate = "rbac.authorization.k8s.io/aggregate-to-"
    for role, to in ((editor, {"admin", "edit"}), (viewer, {"admin", "edit", "view"})):
        labels = role["metadata"]["labels"]
        assert {name.removeprefix(aggregate) for name in labels if name.startswith(aggregate)} == to
        assert {group for rule in role["rules"] for group in rule["apiGroups"]} == {"outrigger.dev"}
    assert {verb for rule in viewer["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert "mcpservers/status" not in {name for rule in editor["rules"] for name in rule["resources"]}


def test_a_given_service_account_is_bound() -> None:
    rendered = render({"serviceAccount": {"create": False, "name": "given"}})
    assert rendered.all("ServiceAccount") == []
    for binding in (*rendered.all("ClusterRoleBinding"), *rendered.all("RoleBinding")):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "namespace": NAMESPACE, "name": "given"}]


# The CRD


def test_the_crd_is_the_one_of_the_repository() -> None:
    made = render().of("CustomResourceDefinition")
    (ours,) = yaml.safe_load_all((CHART.parents[1] / "crds" / "outrigger.dev_mcpservers.yaml").read_text())
    assert made["spec"] == ours["spec"]
    assert made["metadata"]["name"] == ours["metadata"]["name"]
    assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_crd_goes_where_it_is_not_kept() -> None:
    assert "annotations" not in render(nested("crds.keep", False)).of("CustomResourceDefinition")["metadata"]
    assert render(nested("crds.enabled", False)).all("CustomResourceDefinition") == []


# The test


def test_the_test_runs_where_the_operator_works() -> None:
    def where(watched: list[str]) -> set[str]:
        rendered = render({"watchNamespaces": watched})
        return {rendered.of(kind)["metadata"]["namespace"] for kind in ("Pod", "MCPServer")}

    assert where([]) == {NAMESPACE}
    assert where(["tools", NAMESPACE]) == {NAMESPACE}
    assert where(["tools", "research"]) == {"tools"}


def test_the_test_makes_what_the_example_has() -> None:
    (example,) = yaml.safe_load_all((CHART.parents[1] / "examples" / "everything.yaml").read_text())
    made = render().of("MCPServer")
    assert made["spec"] == example["spec"]
    pod = render().of("Pod")
    assert f"http://{made['metadata']['name']}.{NAMESPACE}.svc:8080/mcp" in pod["spec"]["containers"][0]["command"][-1]
    for hook in (made, pod):
        assert hook["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert "hook-succeeded" in hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"]


# What the user is told


def test_notes_say_what_to_type_next() -> None:
    said = notes()
    assert f"kubectl -n {NAMESPACE} rollout status deployment/{OPERATOR}" in said
    assert f"helm test outrigger -n {NAMESPACE}" in said
    (manifest,) = yaml.safe_load_all(said.partition("<<END\n")[2].partition("  END")[0])
    (example,) = yaml.safe_load_all((CHART.parents[1] / "examples" / "everything.yaml").read_text())
    assert manifest == example
    assert "kubectl wait --for=condition=Ready mcpserver/everything" in said


@pytest.mark.parametrize(
    "values, words",
    [
        ({"watchNamespaces": ["tools"]}, "kubectl wait -n tools --for=condition=Ready"),
        ({"watchNamespaces": ["tools", "more"]}, "for MCPServers in tools, more."),
        ({"crds": {"enabled": False}}, "The CRD mcpservers.outrigger.dev is not part of this release"),
        ({"crds": {"keep": False}}, "helm uninstall will delete the CRD, every MCPServer and its pods"),
        ({"replicas": 1}, "set replicas=2"),
        ({"monitoring": {"podMonitor": {"enabled": True}}}, "set monitoring.from to where it runs"),
    ],
)
def test_notes_are_about_the_values(values: dict[str, Any], words: str) -> None:
    assert words in notes(values)
    assert words not in notes()


# The user's own


def test_extra_objects_are_templates() -> None:
    given = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-a"}},
        'apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ include "outrigger.operatorName" . }}-b\n',
    ]
    made = render({"extraObjects": given}).all("ConfigMap")
    assert {"outrigger-a", f"{OPERATOR}-b"} <= {one["metadata"]["name"] for one in made}


def test_common_labels_are_everywhere() -> None:
    for manifest in render({"commonLabels": {"team": "platform"}}):
        assert manifest["metadata"]["labels"]["team"] == "platform", manifest["kind"]

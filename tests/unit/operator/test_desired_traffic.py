"""Who reaches the pods, how many there are, and who may take them away."""

from __future__ import annotations

from typing import Any

import pytest

from desired_goldens import CLUSTER, IMAGES, object_of, wanted
from mcp_operator.api.v1alpha1 import parse
from mcp_operator.config import OperatorConfig
from mcp_operator.desired import Cluster, desired

SAME_NAMESPACE = {"podSelector": {}}
PEER = {"namespaceSelector": {"matchLabels": {"team": "blue"}}}


def made(cluster: Cluster = CLUSTER, **spec: Any) -> dict[str, dict[str, Any]]:
    """Kind -> manifest."""
    metadata = {"name": "time", "namespace": "tools", "uid": "u"}
    shell = {"apiVersion": "outrigger.dev/v1alpha1", "kind": "MCPServer", "metadata": metadata}
    server = parse({**shell, "spec": {"stdio": {"command": "x"}, **spec}})
    return {each["kind"]: each for each in desired(server, cluster, IMAGES).manifests}


def ingress(cluster: Cluster = CLUSTER, **spec: Any) -> dict[str, Any]:
    """Port -> who may reach it; None for everybody."""
    rules = made(cluster, **spec)["NetworkPolicy"]["spec"]["ingress"]
    return {rule["ports"][0]["port"]: rule.get("from") for rule in rules}


def test_service_sends_to_the_named_port() -> None:
    (port,) = made(service={"port": 80})["Service"]["spec"]["ports"]
    assert port == {"name": "mcp", "port": 80, "targetPort": "mcp", "protocol": "TCP", "appProtocol": "http"}


def test_service_with_tls_says_https() -> None:
    assert object_of(wanted("remote"), "Service")["spec"]["ports"][0]["appProtocol"] == "https"


def test_callers_come_from_the_same_namespace_and_where_the_user_says() -> None:
    assert ingress()["mcp"] == [SAME_NAMESPACE]
    assert ingress(networkPolicy={"from": [PEER]})["mcp"] == [SAME_NAMESPACE, PEER]


@pytest.mark.parametrize("kind", ["NodePort", "LoadBalancer"])
def test_a_service_for_the_outside_is_open_unless_callers_are_named(kind: str) -> None:
    assert ingress(service={"type": kind})["mcp"] is None
    assert ingress(service={"type": kind}, networkPolicy={"from": [PEER]})["mcp"] == [SAME_NAMESPACE, PEER]


def test_admin_port_is_for_the_operator_and_prometheus() -> None:
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "outrigger-system"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "outrigger-operator"}},
    }
    assert ingress()["admin"] == [operator]
    assert ingress(monitoring={"from": [PEER]})["admin"] == [operator, PEER]
    assert ingress(service={"type": "LoadBalancer"})["admin"] == [operator]


def test_admin_port_of_all_is_for_whom_the_operators_configuration_names() -> None:
    everywhere = Cluster(monitoring_from=OperatorConfig.model_validate({"monitoringFrom": [PEER]}).monitoring_from)
    other = {"namespaceSelector": {"matchLabels": {"a": "b"}}}
    assert ingress(everywhere)["admin"] == [PEER]
    assert ingress(everywhere, monitoring={"from": [other]})["admin"] == [PEER, other]
    assert PEER not in ingress(everywhere)["mcp"]


def test_admin_port_is_closed_where_nobody_is_known_to_need_it() -> None:
    assert "admin" not in ingress(Cluster())
    assert ingress(Cluster(), monitoring={"from": [PEER]})["admin"] == [PEER]


def test_peers_keep_their_shape() -> None:
    assert object_of(wanted("remote"), "NetworkPolicy")["spec"]["ingress"][0]["from"][1:] == [
        {
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "cart"]}]},
            "namespaceSelector": {"matchLabels": {"team": "shop"}},
        },
        {"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.9.0/24"]}},
    ]
    written_out = [{"podSelector": {"matchLabels": {}, "matchExpressions": []}}]  # the API server drops empty ones
    assert ingress(networkPolicy={"from": written_out})["mcp"] == [SAME_NAMESPACE, SAME_NAMESPACE]
    everyone = ingress(networkPolicy={"from": [{"namespaceSelector": {}}]})["mcp"]
    assert everyone == [SAME_NAMESPACE, {"namespaceSelector": {}}]


def test_egress_is_free_until_it_is_said() -> None:
    assert made()["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress"]
    assert "egress" not in made()["NetworkPolicy"]["spec"]


def test_replicas_reach_each_other_whatever_else_they_may_reach() -> None:
    pods = {"app.kubernetes.io/instance": "time", "app.kubernetes.io/name": "mcpserver"}
    siblings = {"to": [{"podSelector": {"matchLabels": pods}}]}
    for rules in ([], [{"to": [PEER]}]):
        spec = made(networkPolicy={"egress": rules})["NetworkPolicy"]["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert spec["egress"] == [*rules, siblings]


def test_network_policy_can_be_disabled() -> None:
    assert "NetworkPolicy" not in made(networkPolicy={"mode": "Disabled"})


@pytest.mark.parametrize(
    "spec, budget",
    [
        ({}, None),
        ({"replicas": 0}, None),
        ({"replicas": 2}, {"maxUnavailable": 1}),
        ({"replicas": 2, "disruption": {"minAvailable": 1}}, {"minAvailable": 1}),
        ({"replicas": 2, "disruption": {"maxUnavailable": 0}}, {"maxUnavailable": 0}),
        ({"replicas": 2, "disruption": {"maxUnavailable": "30%"}}, {"maxUnavailable": "30%"}),
        ({"replicas": 2, "disruption": {"mode": "Disabled"}}, None),
        ({"replicas": 1, "autoscaling": {"minReplicas": 1, "maxReplicas": 3}}, None),
        ({"replicas": 1, "autoscaling": {"minReplicas": 2, "maxReplicas": 3}}, {"maxUnavailable": 1}),
        ({"replicas": 3, "autoscaling": {"minReplicas": 1, "maxReplicas": 3}}, {"maxUnavailable": 1}),
    ],
)
def test_disruption_budget_from_two_replicas_up(spec: dict[str, Any], budget: dict[str, Any] | None) -> None:
    found = made(**spec).get("PodDisruptionBudget")
    if budget is None:
        assert found is None
        return
    assert found is not None
    assert {key: found["spec"][key] for key in ("minAvailable", "maxUnavailable") if key in found["spec"]} == budget
    assert found["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def cpu(percent: int) -> dict[str, Any]:
    target = {"type": "Utilization", "averageUtilization": percent}
    return {
        "type": "ContainerResource",
        "containerResource": {"name": "cpu", "container": "sidecar", "target": target},
    }


def test_autoscaler_scales_the_mcpserver() -> None:
    assert "HorizontalPodAutoscaler" not in made()
    spec = made(autoscaling={"maxReplicas": 4})["HorizontalPodAutoscaler"]["spec"]
    assert spec == {
        "scaleTargetRef": {"apiVersion": "outrigger.dev/v1alpha1", "kind": "MCPServer", "name": "time"},
        "minReplicas": 1,
        "maxReplicas": 4,
        "metrics": [cpu(80)],
    }


def test_metrics_of_the_autoscaler() -> None:
    own = {"type": "Pods", "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "5"}}}

    def metrics(**autoscaling: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = made(autoscaling={"maxReplicas": 4, **autoscaling})["HorizontalPodAutoscaler"][
            "spec"
        ]["metrics"]
        return found

    assert metrics(targetCPUUtilizationPercentage=50) == [cpu(50)]
    assert metrics(metrics=[own]) == [own]
    assert metrics(metrics=[own], targetCPUUtilizationPercentage=50) == [cpu(50), own]
    # null in what the user passes on would be a value to server-side apply
    assert metrics(metrics=[{**own, "resource": None}]) == [own]


def test_replicas_are_the_deployments_whoever_wrote_them() -> None:
    found = made(replicas=7, autoscaling={"minReplicas": 2, "maxReplicas": 9})
    assert found["Deployment"]["spec"]["replicas"] == 7


def test_pods_are_replaced_one_by_one_and_never_before_new_ones_work() -> None:
    spec = made()["Deployment"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": "25%", "maxUnavailable": 0}
    assert spec["revisionHistoryLimit"] > 0


def test_pod_monitor_where_it_is_asked_for_and_known() -> None:
    asked = {"monitoring": {"podMonitor": "Enabled", "labels": {"release": "p"}}}
    assert "PodMonitor" not in made()
    assert "PodMonitor" not in made(Cluster(has_pod_monitor=False), **asked)
    found = made(**asked)["PodMonitor"]
    assert found["metadata"]["labels"]["release"] == "p"
    assert found["spec"]["podMetricsEndpoints"] == [
        {"port": "admin", "path": "/metrics", "interval": "30s", "scrapeTimeout": "10s"}
    ]


def test_service_account_has_no_token_and_may_be_another() -> None:
    found = made()
    assert found["ServiceAccount"]["automountServiceAccountToken"] is False
    assert found["Deployment"]["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    other = made(podTemplate={"serviceAccountName": "shared"})
    assert "ServiceAccount" not in other
    assert other["Deployment"]["spec"]["template"]["spec"]["serviceAccountName"] == "shared"

"""Real faults of MCPServers and of the operator, and a real Prometheus with the rules of the chart: the right alerts.

The rules wait for a thirtieth of their time. What sidecars tell without an operator is in tests/rules.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from cluster.api import Api, eventually
from cluster.monitored import Monitored
from cluster.operator_process import FIRM_LEASE, OperatorProcess
from cluster.pod_agent import PodAgent
from cluster.pod_faults import IMAGE_BACK_OFF, UNSCHEDULABLE
from cluster.servers import KINDS, condition, mcp_server, wait_for
from cluster.sidecars import living
from prometheus_process import Target
from tool_http_server import ToolHttpServer

from .conftest import NAMESPACE

Start = Callable[..., OperatorProcess]
OFTEN = {"interval": "500ms", "timeout": "500ms", "failureThreshold": 2}
SECRET = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "token"}}}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def target(operator: OperatorProcess) -> Target:
    """Where its metrics are, as if it were a pod."""
    return Target(f"127.0.0.1:{operator.port}", {"namespace": NAMESPACE, "pod": operator.name})


def make_late(api: Api, namespace: str, name: str) -> None:
    """Beyond its deadline, if it is not yet: it becomes a second here, until the operator puts it back."""
    if condition(api.get("mcpservers", namespace, name), "Progressing")["reason"] != "RolloutStuck":
        api.patch("deployments", namespace, name, {"spec": {"progressDeadlineSeconds": 1}})


def stdio(**more: Any) -> dict[str, Any]:
    return {**KINDS["stdio"]["stdio"], **more}


def test_every_fault_of_an_mcpserver(api: Api, start_operator: Start, real_pods: PodAgent, namespace: str) -> None:
    operator = start_operator().wait_until_leading()

    def patch(name: str, **spec: Any) -> None:
        api.patch("mcpservers", namespace, name, {"spec": spec})

    def pods(name: str) -> list[tuple[str, str]]:
        found = [pod["metadata"] for pod in living(api, namespace)]
        return [(namespace, each["name"]) for each in found if each["labels"]["outrigger.dev/mcpserver"] == name]

    with ExitStack() as stack:
        upstream = stack.enter_context(ToolHttpServer())
        real_pods.fail(namespace, "imageless", IMAGE_BACK_OFF.of("sidecar"))
        for name in ("well", "secretless", "stuck", "stale", "imageless"):
            api.create(mcp_server(namespace, name))
        api.create(mcp_server(namespace, "gone", "remote", remote={"url": upstream.url}, health=OFTEN))
        for name in ("well", "secretless", "stuck", "stale", "gone"):
            wait_for(api, namespace, name, "Ready", "True", timeout=90)
        prometheus = stack.enter_context(Monitored(api, [namespace], operator_namespace=None, extra=[target(operator)]))
        # the pod without an image cannot be scraped
        prometheus.wait(lambda: len(prometheus.query("outrigger_upstream_up == 1")) == 5, "five are scraped", 60)

        upstream.stop()
        port = {"metadata": {"name": "taken", "namespace": namespace}, "spec": {"ports": [{"port": 80}]}}
        api.create({"apiVersion": "v1", "kind": "Service", **port})
        api.create(mcp_server(namespace, "taken"))
        patch("secretless", stdio=stdio(env=[SECRET]))
        mine = [
            pod for pod in living(api, namespace) if pod["metadata"]["labels"]["outrigger.dev/mcpserver"] == "stuck"
        ]
        real_pods.spare(*((namespace, pod["metadata"]["name"]) for pod in mine))
        real_pods.fail(namespace, "stuck", UNSCHEDULABLE)
        patch("stuck", podTemplate={"annotations": {"tests/revision": "2"}})
        wait_for(api, namespace, "stuck", "Progressing", "True", "RollingOut")
        real_pods.hold_volumes(*pods("stale"))
        patch("stale", timeouts={"timeout": "7s"})
        expected = {
            "gone": {"OutriggerServerUnreachable"},
            "imageless": {"OutriggerNoReplicas"},
            "secretless": {"OutriggerSecretNotResolved"},
            "stale": {"OutriggerPodsOnOldConfig"},
            "stuck": {"OutriggerRolloutStuck"},
            "taken": {"OutriggerSpecNotApplied"},
        }

        def told() -> bool:
            make_late(api, namespace, "stuck")
            return prometheus.about(namespace) == expected

        prometheus.wait(told, f"exactly {expected} fire", 90, prometheus.described)
        assert prometheus.failed_rules() == []

        upstream.listen()
        api.delete("services", namespace, "taken")
        patch("secretless", stdio=stdio(env=None))
        real_pods.heal(namespace, "stuck")
        real_pods.heal(namespace, "imageless")
        real_pods.hold_volumes(*pods("stale"), held=False)
        prometheus.wait_for_alerts_about(namespace, {}, timeout=120)


def test_faults_of_the_operator_and_of_scraping(
    api: Api, start_operator: Start, real_pods: PodAgent, namespace: str
) -> None:
    operator = start_operator(settings=FIRM_LEASE).wait_until_leading()
    api.create(mcp_server(namespace, "web"))
    wait_for(api, namespace, "web", "Ready", "True", timeout=60)
    with Monitored(api, (), operator_namespace=None, extra=[target(operator)]) as prometheus:
        # nobody scrapes the sidecars
        prometheus.wait_for_alerts_about(namespace, {"web": {"OutriggerMetricsMissing"}})
        operator.process.kill()
        prometheus.wait_for_alerts_about(namespace, {"": {"OutriggerNoLeader"}})
        another = start_operator(name="another", settings=FIRM_LEASE).wait_until_leading()
        prometheus.scrape("operator", [target(another)])
        prometheus.wait_for_alerts_about(namespace, {"web": {"OutriggerMetricsMissing"}})
        eventually(lambda: condition(api.get("mcpservers", namespace, "web"), "Ready")["status"] == "True", "Ready")

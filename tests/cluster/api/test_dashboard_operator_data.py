"""The dashboard Operator over the real operator: every query has data once there was work, drift and trouble."""

from __future__ import annotations

import pytest

from cluster.api import Api, eventually
from cluster.operator_process import OperatorProcess
from cluster.pod_agent import PodAgent
from cluster.servers import mcp_server, settled, wait_for
from dashboard_files import Target, dashboard, filled, targets
from prometheus_process import Prometheus
from prometheus_process import Target as Scraped

JOB = "outrigger"


def answered(prometheus: Prometheus, target: Target) -> bool:
    """Whether it has data in the last minute."""
    query = filled(target.expression, dashboard(target.dashboard), job=JOB)
    if target.instant:
        return bool(prometheus.query(query))
    return any(points for _, points in prometheus.query_range(query, 60, 1))


@pytest.mark.slow
def test_every_query_of_the_operator_has_data(
    api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str
) -> None:
    pod_agent.serve(namespace)
    scraped = Scraped(f"127.0.0.1:{operator.port}", {"namespace": "outrigger-system", "pod": "outrigger-a"})
    with Prometheus({JOB: [scraped]}, interval="1s") as prometheus:
        prometheus.wait_until_scraped()
        for number in range(4):
            api.create(mcp_server(namespace, f"good-{number}", "remote"))
        token = {"secretKeyRef": {"name": "not-there", "key": "token"}}
        remote = {"url": "https://mcp.example.com/mcp", "bearerToken": token}
        api.create(mcp_server(namespace, "lacking", "remote", remote=remote))
        for number in range(4):
            settled(api, namespace, f"good-{number}")
        wait_for(api, namespace, "lacking", "Ready", "False", "SecretMissing")
        api.delete("services", namespace, "good-0")
        eventually(lambda: api.get("services", namespace, "good-0"), "the Service is there again")

        asked = targets("operator")
        empty = {str(target) for target in asked}

        def all_answer() -> bool:
            empty.intersection_update(str(target) for target in asked if not answered(prometheus, target))
            return not empty

        prometheus.wait(all_answer, "every query has data", 60, lambda: sorted(empty))

        # and what it tells is so, once it was scraped
        made = dashboard("operator")
        panels = {target.panel: target for target in asked}

        def told(panel: str) -> list[tuple[dict[str, str], float]]:
            return prometheus.query(filled(panels[panel].expression, made, job=JOB))

        def wrong() -> set[tuple[str, str, str]]:
            return {
                (labels["name"], labels["type"], labels["reason"])
                for labels, _ in told("Conditions that are not as they should be")
                if labels["namespace"] == namespace
            }

        secret = {("lacking", "Ready", "SecretMissing"), ("lacking", "SecretsResolved", "SecretMissing")}
        prometheus.wait(lambda: secret <= wrong(), "the missing Secret is told", 30, lambda: sorted(wrong()))
        assert told("Leader")[0][1] == 1
        assert told("Not ready")[0][1] >= 1

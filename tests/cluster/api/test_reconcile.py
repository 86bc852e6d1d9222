"""An MCPServer applied to a real API server becomes its workload, of every kind."""

from __future__ import annotations

import pytest

from cluster.api import Api, eventually
from cluster.operator_process import OperatorProcess
from cluster.pod_agent import PodAgent
from cluster.servers import KINDS, mcp_server, owned, settled, wait_for


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gets_its_objects(api: Api, operator: OperatorProcess, namespace: str, kind: str) -> None:
    api.create(mcp_server(namespace, kind=kind))
    settled(api, namespace)
    config = {name for resource, name in owned(api, namespace, "one") if resource == "configmaps"}
    assert len(config) == 1
    assert owned(api, namespace, "one") == {
        ("configmaps", config.pop()),
        ("deployments", "one"),
        ("networkpolicies", "one"),
        ("secrets", "one-session"),
        ("serviceaccounts", "one"),
        ("services", "one"),
    }
    # real admission: the namespace wants restricted pods
    eventually(lambda: api.list("pods", namespace), "a pod")


def test_becomes_ready_when_its_sidecar_runs(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    api.create(mcp_server(namespace))
    server = wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    assert server["status"]["readyReplicas"] == 1

"""How many pods there are: by hand, by the autoscaler, and when nodes are drained; callers notice none of it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from cluster.api import Api, eventually
from cluster.deployed import deploy, names
from cluster.kubectl import Command
from cluster.samples import Samples
from cluster.sidecars import is_ready
from cluster.steady_load import SteadyLoad

from .conftest import Installed


def test_scaled_by_hand(api: Api, installed: Installed, kubectl: Command, namespace: str) -> None:
    server = deploy(api, namespace)
    (first,) = server.ready().ready_pods(1)

    def scale(replicas: int) -> None:
        kubectl("-n", namespace, "scale", "mcpserver", "one", f"--replicas={replicas}")

    with SteadyLoad(server.url, callers=6) as load, SteadyLoad(server.url, callers=3, modern=False) as legacy:
        scale(3)
        assert names([first]) < names(server.ready_pods(3))
        load.more()
        scale(1)
        server.ready_pods(1)
        for each in (load, legacy):
            each.more()
            assert not each.failures, each.summary()
    assert not legacy.sessions_lost

    scale(0)
    server.wait("Ready", "False", "ScaledToZero")
    server.ready_pods(0)
    with pytest.raises(OSError):
        server.text("echo", text="x")
    shown = kubectl("-n", namespace, "get", "mcpservers", "one", "--no-headers")
    assert "ScaledToZero" in shown
    scale(1)
    server.ready()
    assert server.text("echo", text="again") == '{"text": "again"}'


@pytest.mark.timeout(300)
def test_the_autoscaler(api: Api, installed: Installed, namespace: str) -> None:
    """Up under load, down without, and no call fails on either way."""
    at_once = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}
    scaling = {
        "minReplicas": 1,
        "maxReplicas": 3,
        "targetCPUUtilizationPercentage": 60,
        "behavior": {"scaleDown": at_once, "scaleUp": at_once},
    }
    server = deploy(api, namespace, autoscaling=scaling)
    server.ready().ready_pods(1)

    def asked() -> dict[str, Any]:
        found: dict[str, Any] = (api.get("horizontalpodautoscalers", namespace, "one") or {}).get("status") or {}
        return found

    eventually(lambda: asked().get("currentMetrics"), "the autoscaler knows the pods' load", 90)
    with SteadyLoad(server.url, callers=1, pause=1.0) as few:
        with SteadyLoad(server.url, callers=6, pause=0.0) as many:
            eventually(lambda: len(server.pods()) >= 2, "scaled up", 90)
            wanted = server.object["spec"]["replicas"]
            assert wanted >= 2, "the MCPServer says how many, not the Deployment"
            eventually(lambda: server.object["status"]["readyReplicas"] >= 2, "two serve", 60)
            many.more()
        few_pause = few.answered
        eventually(lambda: len(server.pods()) == 1, f"scaled down ({few_pause} calls so far)", 120)
        server.ready_pods(1)
        few.more()
    for load in (few, many):
        assert not load.failures, load.summary()


@pytest.mark.timeout(300)
def test_nodes_are_drained(api: Api, installed: Installed, kubectl: Command, namespace: str) -> None:
    """One node after the other; from the second both replicas must go, one by one. The drains end, calls go on."""
    server = deploy(api, namespace, replicas=2)
    before = server.ready().ready_pods(2)
    selector = f"--pod-selector=outrigger.dev/mcpserver={server.name}"
    nodes = [node["metadata"]["name"] for node in api.list("nodes")]
    ready = Samples(lambda: sum(is_ready(pod) for pod in server.pods()))
    with SteadyLoad(server.url, callers=6) as load, ready:
        for node in nodes:
            try:
                kubectl("drain", node, selector, "--delete-emptydir-data", "--timeout=100s", timeout=120)
                # the last to leave has its successor yet to come
                assert node not in {pod["spec"].get("nodeName") for pod in server.ready_pods(2)}
            finally:
                kubectl("uncordon", node)
        assert names(server.ready_pods(2)).isdisjoint(names(before))
        load.more()
        assert not load.failures, load.summary()
    assert min(ready.values) == 1, "never both at the same time"


def test_one_replica_does_not_hold_up_a_drain(api: Api, installed: Installed, namespace: str) -> None:
    """It has no budget: whoever wants no gap asks for two."""
    server = deploy(api, namespace)
    (pod,) = server.ready().ready_pods(1)
    assert api.get("poddisruptionbudgets", namespace, "one") is None
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod["metadata"]["name"], "namespace": namespace},
    }
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(SteadyLoad(server.url, callers=3))
        name = pod["metadata"]["name"]
        api.request("POST", f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", eviction)
        assert names(server.ready_pods(1)).isdisjoint({name})
        load.more()
        # its Service names it until it does not listen any more
        assert {one.reason for one in load.failures} <= {"connect", "lost", "shutting_down"}, load.summary()

"""What dies under load: which calls may fail, that they say so clearly, and how soon all is well again.

With two replicas nobody notices a pod that is deleted. What is killed without warning takes the calls with it that it
had in hand; others go on. No caller ever gets an answer that is not its own, and none waits for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.api import Api, eventually
from cluster.deployed import Deployed, deploy, first_process, names, restarts, server_processes
from cluster.kubectl import Command
from cluster.node_cluster import NodeCluster
from cluster.operator_process import lease_holder
from cluster.sidecars import is_ready
from cluster.steady_load import SteadyLoad

from .conftest import Installed

CUT = {"lost", "connect"}
"""How calls end whose sidecar was killed: their connection breaks, or is refused while its Service still names it."""
ENDED = CUT | {"shutting_down"}
"""Of a pod without a successor: its Service names it until it does not listen any more."""
NO_SERVER = {"connection_lost", "connect_failed", "breaker_open"}
"""What the sidecar says while its HTTP server is not there."""


@pytest.fixture(scope="module")
def kept(api: Api, installed: Installed) -> Iterator[dict[str, Deployed]]:
    """MCPServers that the tests of this module share: each heals what it breaks."""
    namespace = "test-kills"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    try:
        found = {
            "pair": deploy(api, namespace, "pair", replicas=2),
            "alone": deploy(api, namespace, "alone"),
            "http": deploy(api, namespace, "http", "http"),
            "image": deploy(api, namespace, "image", "stdio-image"),
        }
        for server in found.values():
            server.ready()
        yield found
    finally:
        api.delete("namespaces", None, namespace)


def kill(pid: int) -> float:
    """SIGKILL; when (monotonic)."""
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def assert_only(load: SteadyLoad, reasons: set[str]) -> None:
    """Calls failed for these reasons alone."""
    assert {one.reason for one in load.failures} <= reasons, load.summary()


def test_a_deleted_pod_of_two(api: Api, kept: dict[str, Deployed]) -> None:
    server = kept["pair"]
    victim, other = server.ready_pods(2)
    with SteadyLoad(server.url, callers=6) as load, SteadyLoad(server.url, callers=3, modern=False) as legacy:
        api.delete("pods", server.namespace, victim["metadata"]["name"])
        now = server.ready_pods(2)
        assert names(now) > names([other])
        for each in (load, legacy):
            each.more()
            assert not each.failures, each.summary()
    assert not legacy.sessions_lost, "of a Shared server any pod takes them up"


def test_the_only_pod_deleted(api: Api, kept: dict[str, Deployed]) -> None:
    """It ends in good order, and its successor needs a moment: until then callers hear that nobody serves them, and
    none of them that its call may have been executed.
    """
    server = kept["alone"]
    (victim,) = server.ready_pods(1)
    with SteadyLoad(server.url, callers=4) as load:
        began = time.monotonic()
        api.delete("pods", server.namespace, victim["metadata"]["name"])
        server.ready_pods(1)
        load.more()
        assert_only(load, ENDED)
        assert not any(one.data.get("maybeExecuted") for one in load.failures), load.summary()
        assert load.longest_gap(began) < 20


def test_a_killed_sidecar_of_two(kept: dict[str, Deployed]) -> None:
    server = kept["pair"]
    victim, other = server.ready_pods(2)
    before = restarts(victim)["sidecar"]
    with SteadyLoad(server.url, callers=8, tool="sleep", arguments={"ms": 100}) as load:
        killed = kill(first_process(victim, "sidecar"))
        eventually(lambda: restarts(again(server, victim))["sidecar"] > before, "started again", 60)
        server.ready_pods(2)
        load.more()
        assert_only(load, CUT)
        last = max((one.ended for one in load.failures), default=killed)
        assert last - killed < 15, "the Service forgets it soon"
        assert load.longest_gap(killed) < 5, "the other one serves meanwhile"
    assert restarts(again(server, other)) == restarts(other)


def again(server: Deployed, pod: dict[str, Any]) -> dict[str, Any]:
    """The same pod as it is now."""
    found = server.api.get("pods", server.namespace, pod["metadata"]["name"])
    assert found is not None, "the pod was replaced"
    return found


@pytest.mark.parametrize("kind", ["alone", "image"])
def test_a_killed_stdio_server(kept: dict[str, Deployed], kind: str) -> None:
    """The calls that it had in hand may have been executed, and say so; the sidecar starts another at once.

    Eight calls end with one process: that is one failure, and no reason to leave the server alone.
    """
    server = kept[kind]
    (pod,) = server.ready_pods(1)
    container = "sidecar" if kind == "alone" else "server"
    before = restarts(pod)
    with SteadyLoad(server.url, callers=8, tool="sleep", arguments={"ms": 200}) as load:
        (process,) = server_processes(pod, container)
        eventually(lambda: load.in_hand == 8, "every caller waits")
        killed = kill(process)
        load.more(40)
        assert load.failures, "eight calls were in its hands"
        for one in load.failures:
            assert (one.reason, one.data.get("maybeExecuted")) == ("child_exited", True), load.summary()
            assert one.ended - killed < 3, load.summary()
        assert load.longest_gap(killed) < 5
    assert restarts(again(server, pod)) == before, "no container was restarted"


def test_a_killed_http_server(kept: dict[str, Deployed]) -> None:
    """Its container is started again by the kubelet; until then the sidecar answers in its place."""
    server = kept["http"]
    (pod,) = server.ready_pods(1)
    before = restarts(pod)
    with SteadyLoad(server.url, callers=6) as load:
        killed = kill(first_process(pod, "server"))
        eventually(lambda: restarts(again(server, pod))["server"] > before["server"], "started again", 60)
        load.more(60, timeout=60)
        assert load.failures, "nobody was there to answer"
        assert_only(load, NO_SERVER)
        for one in load.failures:
            assert one.outcome == "error", load.summary()
            assert one.status in (502, 503, 504), load.summary()
            assert {"reason", "retryable", "maybeExecuted"} <= set(one.data), load.summary()
        assert load.longest_gap(killed) < 30
    server.ready()
    assert restarts(again(server, pod))["sidecar"] == before["sidecar"], "the sidecar outlives its server"
    server.wait("ServerReachable", "True", "Reachable")


def test_a_node_agent_that_is_gone_for_a_while(
    node_cluster: NodeCluster, kubectl: Command, kept: dict[str, Deployed]
) -> None:
    """Pods go on without it, and what is wanted of it meanwhile comes when it is back."""
    server = kept["pair"]
    before = server.ready_pods(2)
    first, *others = node_cluster.nodes
    with SteadyLoad(server.url, callers=4) as load:
        node_cluster.kill_kubelet()
        try:
            for node in others:
                kubectl("cordon", node.name)
            server.patch(replicas=3)
            eventually(lambda: len(server.pods()) == 3, "the third pod wanted")
            load.more(200)
            third = next(pod for pod in server.pods() if pod["metadata"]["name"] not in names(before))
            assert third["spec"].get("nodeName", first.name) == first.name
            assert not is_ready(third)
        finally:
            node_cluster.start_kubelet()
            for node in others:
                kubectl("uncordon", node.name)
            node_cluster.wait_until_ready()
        server.ready_pods(3)
        server.patch(replicas=2)
        server.ready_pods(2)
        load.more()
        assert not load.failures, load.summary()


def test_the_operator_dies_in_the_middle_of_a_change(api: Api, installed: Installed, kept: dict[str, Deployed]) -> None:
    """The other replica of it takes the work up; nothing of the data plane depends on it."""
    servers = [kept["alone"], kept["pair"]]
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(SteadyLoad(server.url, callers=3)) for server in servers]
        holder = lease_holder(api, installed.namespace)
        pods = [pod for pod in api.list("pods", installed.namespace) if holder.startswith(pod["metadata"]["name"])]
        assert len(pods) == 1, holder
        for server in servers:
            server.roll("operator-dies")
        began = time.monotonic()
        kill(first_process(pods[0], "operator"))
        eventually(lambda: lease_holder(api, installed.namespace) not in ("", holder), "another leader", 60)
        for server in servers:
            server.ready()
        assert time.monotonic() - began < 120
        for load in loads:
            load.more()
            assert not load.failures, load.summary()

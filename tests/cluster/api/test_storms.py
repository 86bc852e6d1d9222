"""An API server that goes away, forgets or stands still, operators that are killed: it converges, no orphan."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from cluster.api import Api, eventually
from cluster.control_plane import ControlPlane
from cluster.operator_process import FIRM_LEASE, SHORT_LEASE, OperatorProcess
from cluster.servers import CHILDREN, KINDS, mcp_server, owned, settled

Start = Callable[..., OperatorProcess]
KIND_NAMES = tuple(KINDS)
SEED = 20261123


def wanted(api: Api, namespace: str, names: set[str]) -> bool:
    """Whether exactly these MCPServers have exactly their objects, of their newest spec."""
    for name in names:
        server = api.get("mcpservers", namespace, name)
        assert server is not None
        seen = (server.get("status") or {}).get("observedGeneration")
        assert seen == server["metadata"]["generation"], f"{name}: observed {seen}"
        deployment = api.get("deployments", namespace, name)
        assert deployment is not None, f"{name} has no Deployment"
        assert deployment["spec"]["replicas"] == server["spec"]["replicas"], f"{name}: replicas"
        objects = {resource for resource, _ in owned(api, namespace, name)}
        assert objects >= {"services", "networkpolicies", "serviceaccounts", "secrets", "configmaps"}, (name, objects)
    for resource in CHILDREN:
        for one in api.list(resource, namespace, labelSelector="app.kubernetes.io/managed-by=outrigger"):
            instance = one["metadata"]["labels"]["app.kubernetes.io/instance"]
            assert instance in names, f"orphan: {resource} {one['metadata']['name']}"
    return True


def test_api_server_restarts_in_the_middle(
    control_plane: ControlPlane, operator: OperatorProcess, namespace: str
) -> None:
    api = control_plane.api
    names = {f"server-{number}" for number in range(30)}
    for number, name in enumerate(sorted(names)):
        api.create(mcp_server(namespace, name, kind=KIND_NAMES[number % 4]))
        if number in (10, 20):
            control_plane.restart_api_server(kill=True)
    eventually(lambda: wanted(api, namespace, names), "all applied", timeout=90)
    # its watches are back: a change comes through
    api.patch("mcpservers", namespace, "server-3", {"spec": {"replicas": 3}})
    eventually(lambda: wanted(api, namespace, names), "the change applied", timeout=30)
    assert operator.process.running


@pytest.mark.timeout(300)
def test_history_is_gone(control_plane: ControlPlane, operator: OperatorProcess, namespace: str) -> None:
    """410 on every watch: what was deleted and changed meanwhile is seen."""
    api = control_plane.api
    names = {"one", "two", "three"}
    for name in names:
        api.create(mcp_server(namespace, name))
    eventually(lambda: wanted(api, namespace, names), "all applied")
    operator.process.pause()
    try:
        api.delete("services", namespace, "one")
        api.delete("mcpservers", namespace, "three")
        api.patch("mcpservers", namespace, "two", {"spec": {"replicas": 2}})
        for number in range(200):
            api.patch("mcpservers", namespace, "one", {"metadata": {"labels": {"noise": str(number)}}})
        control_plane.forget_history()
    finally:
        operator.process.resume()
    eventually(lambda: wanted(api, namespace, {"one", "two"}), "all applied", timeout=120)


def test_api_server_stands_still(control_plane: ControlPlane, operator: OperatorProcess, namespace: str) -> None:
    api = control_plane.api
    api.create(mcp_server(namespace))
    settled(api, namespace)
    control_plane.api_server.pause()
    try:
        control_plane.api_server.wait_until(lambda: _refused(control_plane), "standing still", 10)
    finally:
        control_plane.api_server.resume()
    control_plane.wait_for_api_server()
    api.patch("mcpservers", namespace, "one", {"spec": {"replicas": 2}})
    eventually(lambda: wanted(api, namespace, {"one"}), "the change applied", timeout=60)


def test_api_server_is_away_for_longer_than_the_lease(
    control_plane: ControlPlane, start_operator: Start, namespace: str
) -> None:
    """Who cannot renew stops before another may begin, and exits: its successor, here the next process, goes on."""
    operator = start_operator(name="first", settings=SHORT_LEASE).wait_until_leading()
    control_plane.api_server.kill()
    try:
        eventually(lambda: not operator.process.running, "the operator gone", timeout=30)
    finally:
        control_plane.start_api_server()
    assert operator.process.returncode == 1
    assert "lost the lease" in operator.process.log()
    control_plane.api.create(mcp_server(namespace))
    start_operator(name="second", settings=FIRM_LEASE)
    eventually(lambda: wanted(control_plane.api, namespace, {"one"}), "all applied", timeout=60)


def _refused(control_plane: ControlPlane) -> bool:
    try:
        control_plane.access.api(timeout=1.0).list("namespaces")
    except OSError:
        return True
    return False


def kind_of(name: str) -> str:
    """Of each name always the same: server-side apply cannot exchange one kind for another."""
    return KIND_NAMES[int(name.rpartition("-")[2]) % len(KIND_NAMES)]


def test_killed_at_any_moment(api: Api, start_operator: Start, namespace: str, control_plane: ControlPlane) -> None:
    """SIGKILL at random points of the work, again and again, while MCPServers come, change and go."""
    rng = random.Random(SEED)
    names: set[str] = set()
    for round_ in range(5):
        operator = start_operator(name=f"life-{round_}", settings=SHORT_LEASE)
        mark = control_plane.audit_mark()
        for _ in range(6):
            name = f"server-{rng.randrange(12)}"
            if name in names and rng.random() < 0.3:
                api.delete("mcpservers", namespace, name)
                names.discard(name)
                continue
            api.apply(mcp_server(namespace, name, kind=kind_of(name), replicas=rng.randrange(4)))
            names.add(name)
        writes = rng.randrange(1, 40)

        def busy(mark: int = mark, writes: int = writes) -> bool:
            mine = [one for one in control_plane.audit(mark) if one.namespace == namespace and one.is_write]
            return len([one for one in mine if "outrigger-operator" in one.user]) >= writes

        try:
            eventually(busy, "some writes", timeout=15)
        except AssertionError:  # there was less to do
            pass
        operator.kill()
    start_operator(name="survivor", settings=FIRM_LEASE).wait_until_leading()
    eventually(lambda: wanted(api, namespace, names), "all applied", timeout=90)

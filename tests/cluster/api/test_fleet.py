"""Many MCPServers, and none that changes: everything is applied, then nothing is written; deletion leaves nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cluster.api import Api, eventually
from cluster.control_plane import ControlPlane
from cluster.operator_process import OperatorProcess
from cluster.pod_agent import PodAgent
from cluster.servers import CHILDREN, KINDS, mcp_server, owned, settled, wait_for

COUNT = 500
REST = 15.0


def writes(control_plane: ControlPlane, mark: int, namespace: str) -> list[tuple[str, str, str]]:
    """(verb, resource, name) of the operator's writes: those of tests before this one may still be going elsewhere."""
    return [
        (one.verb, one.resource, one.name)
        for one in control_plane.audit(mark)
        if one.user.endswith(":outrigger-operator") and one.is_write and one.namespace == namespace
    ]


@pytest.mark.timeout(600)
def test_five_hundred(control_plane: ControlPlane, operator: OperatorProcess, namespace: str) -> None:
    api = control_plane.api
    names = [f"server-{number:03d}" for number in range(COUNT)]
    kinds = tuple(KINDS)
    with ThreadPoolExecutor(4) as makers:
        made = [
            # no pods: the machine is to work for the operator, not for ReplicaSets
            makers.submit(api.create, mcp_server(namespace, name, kind=kinds[number % 4], replicas=0))
            for number, name in enumerate(names)
        ]
        for one in made:
            one.result()

    def all_there() -> bool:
        for resource in ("deployments", "services"):
            assert len(api.list(resource, namespace)) == COUNT, resource
        late = [
            one["metadata"]["name"]
            for one in api.list("mcpservers", namespace)
            if (one.get("status") or {}).get("observedGeneration") != one["metadata"]["generation"]
        ]
        assert not late, f"{len(late)} without a status"
        return True

    eventually(all_there, f"{COUNT} applied", timeout=360, interval=1.0)
    eventually(lambda: _quiet(control_plane, namespace), "rest", timeout=60)
    mark = control_plane.audit_mark()
    time.sleep(REST)  # what is measured is that nothing happens
    assert writes(control_plane, mark, namespace) == []
    # one among them
    began = time.monotonic()
    api.patch("mcpservers", namespace, "server-250", {"spec": {"service": {"labels": {"team": "ours"}}}})

    def changed() -> bool:
        service = api.get("services", namespace, "server-250")
        return service is not None and service["metadata"]["labels"].get("team") == "ours"

    eventually(changed, "the change applied", timeout=10)
    assert time.monotonic() - began < 5
    for name in names:
        api.delete("mcpservers", namespace, name)
    eventually(lambda: not api.list("deployments", namespace), "no Deployments", timeout=120, interval=1.0)


def _quiet(control_plane: ControlPlane, namespace: str) -> bool:
    mark = control_plane.audit_mark()
    time.sleep(2)
    return not writes(control_plane, mark, namespace)


def test_a_new_operator_writes_nothing(
    control_plane: ControlPlane, operator: OperatorProcess, pod_agent: PodAgent, namespace: str
) -> None:
    """What is as it should be is left alone by a process that knows nothing of it yet."""
    api = control_plane.api
    pod_agent.serve(namespace)
    for kind in KINDS:
        api.create(mcp_server(namespace, kind, kind=kind))
        wait_for(api, namespace, kind, "Available", "True")
    eventually(lambda: _quiet(control_plane, namespace), "rest", timeout=60)
    before = versions(api, namespace), told(api, namespace)
    operator.stop()
    mark = control_plane.audit_mark()
    operator.start().wait_until_leading()
    # it asks for each object once, the Deployment last, and the API server finds nothing to write
    asked = {("patch", "deployments", kind) for kind in KINDS}
    eventually(lambda: asked <= set(writes(control_plane, mark, namespace)), "all applied once more")
    eventually(lambda: _quiet(control_plane, namespace), "rest", timeout=60)
    assert (versions(api, namespace), told(api, namespace)) == before


def versions(api: Api, namespace: str) -> dict[tuple[str, str], str]:
    """The version of every object that an MCPServer has."""
    return {
        (resource, one["metadata"]["name"]): one["metadata"]["resourceVersion"]
        for resource in CHILDREN
        for one in api.list(resource, namespace)
    }


def told(api: Api, namespace: str) -> dict[str, tuple[int, dict[str, Any]]]:
    """Generation and status of each MCPServer, without messages: one may say what a pod answered just now."""
    found = {
        one["metadata"]["name"]: (one["metadata"]["generation"], one["status"])
        for one in api.list("mcpservers", namespace)
    }
    for _, status in found.values():
        for condition in status["conditions"]:
            del condition["message"]
    return found


def test_who_is_ready_has_seen_everything(
    api: Api, start_operator: Callable[..., OperatorProcess], namespace: str
) -> None:
    count = 250
    with ThreadPoolExecutor(4) as makers:
        for made in [
            makers.submit(api.create, mcp_server(namespace, f"server-{number}", kind="remote", replicas=0))
            for number in range(count)
        ]:
            made.result()
    operator = start_operator(name="late").wait_until_leading()
    assert operator.metrics()["outrigger_operator_queue_adds_total"] >= count


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
def test_deletion_leaves_nothing(
    api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str, propagation: str
) -> None:
    pod_agent.serve(namespace)
    api.create(mcp_server(namespace, replicas=2, autoscaling={"maxReplicas": 3}))
    settled(api, namespace)
    assert not (api.get("mcpservers", namespace, "one") or {})["metadata"].get("finalizers")
    assert len(owned(api, namespace, "one")) >= 7
    api.delete("mcpservers", namespace, "one", propagationPolicy=propagation)
    eventually(lambda: not owned(api, namespace, "one") and not api.list("pods", namespace), "nothing", timeout=60)
    assert api.get("mcpservers", namespace, "one") is None


def test_deletion_while_no_operator_runs(
    api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str
) -> None:
    pod_agent.serve(namespace)
    api.create(mcp_server(namespace))
    settled(api, namespace)
    operator.stop()
    api.delete("mcpservers", namespace, "one")
    eventually(lambda: not owned(api, namespace, "one") and not api.list("pods", namespace), "nothing", timeout=60)
    operator.start().wait_until_leading()


def test_deleted_and_made_anew(api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str) -> None:
    """Of the same name at once: the objects of the old one are not taken for the new one's."""
    pod_agent.serve(namespace)
    for number in range(3):
        made = api.create(mcp_server(namespace, service={"labels": {"round": str(number)}}))
        settled(api, namespace)
        if number < 2:
            api.delete("mcpservers", namespace, "one")

    def all_new() -> bool:
        for resource, name in owned(api, namespace, "one"):
            found = api.get(resource, namespace, name)
            assert found is not None
            assert found["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"], (resource, name)
        return len(owned(api, namespace, "one")) >= 6

    eventually(all_new, "only objects of the newest", timeout=60)
    wait_for(api, namespace, "one", "Available", "True")


def test_namespace_that_is_deleted(control_plane: ControlPlane, operator: OperatorProcess, namespace: str) -> None:
    """The namespace's controller deletes in any order: what goes with its namespace is no drift."""
    api = control_plane.api
    count = 20
    for number in range(count):
        api.create(mcp_server(namespace, f"server-{number}", replicas=0))
    for number in range(count):
        settled(api, namespace, f"server-{number}")
    eventually(lambda: _quiet(control_plane, namespace), "rest", timeout=60)
    mark = control_plane.audit_mark()
    api.delete("namespaces", None, namespace)
    eventually(lambda: api.get("namespaces", None, namespace) is None, "no namespace", timeout=90)
    # one refused try tells of the namespace, beside what was under way
    assert len(writes(control_plane, mark, namespace)) <= 2 * count

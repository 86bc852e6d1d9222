"""What reaches sidecars that really run: status, live changes without a restart, rolls, rollback, a rotated Secret."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from cluster.api import Api, eventually
from cluster.operator_process import OperatorProcess
from cluster.pod_agent import PodAgent
from cluster.servers import condition, mcp_server, wait_for

READY_TIMEOUT = 60.0


def serving(api: Api, namespace: str) -> list[dict[str, Any]]:
    """The pods that are not going."""
    return [pod for pod in api.list("pods", namespace) if "deletionTimestamp" not in pod["metadata"]]


def sidecar_status(pod: dict[str, Any]) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9090/status", timeout=5) as answer:
        said: dict[str, Any] = json.load(answer)
    return said


def ready(api: Api, namespace: str, name: str = "one") -> dict[str, Any]:
    return wait_for(api, namespace, name, "Ready", "True", timeout=READY_TIMEOUT)


def test_status_says_what_the_sidecar_knows(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    api.create(mcp_server(namespace))
    ready(api, namespace)
    wait_for(api, namespace, "one", "ServerReachable", "True")

    def listed() -> dict[str, Any]:
        found = api.get("mcpservers", namespace, "one")
        assert found is not None
        assert "tools" in found["status"]
        return found

    status = eventually(listed, "its tools, which are listed a moment later")["status"]
    assert status["era"] in ("Legacy", "Modern", "Both")
    assert status["tools"] > 0
    assert status["server"]["name"]
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (1, 1, 1)
    assert status["url"] == f"http://one.{namespace}.svc.cluster.local:8080/mcp"
    wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied")
    (pod,) = serving(api, namespace)
    assert sidecar_status(pod)["config"]["fileHash"] == status["configHash"]


def test_live_change_reaches_running_sidecars(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    api.create(mcp_server(namespace, replicas=2))
    before = ready(api, namespace)
    pods = {pod["metadata"]["name"] for pod in serving(api, namespace)}
    api.patch("mcpservers", namespace, "one", {"spec": {"timeouts": {"timeout": "7s"}, "log": {"level": "Debug"}}})
    server = wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied", timeout=30)
    assert server["status"]["configHash"] != before["status"]["configHash"]
    after = serving(api, namespace)
    assert {pod["metadata"]["name"] for pod in after} == pods
    for pod in after:
        assert sidecar_status(pod)["config"]["fileHash"] == server["status"]["configHash"]
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_until_all_pods_run_it_the_change_is_propagating(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    api.create(mcp_server(namespace))
    ready(api, namespace)
    (pod,) = serving(api, namespace)
    process = real_pods.process(namespace, pod["metadata"]["name"])
    process.pause()
    try:
        api.patch("mcpservers", namespace, "one", {"spec": {"timeouts": {"timeout": "7s"}}})
        eventually(
            lambda: condition(api.get("mcpservers", namespace, "one"), "ConfigApplied")["status"] != "True",
            "not applied yet",
        )
    finally:
        process.resume()
    wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied")


def test_roll_and_rollback(api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str) -> None:
    api.create(mcp_server(namespace))
    ready(api, namespace)
    first = {pod["metadata"]["name"] for pod in serving(api, namespace)}
    good = mcp_server(namespace)["spec"]["stdio"]
    api.patch("mcpservers", namespace, "one", {"spec": {"stdio": {**good, "command": "no-such-command"}}})
    broken = wait_for(api, namespace, "one", "Ready", "False", timeout=READY_TIMEOUT)
    assert condition(broken, "Available")["status"] == "True"
    eventually(lambda: len(serving(api, namespace)) == 2, "a new pod beside the old one")
    assert first < {pod["metadata"]["name"] for pod in serving(api, namespace)}
    api.patch("mcpservers", namespace, "one", {"spec": {"stdio": good}})
    ready(api, namespace)
    assert {pod["metadata"]["name"] for pod in serving(api, namespace)} == first


def test_server_that_dies_and_comes_back(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    """Nothing listens at the URL: ServerReachable is False and says so."""
    api.create(mcp_server(namespace, kind="remote"))
    server = wait_for(api, namespace, "one", "ServerReachable", "False", "Unreachable", timeout=READY_TIMEOUT)
    assert condition(server, "ServerReachable")["message"]


def test_secret_reaches_new_children(api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vendor", "namespace": namespace}}
    api.apply(secret | {"stringData": {"token": "marker-one"}})
    manifest = mcp_server(namespace)
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "vendor", "key": "token"}}}]
    manifest["spec"]["stdio"] = {**manifest["spec"]["stdio"], "env": env}
    api.create(manifest)
    before = ready(api, namespace)
    (first,) = before["status"]["secrets"]
    api.apply(secret | {"stringData": {"token": "marker-two"}})

    def rotated() -> bool:
        server = api.get("mcpservers", namespace, "one")
        assert server is not None
        (now,) = server["status"]["secrets"]
        return bool(now["version"] != first["version"])

    eventually(rotated, "another version", timeout=30)
    for resource in ("configmaps", "mcpservers", "deployments", "pods", "events", "replicasets"):
        assert "marker-" not in json.dumps(api.list(resource, namespace)), resource
    assert "marker-" not in operator.process.log()

"""What stands for a node in these tests: pods that run, that really run, and that do not."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import pod_faults
from cluster.api import Api, eventually
from cluster.pod_agent import PodAgent
from cluster.sidecars import is_ready
from images.contents import recipes
from process_table import alive

SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
SIDECAR = recipes()[0].reference
CHILD = str(Path(__file__).resolve().parents[2] / "children" / "tool_server.py")
CONFIG = {"servers": {"one": {"command": sys.executable, "args": [CHILD]}}}


PROBED = """
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Handler.asked += 1
        if Handler.asked == 12:
            open(sys.argv[1], "w").close()
        self.send_response(200 if Handler.asked % 2 == 0 and Handler.asked < 12 else 503)
        self.end_headers()

http.server.HTTPServer((os.environ["POD_IP"], 9090), Handler).serve_forever()
"""
"""A server of which every second probe fails, and from the twelfth on all of them: then there is the file."""


def deployment(namespace: str, *, config: bool = False) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "mcpserver", "app.kubernetes.io/instance": "one"}
    container: dict[str, Any] = {"name": "sidecar", "image": SIDECAR, "securityContext": SECURITY}
    pod: dict[str, Any] = {"containers": [container]}
    if config:
        container |= {
            "ports": [{"name": "mcp", "containerPort": 8080}, {"name": "admin", "containerPort": 9090}],
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": "admin"}},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/outrigger", "readOnly": True}],
            "env": [
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "OUTRIGGER__SESSIONS__ADDRESS", "value": "$(POD_IP)"},
            ],
        }
        pod["volumes"] = [{"name": "config", "configMap": {"name": "one"}}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "one", "namespace": namespace},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


def config_map(namespace: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "one", "namespace": namespace},
        "data": {"config.json": json.dumps(config)},
    }


def ready_replicas(api: Api, namespace: str) -> int:
    found = api.get("deployments", namespace, "one") or {}
    return int(found.get("status", {}).get("readyReplicas", 0))


def only_pod(api: Api, namespace: str) -> dict[str, Any]:
    pods = api.list("pods", namespace)
    assert len(pods) == 1
    return pods[0]


def test_says_that_pods_run(api: Api, pod_agent: PodAgent, namespace: str) -> None:
    pod_agent.serve(namespace)
    api.create(deployment(namespace))
    eventually(lambda: ready_replicas(api, namespace) == 1, "a ready pod")
    (pod,) = api.list("pods", namespace)
    assert pod["status"]["podIP"] == pod_agent.address(namespace, pod["metadata"]["name"])
    api.delete("deployments", namespace, "one", propagationPolicy="Background")
    eventually(lambda: not api.list("pods", namespace), "no pods")


def test_leaves_other_namespaces_alone(
    api: Api, pod_agent: PodAgent, namespace: str, make_namespace: Callable[[], str]
) -> None:
    pod_agent.serve(namespace)
    other = make_namespace()
    api.create(deployment(other))
    api.create(deployment(namespace))
    eventually(lambda: ready_replicas(api, namespace) == 1, "a ready pod")
    assert [pod["status"].get("podIP") for pod in api.list("pods", other)] == [None]


@pytest.mark.parametrize(
    "fault",
    [pod_faults.UNSCHEDULABLE, *(getattr(pod_faults, name).of("sidecar") for name in ("ROOT_IMAGE", "CRASHING"))],
    ids=lambda fault: fault.waiting,
)
def test_tells_of_a_fault_and_of_its_end(
    api: Api, pod_agent: PodAgent, namespace: str, fault: pod_faults.Fault
) -> None:
    pod_agent.serve(namespace)
    pod_agent.fail(namespace, "one", fault)
    api.create(deployment(namespace))

    def says() -> bool:
        return fault.waiting in json.dumps(only_pod(api, namespace)["status"])

    eventually(says, f"{fault.waiting} in the pod's status")
    assert ready_replicas(api, namespace) == 0
    pod_agent.heal(namespace, "one")
    eventually(lambda: ready_replicas(api, namespace) == 1, "a ready pod")


def test_runs_a_sidecar_where_its_pod_has_its_files(api: Api, real_pods: PodAgent, namespace: str) -> None:
    api.create(config_map(namespace, CONFIG))
    api.create(deployment(namespace, config=True))
    eventually(lambda: ready_replicas(api, namespace) == 1, "a ready pod", timeout=30)
    (pod,) = api.list("pods", namespace)
    name = pod["metadata"]["name"]

    def status() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9090/status", timeout=5) as answer:
            said: dict[str, Any] = json.load(answer)
        return said

    before = status()["config"]["fileHash"]
    api.apply(config_map(namespace, CONFIG | {"readiness": "Upstream"}))
    # the kubelet refreshes a ConfigMap at once where the pod changes
    api.patch("pods", namespace, name, {"metadata": {"annotations": {"changed": "1"}}})
    eventually(lambda: status()["config"]["fileHash"] != before, "the new configuration")

    pid = real_pods.process(namespace, name).pid
    api.delete("deployments", namespace, "one", propagationPolicy="Background")
    eventually(lambda: not api.list("pods", namespace), "no pods")
    assert not alive(pid)


def test_restarts_what_crashes(api: Api, real_pods: PodAgent, namespace: str) -> None:
    api.create(config_map(namespace, CONFIG))
    api.create(deployment(namespace, config=True))
    eventually(lambda: ready_replicas(api, namespace) == 1, "a ready pod", timeout=30)
    (pod,) = api.list("pods", namespace)
    real_pods.process(namespace, pod["metadata"]["name"]).kill()

    def status() -> dict[str, Any]:
        found: dict[str, Any] = only_pod(api, namespace)["status"]["containerStatuses"][0]
        return found

    def crashed() -> dict[str, Any]:
        found = status()
        assert found["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
        return found

    assert eventually(crashed, "a crash")["lastState"]["terminated"]["exitCode"] == 137
    eventually(lambda: status()["restartCount"] == 1 and status()["ready"], "a new start", timeout=30)


def test_a_pod_is_ready_until_enough_probes_have_failed(
    api: Api, real_pods: PodAgent, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, all_fail = tmp_path / "probed.py", tmp_path / "all-fail"
    script.write_text(PROBED)
    monkeypatch.setitem(real_pods.images, "test.local/probed:1", [sys.executable, "-S", "-E", str(script)])
    container = {
        "name": "probed",
        "image": "test.local/probed:1",
        "args": [str(all_fail)],
        "securityContext": SECURITY,
        "readinessProbe": {"httpGet": {"path": "/", "port": 9090}, "failureThreshold": 3},
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    }
    made = deployment(namespace)
    made["spec"]["template"]["spec"]["containers"] = [container]
    api.create(made)
    seen: list[bool] = []
    for _, pod in api.watch("pods", namespace, seconds=30):
        if seen[-1:] != [is_ready(pod)]:
            seen.append(is_ready(pod))
        if all_fail.exists() and not seen[-1]:
            break
    assert seen == [False, True, False]


def test_waits_for_a_volume(api: Api, real_pods: PodAgent, namespace: str) -> None:
    api.create(deployment(namespace, config=True))

    def waiting() -> str:
        containers = only_pod(api, namespace)["status"].get("containerStatuses")
        return str(containers[0]["state"]["waiting"].get("message")) if containers else ""

    eventually(lambda: waiting() == 'configmap "one" not found', "a missing ConfigMap")
    api.create(config_map(namespace, CONFIG))
    eventually(lambda: ready_replicas(api, namespace) == 1, "a ready pod", timeout=30)

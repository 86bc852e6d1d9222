"""Conditions that come from what pods say of themselves, and from the Secrets and ConfigMaps that they need.

As test_conditions.py, with sidecars that really run, and with pods that answer what no sidecar would.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.api import Api, eventually
from cluster.operator_process import OperatorProcess, install
from cluster.pod_agent import PodAgent
from cluster.servers import KINDS, condition, mcp_server, settled, wait_for
from cluster.sidecars import Witness, living, sidecars
from cluster.steady_load import SteadyLoad
from tool_http_server import Answer, ToolHttpServer

from .conftest import NAMESPACE, Operators

Start = Callable[..., OperatorProcess]
OFTEN = {"interval": "500ms", "timeout": "500ms", "failureThreshold": 2}
ATTENTIVE = {"statusPoll": {"idle": "1s"}}
"""Settings of an operator that asks pods often though nothing is wrong."""


def stdio(**settings: Any) -> dict[str, Any]:
    return {**KINDS["stdio"]["stdio"], **settings}


def patch(api: Api, namespace: str, **spec: Any) -> None:
    api.patch("mcpservers", namespace, "one", {"spec": spec})


# The server behind the sidecars


def test_a_server_that_dies_and_comes_back(
    api: Api, start_operator: Start, real_pods: PodAgent, namespace: str
) -> None:
    start_operator(settings=ATTENTIVE)
    with ToolHttpServer() as upstream:
        api.create(mcp_server(namespace, kind="remote", remote={"url": upstream.url}, health=OFTEN))
        wait_for(api, namespace, "one", "ServerReachable", "True", "Reachable", timeout=60)
        wait_for(api, namespace, "one", "Ready", "True", timeout=60)
        # listed a moment later
        eventually(lambda: (api.get("mcpservers", namespace, "one") or {})["status"].get("tools") == 4, "its tools")
        (sidecar,) = sidecars(api, real_pods, namespace, 1)
        before = sidecar.identity

        upstream.stop()
        server = wait_for(api, namespace, "one", "ServerReachable", "False", "Unreachable")
        wait_for(api, namespace, "one", "Ready", "False", "ServerUnreachable")
        assert "does not answer" in condition(server, "ServerReachable")["message"]
        assert server["status"]["tools"] == 4, "what was known stays"
        wait_for(api, namespace, "one", "Available", "True", "ReplicasAvailable")

        upstream.listen()
        wait_for(api, namespace, "one", "ServerReachable", "True", "Reachable")
        wait_for(api, namespace, "one", "Ready", "True", "Ready")
        assert sidecar.identity == before

    def told(reason: str) -> list[dict[str, Any]]:
        found = [one for one in api.list("events", namespace) if one["reason"] == reason]
        return [one for one in found if one["regarding"]["kind"] == "MCPServer"]

    # at least: on a busy machine a health check may be late at another moment too
    eventually(lambda: "Warning" in [one["type"] for one in told("ServerUnreachable")], "an Event of the fault")
    eventually(
        lambda: any(one["deprecatedCount"] >= 2 for one in told("Ready")),
        "an Event of the healing, the second of its kind",
    )


def test_a_server_that_answers_some_pods(api: Api, start_operator: Start, real_pods: PodAgent, namespace: str) -> None:
    start_operator(settings=ATTENTIVE)
    api.create(mcp_server(namespace, replicas=2, health=OFTEN))
    wait_for(api, namespace, "one", "ServerReachable", "True", "Reachable", timeout=60)
    frozen = sidecars(api, real_pods, namespace, 2)[0].servers()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        server = wait_for(api, namespace, "one", "ServerReachable", "True", "PartlyReachable")
        assert condition(server, "ServerReachable")["message"].startswith("the server answers 1 of 2 pods; ")
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    wait_for(api, namespace, "one", "ServerReachable", "True", "Reachable")


def test_a_server_that_fails_calls_and_answers_health_checks(
    api: Api, start_operator: Start, real_pods: PodAgent, namespace: str
) -> None:
    start_operator(settings=ATTENTIVE)
    with ToolHttpServer() as upstream:
        api.create(mcp_server(namespace, kind="remote", remote={"url": upstream.url}, health=OFTEN))
        wait_for(api, namespace, "one", "Ready", "True", timeout=60)
        (sidecar,) = sidecars(api, real_pods, namespace, 1)
        with SteadyLoad(sidecar.url, callers=1):
            upstream.behave = lambda seen: Answer(status=500) if seen.tool else None
            server = wait_for(api, namespace, "one", "ServerReachable", "False", "CallsFailing")
            assert "the server answered with HTTP status 500" in condition(server, "ServerReachable")["message"]
            wait_for(api, namespace, "one", "Ready", "False", "CallsFailing")
            wait_for(api, namespace, "one", "Available", "True", "ReplicasAvailable")
            upstream.behave = None
            wait_for(api, namespace, "one", "ServerReachable", "True", "Reachable", timeout=60)
            wait_for(api, namespace, "one", "Ready", "True", "Ready")


def test_a_server_that_takes_its_time(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    held = stdio(args=[*KINDS["stdio"]["stdio"]["args"], "--hold", str(gate)])
    api.create(mcp_server(namespace, stdio=held, timeouts={"startTimeout": "5m"}))
    server = wait_for(api, namespace, "one", "ServerReachable", "Unknown", "NotYetKnown", timeout=60)
    assert "is starting" in condition(server, "ServerReachable")["message"]
    wait_for(api, namespace, "one", "Ready", "False", "Progressing")
    gate.touch()
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)


def test_a_server_that_ends_again_and_again(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    api.create(
        mcp_server(namespace, stdio={"command": sys.executable, "args": ["-c", "raise SystemExit('no licence')"]})
    )
    server = wait_for(api, namespace, "one", "Ready", "False", "ServerCrashing", timeout=60)
    assert "no licence" in condition(server, "Ready")["message"]
    wait_for(api, namespace, "one", "ServerReachable", "False", "Unreachable", timeout=60)
    patch(api, namespace, stdio=stdio())
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)


# What pods say of themselves


@contextmanager
def answering(address: str, body: bytes) -> Iterator[None]:
    """Something on the admin port of a pod that is no sidecar."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer((address, 9090), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (None, "no connection to the admin port"),
        (b"<html>hello", "not JSON"),
        (b'{"config": 7}', "not a sidecar's status"),
        (b"[" * 200_000, "not JSON"),
        (b" " * 300_000 + b"{}", "longer than 256 KiB"),
    ],
    ids=("silent", "html", "other", "deep", "long"),
)
def test_a_pod_whose_status_cannot_be_read(
    api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str, body: bytes | None, words: str
) -> None:
    def said() -> None:
        for kind in ("ServerReachable", "ConfigApplied"):

            def look(kind: str = kind) -> bool:
                message = condition(api.get("mcpservers", namespace, "one"), kind)["message"]
                assert words in message, message
                return True

            eventually(look, f"{words} in {kind}")

    pod_agent.serve(namespace)
    api.create(mcp_server(namespace))
    wait_for(api, namespace, "one", "ServerReachable", "Unknown", "StatusUnreadable")
    wait_for(api, namespace, "one", "ConfigApplied", "Unknown", "StatusUnreadable")
    wait_for(api, namespace, "one", "Ready", "True", "Ready")
    (pod,) = living(api, namespace)
    if body is None:
        said()
        return
    with answering(pod["status"]["podIP"], body):
        said()


def test_a_change_while_nobody_asked_the_pods(
    api: Api, start_operator: Start, real_pods: PodAgent, namespace: str
) -> None:
    """A new leader does not say of the new configuration what was known of the old one."""
    before = start_operator(name="before")
    api.create(mcp_server(namespace))
    wait_for(api, namespace, "one", "ServerReachable", "True", "Reachable", timeout=60)
    wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied", timeout=60)
    before.stop()
    patch(api, namespace, deniedTools=["echo"])
    with Witness(api, namespace) as witness:
        start_operator(name="after")
        wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied", timeout=60)
        witness.wait_for(("ConfigApplied", "Unknown", "NotYetKnown"))
        assert ("ServerReachable", "Unknown", "NotYetKnown") not in witness.seen, "what is not in doubt stays"


# Secrets and ConfigMaps


def test_a_config_map_that_is_missing(api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str) -> None:
    pod_agent.serve(namespace)
    region = {"name": "REGION", "valueFrom": {"configMapKeyRef": {"name": "plain", "key": "region"}}}
    api.create(mcp_server(namespace, stdio=stdio(env=[region])))
    wait_for(api, namespace, "one", "Ready", "False", "ConfigMapMissing")
    server = wait_for(api, namespace, "one", "SecretsResolved", "False", "ConfigMapMissing")
    assert f"kubectl -n {namespace} create configmap plain" in condition(server, "SecretsResolved")["message"]
    metadata = {"name": "plain", "namespace": namespace}
    api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"other": "x"}})
    wait_for(api, namespace, "one", "Ready", "False", "KeyMissing")
    wait_for(api, namespace, "one", "SecretsResolved", "False", "KeyMissing")
    api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"region": "north"}})
    wait_for(api, namespace, "one", "SecretsResolved", "True", "Resolved")


def test_a_secret_that_the_operator_may_not_read(
    api: Api, operators: Operators, operator: OperatorProcess, pod_agent: PodAgent, namespace: str
) -> None:
    pod_agent.serve(namespace)
    api.create(mcp_server(namespace))
    settled(api, namespace)
    role = api.get("clusterroles", None, "outrigger-operator")
    assert role is not None
    fewer = [rule for rule in role["rules"] if "secrets" not in rule["resources"]]
    assert len(fewer) < len(role["rules"])
    api.patch("clusterroles", None, "outrigger-operator", {"rules": fewer})
    try:
        env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "vendor", "key": "token"}}}]
        patch(api, namespace, stdio=stdio(env=env))
        wait_for(api, namespace, "one", "Ready", "False", "ReferenceForbidden")
        server = wait_for(api, namespace, "one", "SecretsResolved", "False", "ReferenceForbidden")
        assert "may not read Secret vendor" in condition(server, "SecretsResolved")["message"]
    finally:
        install(operators.cluster, NAMESPACE)
    wait_for(api, namespace, "one", "SecretsResolved", "False", "SecretMissing")


def test_a_secret_whose_value_cannot_be_used(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there, and sealed with a key that the sidecar has not."""
    monkeypatch.setattr(real_pods, "refresh", 0.3)
    metadata = {"name": "vendor", "namespace": namespace}
    sealed = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": "fernet:v1:gAAAAABx"}}
    api.create(sealed)
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "vendor", "key": "token"}}}]
    api.create(mcp_server(namespace, stdio=stdio(env=env), secrets={"pollInterval": "100ms"}))
    wait_for(api, namespace, "one", "Ready", "False", "SecretUnusable", timeout=60)
    server = wait_for(api, namespace, "one", "SecretsResolved", "False", "SecretUnusable")
    assert condition(server, "SecretsResolved")["message"] == (
        "the sidecar cannot use env.TOKEN: a value is sealed and there is no key: set spec.secrets.encryptionKey"
    )
    api.apply({**sealed, "stringData": {"token": "plain"}})
    wait_for(api, namespace, "one", "SecretsResolved", "True", "Resolved")
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)

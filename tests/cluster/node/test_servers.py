"""The four kinds of server in real pods: what they say of themselves, and callers of every sort through the Service.

All are the SDK's everything server, so that all have to do the same: as a command in our image, in an image of its own
behind the bridge, in a container that speaks HTTP, and somewhere else. The manifests are applied as users do.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
from mcp import types
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from cluster.api import Api, eventually
from cluster.deployed import Deployed, first_process, names, page, restarts, status
from cluster.four_kinds import EXAMPLE, KINDS, STDIO, manifests
from cluster.images_for_tests import archives
from cluster.kubectl import Command
from cluster.kubernetes_programs import programs
from cluster.node_cluster import NodeCluster
from cluster.plain_pods import reached, running
from cluster.sidecars import is_ready
from conformance import suite
from mcp_callers import Caller
from raw_mcp import META
from tcp_relay import TcpRelay

pytestmark = pytest.mark.timeout(300)

Object = dict[str, Any]
MODES = ("legacy", "2026-07-28")
LEGACY = "2025-06-18"
TEXT = "This is a simple text response for testing."
CONFORMANCE_TIMEOUT = 300.0
"""Seconds for all kinds: each session of the stdio ones is a process that imports the SDK. 40 with two idle cores."""


@pytest.fixture(scope="module")
def place(api: Api, kubectl: Command, node_cluster: NodeCluster, installed: Any) -> Iterator[str]:
    """The namespace in which all of it runs."""
    node_cluster.import_images(*archives())
    name = f"servers-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        eventually(lambda: api.get("serviceaccounts", name, "default"), "the default ServiceAccount", 60)
        kubectl("apply", "--namespace", name, "-f", str(EXAMPLE))
        rest = "\n---\n".join(json.dumps(manifest) for manifest in manifests())
        kubectl("apply", "--namespace", name, "-f", "-", input=rest)
        yield name
    finally:
        api.delete("namespaces", None, name)


@pytest.fixture(scope="module")
def stopped(api: Api, place: str) -> Object:
    """The pod of a sidecar that was stopped by SIGSTOP; asked for early, as liveness takes half a minute to see it."""
    (pod,) = Deployed(api, place, "stuck").ready().pods()
    os.kill(first_process(pod, "sidecar"), signal.SIGSTOP)
    return pod


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, api: Api, place: str, stopped: Object) -> Deployed:
    """Each kind, ready."""
    return Deployed(api, place, request.param).ready()


@pytest.fixture
def example(api: Api, place: str) -> Deployed:
    """examples/everything.yaml."""
    return Deployed(api, place, "everything").ready()


def text(result: Any) -> str:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


# What is said of it


def told(server: Deployed) -> Object | None:
    """The status, when the operator has asked the pod since it is ready, and since the sidecar knows the tools."""
    found: Object = server.object["status"]
    return found if {"era", "tools"} <= set(found) else None


def test_status_tells_what_the_server_is(server: Deployed) -> None:
    found = eventually(lambda: told(server), "what the server is", 30)
    assert found["era"] in ("Modern", "Both"), "Both when a legacy caller has been"
    assert found["server"]["name"] == "mcp-conformance-test-server"
    assert "2026-07-28" in found["server"]["protocolVersions"]
    assert found["url"] == f"http://{server.name}.{server.namespace}.svc.cluster.local:8080/mcp"
    assert (found["replicas"], found["readyReplicas"]) == (1, 1)
    assert found["tools"] == len(server.caller().result("tools/list")["tools"])
    conditions = {one["type"]: (one["status"], one["reason"]) for one in found["conditions"]}
    assert conditions["ServerReachable"] == ("True", "Reachable")
    assert conditions["Available"][0] == conditions["SecretsResolved"][0] == conditions["ConfigApplied"][0] == "True"


# Callers


@pytest.mark.parametrize("mode", MODES)
async def test_the_sdk_client(server: Deployed, mode: str) -> None:
    steps: list[float] = []

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with Client(server.url, mode=mode) as client:
        assert "test_simple_text" in {tool.name for tool in (await client.list_tools()).tools}
        assert text(await client.call_tool("test_simple_text", {})) == TEXT
        assert (await client.call_tool("test_error_handling", {})).is_error
        await client.call_tool("test_tool_with_progress", {}, progress_callback=progressed)
        assert steps == sorted(steps)
        assert len(steps) == 3
        assert (await client.read_resource("test://static-text")).contents
        assert (await client.get_prompt("test_simple_prompt")).messages


@pytest.fixture(scope="module", params=suite.REVISIONS)
def runs(
    request: pytest.FixtureRequest, api: Api, place: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, Future[suite.Run]]]]:
    """A revision, and the conformance suite's run for each kind.

    Those of the older revision mostly wait, so all run at the same time. Those of the newer end some requests by
    themselves, after half a second: each has the machine for itself.
    """
    revision: str = request.param

    def run(kind: str) -> suite.Run:
        server = Deployed(api, place, kind).ready()
        host, port = str(urlsplit(server.url).hostname), urlsplit(server.url).port or 0
        # one scenario wants its server on this machine
        with TcpRelay(host, port) as relay:
            return suite.run_server(
                f"http://{relay.address}/mcp",
                tmp_path_factory.mktemp(kind),
                requirements=revision,
                expected_failures=suite.expected_failures(revision) if kind in STDIO else None,
                force_timeout=CONFORMANCE_TIMEOUT,
            )

    with ThreadPoolExecutor(len(KINDS) if revision == suite.REVISIONS[0] else 1) as pool:
        yield revision, {kind: pool.submit(run, kind) for kind in KINDS}


@pytest.mark.timeout(CONFORMANCE_TIMEOUT + 30)
@pytest.mark.parametrize("kind", KINDS)
def test_the_conformance_suite(runs: tuple[str, dict[str, Future[suite.Run]]], kind: str) -> None:
    """The scores of tests/conformance, with the same expected failures."""
    revision, started = runs
    scored = suite.required_server_scenarios(revision)
    assert len(scored) == suite.SCORED[revision]
    run = started[kind].result()
    assert run.code == 0, run.report(scored)
    missed = {scenario.name for scenario in run.misses(scored)}
    expected = suite.expectations(suite.expected_failures(revision)) if kind in STDIO else []
    assert missed == set(expected), run.report(scored)


# In the pod that calls: one modern request to each URL, and what came back.
ASK = """
import json, sys, urllib.request
sent = json.load(sys.stdin)
for url in sent["urls"]:
    request = urllib.request.Request(url, json.dumps(sent["body"]).encode(), sent["headers"])
    print(json.load(urllib.request.urlopen(request, timeout=20))["result"]["content"][0]["text"])
"""


def test_by_name_and_by_address_from_a_pod(api: Api, kubectl: Command, example: Deployed) -> None:
    running(api, example.namespace, "caller")
    inside = ("exec", "--namespace", example.namespace, "--stdin", "caller", "--")
    full = example.object["status"]["url"]
    reach = lambda: reached(kubectl, example.namespace, "caller", "everything:8080") == ["yes"]  # noqa: E731
    eventually(reach, "the caller's node knows the Service", 60)
    assert kubectl(*inside, "outrigger-sidecar", "call", full, "test_simple_text") == f"{TEXT}\n"
    short = f"http://everything.{example.namespace}"
    urls = ["http://everything:8080/mcp", f"{short}:8080/mcp", f"{short}.svc:8080/mcp", full, example.url]
    headers = example.caller().headers(**{"Mcp-Method": "tools/call", "Mcp-Name": "test_simple_text"})
    params = {"name": "test_simple_text", "arguments": {}, "_meta": META}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    sent = {"urls": urls, "headers": headers, "body": body}
    assert kubectl(*inside, "python3", "-c", ASK, input=json.dumps(sent)).splitlines() == [TEXT] * len(urls)


async def test_through_a_forwarded_port(node_cluster: NodeCluster, example: Deployed) -> None:
    command = [programs("kubectl")["kubectl"], "port-forward", "--namespace", example.namespace]
    process = subprocess.Popen(
        [*command, "service/everything", ":8080"],
        env={**os.environ, "KUBECONFIG": str(node_cluster.kubeconfig)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("Forwarding from 127.0.0.1:"), said
        port = int(said.split(" -> ")[0].rpartition(":")[2])
        for name in ("127.0.0.1", "localhost"):
            async with Client(f"http://{name}:{port}/mcp", mode="legacy") as client:
                assert text(await client.call_tool("test_simple_text", {})) == TEXT
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_foreign_host_is_refused(example: Deployed) -> None:
    """What a web page makes a browser send, whose name leads here (DNS rebinding)."""
    parts = urlsplit(example.url)
    caller = example.caller()
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
    for host in (
        "evil.example",
        "evil.example:8080",
        "everything.elsewhere.svc",
        f"{parts.hostname}.evil.example:8080",
    ):
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", parts.path, body, {**caller.headers(), "Host": host})
            response = connection.getresponse()
            assert response.status == 421, host
            assert json.loads(response.read())["error"]["data"]["reason"] == "host_not_allowed"


# Sessions of two pods


def forwarded(pod: Object) -> int:
    """Requests that this pod passed on to another and that were answered."""
    name = 'outrigger_forwarded_requests_total{outcome="answered"} '
    lines = page(pod, "/metrics")[1].splitlines()
    return int(sum(float(line.removeprefix(name)) for line in lines if line.startswith(name)))


def own_sessions(pod: Object) -> int:
    return int(status(pod)["servers"]["pair"]["upstream"]["ownSessions"])


def at(pod: Object) -> str:
    return f"http://{pod['status']['podIP']}:8080/mcp"


async def test_sessions_over_two_pods(api: Api, place: str) -> None:
    pair = Deployed(api, place, "pair").ready()
    pods = pair.ready_pods(2)
    callers = [Caller(at(pod), version=LEGACY).open() for pod in pods * 3]
    assert [own_sessions(pod) for pod in pods] == [3, 3]
    for caller in callers:
        caller.url = pair.url  # each request has a connection of its own, which the Service takes to any pod
    for turn in range(5):
        assert [caller.text("echo", text=f"{turn}") for caller in callers] == [str(turn)] * 6
    eventually(lambda: forwarded(pods[0]) and forwarded(pods[1]), "either forwarded to the other")
    assert [own_sessions(pod) for pod in pods] == [3, 3], "the processes are where they were"

    async with Client(pair.url, mode="legacy") as client:
        assert text(await client.call_tool("echo", {"text": "mine"})) == "mine"
        home = next(pod for pod in pods if own_sessions(pod) == 4)
        api.delete("pods", place, home["metadata"]["name"], gracePeriodSeconds=0)
        eventually(lambda: api.get("pods", place, home["metadata"]["name"]) is None, "the pod gone")
        now = pair.ready_pods(2)
        assert len(names(now) & names(pods)) == 1
        with pytest.raises(MCPError, match=r"[Ss]ession"):
            await client.call_tool("echo", {"text": "mine"})
    async with Client(pair.url, mode="legacy") as client:
        assert text(await client.call_tool("echo", {"text": "anew"})) == "anew"
    kept = Counter(caller.send("ping").wait().status for caller in callers)
    assert kept == {200: 3, 404: 3}, "404 is the specification's word for: begin anew"


# Probes


def test_readiness_follows_the_server_and_heals(api: Api, kubectl: Command, place: str) -> None:
    remote = Deployed(api, place, "remote").ready()
    (pod,) = remote.pods()
    kubectl("scale", "--namespace", place, "deployment/upstream", "--replicas=0")
    eventually(lambda: not is_ready(remote.pods()[0]), "the pod not ready", 60)
    remote.wait("Ready", "False")
    assert remote.wait("ServerReachable", "False", "Unreachable")
    kubectl("scale", "--namespace", place, "deployment/upstream", "--replicas=1")
    remote.ready()
    assert remote.caller().text("test_simple_text") == TEXT
    assert names(remote.pods()) == {pod["metadata"]["name"]}, "the same pod"
    assert restarts(remote.pods()[0]) == {"sidecar": 0}, "which nobody restarted"


def test_server_that_dies_in_its_container_comes_back(api: Api, place: str) -> None:
    contained = Deployed(api, place, "contained").ready()
    (pod,) = contained.pods()
    before = restarts(pod)
    os.kill(first_process(pod, "server"), signal.SIGKILL)
    eventually(lambda: restarts(contained.pods()[0]) != before, "the server's container started again", 60)

    def look() -> bool:
        answer = contained.caller().call("test_simple_text").wait()
        assert answer.status == 200, answer.body
        return True

    eventually(look, "calls answered again", 60)
    contained.ready()
    assert restarts(contained.pods()[0]) == {"server": before["server"] + 1, "sidecar": before["sidecar"]}


def test_stuck_sidecar_is_restarted(api: Api, place: str, stopped: Object) -> None:
    stuck = Deployed(api, place, "stuck")
    eventually(lambda: restarts(stuck.pods()[0])["sidecar"] >= 1, "liveness restarts the sidecar", 90)
    stuck.ready()
    assert stuck.caller().text("echo", text="again") == "again"
    (pod,) = stuck.pods()
    assert pod["metadata"]["uid"] == stopped["metadata"]["uid"], "the container, not the pod"
    assert restarts(pod)["server"] == 0

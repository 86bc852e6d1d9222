"""Sessions over the pods of one MCPServer: the operator gives them one key, and each finds the others by their address.

The sidecars are real ones, each on its pod's address; `Spread` stands for the Service: each request to the next pod.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mcp import types
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from cluster.api import Api, eventually
from cluster.operator_process import OperatorProcess
from cluster.pod_agent import PodAgent
from cluster.servers import KINDS, mcp_server, wait_for
from cluster.sidecars import Sidecar, sidecars
from mcp_callers import Caller
from replicas import Spread

LEGACY = "2025-06-18"
PER_SESSION: dict[str, Any] = {"stdio": {**KINDS["stdio"]["stdio"], "isolation": "PerSession"}}


def text(result: Any) -> str:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


def forwarded(running: list[Sidecar]) -> Counter[str]:
    """Outcome → requests that these sidecars passed on to another. They tell the same again for a second."""
    found: Counter[str] = Counter()
    for sidecar in running:
        page = sidecar.admin("/metrics")[1]
        for outcome, count in re.findall(r'^outrigger_forwarded_requests_total\{outcome="(\w+)"\} (\S+)$', page, re.M):
            found[outcome] += int(float(count))
    return found


def two_pods(api: Api, real_pods: PodAgent, namespace: str, **spec: Any) -> list[Sidecar]:
    """The sidecars of a new MCPServer with two replicas."""
    api.create(mcp_server(namespace, replicas=2, **spec))
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    return sidecars(api, real_pods, namespace, 2)


def replace_pod(api: Api, real_pods: PodAgent, namespace: str, victim: Sidecar) -> list[Sidecar]:
    """Kill the sidecar and delete its pod, as where a node dies; the sidecars when there are two again."""
    victim.process.kill()
    api.delete("pods", namespace, victim.name, gracePeriodSeconds=0)
    eventually(lambda: api.get("pods", namespace, victim.name) is None, "the pod gone")
    return sidecars(api, real_pods, namespace, 2)


def session_key(sidecar: Sidecar) -> bytes:
    return Path(f"/proc/{sidecar.process.pid}/root/run/outrigger/session/key").read_bytes()


async def test_a_client_of_the_sdk_whose_requests_go_to_every_pod(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    running = two_pods(api, real_pods, namespace, **PER_SESSION)
    secret = api.get("secrets", namespace, "one-session")
    assert secret is not None
    assert {session_key(sidecar) for sidecar in running} == {base64.b64decode(secret["data"]["key"])}

    with Spread(running) as service:
        async with Client(service.url, mode="legacy") as client, Client(service.url, mode="legacy") as other:
            mine = {text(await client.call_tool("pid", {})) for _ in range(10)}
            theirs = {text(await other.call_tool("pid", {})) for _ in range(10)}
            assert len(mine) == len(theirs) == 1, "each session has one process, wherever a request arrives"
            assert mine != theirs
            processes = {str(pid) for sidecar in running for pid in sidecar.servers()}
            assert mine | theirs <= processes
        assert min(service.seen.values()) >= 10, "spread over both"
    outcomes = forwarded(running)
    assert outcomes.pop("answered") >= 10
    del outcomes["cancelled"]  # streams, which their clients end
    assert outcomes == {"gone": 0, "lost": 0}


async def test_a_session_ends_with_its_pod_and_is_begun_anew(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    running = two_pods(api, real_pods, namespace, **PER_SESSION)
    home, other = running
    raw = home.caller(version=LEGACY).open()
    raw.url = other.url
    assert raw.text("pid") in {str(pid) for pid in home.servers()}
    stays = other.caller(version=LEGACY).open()
    kept = stays.text("pid")

    with Spread([home]) as service:
        async with Client(service.url, mode="legacy") as client:
            assert text(await client.call_tool("echo", {"text": "x"}))
            now = service.targets[:] = replace_pod(api, real_pods, namespace, home)
            assert raw.send("ping").wait().status == 404, "the specification's word for: begin anew"
            with pytest.raises(MCPError, match=r"[Ss]ession"):
                await client.call_tool("echo", {"text": "x"})
        async with Client(service.url, mode="legacy") as client:
            assert len({text(await client.call_tool("pid", {})) for _ in range(6)}) == 1
    fresh = next(sidecar for sidecar in now if sidecar.uid != other.uid)
    raw.open()
    assert raw.text("echo", text="anew") == '{"text": "anew"}'
    # the session of the pod that lives is found from the new one
    stays.url = fresh.url
    assert stays.text("pid") == kept


def test_sessions_of_a_shared_server_outlive_a_pod(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    """Nothing of them is in a pod but the key."""
    running = two_pods(api, real_pods, namespace)
    first, second = running
    caller = first.caller(version=LEGACY).open()
    assert caller.text("pid") in {str(pid) for pid in first.servers()}
    for sidecar in replace_pod(api, real_pods, namespace, first):
        caller.url = sidecar.url
        assert caller.text("pid") in {str(pid) for pid in sidecar.servers()}
    assert second.uid in {sidecar.uid for sidecar in sidecars(api, real_pods, namespace, 2)}


def test_sessions_outlive_a_tunable(api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str) -> None:
    """A change of the configuration, and a pod more, end no session."""
    running = two_pods(api, real_pods, namespace, **PER_SESSION)
    callers = [sidecar.caller(version=LEGACY).open() for sidecar in running]
    processes = [caller.text("pid") for caller in callers]
    api.patch("mcpservers", namespace, "one", {"spec": {"deniedTools": ["echo"], "replicas": 3}})
    wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied", timeout=60)
    for sidecar in sidecars(api, real_pods, namespace, 3):
        for caller in callers:
            caller.url = sidecar.url
        assert [caller.text("pid") for caller in callers] == processes


def test_hosts_of_the_service(api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str) -> None:
    """Callers come with the Service's names and address in `Host`; others are refused, against DNS rebinding."""
    api.create(mcp_server(namespace))
    server = wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    (sidecar,) = sidecars(api, real_pods, namespace, 1)
    service = api.get("services", namespace, "one")
    assert service is not None
    assert server["status"]["url"] == f"http://one.{namespace}.svc.cluster.local:8080/mcp"

    def asked(host: str) -> int:
        return Caller(sidecar.url).send("ping", headers={"Host": host}).wait().status

    names = ["one", f"one.{namespace}", f"one.{namespace}.svc", f"one.{namespace}.svc.cluster.local"]
    for host in (*names, service["spec"]["clusterIP"], sidecar.host, "localhost"):
        assert asked(f"{host}:8080") != 421, host
    assert asked("evil.example:8080") == 421
    api.patch("mcpservers", namespace, "one", {"spec": {"service": {"allowedHosts": ["mcp.example.org"]}}})
    wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied")
    assert asked("mcp.example.org") != 421

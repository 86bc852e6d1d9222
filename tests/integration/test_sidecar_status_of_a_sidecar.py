"""The operator understands what a sidecar that really runs says of itself."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from callers import Caller
from kubernetes_objects import NAME, NOW, pod
from mcp_operator.diagnosis import pod_cause
from mcp_operator.observed import PodView
from mcp_operator.sidecar_status import ServerReport, SidecarReport, StatusPoller
from sidecar_process import SidecarProcess
from tool_http_server import Answer, ToolHttpServer

CHILDREN = Path(__file__).resolve().parent.parent / "children"


def pod_of(sidecar: SidecarProcess) -> PodView:
    raw = pod(ip="127.0.0.1", ready=False)
    raw["spec"]["containers"][0]["ports"][1]["containerPort"] = sidecar.admin_port
    return PodView.of(raw)


async def report_when(sidecar: SidecarProcess, holds: Callable[[ServerReport], bool]) -> SidecarReport:
    """The first report of which `holds` is true."""
    poller = StatusPoller()
    target = pod_of(sidecar)
    report: Any = None
    try:
        async with asyncio.timeout(30):
            while True:
                report = (await poller.poll([target]))[target.uid]
                if isinstance(report, SidecarReport) and report.server is not None and holds(report.server):
                    return report
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"the last report was {report}")
    finally:
        await poller.close()


async def test_a_server_that_answers() -> None:
    config = {"servers": {NAME: {"command": sys.executable, "args": [str(CHILDREN / "sdk_server.py")]}}}
    with SidecarProcess(config) as sidecar:
        report = await report_when(sidecar, lambda server: server.up and server.tools is not None)
        text = sidecar.config_path.read_bytes()
    server = report.server
    assert server is not None
    assert report.ready
    assert report.file_hash == hashlib.sha256(text).hexdigest()[:16]
    assert (server.name, server.tools, server.eras) == ("sdk", 5, ("Modern",))
    assert server.protocol_versions == ("2026-07-28",)
    assert (server.problem, server.last_error, server.secrets_problem) == ("", "", "")


@pytest.mark.parametrize(
    ("server", "reason", "words"),
    [
        ({"command": "/no/such/program"}, "CommandNotFound", "'/no/such/program' does not exist"),
        ({"command": "no-such-program"}, "CommandNotFound", "'no-such-program' was not found on PATH"),
        (
            {"command": sys.executable, "args": ["-c", "import sys; sys.exit('REGION is not set')"]},
            "ServerCrashing",
            "REGION is not set",
        ),
        ({"url": "http://127.0.0.1:1/mcp"}, "ServerUnreachable", "refused"),
        (
            {"url": "http://127.0.0.1:1/mcp", "headers": {"X": {"valueFrom": {"file": "/no/such/file"}}}},
            "SecretUnusable",
            "headers.X: there is no file /no/such/file",
        ),
    ],
)
async def test_a_server_that_does_not(server: dict[str, Any], reason: str, words: str) -> None:
    with SidecarProcess({"servers": {NAME: server}}) as sidecar:
        report = await report_when(sidecar, lambda found: found.failing)
        cause = pod_cause(pod_of(sidecar), report, NOW)
    assert cause is not None
    assert cause.reason == reason
    assert words in cause.message


async def test_a_server_that_fails_calls() -> None:
    with ToolHttpServer() as server, SidecarProcess({"servers": {NAME: {"url": server.url}}}) as sidecar:
        report = await report_when(sidecar, lambda found: found.up)
        assert report.server is not None
        assert (report.server.refusing, report.server.call_error) == (False, "")
        server.behave = lambda seen: Answer(status=500) if seen.tool else None
        while await asyncio.to_thread(Caller(sidecar).reason, "echo") != "breaker_open":
            pass
        report = await report_when(sidecar, lambda found: found.refusing)
    assert report.server is not None
    assert report.server.up
    assert report.server.call_error == "the server answered with HTTP status 500"


async def test_a_configuration_that_is_refused() -> None:
    good = {"servers": {NAME: {"command": sys.executable, "args": [str(CHILDREN / "sdk_server.py")]}}}
    with SidecarProcess(good) as sidecar:
        before = await report_when(sidecar, lambda server: server.up)
        sidecar.write_config({"servers": {NAME: {"command": "x", "comand": "y"}}})
        poller = StatusPoller()
        target = pod_of(sidecar)
        async with asyncio.timeout(30):
            while True:
                after = (await poller.poll([target]))[target.uid]
                if isinstance(after, SidecarReport) and after.last_refusal:
                    break
                await asyncio.sleep(0.05)
        await poller.close()
    assert "comand" in after.last_refusal[0]
    assert after.file_hash == before.file_hash

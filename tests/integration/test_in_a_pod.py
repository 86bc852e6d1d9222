"""What a pod does to a sidecar: ports taken, servers and Secrets that come later than it, addresses of its own."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from callers import Caller, eventually, stdio
from raw_mcp import HttpClient
from sidecar_process import SidecarProcess, free_ports, running
from tool_http_server import ToolHttpServer

FAST = {"secrets": {"pollInterval": "50ms"}}


@pytest.mark.parametrize("which", ["port", "adminPort"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_taken_is_named(which: str, host: str, tmp_path: Path) -> None:
    """The operator tells the cause from the last lines of a container that ended."""
    with socket.socket() as taken:
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]
        front = {"host": host, "adminHost": host, "port": 0, "adminPort": 0, which: port}
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"servers": {"s": stdio()}, "front": front}))
        done = subprocess.run(
            [sys.executable, "-m", "mcp_sidecar.cli", "run", "--config", str(path)],
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["level"] == "error"
    assert last["error"] == f"{host}:{port}: address already in use"


def test_it_answers_on_every_address_of_the_pod() -> None:
    """The kubelet and the operator ask at the pod's address; other replicas call there."""
    config = {"servers": {"s": stdio()}, "front": {"adminHost": "0.0.0.0"}}
    with running(config, host="0.0.0.0", env={"OUTRIGGER__SESSIONS__ADDRESS": "127.0.0.7"}) as sidecar:
        connection = http.client.HTTPConnection("127.0.0.6", sidecar.admin_port, timeout=10)
        for page in ("/livez", "/readyz", "/startupz", "/status", "/metrics"):
            connection.request("GET", page)
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (200, True)
        connection.close()
        own = HttpClient(f"http://127.0.0.7:{sidecar.port}/mcp", modern=True).request("tools/list")
        other = HttpClient(f"http://127.0.0.6:{sidecar.port}/mcp", modern=True).request("tools/list")
        assert (own.status, other.status) == (200, 421), "its own address is an allowed host, others are not"


@pytest.mark.parametrize("readiness", ["Startup", "Upstream"])
def test_a_server_in_the_pod_that_comes_later(readiness: str) -> None:
    (port,) = free_ports(1)
    server = {"url": f"http://127.0.0.1:{port}/mcp", "health": {"interval": "100ms", "timeout": "100ms"}}
    with SidecarProcess({"servers": {"s": server}, "readiness": readiness}) as sidecar:
        reason = eventually(lambda: sidecar.status()["reason"])
        status, body = sidecar.admin("/readyz")
        assert status == 503
        eventually(lambda: "connection refused" in sidecar.admin("/readyz")[1].decode().lower())
        assert sidecar.admin("/startupz")[0] == sidecar.admin("/livez")[0] == 200, (reason, body)
        assert Caller(sidecar).reason("echo") == "connect_failed"
        later = ToolHttpServer()
        later.port = port
        with later:
            sidecar.wait_for("/readyz")
            assert eventually(lambda: "result" in Caller(sidecar).answer("echo").answer)


def test_a_token_file_that_comes_later(tmp_path: Path) -> None:
    token = tmp_path / "token"
    with ToolHttpServer() as server:
        env = {"MCP_TOKEN_S_FILE": str(token)}
        with SidecarProcess({"servers": {"s": {"url": server.url}}, **FAST}, env=env) as sidecar:
            problem = eventually(lambda: sidecar.status()["servers"]["s"]["problem"])
            assert problem == f"server s is not ready: token: there is no file {token}"
            assert sidecar.admin("/readyz") == (503, eventually(lambda: sidecar.admin("/readyz")[1]))
            assert str(token) in sidecar.admin("/readyz")[1].decode()
            assert Caller(sidecar).reason("echo") == "server_not_ready"
            assert not server.requests, "never anonymous"
            token.write_text("t0ken\n")
            sidecar.wait_for("/readyz")
            assert json.loads(Caller(sidecar).text("headers"))["authorization"] == "Bearer t0ken"


def test_a_session_key_that_the_group_may_read(tmp_path: Path) -> None:
    """As the kubelet makes the files of a Secret for an fsGroup."""
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o440)
    with running({"servers": {"s": stdio()}, "sessions": {"keyFile": str(key)}}) as sidecar:
        assert Caller(sidecar, modern=False).open().text("echo") == "{}"

"""The settings of the front and of the sidecar as a whole, each by what it does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from callers import Caller, Callers, eventually, log_lines, logged, stdio
from certificates import Authority
from mcp_sidecar import app
from mcp_sidecar.config import load_text
from mcp_sidecar.telemetry.lines import LineWriter
from mcp_sidecar.telemetry.log import open_log
from raw_mcp import META, HttpClient
from replicas import replicas
from sidecar_process import SidecarProcess, free_ports, running
from tool_http_server import ToolHttpServer

INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProcess]:
    """A sidecar whose front grants little."""
    front = {
        "allowedHosts": ["good.example", "127.0.0.1"],
        "allowedOrigins": ["https://good.example"],
        "maxRequestBytes": 2000,
        "maxHeaderBytes": 1500,
        "headerTimeout": "200ms",
        "bodyTimeout": "200ms",
        "idleTimeout": "400ms",
        "maxConnections": 8,
        "maxCallsPerConnection": 2,
        "maxSessions": 3,
    }
    config = {
        "servers": {"s": stdio()},
        "front": front,
        "sessions": {"stateDirectory": str(tmp_path_factory.mktemp("state"))},
    }
    with running(config) as sidecar:
        yield sidecar


def ask(sidecar: SidecarProcess, *headers: str, body: bytes = b"{}", length: int | None = None) -> str:
    """The answer's head and body to one POST, until the connection is closed."""
    head = ["POST /mcp HTTP/1.1", "Content-Type: application/json", *headers, "Connection: close"]
    head.append(f"Content-Length: {len(body) if length is None else length}")
    if not any(header.startswith("Host:") for header in headers):
        head.append("Host: 127.0.0.1")
    return exchange(sidecar, "\r\n".join(head).encode() + b"\r\n\r\n" + body)


def exchange(sidecar: SidecarProcess, data: bytes) -> str:
    with socket.create_connection(("127.0.0.1", sidecar.port), timeout=10) as sock:
        sock.sendall(data)
        pieces = []
        while piece := sock.recv(65536):
            pieces.append(piece)
        return b"".join(pieces).decode()


def test_allowed_hosts(strict: SidecarProcess) -> None:
    assert " 421 " in ask(strict, "Host: evil.example").splitlines()[0]
    assert " 421 " not in ask(strict, "Host: good.example").splitlines()[0]


def test_allowed_origins(strict: SidecarProcess) -> None:
    assert " 403 " in ask(strict, "Origin: https://evil.example").splitlines()[0]
    assert " 403 " not in ask(strict, "Origin: https://good.example").splitlines()[0]


def test_max_request_bytes(strict: SidecarProcess) -> None:
    assert " 413 " in ask(strict, body=b" " * 2001).splitlines()[0]
    assert " 413 " not in ask(strict, body=b" " * 1999 + b"1").splitlines()[0]


def test_max_header_bytes(strict: SidecarProcess) -> None:
    assert " 431 " in ask(strict, "X-Long: " + "x" * 1500).splitlines()[0]
    assert " 431 " not in ask(strict, "X-Long: " + "x" * 1000).splitlines()[0]


def test_header_timeout(strict: SidecarProcess) -> None:
    began = time.monotonic()
    assert "head not complete within 0.2 s" in exchange(strict, b"POST /mcp HTTP/1.1\r\n")
    assert time.monotonic() - began < 5


def test_body_timeout(strict: SidecarProcess) -> None:
    assert "body not complete within 0.2 s" in ask(strict, body=b"{", length=100)


def test_idle_timeout(strict: SidecarProcess) -> None:
    request = b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    began = time.monotonic()
    assert " 404 " in exchange(strict, request).splitlines()[0]
    assert 0.3 < time.monotonic() - began < 10, "the connection was kept, and then closed"


def test_max_connections(strict: SidecarProcess) -> None:
    eventually(lambda: strict.status()["front"]["connections"] == 0)
    held = [socket.create_connection(("127.0.0.1", strict.port)) for _ in range(8)]
    try:
        refused = eventually(lambda: answer if " 503 " in (answer := exchange(strict, b"")).split("\n")[0] else None)
        assert "too many connections" in refused
    finally:
        for sock in held:
            sock.close()
    eventually(lambda: strict.status()["front"]["connections"] == 0)


def test_max_calls_per_connection_bounds_a_batch(strict: SidecarProcess) -> None:
    client = HttpClient(strict.url(), modern=False)
    client.version = "2025-03-26"
    client.open()
    assert client.session is not None
    session = {"Mcp-Session-Id": client.session}
    ping = [{"jsonrpc": "2.0", "id": number, "method": "ping"} for number in range(3)]
    assert client.post(ping[:2], session).status == 200  # type: ignore[arg-type]
    refused = client.post(ping, session)  # type: ignore[arg-type]
    assert refused.status == 400
    assert "1 to 2 messages" in refused.body.decode()


def test_max_sessions(strict: SidecarProcess, tmp_path: Path) -> None:
    def open_one() -> dict[str, Any]:
        return HttpClient(strict.url(), modern=False).request("initialize", INITIALIZE).answer

    assert all("result" in open_one() for _ in range(4)), "one that nobody uses gives way"
    assert strict.status()["front"]["sessions"] == 3
    release = str(tmp_path / "release")
    busy = [Caller(strict, modern=False).open() for _ in range(3)]
    threads = [threading.Thread(target=caller.answer, args=("wait",), kwargs={"path": release}) for caller in busy]
    for thread in threads:
        thread.start()
    eventually(lambda: strict.status()["servers"]["s"]["bulkhead"]["inFlight"] == 3)
    assert open_one()["error"]["data"]["reason"] == "too_many_sessions"
    Path(release).touch()
    for thread in threads:
        thread.join(10)
    eventually(lambda: "result" in open_one())


async def in_process(config: dict[str, Any]) -> app.Sidecar:
    """A sidecar in this process, started."""
    log, writer = open_log(fd=os.open(os.devnull, os.O_WRONLY), human=False)
    sidecar = app.Sidecar(load_text(json.dumps(config).encode(), "test", environ={}), log, writer)
    await sidecar.start()
    return sidecar


async def test_host_and_port_of_both_ports() -> None:
    ports = free_ports(2)
    front = {"host": "127.0.0.3", "port": ports[0], "adminHost": "127.0.0.4", "adminPort": ports[1]}
    sidecar = await in_process({"servers": {"s": stdio()}, "front": front})
    try:
        assert sidecar.addresses == {"mcp": ("127.0.0.3", ports[0]), "admin": ("127.0.0.4", ports[1])}
        for address in sidecar.addresses.values():
            _, writer = await asyncio.open_connection(*address)
            writer.close()
    finally:
        await sidecar.stop()


@pytest.mark.parametrize("policy", ["Drop", "Block"])
async def test_audit_on_full_blocks_calls(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    read, write = os.pipe()

    def small(fd: int, **options: Any) -> LineWriter:
        return LineWriter(write, max_bytes=1000, **options)

    monkeypatch.setattr(app, "LineWriter", small)
    ports = {"port": 0, "adminPort": 0}
    sidecar = await in_process({"servers": {"s": stdio()}, "audit": {"onFull": policy}, "front": ports})
    writer = sidecar._audit_writer
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(20):
            for _ in range(200):  # nobody reads: what the pipe takes, and then what the queue takes
                writer.write(b"x" * 999 + b"\n", force=True)
            host, port = sidecar.addresses["mcp"]
            client = HttpClient(f"http://{host}:{port}/mcp", modern=True)
            call = loop.run_in_executor(None, client.call, "echo", {})
            if policy == "Drop":
                assert "result" in (await call).answer
                return
            while not sidecar.listener.open_requests:
                await asyncio.sleep(0.01)
            done, _ = await asyncio.wait([call], timeout=0.3)
            assert not done, "it waits for the reader"
            reader = threading.Thread(target=lambda: all(iter(lambda: os.read(read, 65536), b"")), daemon=True)
            reader.start()
            assert "result" in (await call).answer
    finally:
        await sidecar.stop()
        drain = threading.Thread(target=lambda: all(iter(lambda: os.read(read, 65536), b"")), daemon=True)
        drain.start()
        sidecar.close_writers()
        os.close(write)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("front-authority"))


def test_tls_of_the_front(authority: Authority) -> None:
    certificate, key = authority.issue("front", ips=("127.0.0.1",))
    tls = {"certFile": str(certificate), "keyFile": str(key), "clientCaFile": str(authority.ca_file)}
    with SidecarProcess({"servers": {"s": stdio()}, "front": {"tls": tls}}) as sidecar:
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        with pytest.raises(OSError), tls_connection(context, sidecar.port) as sock:  # noqa: PT012
            sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            if not sock.recv(100):
                raise ConnectionResetError("no certificate, no answer")
        context.load_cert_chain(*authority.issue("caller", client=True))
        with tls_connection(context, sidecar.port) as sock:
            assert sock.getpeercert() is not None
            sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 404")


def tls_connection(context: ssl.SSLContext, port: int) -> ssl.SSLSocket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    return context.wrap_socket(sock, server_hostname="127.0.0.1")


def test_tokens_admit_callers_with_their_tools(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("token-of-one")
    tokens = [{"name": "one", "file": str(tmp_path / "one"), "tools": ["e*"]}]
    config = {"servers": {"s": stdio()}, "front": {"tokens": tokens}, "secrets": {"pollInterval": "50ms"}}
    with running(config) as sidecar:
        client = HttpClient(sidecar.url(), modern=True)

        def call(tool: str, token: str | None) -> Any:
            version = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool}
            credentials = {"Authorization": f"Bearer {token}"} if token else {}
            params = {"name": tool, "arguments": {}, "_meta": META}
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            return client.post(body, {**version, **credentials})

        assert call("echo", None).status == 401
        assert call("echo", "wrong").status == 401
        assert "result" in call("echo", "token-of-one").answer
        assert call("pid", "token-of-one").answer["error"]["data"]["reason"] == "tool_not_allowed"
        line = eventually(lambda: [json.loads(line) for line in list(sidecar.stdout)])[0]
        assert line["who"] == "one"
        (tmp_path / "one").write_text("token-anew")
        eventually(lambda: call("echo", "token-anew").status == 200)
        assert call("echo", "token-of-one").status == 401


def test_session_key_file_is_shared_by_replicas(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ab" * 32)
    with ToolHttpServer(modern=False) as server:
        config = {"servers": {"s": {"url": server.url}}, "sessions": {"keyFile": str(tmp_path / "key")}}
        with SidecarProcess(config) as one, SidecarProcess(config) as other:
            client = Caller(one, modern=False).open().client
            replica = Caller(other, modern=False)
            replica.client.session, replica.client.version = client.session, client.version
            assert replica.text("echo") == "{}"
        (tmp_path / "key").write_text("cd" * 32)
        with SidecarProcess(config) as stranger:
            replica = Caller(stranger, modern=False)
            replica.client.session, replica.client.version = client.session, client.version
            assert replica.answer("echo").status == 404


def test_sessions_address_lets_replicas_pass_on() -> None:
    config = {"servers": {"s": stdio(isolation="PerSession")}}
    with replicas(config) as (one, other):
        client = Caller(one, modern=False).open().client
        replica = Caller(other, modern=False)
        replica.client.session, replica.client.version = client.session, client.version
        assert replica.text("echo") == "{}"
        assert other.forwarded() == 1


def test_state_directory_keeps_the_key_of_sessions(tmp_path: Path) -> None:
    with ToolHttpServer(modern=False) as server:
        config = {"servers": {"s": {"url": server.url}}, "sessions": {"stateDirectory": str(tmp_path / "state")}}
        with SidecarProcess(config) as sidecar:
            client = Caller(sidecar, modern=False).open().client
        with SidecarProcess(config) as sidecar:
            again = Caller(sidecar, modern=False)
            again.client.session, again.client.version = client.session, client.version
            assert again.text("echo") == "{}"
    assert (tmp_path / "state" / "session.key").stat().st_mode & 0o077 == 0


def test_sessions_end_after_their_lifetime(tmp_path: Path) -> None:
    sessions = {"lifetime": "1s", "idleTimeout": "1s", "stateDirectory": str(tmp_path)}
    with running({"servers": {"s": stdio()}, "sessions": sessions}) as sidecar:
        caller = Caller(sidecar, modern=False).open()
        caller.text("echo")
        eventually(lambda: caller.answer("echo").status == 404)


def test_idle_sessions_are_closed_with_their_process(tmp_path: Path) -> None:
    sessions = {"idleTimeout": "1s", "stateDirectory": str(tmp_path)}
    with running({"servers": {"s": stdio(isolation="PerSession")}, "sessions": sessions}) as sidecar:
        pid = int(Caller(sidecar, modern=False).open().text("pid"))
        eventually(lambda: not Path(f"/proc/{pid}").exists())
        eventually(lambda: sidecar.status()["front"]["sessions"] == 0)


def test_grace_period_bounds_the_drain(tmp_path: Path) -> None:
    config = {"servers": {"s": stdio()}, "shutdown": {"gracePeriod": "300ms"}}
    with SidecarProcess(config) as sidecar:
        with Callers(sidecar) as callers:
            held = callers.call("wait", path=str(tmp_path / "never"))
            eventually(lambda: sidecar.status()["servers"]["s"]["bulkhead"]["inFlight"] == 1)
            began = time.monotonic()
            sidecar.process.send_signal(signal.SIGTERM)
            answer = held.result()
            assert 0.25 < time.monotonic() - began < 5
        assert sidecar.process.wait(20) == 0
        assert answer.status == 503
        assert answer.answer["error"]["data"]["reason"] == "shutting_down"


def test_secrets_key_file_opens_sealed_values(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(command_line("keygen"))
    sealed = command_line("seal", "--for", "s", "--key-file", str(tmp_path / "key"), given=b"opened").strip()
    config = {"servers": {"s": stdio(env={"SECRET": sealed})}, "secrets": {"keyFile": str(tmp_path / "key")}}
    with running(config) as sidecar:
        assert Caller(sidecar).text("env", name="SECRET") == '"opened"'


def command_line(*arguments: str, given: bytes = b"") -> str:
    """What a command of ours prints."""
    command = [sys.executable, "-m", "mcp_sidecar.cli", *arguments]
    return subprocess.run(command, input=given, capture_output=True, check=True).stdout.decode()


def test_secrets_require_refuses_literals(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file")
    config: dict[str, Any] = {"servers": {"s": stdio(env={"API_TOKEN": "literal"})}}
    config["secrets"] = {"require": "SealedOrFile"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "mcp_sidecar.cli", "check", "--config", str(path)]
    refused = subprocess.run(command, capture_output=True, check=False)
    assert refused.returncode == 2
    assert b"servers.s.env.API_TOKEN" in refused.stderr
    config["servers"]["s"]["env"]["API_TOKEN"] = {"valueFrom": {"file": str(tmp_path / "token")}}
    path.write_text(json.dumps(config))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_poll_interval_is_how_soon_a_change_is_seen() -> None:
    def config(interval: str, **more: Any) -> dict[str, Any]:
        return {"servers": {"s": stdio()}, "secrets": {"pollInterval": interval}, **more}

    with running(config("50ms")) as soon, running(config("1h")) as late:
        began = time.monotonic()
        for sidecar, interval in ((soon, "50ms"), (late, "1h")):
            sidecar.write_config(config(interval, log={"calls": False}))
        eventually(lambda: soon.status()["config"]["reloads"] == 1)
        eventually(lambda: time.monotonic() - began > 3)
        assert late.status()["config"]["reloads"] == 0, "by default it is looked at every 2 s"


def test_log_level() -> None:
    with running({"servers": {"s": stdio()}, "log": {"level": "Error"}}) as sidecar:
        Caller(sidecar).text("echo")
    assert log_lines(sidecar) == []


def test_log_calls() -> None:
    for calls in (True, False):
        with running({"servers": {"s": stdio()}, "log": {"calls": calls}}) as sidecar:
            Caller(sidecar).text("echo")
        assert bool(log_lines(sidecar, "call")) is calls
        assert logged(sidecar, "stopped")


def test_audit_enabled() -> None:
    for enabled in (True, False):
        with running({"servers": {"s": stdio()}, "audit": {"enabled": enabled}}) as sidecar:
            Caller(sidecar).text("echo")
        assert bool(sidecar.stdout) is enabled


@pytest.mark.parametrize("mode", ["None", "Names", "Hash"])
def test_audit_arguments(mode: str) -> None:
    with running({"servers": {"s": stdio()}, "audit": {"arguments": mode}}) as sidecar:
        Caller(sidecar).text("echo", path="/very/private")
    (line,) = [json.loads(line) for line in sidecar.stdout]
    told = line.get("arguments")
    if mode == "Names":
        assert told == ["path"]
    else:
        assert (told is None) is (mode == "None")
        assert mode == "None" or len(told) == 32
    assert b"private" not in b"".join(sidecar.stdout)


def test_metrics_enabled() -> None:
    with running({"servers": {"s": stdio()}, "metrics": {"enabled": False}}) as sidecar:
        assert sidecar.admin("/metrics")[0] == 404


def test_max_tool_labels() -> None:
    with running({"servers": {"s": stdio()}, "metrics": {"maxToolLabels": 1}}) as sidecar:
        for tool in ("echo", "pid"):
            Caller(sidecar).text(tool)
        counted = {name for name in sidecar.metrics() if name.startswith("outrigger_calls_total")}
        assert any('tool="echo"' in name for name in counted)
        assert not any('tool="pid"' in name for name in counted)


def test_tool_histograms() -> None:
    for wanted in (True, False):
        with running({"servers": {"s": stdio()}, "metrics": {"toolHistograms": wanted}}) as sidecar:
            Caller(sidecar).text("echo")
            names = sidecar.metrics()
        histogram = "outrigger_server_operation_duration_seconds_count"
        assert any(name.startswith(histogram) and 'tool="echo"' in name for name in names) is wanted
        assert any(name.startswith("outrigger_calls_total") and 'tool="echo"' in name for name in names)


def test_disabled_servers_are_left_out() -> None:
    config = {"servers": {"on": stdio(), "off": stdio(disabled=True)}}
    with running(config) as sidecar:
        assert list(sidecar.status()["servers"]) == ["on"]
        assert HttpClient(sidecar.url("off"), modern=True).request("tools/list").status == 404


def test_readiness_mode_and_require() -> None:
    quick = {"interval": "150ms", "timeout": "100ms", "failureThreshold": 1}
    with ToolHttpServer() as server:
        config: dict[str, Any] = {"servers": {"one": {"url": server.url, "health": quick}, "two": stdio(health=quick)}}
        config["readiness"] = {"mode": "Upstream", "require": "All"}
        config["secrets"] = {"pollInterval": "50ms"}
        with running(config) as sidecar:
            server.stop()
            sidecar.wait_for("/readyz", 503)
            sidecar.write_config({**config, "readiness": {"mode": "Upstream", "require": "Any"}})
            sidecar.wait_for("/readyz")
            sidecar.write_config({**config, "readiness": {"mode": "Startup", "require": "All"}})
            eventually(lambda: sidecar.status()["config"]["reloads"] == 2)
            assert sidecar.admin("/readyz")[0] == 200, "it answered once"
            assert sidecar.status()["servers"]["one"]["up"] is False

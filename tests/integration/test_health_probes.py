"""Probes and health: what the kubelet is told, when a server is asked, and what people find in /status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from callers import Caller, Load, eventually, logged, stdio
from sidecar_process import SidecarProcess, running
from tool_http_server import Answer, ToolHttpServer

NO_RETRY: dict[str, Any] = {"maxRetries": 0}


def test_started_and_alive_while_the_server_is_not(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    with SidecarProcess({"servers": {"s": stdio("--hold", str(hold))}}) as sidecar:
        assert sidecar.admin("/livez")[0] == 200
        assert sidecar.admin("/startupz")[0] == 200
        assert sidecar.admin("/readyz")[0] == 503
        assert sidecar.metrics()["outrigger_ready"] == 0
        hold.touch()
        sidecar.wait_for("/readyz")
        eventually(lambda: sidecar.metrics()["outrigger_ready"] == 1)
        assert logged(sidecar, "server is up")["tools"] == 11


def test_slow_start_says_what_is_waited_for(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    server = stdio("--hold", str(hold), "--say", "downloading half of the internet")
    with SidecarProcess({"servers": {"s": server}}) as sidecar:
        line = logged(sidecar, "still waiting for the server's first answer", 15)
        assert line["server"] == "s"
        assert "downloading half of the internet" in line["what"]


def test_ready_once_answered_and_from_then_on() -> None:
    quick = {"interval": "150ms", "timeout": "100ms", "failureThreshold": 1}
    with ToolHttpServer() as server, running({"servers": {"s": {"url": server.url, "health": quick}}}) as sidecar:
        server.stop()
        eventually(lambda: sidecar.status()["servers"]["s"]["up"] is False)
        assert sidecar.admin("/readyz")[0] == 200
        assert sidecar.metrics()['outrigger_upstream_up{server="s"}'] == 0
        server.listen()
        eventually(lambda: sidecar.status()["servers"]["s"]["up"])


def test_any_server_suffices_by_default(tmp_path: Path) -> None:
    servers = {"up": stdio(), "down": stdio("--hold", str(tmp_path / "never"))}
    with running({"servers": servers}) as sidecar:
        assert sidecar.admin("/readyz")[1].startswith(b"ok: 1 of 2 servers")


def test_check_is_skipped_while_calls_prove_it() -> None:
    with ToolHttpServer() as server:
        config = {"servers": {"s": {"url": server.url, "health": {"interval": "1s"}}}}
        with running(config) as sidecar, Load(sidecar, callers=1):
            probes = server.methods("server/discover")
            skipped = 'outrigger_health_check_total{server="s",result="skipped"}'
            eventually(lambda: sidecar.metrics()[skipped] >= 3, 20)
            assert server.methods("server/discover") == probes


def test_breaker_opens_is_probed_and_closes() -> None:
    with ToolHttpServer() as server:
        breaker = {"consecutiveFailures": 2, "openDuration": "1h", "probeInterval": "100ms", "halfOpenPermits": 1}
        config = {"servers": {"s": {"url": server.url, "retry": NO_RETRY, "circuitBreaker": breaker}}}
        with running(config) as sidecar:
            server.behave = lambda seen: Answer(drop=True)
            for _ in range(2):
                Caller(sidecar).answer("echo")
            assert Caller(sidecar).reason("echo") == "breaker_open"
            assert logged(sidecar, "circuit breaker changed")["new"] == "open"
            status = sidecar.status()["servers"]["s"]
            assert status["breaker"]["state"] == "open"
            # an hour, and the jitter of a fifth that keeps replicas from probing together
            assert 0.8 * 3600 - 60 < status["breaker"]["retryAfterSeconds"] <= 1.2 * 3600
            server.behave = None
            eventually(lambda: sidecar.status()["servers"]["s"]["breaker"]["state"] == "half_open")
            Caller(sidecar).text("echo")
            assert sidecar.status()["servers"]["s"]["breaker"]["state"] == "closed"


def test_a_server_that_answers_probes_and_fails_calls_is_left_alone() -> None:
    with ToolHttpServer() as server:
        server.behave = lambda seen: Answer(status=500) if seen.tool else None
        with running({"servers": {"s": {"url": server.url, "retry": NO_RETRY}}}) as sidecar:
            caller = Caller(sidecar)
            told: Counter[str] = Counter()
            while told["breaker_open"] < 500:
                told[str(caller.reason("echo"))] += 1
            assert set(told) == {"breaker_open", "upstream_status"}
            assert told["upstream_status"] < 30, "the probes' good word gave it more calls"
            assert len(server.calls()) == told["upstream_status"]


def test_status_tells_all_there_is() -> None:
    with ToolHttpServer() as server:
        servers = {"h": {"url": server.url}, "s": stdio("--modern")}
        with running({"servers": servers, "readiness": {"require": "All"}}) as sidecar:
            eventually(lambda: all(one["tools"]["count"] for one in sidecar.status()["servers"].values()))
            Caller(sidecar, "s").answer("exit")
            server.behave = lambda seen: Answer(status=500) if seen.tool else None
            Caller(sidecar, "h").answer("echo")
            status = sidecar.status()
    assert status["version"]
    assert status["protocolVersions"][0] == "2026-07-28"
    assert len(status["config"]["hash"]) == 12
    http, child = status["servers"]["h"], status["servers"]["s"]
    assert http["tools"] == {"count": 4, "complete": True}
    assert http["upstream"]["era"] == "modern"
    assert http["upstream"]["serverInfo"] == {"name": "tool-http-server", "version": "1"}
    assert http["upstream"]["pool"]["opened"] >= 1
    assert http["breaker"]["state"] == "closed"
    assert http["retryBudget"] == {"tokens": 10.0}
    assert set(http["cache"]) >= {"entries", "bytes", "hits", "misses"}
    assert http["bulkhead"]["limit"] == 10
    assert http["lastErrors"][0]["reason"] == "upstream_status"
    assert http["secrets"]["generation"] == 1
    assert child["tools"]["count"] == 11
    assert child["upstream"]["serverInfo"] == {"name": "tool-server", "version": "1"}
    assert "modern" in child["upstream"]["eras"]
    assert child["lastErrors"][0]["reason"] == "child_exited"


def test_running_sidecar_has_no_sdk_and_no_models() -> None:
    code = "import sys, mcp_sidecar.cli, mcp_sidecar.daemon; print([m for m in sys.modules])"
    loaded = json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=dict(os.environ))
        .stdout.decode()
        .replace("'", '"')
    )
    assert "mcp_sidecar.app" in loaded
    assert not [name for name in loaded if name.partition(".")[0] in ("mcp", "pydantic", "httpx2", "anyio")]

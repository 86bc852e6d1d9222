"""R1 to R25 of the seed, each where a user touches it: the command line, both ports, and what a server sees.

One test a requirement, named after it; docs/requirements.md lists them beside the deep tests, which try the edges.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from echo_server import build
from mcp_sidecar.secrets import keygen
from raw_mcp import META, MODERN, HttpAnswer, HttpClient
from scripted_upstream import ScriptedUpstream
from sidecar_process import SidecarProcess, running

PATIENCE = 15.0
QUIET = {"enabled": False}
"""Health checks off: the test counts requests."""


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def plain() -> Iterator[SidecarProcess]:
    """A sidecar with two servers, everything at its default."""
    with running({"servers": {"one": stdio(), "two": stdio()}, "readiness": {"require": "All"}}) as sidecar:
        yield sidecar


def stdio(**settings: Any) -> dict[str, Any]:
    """The compiled echo server as a child."""
    return {"command": str(build()), "args": ["stdio"], **settings}


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait, bounded, for what no event tells of; gives what `condition` gave."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)
    return found


def call(sidecar: SidecarProcess, tool: str, server: str | None = None, **arguments: Any) -> HttpAnswer:
    """`tools/call` of a modern caller, on a connection of its own."""
    with HttpClient(sidecar.url(server), modern=True) as client:
        return client.call(tool, arguments)


def text(answer: HttpAnswer) -> str:
    """The text of a tool's result."""
    return str(answer.result["content"][0]["text"])


def refusal(answer: HttpAnswer) -> dict[str, Any]:
    """The data of an error of ours."""
    data: dict[str, Any] = answer.answer["error"]["data"]
    return data


def cli(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """The command line, without the config variables of whoever runs the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MCP_", "OUTRIGGER_"))}
    command = [sys.executable, "-m", "mcp_sidecar.cli", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, env={**env, **environ})


def lines(raw: Any) -> list[dict[str, Any]]:
    """JSON lines, decoded."""
    return [json.loads(line) for line in list(raw)]


# Configuration


def test_r01_a_server_is_a_command_with_arguments_and_environment_or_a_url(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    said, program = tmp_path / "said", tmp_path / "server"
    program.write_text(
        f'#!/bin/sh\necho "$1 $GREETING ${{HOME:+home}} ${{OURS:-hidden}}" > {said}\nexec {build()} stdio\n'
    )
    program.chmod(0o755)
    child = {"command": "./server", "args": ["argument"], "env": {"GREETING": "hello"}, "workingDir": "."}
    config = {"servers": {"child": child, "remote": {"url": upstream.url}}, "readiness": {"require": "All"}}
    with running(config, directory=tmp_path, env={"OURS": "x"}) as sidecar:
        assert text(call(sidecar, "echo", "child", text="over stdio")) == "over stdio"
        assert text(call(sidecar, "work", "remote")) == "done 1"
    # what is ours stays ours: only an allow-list of variables is passed on
    assert said.read_text() == "argument hello home hidden\n"


def test_r02_an_attempt_ends_after_its_timeout_and_progress_extends_it() -> None:
    with running({"servers": {"s": stdio(timeout="1s")}}) as sidecar:
        began = time.monotonic()
        answer = call(sidecar, "sleep", ms=5000)
        assert (answer.status, refusal(answer)["reason"]) == (504, "attempt_timeout")
        assert 1 <= time.monotonic() - began < 4
        with HttpClient(sidecar.url(), modern=True) as client:
            params = {"name": "sleep", "arguments": {"ms": 3000, "steps": 6, "text": "done"}}
            meta = {**META, "progressToken": "t"}
            headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "sleep"}
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**params, "_meta": meta}}
            shown = client.post(body, headers)
        assert [message["params"]["progress"] for message in shown.messages[:-1]] == list(range(1, 7))
        assert text(shown) == "done"


def test_r03_retry_attempts_are_retries_after_the_first_attempt(upstream: ScriptedUpstream) -> None:
    upstream.failing = lambda method, number: 502 if method == "tools/call" else 0
    server = {"url": upstream.url, "retry_attempts": 2, "retry": {"tools": {"work": "Safe"}}, "health": QUIET}
    with running({"servers": {"s": server}}) as sidecar:
        answer = call(sidecar, "work")
        assert (answer.status, refusal(answer)["attempts"]) == (502, 3)
        assert upstream.count() == 3


def test_r04_a_server_without_traffic_is_checked_at_the_interval() -> None:
    config = {"servers": {"idle": stdio(health_check_interval=0.1), "rare": stdio(health={"interval": "1h"})}}
    with running({**config, "readiness": {"require": "All"}}) as sidecar:
        health = until(
            lambda: (h := sidecar.status()["servers"]["idle"]["health"])["checks"] >= 4 and h, "four checks of the idle"
        )
        assert health["failed"] == 0
        assert health["lastSuccess"]
        assert sidecar.status()["servers"]["rare"]["health"]["checks"] == 1
        assert sum(value for name, value in sidecar.metrics().items() if name.startswith("outrigger_calls_total{")) == 0


def test_r05_global_timeout_is_the_timeout_of_servers_that_set_none() -> None:
    servers = {"none": stdio(), "own": stdio(timeout="10s")}
    with running({"servers": servers, "global_timeout": 0.2, "readiness": {"require": "All"}}) as sidecar:
        assert refusal(call(sidecar, "sleep", "none", ms=5000))["reason"] == "attempt_timeout"
        assert text(call(sidecar, "sleep", "own", ms=500, text="slow")) == "slow"


def test_r06_connections_are_bounded_over_all_servers_and_calls_by_server(upstream: ScriptedUpstream) -> None:
    with ScriptedUpstream() as other:
        servers = {
            "a": {"url": upstream.url, "health": QUIET, "limits": {"maxConcurrent": 8}, "pool": {"min": 0}},
            "b": {"url": other.url, "health": QUIET, "limits": {"maxConcurrent": 1, "maxQueue": 0}, "pool": {"min": 0}},
        }
        config = {"servers": servers, "max_concurrent_connections": 3, "readiness": {"require": "All"}}
        with ThreadPoolExecutor(10) as callers, running(config) as sidecar:
            upstream.gate.clear()
            other.gate.clear()
            held = callers.submit(call, sidecar, "work", "b")
            until(lambda: other.count() == 1, "the call of b reaches its server")
            assert refusal(call(sidecar, "work", "b"))["reason"] == "queue_full"
            crowd = [callers.submit(call, sidecar, "work", "a") for _ in range(8)]
            until(lambda: upstream.count() == 2, "two calls of a reach their server")
            until(lambda: sidecar.status()["servers"]["a"]["bulkhead"]["inFlight"] == 8, "all of a are admitted")
            assert upstream.open + other.open == upstream.most_open + other.most_open == 3
            upstream.gate.set()
            other.gate.set()
            assert [answer.result().status for answer in [held, *crowd]] == [200] * 9


def test_r07_metrics_and_health_checks_are_on_and_can_be_switched_off(plain: SidecarProcess) -> None:
    assert plain.admin("/metrics")[0] == 200
    assert plain.status()["servers"]["one"]["health"]["checks"] >= 1
    config = {"servers": {"s": stdio(health={"interval": "100ms"})}, "metrics_enabled": False}
    with running({**config, "health_check_enabled": False}) as sidecar:
        assert sidecar.admin("/metrics")[0] == 404
        ready_at = sidecar.status()["uptimeSeconds"]
        until(lambda: sidecar.status()["uptimeSeconds"] >= ready_at + 0.5, "five intervals pass")
        # the first question is always asked: readiness waits for one answer
        assert sidecar.status()["servers"]["s"]["health"]["checks"] == 1


def test_r08_the_config_comes_from_a_variable_a_named_file_or_the_home(tmp_path: Path) -> None:
    def config(name: str) -> str:
        return json.dumps({"servers": {name: {"command": sys.executable}}})

    home = tmp_path / ".mcp" / "config.json"
    home.parent.mkdir()
    home.write_text(config("of-home"))
    named = tmp_path / "named.json"
    named.write_text(config("of-the-path"))
    environ = {"HOME": str(tmp_path)}
    assert "of-home" in cli("check", **environ).stdout
    environ["MCP_CONFIG_PATH"] = str(named)
    assert "of-the-path" in cli("check", **environ).stdout
    environ["MCP_CONFIG_JSON"] = config("of-the-variable")
    assert "of-the-variable" in cli("check", **environ).stdout
    del environ["MCP_CONFIG_JSON"]
    environ["MCP_CONFIG_PATH"] += ".typo"
    missing = cli("check", **environ)
    assert missing.returncode == 2
    assert ".typo" in missing.stderr


def test_r09_without_a_config_nothing_is_started(tmp_path: Path) -> None:
    done = cli("run", HOME=str(tmp_path), GITHUB_TOKEN="gh-canary")
    assert done.returncode == 2
    assert all(place in done.stderr for place in ("MCP_CONFIG_JSON", "MCP_CONFIG_PATH", ".mcp/config.json"))
    assert "gh-canary" not in done.stdout + done.stderr


def test_r10_everything_wrong_is_said_at_once_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(
        '{"servers": {"a": {}, "b": {"command": "x", "timeout": 0}, "c": {"comand": "x", "url": 1}}, "x": 1}'
    )
    done = cli("check", "--config", str(file))
    assert done.returncode == 2
    for path in ("servers.a", "servers.b.timeout", "servers.c.comand", "servers.c.url", "x:"):
        assert re.search(rf"^  {re.escape(path)}", done.stderr, re.M), (path, done.stderr)
    assert "did you mean command?" in done.stderr
    file.write_text('{"servers": {}}')
    assert cli("check", "--config", str(file)).returncode == 2


# Secrets


def test_r11_sealed_values_are_opened_with_the_key_and_never_done_without(upstream: ScriptedUpstream) -> None:
    key = keygen()
    sealed = cli("seal", "--for", "s", stdin="Bearer canary-7\n", MCP_ENCRYPTION_KEY=key).stdout.strip()
    server = {"url": upstream.url, "headers": {"Authorization": sealed}}
    with running({"servers": {"s": server}}, env={"MCP_ENCRYPTION_KEY": key}) as sidecar:
        assert call(sidecar, "work").status == 200
        shown = json.dumps(sidecar.status()) + repr(sidecar.stderr) + repr(sidecar.stdout)
    assert {headers.get("authorization") for _, headers in upstream.seen} == {"Bearer canary-7"}
    assert "canary-7" not in shown
    asked = len(upstream.seen)
    with SidecarProcess(
        {"servers": {"s": server}}, env={"MCP_ENCRYPTION_KEY": cli("keygen").stdout.strip()}
    ) as sidecar:
        answer = call(sidecar, "work")
        assert (answer.status, refusal(answer)["reason"]) == (503, "server_not_ready")
        assert sidecar.admin("/readyz")[0] == 503
    assert len(upstream.seen) == asked


def test_r12_a_token_for_a_server_may_come_from_its_variable(upstream: ScriptedUpstream) -> None:
    servers = {"my-hub": {"url": upstream.url}}
    with running({"servers": servers}, env={"MCP_TOKEN_MY_HUB": "canary-8"}) as sidecar:
        assert call(sidecar, "work").status == 200
    assert {headers.get("authorization") for _, headers in upstream.seen} == {"Bearer canary-8"}
    stray = cli("run", MCP_CONFIG_JSON=json.dumps({"servers": servers}), MCP_TOKEN_MY_HAB="canary-8")
    assert stray.returncode == 2
    assert "MCP_TOKEN_MY_HAB" in stray.stderr
    assert "canary-8" not in stray.stderr


# Resilience


def test_r13_the_breaker_opens_refuses_and_closes_again(upstream: ScriptedUpstream) -> None:
    breaker = {"failure_threshold": 3, "recovery_timeout": 60, "probeInterval": "50ms"}
    server = {"url": upstream.url, "retry_attempts": 0, "circuitBreaker": breaker}
    with running({"servers": {"s": server}}) as sidecar:
        upstream.failing = lambda method, number: 500
        assert [call(sidecar, "work").status for _ in range(3)] == [502] * 3
        refused = call(sidecar, "work")
        assert (refused.status, refusal(refused)["reason"]) == (503, "breaker_open")
        assert int(refused.headers["retry-after"]) > 30
        assert upstream.count() == 3
        upstream.failing = lambda method, number: 0

        def state() -> str:
            return str(sidecar.status()["servers"]["s"]["breaker"]["state"])

        until(lambda: state() == "half_open", "the background probe finds that it is back")
        assert [call(sidecar, "work").status for _ in range(3)] == [200] * 3
        assert state() == "closed"


def test_r14_each_configured_server_has_a_breaker_of_its_own_and_nobody_else(upstream: ScriptedUpstream) -> None:
    upstream.failing = lambda method, number: 500 if method == "tools/call" else 0
    bad = {"url": upstream.url, "retry_attempts": 0, "circuitBreaker": {"failure_threshold": 1, "probeInterval": 0}}
    with running({"servers": {"bad": bad, "good": stdio()}, "readiness": {"require": "All"}}) as sidecar:
        call(sidecar, "work", "bad")
        assert refusal(call(sidecar, "work", "bad"))["reason"] == "breaker_open"
        assert text(call(sidecar, "echo", "good", text="fine")) == "fine"
        assert call(sidecar, "work", "made-up").status == 404
        states = {name: server["breaker"]["state"] for name, server in sidecar.status()["servers"].items()}
        assert states == {"bad": "open", "good": "closed"}


def test_r15_a_glitch_is_hidden_unless_the_call_may_have_done_something(upstream: ScriptedUpstream) -> None:
    server = {"url": upstream.url, "retry": {"tools": {"work": "Safe"}}, "health": QUIET}
    with running({"servers": {"s": server}}) as sidecar:
        upstream.failing = lambda method, number: 502 if method == "tools/call" and number <= 2 else 0
        began = time.monotonic()
        assert text(call(sidecar, "work")) == "done 3"
        assert time.monotonic() - began < 2  # waits of up to 0.1 and 0.2 s
        upstream.failing = lambda method, number: 502 if method == "tools/call" else 0
        unsafe = call(sidecar, "other")
        assert upstream.count() == 4
        assert refusal(unsafe)["maybeExecuted"] is True
        metrics = sidecar.metrics()
        assert metrics['outrigger_retries_total{server="s",reason="upstream_status"}'] == 2


def test_r16_what_cannot_be_started_is_tried_again_with_growing_delays(tmp_path: Path) -> None:
    there = tmp_path / "installed"
    script = f"test -e {there} && exec {shlex.quote(str(build()))} stdio; exit 3"
    restart = {"backoffBase": "10ms", "backoffMax": "50ms"}
    server = {"command": "sh", "args": ["-c", script], "restart": restart}
    with SidecarProcess({"servers": {"s": server}}) as sidecar:
        assert sidecar.admin("/startupz")[0] == 200

        def failures() -> int:
            groups = sidecar.status()["servers"]["s"].get("upstream", {}).get("processes", {}).values()
            return sum(sum(group["startFailures"].values()) for group in groups)

        until(lambda: failures() >= 2, "two failed starts")
        assert sidecar.admin("/readyz")[0] == 503
        there.touch()
        sidecar.wait_for("/readyz", timeout=PATIENCE)
        assert text(call(sidecar, "echo", text="up")) == "up"
        # what could not start yet is not taken for a server that dies of the first question, so for a legacy one
        assert sidecar.status()["servers"]["s"]["upstream"]["eras"] == ["modern"]


def test_r17_while_a_server_fails_lists_are_served_and_calls_get_clear_errors(upstream: ScriptedUpstream) -> None:
    server = {"url": upstream.url, "retry_attempts": 1, "retry": {"backoff": {"base": "10ms"}}}
    with running({"servers": {"s": server}}) as sidecar, HttpClient(sidecar.url(), modern=True) as client:
        before = client.request("tools/list").result["tools"]
        upstream.failing = lambda method, number: 503
        assert client.request("tools/list").result["tools"] == before
        answer = client.call("work", {})
        assert answer.status == 502
        # an unsafe call that may have been executed: neither the sidecar nor its caller should just try again
        data = {"reason": "upstream_status", "retryable": False, "maybeExecuted": True, "attempts": 1}
        assert refusal(answer) == data
        assert sidecar.admin("/readyz")[0] == 200  # a pod that restarts would not help the server
        stale = [name for name, value in sidecar.metrics().items() if 'source="stale"' in name and value]
        assert len([name for name in stale if name.startswith("outrigger_calls_total{")]) == 1


# Telemetry


def test_r18_a_finished_call_is_one_json_line(plain: SidecarProcess) -> None:
    before = len(plain.stderr)
    call(plain, "echo", "one", text="argument-canary")
    call(plain, "no_such", "one")

    def finished() -> list[dict[str, Any]]:
        return [line for line in lines(plain.stderr)[before:] if line["event"] == "call" and line["server"] == "one"]

    good, bad = until(lambda: len(found := finished()) >= 2 and found, "a line for each call")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", good["ts"])
    assert (good["level"], good["method"], good["tool"], good["outcome"]) == ("info", "tools/call", "echo", "ok")
    assert good["duration_ms"] > 0
    assert (bad["level"], bad["outcome"], bad["code"]) == ("warning", "error", -32602)
    audited = until(
        lambda: [line for line in lines(plain.stdout) if line["call"] == good["call"]], "the audit line of the call"
    )
    assert audited[0]["who"] == "anonymous"
    assert "argument-canary" not in repr(plain.stderr) + repr(plain.stdout)


def test_r19_calls_are_counted_by_outcome_and_timed_by_histogram(plain: SidecarProcess) -> None:
    labels = 'server="two",method="tools/call",tool="fail",outcome="tool_error"'
    call(plain, "fail", "two")
    call(plain, "fail", "two", code=-32603)

    def scraped() -> dict[str, float] | None:  # rendered once a second
        found = plain.metrics()
        return found if any('tool="fail",outcome="error"' in name for name in found) else None

    metrics = until(scraped, "a scrape after the calls")
    assert metrics[f'outrigger_calls_total{{{labels},source="upstream"}}'] == 1
    assert metrics[f'outrigger_server_operation_duration_seconds_bucket{{{labels},le="+Inf"}}'] == 1
    assert metrics['outrigger_errors_total{server="two",side="upstream",error_type="internal_error"}'] == 1
    assert metrics['outrigger_breaker_state{server="two",state="closed"}'] == 1
    # a rate without traffic is absent, not zero
    assert not any('server="one"' in name and 'tool="fail"' in name for name in metrics)


def test_r20_health_is_told_to_the_kubelet_to_people_and_to_prometheus(plain: SidecarProcess) -> None:
    assert [plain.admin(f"/{probe}")[0] for probe in ("livez", "startupz", "readyz")] == [200] * 3
    server = plain.status()["servers"]["one"]
    assert server["up"] is True
    assert server["health"]["lastSuccess"]
    assert server["upstream"]["serverInfo"]["name"] == "echo"
    shown = cli("status", f"http://127.0.0.1:{plain.admin_port}")
    assert shown.returncode == 0
    assert "one" in shown.stdout
    assert plain.metrics()['outrigger_upstream_up{server="one"}'] == 1


# Performance


def test_r21_connections_are_pooled_up_to_the_bound(upstream: ScriptedUpstream) -> None:
    pool = {"max_connections": 3, "min_connections": 1, "connection_timeout": 10}
    server = {"url": upstream.url, "pool": pool, "limits": {"maxConcurrent": 12}, "health": QUIET}
    with ThreadPoolExecutor(12) as callers, running({"servers": {"s": server}}) as sidecar:
        upstream.gate.clear()
        crowd = [callers.submit(call, sidecar, "work") for _ in range(12)]
        until(lambda: upstream.count() == 3, "three calls reach the server")
        until(lambda: sidecar.status()["servers"]["s"]["bulkhead"]["inFlight"] == 12, "all are admitted")
        assert upstream.count() == 3
        upstream.gate.set()
        assert sorted(text(answer.result()) for answer in crowd) == sorted(f"done {n}" for n in range(1, 13))
        assert upstream.most_open <= 3


def test_r22_lists_are_cached_as_the_server_says_and_tools_only_where_named(upstream: ScriptedUpstream) -> None:
    upstream.ttl_ms = 60_000
    server = {"url": upstream.url, "cache": {"default_ttl": 300, "tools": {"work": "1m"}}, "health": QUIET}
    with running({"servers": {"s": server}}) as sidecar, HttpClient(sidecar.url(), modern=True) as client:
        until(lambda: upstream.count("tools/list") >= 1, "the sidecar learns the tools")
        client.request("tools/list")
        asked = upstream.count("tools/list")
        for _ in range(5):
            client.request("tools/list")
        assert upstream.count("tools/list") == asked
        assert [text(client.call("work", {"x": x})) for x in (1, 1, 2, 1)] == ["done 1", "done 1", "done 2", "done 1"]
        assert [text(client.call("other", {"x": 1})) for _ in range(2)] == ["done 3", "done 4"]
        with HttpClient(sidecar.url(), modern=True) as other:
            headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "work"}
            params = {"name": "work", "arguments": {"x": 1}, "_meta": META}
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            # answers are kept by who asks
            assert text(other.post(body, {**headers, "Authorization": "Bearer other"})) == "done 5"


def test_r23_one_sidecar_serves_several_servers_apart_from_each_other(plain: SidecarProcess) -> None:
    answers = [call(plain, "echo", name, text=name) for name in ("one", "two")]
    assert [text(answer) for answer in answers] == ["one", "two"]
    nobody = call(plain, "echo", text="x")
    assert nobody.status == 404
    assert "/servers/one/mcp, /servers/two/mcp" in nobody.answer["error"]["message"]
    with ThreadPoolExecutor(1) as caller:
        hung = caller.submit(call, plain, "sleep", "one", ms=400, text="slow")
        until(lambda: plain.status()["servers"]["one"]["bulkhead"]["inFlight"] == 1, "one is busy")
        assert text(call(plain, "echo", "two", text="quick")) == "quick"
        assert not hung.done()


def test_r24_servers_are_connected_listed_called_and_disconnected() -> None:
    config: dict[str, Any] = {"servers": {"first": stdio()}, "secrets": {"pollInterval": "50ms"}}
    with running(config) as sidecar:
        before = sidecar.children()
        assert before
        config["servers"] = {"second": stdio()}
        sidecar.write_config(config)
        sidecar.process.send_signal(signal.SIGHUP)
        until(lambda: list(sidecar.status()["servers"]) == ["second"], "the new server is in use")
        with HttpClient(sidecar.url("second"), modern=False) as client:
            client.open()
            assert "echo" in [tool["name"] for tool in client.request("tools/list").result["tools"]]
            assert text(client.call("echo", {"text": "hello"})) == "hello"
        assert call(sidecar, "echo", "first").status == 404
        until(lambda: not before.items() & sidecar.children().items(), "the process of the removed server is gone")
    # SidecarProcess.stop has checked that no process is left


def test_r25_calls_beyond_the_rate_are_refused_where_one_is_set() -> None:
    limits = {"rate": {"requestsPerSecond": 0.5, "burst": 2}}
    config = {"servers": {"limited": stdio(limits=limits), "free": stdio()}, "readiness": {"require": "All"}}
    with running(config) as sidecar:
        statuses = [call(sidecar, "echo", "limited", text="x").status for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = call(sidecar, "echo", "limited", text="x")
        assert refusal(refused)["reason"] == "rate_limited"
        assert 1 <= int(refused.headers["retry-after"]) <= 2
        assert [call(sidecar, "echo", "free", text="x").status for _ in range(10)] == [200] * 10

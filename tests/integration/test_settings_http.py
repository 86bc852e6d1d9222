"""The settings of a server over HTTP, each by what it does. One sidecar with servers of several kinds before it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from callers import Caller, Callers, eventually, log_lines
from certificates import Authority
from raw_mcp import META
from sidecar_process import SidecarProcess
from tool_http_server import Answer, Seen, ToolHttpServer

NO_RETRY: dict[str, Any] = {"maxRetries": 0}
NO_BREAKER: dict[str, Any] = {"enabled": False}
SAFE = {"echo": "Safe", "idem": "Idempotent"}
PLAIN: dict[str, Any] = {"retry": NO_RETRY, "circuitBreaker": NO_BREAKER, "health": {"enabled": False}}


@dataclass
class Rig:
    """The sidecar, and the servers behind it by name."""

    sidecar: SidecarProcess
    servers: dict[str, ToolHttpServer]

    def status(self, server: str) -> dict[str, Any]:
        status: dict[str, Any] = self.sidecar.status()["servers"][server]
        return status

    def caller(self, server: str, *, modern: bool = True) -> Caller:
        return Caller(self.sidecar, server, modern=modern)


def drop(seen: Seen) -> Answer | None:
    """No answer to any tool call: the connection is lost after the request."""
    return Answer(drop=True) if seen.tool is not None else None


def slowly(seen: Seen) -> Answer | None:
    """Two hundredths of a second for each tool call."""
    if seen.tool is not None:
        threading.Event().wait(0.02)
    return None


def held(server: ToolHttpServer, method: str) -> Callable[[Seen], Answer | None]:
    """Requests of one method wait for the gate."""

    def behave(seen: Seen) -> Answer | None:
        if seen.body["method"] == method:
            server.gate.wait(20)
        return None

    return behave


def status(code: int, **headers: str) -> Callable[[Seen], Answer | None]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda seen: Answer(status=code, headers=named) if seen.tool is not None else None


def breaker(**settings: Any) -> dict[str, Any]:
    """A breaker whose other rules stay out of the way."""
    off = {"consecutiveFailures": 0, "minimumCalls": 1000, "probeInterval": 0}
    return {"retry": NO_RETRY, "circuitBreaker": {**off, **settings}, "health": {"enabled": False}}


SETTINGS: dict[str, dict[str, Any]] = {
    "headers": {"headers": {"X-Key": "abc"}, **PLAIN},
    "drop": {**PLAIN},
    "forward": {"credentials": "Forward", **PLAIN},
    "timed": {"timeout": "200ms", **PLAIN},
    "global": {**PLAIN},
    # pool
    "max": {"pool": {"max": 2}, "limits": {"maxConcurrent": 10}, **PLAIN},
    "min": {"pool": {"min": 4}, **PLAIN},
    "acquire": {"pool": {"max": 1, "acquireTimeout": "200ms"}, "limits": {"maxConcurrent": 10}, **PLAIN},
    "idle": {"pool": {"idleTimeout": "150ms", "min": 0}, **PLAIN},
    "lifetime": {"pool": {"maxLifetime": "1s", "max": 1, "min": 0, "idleTimeout": "60s"}, **PLAIN},
    "streams": {"pool": {"maxStreams": 1}, **PLAIN},
    "leak": {"timeout": "20s", "pool": {"leakThreshold": "1s"}, **PLAIN},
    # retry
    "retries": {"retry": {"maxRetries": 2, "backoff": {"base": "1ms"}, "tools": SAFE}, "circuitBreaker": NO_BREAKER},
    "backoff-base": {
        "retry": {"maxRetries": 9, "backoff": {"base": "1ms"}, "tools": SAFE, "budget": {"enabled": False}},
        "circuitBreaker": NO_BREAKER,
    },
    "backoff-max": {
        "retry": {
            "maxRetries": 10,
            "backoff": {"base": "20ms", "max": "20ms"},
            "tools": SAFE,
            "budget": {"enabled": False},
        },
        "circuitBreaker": NO_BREAKER,
    },
    "budget": {
        "retry": {
            "maxRetries": 10,
            "backoff": {"base": "1ms"},
            "tools": SAFE,
            "budget": {"maxTokens": 3, "minPerSecond": 0, "ratio": 0},
        },
        "circuitBreaker": NO_BREAKER,
    },
    "ratio": {
        "retry": {
            "maxRetries": 1,
            "backoff": {"base": "1ms"},
            "tools": SAFE,
            "budget": {"maxTokens": 1, "minPerSecond": 0, "ratio": 100},
        },
        "circuitBreaker": NO_BREAKER,
    },
    "refill": {
        "retry": {
            "maxRetries": 1,
            "backoff": {"base": "1ms"},
            "tools": SAFE,
            "budget": {"maxTokens": 1, "minPerSecond": 100, "ratio": 0},
        },
        "circuitBreaker": NO_BREAKER,
    },
    "cost": {
        "timeout": "500ms",
        "retry": {
            "maxRetries": 5,
            "backoff": {"base": "1ms"},
            "tools": {"wait": "Safe"},
            "budget": {"maxTokens": 5, "minPerSecond": 0, "ratio": 0, "timeoutCost": 3},
        },
        "circuitBreaker": NO_BREAKER,
    },
    "trusting": {
        "retry": {"maxRetries": 1, "backoff": {"base": "1ms"}, "trustAnnotations": "ReadOnly"},
        "circuitBreaker": NO_BREAKER,
    },
    "throttled": {"retry": {"backoff": {"base": "1ms"}}, "circuitBreaker": NO_BREAKER},
    "throttled-off": {"retry": {"backoff": {"base": "1ms"}, "retryOn429": False}, "circuitBreaker": NO_BREAKER},
    "busy": {"retry": {"backoff": {"base": "1ms"}, "retryOn503": True}, "circuitBreaker": NO_BREAKER},
    "busy-off": {"retry": {"backoff": {"base": "1ms"}}, "circuitBreaker": NO_BREAKER},
    # breaker
    "consecutive": breaker(consecutiveFailures=2),
    "disabled-breaker": breaker(enabled=False, consecutiveFailures=1),
    "rate": breaker(minimumCalls=4, failureRateThreshold=50),
    "high-rate": breaker(minimumCalls=4, failureRateThreshold=60),
    "window": breaker(minimumCalls=2, failureRateThreshold=100, window="1s"),
    "slow": breaker(minimumCalls=2, slowCallRateThreshold=50, slowCallDuration="1ms"),
    "slow-enough": breaker(minimumCalls=2, slowCallRateThreshold=50, slowCallDuration="60s"),
    "open": breaker(consecutiveFailures=1, openDuration="200ms", maxOpenDuration="200ms", halfOpenPermits=1),
    "capped": breaker(consecutiveFailures=1, openDuration="100ms", maxOpenDuration="150ms", halfOpenPermits=1),
    "two-permits": breaker(consecutiveFailures=1, openDuration="100ms", halfOpenPermits=2),
    "probed": breaker(consecutiveFailures=1, openDuration="1h", probeInterval="100ms", halfOpenPermits=1),
    # cache
    "kept": {**PLAIN},
    "uncached": {"cache": {"enabled": False}, **PLAIN},
    "tiny": {"cache": {"maxBytes": "1KiB"}, **PLAIN},
    "stale": {**PLAIN},
    "never-stale": {"cache": {"staleIfError": 0}, **PLAIN},
    "tools": {"cache": {"tools": {"echo": "1h"}}, **PLAIN},
    # health
    "checked": {"health": {"interval": "150ms", "timeout": "100ms", "failureThreshold": 5}},
    "unchecked": {"health": {"enabled": False, "interval": "150ms"}},
}


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    servers = {name: ToolHttpServer() for name in SETTINGS}
    for name in ("kept", "uncached", "tiny"):
        servers[name].list_ttl_ms = 3_600_000
    servers["tiny"].tools = [{"name": "echo", "description": "x" * 2000}]
    servers["trusting"].tools = [{"name": "read", "annotations": {"readOnlyHint": True}}, {"name": "echo"}]
    for server in servers.values():
        server.listen()
    try:
        config = {
            "servers": {name: {"url": servers[name].url, **settings} for name, settings in SETTINGS.items()},
            "globalTimeout": "2s",
            "readiness": {"require": "All"},
        }
        with SidecarProcess(config) as sidecar:
            sidecar.wait_for("/readyz")
            for server in servers.values():
                server.requests.clear()
            yield Rig(sidecar, servers)
            for server in servers.values():
                server.gate.set()
    finally:
        for server in servers.values():
            server.stop()


def test_url_is_where_calls_go(rig: Rig) -> None:
    assert rig.caller("drop").text("echo", to="url") == '{"to": "url"}'
    assert rig.servers["drop"].calls("echo")


def test_headers_are_sent(rig: Rig) -> None:
    assert json.loads(rig.caller("headers").text("headers"))["x-key"] == "abc"


@pytest.mark.parametrize("server", ["drop", "forward"])
def test_credentials_of_the_caller(rig: Rig, server: str) -> None:
    params = {"name": "headers", "arguments": {}, "_meta": META}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    version = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "headers"}
    answer = rig.caller(server).client.post(body, {**version, "Authorization": "Bearer callers-own"})
    seen = json.loads(answer.result["content"][0]["text"])
    assert seen.get("authorization") == ("Bearer callers-own" if server == "forward" else None)


def test_timeout_of_a_server(rig: Rig) -> None:
    began = time.monotonic()
    assert rig.caller("timed").reason("wait") == "attempt_timeout"
    assert time.monotonic() - began < 1.9


def test_global_timeout_is_the_default(rig: Rig) -> None:
    began = time.monotonic()
    assert rig.caller("global").reason("wait") == "attempt_timeout"
    assert 1.9 < time.monotonic() - began < 10


def test_pool_max_bounds_connections(rig: Rig) -> None:
    server = rig.servers["max"]
    with Callers(rig.sidecar, "max") as callers:
        calls = [callers.call("wait") for _ in range(5)]
        server.wait_until(lambda: server.at_once == 2)
        eventually(lambda: rig.status("max")["upstream"]["pool"]["waiting"] == 3)
        server.gate.set()
        assert all("result" in call.result().answer for call in calls)
    assert server.most_at_once == 2


def test_pool_min_is_opened_under_traffic(rig: Rig) -> None:
    def kept() -> bool:
        rig.caller("min").text("echo")
        return rig.servers["min"].open >= 4

    eventually(kept)


def test_acquire_timeout_ends_the_wait_for_a_connection(rig: Rig) -> None:
    server = rig.servers["acquire"]
    with Callers(rig.sidecar, "acquire") as callers:
        held = callers.call("wait")
        server.wait_until(lambda: server.at_once == 1)
        assert rig.caller("acquire").reason("echo") == "acquire_timeout"
        server.gate.set()
        held.result()


def test_idle_timeout_closes_connections(rig: Rig) -> None:
    rig.caller("idle").text("echo")
    began = time.monotonic()
    server = rig.servers["idle"]
    server.wait_until(lambda: server.open == 0)
    assert time.monotonic() - began < 3.5, "the default is 4 s"


def test_max_lifetime_replaces_connections(rig: Rig) -> None:
    caller, server = rig.caller("lifetime"), rig.servers["lifetime"]
    caller.text("echo")
    before = server.connections

    def replaced() -> bool:
        caller.text("echo")
        return server.connections > before

    eventually(replaced)
    assert 'outrigger_connections_closed_total{server="lifetime",reason="lifetime"}' in rig.sidecar.metrics()


def test_max_streams_bounds_listeners(rig: Rig) -> None:
    server = rig.servers["streams"]
    server.behave = held(server, "subscriptions/listen")
    params = {"notifications": {"toolsListChanged": True}}

    def listen() -> None:
        rig.caller("streams").client.request("subscriptions/listen", params)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    eventually(lambda: rig.status("streams")["upstream"]["pool"]["stream"] == 1)
    answer = rig.caller("streams").client.request("subscriptions/listen", params).answer
    assert answer["error"]["data"]["reason"] == "too_many_streams"
    server.gate.set()
    thread.join(10)


def test_leak_threshold_reports_long_leases(rig: Rig) -> None:
    server = rig.servers["leak"]
    with Callers(rig.sidecar, "leak") as callers:
        held = callers.call("wait")
        eventually(lambda: rig.status("leak")["upstream"]["pool"]["leaks"] == 1)
        server.gate.set()
        held.result()


def attempts(rig: Rig, server: str, tool: str = "echo") -> int:
    """How many attempts one call made."""
    before = len(rig.servers[server].calls(tool))
    rig.caller(server).answer(tool)
    return len(rig.servers[server].calls(tool)) - before


def test_max_retries_is_the_number_after_the_first_attempt(rig: Rig) -> None:
    rig.servers["retries"].behave = drop
    assert attempts(rig, "retries") == 3


def test_retry_tools_say_what_may_be_repeated(rig: Rig) -> None:
    rig.servers["retries"].behave = drop
    assert attempts(rig, "retries", "wait") == 1, "an unnamed tool is unsafe"
    assert attempts(rig, "retries", "idem") == 3


def test_backoff_base_is_the_first_wait(rig: Rig) -> None:
    rig.servers["backoff-base"].behave = drop
    began = time.monotonic()
    assert attempts(rig, "backoff-base") == 10
    assert time.monotonic() - began < 2, "with the default of 100 ms it takes 10 s"


def test_backoff_max_is_the_longest_wait(rig: Rig) -> None:
    rig.servers["backoff-max"].behave = drop
    began = time.monotonic()
    assert attempts(rig, "backoff-max") == 11
    assert time.monotonic() - began < 1.5, "doubled each time it takes 10 s"


def test_budget_max_tokens_bounds_retries(rig: Rig) -> None:
    rig.servers["budget"].behave = drop
    assert attempts(rig, "budget") == 4
    assert attempts(rig, "budget") == 1


def test_budget_ratio_is_given_back_by_successes(rig: Rig) -> None:
    server = rig.servers["ratio"]
    server.behave = drop
    assert attempts(rig, "ratio") == 2
    assert attempts(rig, "ratio") == 1
    server.behave = None
    attempts(rig, "ratio")
    server.behave = drop
    assert attempts(rig, "ratio") == 2


def test_budget_min_per_second_is_given_back_by_time(rig: Rig) -> None:
    rig.servers["refill"].behave = drop
    assert attempts(rig, "refill") == 2
    eventually(lambda: attempts(rig, "refill") == 2)


def test_budget_timeout_cost(rig: Rig) -> None:
    assert attempts(rig, "cost", "wait") == 2, "the second time-out finds 2 tokens of the 3 that it costs"


def test_trust_annotations_believes_read_only_hints(rig: Rig) -> None:
    rig.caller("trusting").list()
    rig.servers["trusting"].behave = drop
    assert attempts(rig, "trusting", "read") == 2
    assert attempts(rig, "trusting", "echo") == 1


def test_retry_on_429(rig: Rig) -> None:
    for name in ("throttled", "throttled-off"):
        rig.servers[name].behave = status(429, Retry_After="0")
    assert attempts(rig, "throttled") == 4
    assert attempts(rig, "throttled-off") == 1


def test_retry_on_503(rig: Rig) -> None:
    for name in ("busy", "busy-off"):
        rig.servers[name].behave = status(503, Retry_After="0")
    assert attempts(rig, "busy") == 4
    assert attempts(rig, "busy-off") == 1


def fail(rig: Rig, server: str, times: int = 1) -> None:
    rig.servers[server].behave = drop
    for _ in range(times):
        assert rig.caller(server).reason("echo") == "connection_lost"


def succeed(rig: Rig, server: str, times: int = 1) -> None:
    rig.servers[server].behave = None
    for _ in range(times):
        rig.caller(server).text("echo")


def state(rig: Rig, server: str) -> str:
    found: str = rig.status(server)["breaker"]["state"]
    return found


def test_consecutive_failures_open_the_breaker(rig: Rig) -> None:
    fail(rig, "consecutive", 2)
    assert rig.caller("consecutive").reason("echo") == "breaker_open"


def test_breaker_can_be_disabled(rig: Rig) -> None:
    fail(rig, "disabled-breaker", 4)
    assert state(rig, "disabled-breaker") == "disabled"


def test_failure_rate_threshold_and_minimum_calls(rig: Rig) -> None:
    for name in ("rate", "high-rate"):
        succeed(rig, name, 2)
        fail(rig, name)
        assert state(rig, name) == "closed", "fewer calls than minimumCalls"
        fail(rig, name)
    assert state(rig, "rate") == "open"
    assert state(rig, "high-rate") == "closed"


def test_window_forgets_old_failures(rig: Rig) -> None:
    fail(rig, "window")
    time.sleep(1.3)  # the window's length is what is tested
    fail(rig, "window")
    assert state(rig, "window") == "closed"
    fail(rig, "window")
    assert state(rig, "window") == "open"


def test_slow_calls_open_the_breaker(rig: Rig) -> None:
    for name in ("slow", "slow-enough"):
        server = rig.servers[name]
        server.behave = slowly
        for _ in range(2):
            rig.caller(name).text("echo")
    assert state(rig, "slow") == "open"
    assert state(rig, "slow-enough") == "closed"


def test_open_duration_ends(rig: Rig) -> None:
    fail(rig, "open")
    assert state(rig, "open") == "open"
    rig.servers["open"].behave = None
    began = time.monotonic()
    eventually(lambda: "result" in rig.caller("open").answer("echo").answer)
    assert time.monotonic() - began < 5, "the default is 30 s"
    assert state(rig, "open") == "closed"


def test_max_open_duration_bounds_the_doubling(rig: Rig) -> None:
    rig.servers["capped"].behave = drop
    opened = 0
    began = time.monotonic()
    while opened < 7:  # doubled each time this takes 12 s
        opened += rig.caller("capped").reason("echo") == "connection_lost"
        assert time.monotonic() - began < 6


def test_half_open_permits_must_all_succeed(rig: Rig) -> None:
    fail(rig, "two-permits")
    rig.servers["two-permits"].behave = None
    eventually(lambda: "result" in rig.caller("two-permits").answer("echo").answer)
    assert state(rig, "two-permits") == "half_open"
    rig.caller("two-permits").text("echo")
    assert state(rig, "two-permits") == "closed"


def test_probe_interval_tries_in_the_background(rig: Rig) -> None:
    fail(rig, "probed")
    server = rig.servers["probed"]
    server.behave = None
    eventually(lambda: state(rig, "probed") == "half_open")
    assert server.methods("server/discover") >= 1
    rig.caller("probed").text("echo")
    assert state(rig, "probed") == "closed"


def listings(rig: Rig, server: str, times: int = 3) -> int:
    before = rig.servers[server].methods("tools/list")
    for _ in range(times):
        rig.caller(server).list()
    return rig.servers[server].methods("tools/list") - before


def test_cache_can_be_disabled(rig: Rig) -> None:
    assert listings(rig, "kept") == 1
    assert listings(rig, "uncached") == 3


def test_cache_max_bytes(rig: Rig) -> None:
    assert listings(rig, "tiny") == 3


def test_stale_if_error(rig: Rig) -> None:
    for name in ("stale", "never-stale"):
        rig.caller(name).list()
        rig.servers[name].behave = lambda seen: Answer(drop=True)
    assert rig.caller("stale").list() == ["echo", "headers", "wait", "big"]
    assert "error" in rig.caller("never-stale").client.request("tools/list").answer


def test_cache_tools(rig: Rig) -> None:
    before = len(rig.servers["tools"].calls())
    assert {rig.caller("tools").text("echo", n=1) for _ in range(3)} == {'{"n": 1}'}
    assert len(rig.servers["tools"].calls()) == before + 1
    rig.caller("tools").text("echo", n=2)
    assert len(rig.servers["tools"].calls()) == before + 2


def test_health_interval_and_enabled(rig: Rig) -> None:
    unchecked = rig.status("unchecked")["health"]["checks"]
    checks = rig.status("checked")["health"]["checks"]
    eventually(lambda: rig.status("checked")["health"]["checks"] >= checks + 3)
    assert rig.status("unchecked")["health"]["checks"] == unchecked == 1, "only the first answer is waited for"


def test_health_timeout_and_failure_threshold(rig: Rig) -> None:
    server = rig.servers["checked"]
    eventually(lambda: rig.status("checked")["up"])
    server.behave = held(server, "server/discover")
    down = eventually(lambda: None if (found := rig.status("checked"))["up"] else found)
    assert 5 <= down["health"]["failuresInARow"] < 10, "by default it is 3"
    assert down["health"]["lastError"] == "no answer within 0.1 s"
    server.behave = None
    server.gate.set()
    eventually(lambda: rig.status("checked")["up"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_tls_to_a_server(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("client", client=True)
    with (
        ToolHttpServer(tls=authority.server_context("plain")) as plain,
        ToolHttpServer(tls=authority.server_context("named", ips=(), names=("inner.example",))) as named,
        ToolHttpServer(tls=authority.server_context("mutual", client_ca=authority.ca_file)) as mutual,
    ):
        ca = {"caFile": str(authority.ca_file)}
        servers = {
            "trusted": {"url": plain.url, "tls": ca},
            "untrusted": {"url": plain.url},
            "unverified": {"url": plain.url, "tls": {"verify": False}},
            "named": {"url": named.url, "tls": {**ca, "serverName": "inner.example"}},
            "misnamed": {"url": named.url, "tls": ca},
            "mutual": {"url": mutual.url, "tls": {**ca, "certFile": str(certificate), "keyFile": str(key)}},
            "nobody": {"url": mutual.url, "tls": ca},
        }
        for server in servers.values():
            server["retry"] = NO_RETRY  # type: ignore[index]
        with SidecarProcess({"servers": servers}) as sidecar:
            for name in ("trusted", "unverified", "named", "mutual"):
                assert Caller(sidecar, name).text("echo") == "{}", name
            for name in ("untrusted", "misnamed"):
                assert Caller(sidecar, name).reason("echo") == "tls_failed", name
            assert "error" in Caller(sidecar, "nobody").answer("echo").answer
            warned = [line["path"] for line in log_lines(sidecar, "config")]
            assert warned == ["servers.unverified.tls.verify"]


def test_connect_timeout_includes_tls(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/mcp"
        server = {"url": url, "connectTimeout": "200ms", "retry": NO_RETRY}
        with SidecarProcess({"servers": {"s": server}}) as sidecar:
            began = time.monotonic()
            answer = Caller(sidecar).answer("echo").answer
            assert "within 0.2 s" in answer["error"]["message"]
            assert time.monotonic() - began < 5


def test_allow_link_local() -> None:
    quick = {"connectTimeout": "100ms", "retry": NO_RETRY}
    servers = {
        "refused": {"url": "http://169.254.10.10:1/mcp", **quick},
        "allowed": {"url": "http://169.254.10.10:1/mcp", "allowLinkLocal": True, **quick},
    }
    with SidecarProcess({"servers": servers}) as sidecar:
        refused = Caller(sidecar, "refused").answer("echo").answer["error"]["message"]
        allowed = Caller(sidecar, "allowed").answer("echo").answer["error"]["message"]
    assert "link-local addresses are not allowed" in refused
    assert "link-local" not in allowed


def test_max_concurrent_connections_bounds_all_servers_together() -> None:
    with ToolHttpServer() as one, ToolHttpServer() as two:
        pool = {"min": 0, "idleTimeout": "60s"}
        servers = {name: {"url": server.url, "pool": pool} for name, server in (("one", one), ("two", two))}
        with SidecarProcess({"servers": servers, "maxConcurrentConnections": 2}) as sidecar:
            sidecar.wait_for("/readyz")
            with Callers(sidecar, "one") as ones, Callers(sidecar, "two") as twos:
                calls = [ones.call("wait") for _ in range(3)] + [twos.call("wait") for _ in range(3)]
                eventually(lambda: one.at_once + two.at_once == 2)
                waiting = [sidecar.status()["servers"][name]["upstream"]["pool"]["starting"] for name in servers]
                assert sum(waiting) >= 1
                one.gate.set()
                two.gate.set()
                assert all("result" in call.result().answer for call in calls)
            assert one.most_at_once + two.most_at_once <= 4
            assert one.most_at_once <= 2
            assert two.most_at_once <= 2


def test_transport_sse_is_spoken_where_it_is_said() -> None:
    with ToolHttpServer() as server:
        servers = {
            "auto": {"url": server.url},
            "sse": {"url": server.url, "transport": "SSE"},
        }
        with SidecarProcess({"servers": servers}) as sidecar:
            assert Caller(sidecar, "auto").text("echo") == "{}"
            eventually(lambda: any(seen.method == "GET" for seen in server.requests))
            assert sidecar.status()["servers"]["sse"]["kind"] == "SSE"


def test_stateless_sessions_are_begun_anew() -> None:
    def forget(seen: Seen) -> Answer | None:
        known = seen.headers.get("mcp-session-id")
        return Answer(status=404) if seen.tool is not None and known in lost else None

    lost: set[str] = set()
    with ToolHttpServer(modern=False) as server:
        server.behave = forget
        servers = {"stateful": {"url": server.url}, "stateless": {"url": server.url, "sessions": "Stateless"}}
        with SidecarProcess({"servers": servers}) as sidecar:
            callers = {name: Caller(sidecar, name, modern=False).open() for name in servers}
            for caller in callers.values():
                caller.text("echo")
            lost |= {seen.headers["mcp-session-id"] for seen in server.calls()}
            assert callers["stateful"].answer("echo").status == 404
            assert callers["stateless"].text("echo") == "{}"

"""Every metric of the catalogue is fed: traffic and faults of all kinds, and each family has something to tell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from callers import Caller, Callers, eventually, stdio
from mcp_sidecar.front.sessions import Sessions, SessionSettings
from mcp_sidecar.telemetry.catalogue import Catalogue
from mcp_sidecar.telemetry.metrics import Registry
from sidecar_process import SidecarProcess
from tool_http_server import Answer, ToolHttpServer

MAY_BE_ZERO = {
    "outrigger_leases_leaked_total",
    "outrigger_cache_evictions_total",
    "outrigger_audit_dropped_total",
    "outrigger_log_dropped_total",
    "outrigger_scrape_failures_total",
    "outrigger_config_refused",
    "outrigger_front_connections",
    "outrigger_queue_length",
    "outrigger_streams",
    "outrigger_bulkhead_in_flight",
}
"""Defects, and gauges of what is over: there, and zero when all is well."""


def families() -> set[str]:
    """The names of the catalogue."""
    registry = Registry()
    Catalogue(registry)
    return set(registry.names()) - {"outrigger_label_overflow_total"}


def told(samples: dict[str, float], family: str) -> list[float]:
    """The values of a family; of a histogram, how many were observed."""
    pattern = re.compile(rf"{family}(_count)?(\{{|$)")
    return [value for name, value in samples.items() if pattern.match(name)]


def test_every_family_has_a_value(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one-token")
    (tmp_path / "key").write_text("ab" * 32)
    # a session of a pod that is gone
    elsewhere = Sessions(bytes.fromhex("ab" * 32), SessionSettings()).open(
        server="s", version="2025-06-18", identity=b"", address="127.0.0.9"
    )
    with ToolHttpServer() as server:
        quick = {"backoff": {"base": "1ms"}, "tools": {"echo": "Safe"}, "maxRetries": 1}
        breaker = {"consecutiveFailures": 3, "openDuration": "1h", "probeInterval": 0}
        config: dict[str, Any] = {
            "servers": {
                "h": {"url": server.url, "retry": quick, "circuitBreaker": breaker, "pool": {"idleTimeout": "200ms"}},
                "s": stdio(
                    env={"API_TOKEN": {"valueFrom": {"file": str(token)}}},
                    limits={"rate": {"requestsPerSecond": 5, "burst": 20}},
                    restart={"backoffBase": "10ms", "backoffMax": "10ms"},
                    retry={"maxRetries": 0},
                ),
            },
            "secrets": {"pollInterval": "50ms"},
            "log": {"stderrLinesPerSecond": 1},
            "readiness": {"require": "All"},
            "sessions": {"keyFile": str(tmp_path / "key"), "address": "127.0.0.1"},
        }
        with SidecarProcess(config) as sidecar:
            sidecar.wait_for("/readyz")
            Caller(sidecar, "h").text("echo")
            Caller(sidecar, "h").list()
            with Callers(sidecar, "h") as callers:
                for call in [callers.call("echo") for _ in range(30)]:
                    call.result()
            server.behave = lambda seen: Answer(drop=True) if seen.tool else None
            for tool in ("echo", "big", "echo"):
                Caller(sidecar, "h").answer(tool)
            legacy = Caller(sidecar, "s", modern=False).open().client
            legacy.session = elsewhere.token
            assert legacy.call("echo", {}).status == 404
            Caller(sidecar, "s").text("stderr", text="flood {number}", lines=100)
            Caller(sidecar, "s").text("garbage")
            assert told(sidecar.metrics(), "outrigger_protocol_errors_total")
            Caller(sidecar, "s").answer("exit")
            eventually(lambda: "result" in Caller(sidecar, "s").answer("pid").answer)
            eventually(lambda: Caller(sidecar, "s").answer("echo").status == 429)
            token.write_text("another-token")
            sidecar.write_config({**config, "log": {"stderrLinesPerSecond": 2}})
            eventually(lambda: sidecar.status()["config"]["reloads"])
            eventually(lambda: sidecar.status()["servers"]["s"]["secrets"]["generation"] == 2)

            def missing() -> dict[str, list[float]]:
                samples = sidecar.metrics()
                found = {family: told(samples, family) for family in families()}
                return {
                    family: values
                    for family, values in found.items()
                    if not values or (not any(values) and family not in MAY_BE_ZERO)
                }

            try:
                eventually(lambda: not missing(), 8)
            except AssertionError:
                raise AssertionError(missing()) from None
            samples = sidecar.metrics()
            retried = 'outrigger_retries_total{server="h",reason="connection_lost"}'
            assert samples[retried] >= 1
            assert samples['outrigger_retries_denied_total{server="h",reason="not_idempotent"}'] >= 1
            assert samples['outrigger_retries_denied_total{server="h",reason="attempts"}'] >= 1
            assert samples['outrigger_front_requests_total{status="2xx"}'] >= 30
            assert samples['outrigger_front_requests_total{status="4xx"}'] >= 1
            assert samples['outrigger_breaker_state{server="h",state="open"}'] == 1
            assert samples['outrigger_child_exit_total{server="s",code_class="error"}'] == 1
            assert samples['outrigger_child_resident_bytes{server="s"}'] > 1_000_000

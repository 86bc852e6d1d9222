"""Real sidecars with real faults, watched by a real Prometheus with the rules as they ship: exactly the right alerts.

The rules wait and look back for a sixtieth of their time. What only the operator sees is in tests/cluster.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
import yaml

from callers import Caller, Load, stdio
from prometheus_process import Prometheus, Target, shortened
from rules.test_alerts import FILES
from sidecar_process import SidecarProcess, running
from tool_http_server import Answer, Seen, ToolHttpServer

FACTOR = 60
NO_OPERATOR = "OutriggerMetricsMissing"
"""There is none here, and the rules say so."""


def watch(factor: float, **sidecars: SidecarProcess) -> Prometheus:
    """Scrapes the sidecars; their names become the pods'."""
    targets = [
        Target(f"127.0.0.1:{sidecar.admin_port}", {"namespace": "shop", "pod": name})
        for name, sidecar in sidecars.items()
    ]
    rules = [shortened(yaml.safe_load(path.read_text()), factor) for path in FILES]
    return Prometheus({"sidecars": targets}, rules=rules)


def told(prometheus: Prometheus) -> dict[str, set[str]]:
    """Server → the alerts that fire for it."""
    found: dict[str, set[str]] = {}
    for alert in prometheus.alerts():
        assert "<no value>" not in str(alert["annotations"])
        if alert["labels"]["alertname"] != NO_OPERATOR:
            assert alert["labels"]["namespace"] == "shop"
            found.setdefault(alert["labels"]["server"], set()).add(alert["labels"]["alertname"])
    return found


def wait_for(prometheus: Prometheus, expected: dict[str, set[str]], timeout: float) -> None:
    """Wait until exactly these fire."""
    what = f"exactly {expected} fire"
    prometheus.wait(lambda: told(prometheus) == expected, what, timeout, prometheus.described)


@contextmanager
def repeating(action: Any, every: float) -> Iterator[threading.Event]:
    """Does it again and again beside the test, until the event is set."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every):
            with suppress(OSError, http.client.HTTPException):
                action()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(30)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_fault_fires_exactly_its_alerts() -> None:
    quick = {"interval": "1s", "timeout": "1s"}
    busy = {"limits": {"maxConcurrent": 1, "maxQueue": 100, "queueTimeout": "60s"}, "timeout": "60s"}
    with ExitStack() as stack:
        gone, failing = (stack.enter_context(ToolHttpServer()) for _ in range(2))
        config: dict[str, Any] = {
            "servers": {
                "well": stdio(),
                "gone": {"url": gone.url, "health": quick},
                "failing": {
                    "url": failing.url,
                    "health": quick,
                    "retry": {"maxRetries": 0},
                    "circuitBreaker": {"consecutiveFailures": 3, "openDuration": "1s"},
                },
                "busy": stdio(**busy),
            }
        }
        refused: dict[str, Any] = {"servers": {"refused": stdio()}, "secrets": {"pollInterval": "50ms"}}
        restart = {"backoffBase": "10ms", "backoffMax": "10ms"}
        main = stack.enter_context(running(config))
        careful = stack.enter_context(running(refused))
        crashing = stack.enter_context(running({"servers": {"crashing": stdio(restart=restart)}}))
        prometheus = stack.enter_context(watch(FACTOR, main=main, careful=careful, crashing=crashing))
        prometheus.wait_until_scraped()
        well = stack.enter_context(Load(main, "well", callers=1))

        failing.behave = lambda seen: Answer(status=500) if seen.tool else None
        gone.stop()
        careful.write_config({**refused, "servers": {"refused": stdio(tiemout="3s")}})
        kills = stack.enter_context(repeating(crashing.kill_children, 1.0))
        calls = stack.enter_context(repeating(lambda: Caller(main, "failing").answer("echo"), 0.05))
        load = [
            stack.enter_context(repeating(lambda: Caller(main, "busy").answer("sleep", ms=100), 0.01)) for _ in range(4)
        ]
        wait_for(
            prometheus,
            {
                "gone": {"OutriggerServerUnreachable"},
                "failing": {"OutriggerBreakerOpen", "OutriggerErrorBudgetBurnFast"},
                "busy": {"OutriggerQueueSaturated"},
                "refused": {"OutriggerConfigRefused"},
                "crashing": {"OutriggerChildCrashLoop"},
            },
            timeout=90,
        )
        assert prometheus.failed_rules() == []

        failing.behave = None
        gone.listen()
        careful.write_config(refused)
        for each in (kills, *load):
            each.set()
        wait_for(prometheus, {}, timeout=90)
        calls.set()
        assert well.failures == []


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_slow_burn_is_told_and_ends() -> None:
    """One call in thirty fails: no page, but the budget of a month would be gone in ten days."""
    count = iter(range(1_000_000))

    def one_in_thirty(seen: Seen) -> Answer | None:
        return Answer(status=500) if seen.tool and next(count) % 30 == 0 else None

    with ToolHttpServer() as server, ExitStack() as stack:
        server.behave = one_in_thirty
        config = {"servers": {"web": {"url": server.url, "retry": {"maxRetries": 0}}}}
        sidecar = stack.enter_context(running(config))
        prometheus = stack.enter_context(watch(2000, sidecar=sidecar))
        prometheus.wait_until_scraped()
        stack.enter_context(repeating(lambda: Caller(sidecar).answer("echo"), 0.005))
        wait_for(prometheus, {"web": {"OutriggerErrorBudgetBurnSlow"}}, timeout=60)
        (alert,) = (
            each for each in prometheus.alerts() if each["labels"]["alertname"] == "OutriggerErrorBudgetBurnSlow"
        )
        assert 0.01 < float(alert["value"]) < 0.1
        server.behave = None
        wait_for(prometheus, {}, timeout=60)

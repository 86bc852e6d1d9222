"""A fault in the cluster shows where people look, and nothing else, until it is mended: condition, panel and alert.

The panels are those that the chart carries, asked of a real Prometheus with the chart's rules, which wait for a
thirtieth of their time; a number is red as Grafana would paint it. The runbooks' other alerts: tests/rules and
tests/cluster/api.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from cluster.api import Api, eventually
from cluster.deployed import Deployed, deploy
from cluster.monitored import Monitored
from cluster.secret_search import from_secret, secret
from cluster.servers import condition
from cluster.steady_load import SteadyLoad
from dashboard_files import dashboard, filled, panels
from dashboards.fleet import KNOWN
from tool_http_server import ToolHttpServer

from .conftest import Installed

OFTEN = {"interval": "1s", "timeout": "900ms", "failureThreshold": 2}
HEALTHY = {"Available": "True", "ConfigApplied": "True", "Progressing": "True", "Ready": "True"}
HEALTHY |= {"SecretsResolved": "True", "ServerReachable": "True"}

WAITS = ("False", "AwaitingPods")
"""The newest configuration is that of the pod that does not get ready."""
CONDITIONS: dict[str, dict[str, tuple[str, str]]] = {
    "well": {},
    "dead": {"Ready": ("False", "ServerUnreachable"), "ServerReachable": ("False", "Unreachable")},
    "slow": {"Ready": ("False", "CallsFailing"), "ServerReachable": ("False", "CallsFailing")},
    "secretless": {
        "Ready": ("False", "SecretMissing"),
        "SecretsResolved": ("False", "SecretMissing"),
        "ConfigApplied": WAITS,
    },
    "stuck": {"Ready": ("False", "Unschedulable"), "Progressing": ("False", "RolloutStuck"), "ConfigApplied": WAITS},
}
"""Server → the conditions that are not True."""
ALERTS = {
    "dead": {"OutriggerServerUnreachable"},
    "slow": {"OutriggerBreakerOpen", "OutriggerErrorBudgetBurnFast"},
    "secretless": {"OutriggerSecretNotResolved"},
    "stuck": {"OutriggerRolloutStuck"},
}
NUMBERS = {
    "dead": {"Ready"},
    "slow": {"Ready", "Breaker", "Error ratio"},
    "secretless": {"Ready"},
    "stuck": {"Ready"},
}
"""Server → the red numbers of the dashboard Server."""
NOT_READY = {"dead", "slow", "secretless", "stuck"}
"""Those that the dashboard Fleet counts."""


def colour(panel: dict[str, Any], value: float) -> str:
    """Of a number, as Grafana paints it: by the mapping of the value, else by the steps of the thresholds."""
    settings = panel["fieldConfig"]["defaults"]
    for mapping in settings.get("mappings", ()):
        if mapping["type"] == "value" and f"{value:g}" in mapping["options"]:
            return str(mapping["options"][f"{value:g}"]["color"])
    steps = settings.get("thresholds", {}).get("steps", ())
    return str([step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1])


def red(prometheus: Monitored, name: str, **chosen: str) -> Iterator[str]:
    """The titles of a dashboard's numbers that are red, for what is chosen in its variables."""
    made = dashboard(name)
    for panel in panels(made):
        if panel["type"] != "stat":
            continue
        for _, value in prometheus.query(filled(panel["targets"][0]["expr"], made, **chosen)):
            if value == value and "red" in colour(panel, value).lower():
                yield panel["title"]


def not_ready(prometheus: Monitored, namespace: str) -> set[str]:
    """The servers that the table of the dashboard Fleet shows as not ready."""
    found = prometheus.query(filled(KNOWN, dashboard("fleet"), namespace=namespace))
    return {labels["server"] for labels, value in found if not value}


def conditions(server: Deployed) -> dict[str, tuple[str, str]]:
    """Those that are not as on a good day."""
    now = {kind: condition(server.object, kind) for kind in HEALTHY}
    return {kind: (one["status"], one["reason"]) for kind, one in now.items() if one["status"] != HEALTHY[kind]}


def wait_until_well(prometheus: Monitored, server: Deployed, timeout: float) -> None:
    """Every condition is good, and then no number of the dashboard Server is red, each within `timeout` seconds."""
    eventually(lambda: not conditions(server), f"{server.name} is well", timeout)
    chosen = {"namespace": server.namespace, "server": server.name}
    eventually(lambda: not set(red(prometheus, "server", **chosen)), f"{server.name} has no red number", timeout)


@pytest.mark.timeout(400)
def test_each_fault_shows_and_nothing_else(api: Api, installed: Installed, namespace: str) -> None:
    with ExitStack() as stack:
        upstream = stack.enter_context(ToolHttpServer(host=api.host, bind=api.host))
        servers = {name: deploy(api, namespace, name) for name in ("well", "secretless", "stuck")}
        servers["slow"] = deploy(api, namespace, "slow", timeouts={"timeout": "1s"})
        servers["dead"] = deploy(api, namespace, "dead", "remote", remote={"url": upstream.url}, health=OFTEN)
        for server in servers.values():
            server.ready()
        prometheus = stack.enter_context(Monitored(api, [namespace], operator_namespace=installed.namespace))
        prometheus.wait(lambda: len(prometheus.query("outrigger_upstream_up == 1")) == 5, "all are scraped", 60)
        stack.enter_context(SteadyLoad(servers["well"].url, callers=1, pause=0.2))
        quick = stack.enter_context(SteadyLoad(servers["slow"].url, callers=1, pause=0.2))
        for server in servers.values():
            wait_until_well(prometheus, server, 90)
        eventually(lambda: not not_ready(prometheus, namespace), "all are ready", 30)

        upstream.stop()
        quick.stop()
        sleepers = SteadyLoad(
            servers["slow"].url, callers=3, pause=0.2, tool="sleep", arguments={"ms": 3000}, answered=False
        )
        stack.enter_context(sleepers)
        servers["secretless"].patch(stdio={"env": [from_secret("TOKEN", "absent", "token")]})
        servers["stuck"].patch(podTemplate={"nodeSelector": {"kubernetes.io/hostname": "nowhere"}})
        servers["stuck"].wait("Ready", "False", "Unschedulable")

        def late() -> bool:
            # no test waits for ten minutes; the operator puts it back, and the Deployment stays late
            api.patch("deployments", namespace, "stuck", {"spec": {"progressDeadlineSeconds": 1}})
            return bool(servers["stuck"].condition("Progressing")["reason"] == "RolloutStuck")

        eventually(late, "given up", 30)
        for name, wanted in CONDITIONS.items():
            for kind, (status, reason) in wanted.items():
                servers[name].wait(kind, status, reason)
        flickers: set[str] = set()

        def shown() -> bool:
            seen = {name: set(red(prometheus, "server", namespace=namespace, server=name)) for name in servers}
            # the breaker tries again now and then, and is not open at that moment
            flickers.update(seen["slow"] & {"Breaker"})
            seen["slow"] |= flickers
            assert {name: titles for name, titles in seen.items() if titles} == NUMBERS
            return True

        eventually(shown, "exactly these numbers are red", 60)
        eventually(lambda: not_ready(prometheus, namespace) == NOT_READY, "exactly these are not ready", 30)
        eventually(lambda: "Not ready" in set(red(prometheus, "fleet", namespace=namespace)), "the fleet shows it", 30)
        prometheus.wait_for_alerts_about(namespace, ALERTS)

        def told() -> bool:
            assert {name: conditions(server) for name, server in servers.items()} == CONDITIONS
            return True

        eventually(told, "exactly these conditions", 30)

        upstream.listen()
        sleepers.stop()
        stack.enter_context(SteadyLoad(servers["slow"].url, callers=1, pause=0.2, answered=False))
        api.create(secret(namespace, "absent", token="there"))
        servers["stuck"].patch(podTemplate={"nodeSelector": None})
        for server in servers.values():
            wait_until_well(prometheus, server, 90)
        prometheus.wait_for_alerts_about(namespace, {})

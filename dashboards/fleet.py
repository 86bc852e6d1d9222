"""The dashboard *Fleet*: every MCPServer, those in trouble first.

Its first screen answers whether anything is broken, and which; a click on a name leads to *Server* for what and why.
Everything is aggregated to one series for each MCPServer, so that it stays usable with thousands.
"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.board import make, server_variables
from dashboards.panels import (
    BREAKER,
    ERROR_RATIO,
    GREEN,
    ORANGE,
    RED,
    SECONDS,
    YELLOW,
    YES_NO,
    ZERO_IS_GOOD,
    Column,
    Query,
    Row,
    grid,
    number,
    series,
)
from dashboards.promql import EACH, FLEET, FLEET_OPERATOR, KNOWN, breaker, error_ratio, quantile, rate, total
from dashboards.server import UID as SERVER_UID

UID = "outrigger-fleet"
NAME = "{{namespace}}/{{server}}"
TO_SERVER = (
    f"/d/{SERVER_UID}?${{datasource:queryparam}}"
    '&var-namespace=${__data.fields["Namespace"]}&var-server=${__data.fields["MCPServer"]}&${__url_time_range}'
)


NONE = f"0 * {KNOWN}"
ERRORS = error_ratio(FLEET, EACH)
DURATION = "outrigger_server_operation_duration_seconds"
RESTARTS = f"sum by ({EACH}) (increase(outrigger_child_restarts_total{{{FLEET}}}[$__range]))"
TROUBLE = " + ".join(
    (
        f"100 * (1 - {KNOWN})",
        f"25 * ({breaker(FLEET, EACH)} or {NONE})",
        f"100 * ({ERRORS} or {NONE})",
        f"10 * (clamp_max({total('outrigger_queue_length', FLEET, EACH)}, 1) or {NONE})",
        f"10 * (clamp_max({RESTARTS}, 1) or {NONE})",
    )
)


def fleet() -> Dashboard:
    """All MCPServers that the operator watches or that Prometheus scrapes."""
    return make(
        uid=UID,
        title="Outrigger / Fleet",
        description="All MCPServers, those in trouble first. Click a name to see what is wrong with it.",
        variables=server_variables("The MCPServers to show."),
        docs=[("Conditions", "conditions.md"), ("Troubleshooting", "troubleshooting.md")],
        rows=[_numbers(), _table(), _tops(), _saturation()],
    )


def _numbers() -> Row:
    return Row(
        "",
        [
            number(
                "MCPServers",
                "How many there are, as the operator knows them.",
                f"count({KNOWN})",
                unit="short",
            ),
            number(
                "Not ready",
                "Good: 0. MCPServers whose condition Ready is not True. The table below has them on top, with the "
                "reason.",
                f"count({KNOWN} == 0) or 0 * count({KNOWN})",
                unit="short",
                steps=ZERO_IS_GOOD,
            ),
            number(
                "Breakers not closed",
                "Good: 0. MCPServers where at least one sidecar refuses calls because the server behind it fails.",
                f"count({breaker(FLEET, EACH)} > 0) or 0 * count({KNOWN})",
                unit="short",
                steps=ZERO_IS_GOOD,
            ),
            number(
                "Calls",
                "Finished calls each second, of all MCPServers.",
                rate("outrigger_calls_total", FLEET),
                unit="reqps",
            ),
            number(
                "Error ratio",
                "Good: below 1 %. Failed calls that were not the caller's fault, as a share of all.",
                error_ratio(FLEET),
                unit="percentunit",
                steps=ERROR_RATIO,
                decimals=2,
            ),
            number(
                "Duration, p99",
                "Of all calls of the fleet. One slow MCPServer with many calls is enough: see *Slowest*.",
                quantile(0.99, DURATION, FLEET),
                unit="s",
                steps=SECONDS,
            ),
            number(
                "Waiting calls",
                "Good: near 0. Calls that wait for a permit, in all queues together.",
                total("outrigger_queue_length", FLEET),
                unit="short",
                steps=((None, GREEN), (10, YELLOW), (100, RED)),
            ),
            number(
                "Process restarts",
                "Good: 0 in the time shown. Processes of stdio servers that ended and were started again.",
                f"sum(increase(outrigger_child_restarts_total{{{FLEET}}}[$__range]))",
                unit="short",
                steps=((None, GREEN), (1, YELLOW), (10, RED)),
                decimals=0,
                sparkline=False,
            ),
        ],
    )


def _table() -> Row:
    return Row(
        "",
        [
            grid(
                "MCPServers by trouble",
                "Sorted by *Trouble*: 100 for not ready, 50 for an open breaker (25 half open), the error ratio in "
                "percent, 10 for a queue, 10 for restarted processes. 0 is good. Click a name for its dashboard; the "
                "reason is explained in the documentation's page Conditions.",
                [
                    Column(
                        "Trouble",
                        query=TROUBLE,
                        steps=((None, GREEN), (1, YELLOW), (25, ORANGE), (100, RED)),
                        bar=True,
                        decimals=0,
                        width=150,
                    ),
                    Column("Namespace", label="namespace", width=150),
                    Column("MCPServer", label="server", link=TO_SERVER, link_title="Open its dashboard"),
                    Column("Ready", query=KNOWN, names=YES_NO, width=80),
                    Column(
                        "Reason",
                        label="reason",
                    ),
                    Column(
                        "Pods",
                        query=f"count by ({EACH}) (outrigger_upstream_up{{{FLEET}}})",
                        width=70,
                    ),
                    Column("Breaker", query=breaker(FLEET, EACH), names=BREAKER, width=100),
                    Column("Calls", query=rate("outrigger_calls_total", FLEET, EACH), unit="reqps", width=110),
                    Column("Errors", query=ERRORS, unit="percentunit", steps=ERROR_RATIO, width=90),
                    Column(
                        "p99",
                        query=quantile(0.99, DURATION, FLEET, EACH),
                        unit="s",
                        steps=SECONDS,
                        width=90,
                    ),
                    Column(
                        "Queue",
                        query=total("outrigger_queue_length", FLEET, EACH),
                        steps=((None, GREEN), (1, YELLOW), (50, RED)),
                        width=80,
                    ),
                    Column(
                        "Restarts", query=RESTARTS, steps=((None, GREEN), (1, YELLOW), (10, RED)), decimals=0, width=90
                    ),
                    Column(
                        "Told by the operator",
                        query="max by (namespace, server, reason) (label_replace(outrigger_operator_mcpserver_ready{"
                        + FLEET_OPERATOR
                        + '}, "server", "$1", "name", "(.*)"))',
                        hidden=True,
                    ),
                ],
                sort_by="Trouble",
                height=9,
            ),
        ],
    )


def _tops() -> Row:
    return Row(
        "The worst ten",
        [
            series(
                "Highest error ratio",
                "Good: empty. Only MCPServers that fail at all; a line that begins says since when.",
                Query(f"topk(10, {ERRORS} > 0)", NAME),
                unit="percentunit",
                steps=ERROR_RATIO,
            ),
            series(
                "Slowest, p99",
                "Compare with what each server usually takes; some tools are slow by nature.",
                Query(f"topk(10, {quantile(0.99, DURATION, FLEET, EACH)})", NAME),
                unit="s",
            ),
            series(
                "Most calls",
                "Who uses the fleet. A line that ends while its callers live is an MCPServer that cannot be reached.",
                Query(f"topk(10, {rate('outrigger_calls_total', FLEET, EACH)})", NAME),
                unit="reqps",
            ),
        ],
    )


def _saturation() -> Row:
    return Row(
        "Saturation and protection",
        [
            series(
                "Fullest bulkheads",
                "Calls in flight as a share of the permits. At 100 % calls queue: more replicas, or a higher "
                "`limits.maxConcurrent` if the server can take it.",
                Query(
                    f"topk(10, {total('outrigger_bulkhead_in_flight', FLEET, EACH)} / "
                    f"{total('outrigger_bulkhead_limit', FLEET, EACH)})",
                    NAME,
                ),
                unit="percentunit",
                steps=((None, GREEN), (0.8, YELLOW), (1, RED)),
                maximum=1,
            ),
            series(
                "Longest queues",
                "Good: empty. Calls that wait for a permit.",
                Query(f"topk(10, {total('outrigger_queue_length', FLEET, EACH)} > 0)", NAME),
                unit="short",
            ),
            series(
                "Refused by reason",
                "Good: empty. Calls refused before anything was sent, of all MCPServers.",
                Query(rate("outrigger_rejected_total", FLEET, "reason") + " > 0", "{{reason}}"),
                unit="reqps",
                stacked=True,
            ),
            series(
                "Retries",
                "Good: a trickle. A wall of retries is a server that fails; the budget keeps it from becoming a storm.",
                Query(f"topk(10, {rate('outrigger_retries_total', FLEET, EACH)} > 0)", NAME),
                unit="reqps",
            ),
            series(
                "Memory of servers' processes",
                "Resident memory of the processes of stdio servers, the ten largest.",
                Query(f"topk(10, {total('outrigger_child_resident_bytes', FLEET, EACH)})", NAME),
                unit="bytes",
            ),
            series(
                "Not ready by reason",
                "Good: empty. MCPServers whose condition Ready is not True, by reason, as the operator tells.",
                Query(
                    "count by (reason) (max by (namespace, name, reason) "
                    f"(outrigger_operator_mcpserver_ready{{{FLEET_OPERATOR}}}) == 0)",
                    "{{reason}}",
                ),
                unit="short",
                stacked=True,
            ),
        ],
    )

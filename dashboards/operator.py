"""The dashboard *Operator*: whether the operator does its work, and what the cluster makes hard for it."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.board import make, query_variable
from dashboards.panels import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    ZERO_IS_GOOD,
    Column,
    Names,
    Query,
    Row,
    grid,
    number,
    series,
    timeline,
)
from dashboards.promql import INTERVAL, OPERATOR, OPERATOR_FLEET, quantile, rate, total

UID = "outrigger-operator"
METRIC = "outrigger_operator"
LEADER: Final[Names] = {1: ("leads", GREEN), 0: ("stands by", BLUE)}
RESULTS = {"success": GREEN, "refused": ORANGE, "retry": YELLOW, "error": RED, "gone": GRAY}


def operator() -> Dashboard:
    """Leadership, reconciles, the queue, the API server, rollouts, and what is not True in the fleet."""
    return make(
        uid=UID,
        title="Outrigger / Operator",
        description="Whether the operator works. Calls go on without it; changes do not.",
        variables=[
            query_variable(
                "job", "Job", "The scrape job of the operator.", f"label_values({METRIC}_leader, job)", multi=False
            ),
            query_variable(
                "pod", "Pod", "Replicas of the operator.", f'label_values({METRIC}_leader{{job=~"$job"}}, pod)'
            ),
        ],
        docs=[("The operator", "operator.md"), ("Conditions", "conditions.md")],
        rows=[_first(), _work(), _fleet(), _api_server(), _process()],
    )


def _first() -> Row:
    return Row(
        "",
        [
            number(
                "Leader",
                "Good: 1. At 0 nobody reconciles: MCPServers serve on as they are, changes wait. 2 for longer than a "
                "scrape must not be: report it.",
                f"sum({METRIC}_leader{{{OPERATOR_FLEET}}})",
                unit="none",
                steps=((None, RED), (1, GREEN), (2, RED)),
                decimals=0,
            ),
            number(
                "MCPServers",
                "How many the leader keeps, as it tells by their conditions.",
                f"count(max by (namespace, name) ({METRIC}_mcpserver_ready{{{OPERATOR_FLEET}}}))",
                unit="short",
            ),
            number(
                "Not ready",
                "Good: 0. The table *Conditions that are not as they should be* names them; the dashboard Fleet shows "
                "them.",
                f"count(max by (namespace, name) ({METRIC}_mcpserver_ready{{{OPERATOR_FLEET}}}) == 0)"
                f" or 0 * count({METRIC}_leader{{{OPERATOR_FLEET}}})",
                unit="short",
                steps=ZERO_IS_GOOD,
            ),
            number(
                "Oldest in the queue",
                "Good: below 1 s. How long the longest waiting MCPServer has waited for a worker.",
                f"max({METRIC}_queue_oldest_seconds{{{OPERATOR}}})",
                unit="s",
                steps=((None, GREEN), (10, YELLOW), (60, RED)),
            ),
            number(
                "Reconciles",
                "Each second. Near 0 where nothing happens: that is good.",
                rate(f"{METRIC}_reconcile_total", OPERATOR),
                unit="ops",
            ),
            number(
                "Failed reconciles",
                "Good: 0. `retry`, `refused` and `error` in the time shown; the operator's log names each.",
                f'sum(increase({METRIC}_reconcile_total{{{OPERATOR}, result=~"retry|refused|error"}}[$__range]))',
                unit="short",
                steps=((None, GREEN), (1, YELLOW), (100, RED)),
                decimals=0,
                sparkline=False,
            ),
            number(
                "Longest watch silence",
                "Good: below 90 s, also where nothing happens. Above, a watch is dead and the operator blind for that "
                "resource.",
                f"max({METRIC}_watch_silence_seconds{{{OPERATOR}}})",
                unit="s",
                steps=((None, GREEN), (90, YELLOW), (180, RED)),
            ),
            number(
                "Failed rollouts",
                "Good: 0. MCPServers whose pods did not get ready with a new sidecar image: they hold up the rest of "
                "the fleet. `Progressing=False, RolloutStuck` names each.",
                f"sum({METRIC}_fleet_rollouts_failed{{{OPERATOR}}})",
                unit="short",
                steps=ZERO_IS_GOOD,
            ),
            timeline(
                "Who leads",
                "Good: one green lane, and another only after a restart or an upgrade. Gaps: nobody led.",
                Query(f"max by (pod) ({METRIC}_leader{{{OPERATOR}}})", "{{pod}}"),
                names=LEADER,
                width=8,
                height=8,
            ),
            series(
                "Reconciles by result",
                "Good: green. `refused`: admission or a quota said no; `retry`: the API server could not be asked; "
                "`error`: a bug, please report it with the log's line; `gone`: deleted meanwhile.",
                Query(rate(f"{METRIC}_reconcile_total", OPERATOR, "result"), "{{result}}"),
                unit="ops",
                stacked=True,
                colors=RESULTS,
            ),
            series(
                "Queue",
                "Good: 0, with peaks after a start or a change of many. Depth that stays means that workers cannot "
                "keep up with the API server.",
                Query(total(f"{METRIC}_queue_depth", OPERATOR), "waiting"),
                Query(total(f"{METRIC}_queue_working", OPERATOR), "worked on"),
                unit="short",
                colors={"waiting": YELLOW, "worked on": BLUE},
            ),
        ],
    )


def _work() -> Row:
    return Row(
        "Work",
        [
            series(
                "Duration of a reconcile",
                "Good: p99 below 1 s. Slow ones wait for the API server: compare *Time of requests*.",
                *(
                    Query(quantile(q, f"{METRIC}_reconcile_duration_seconds", OPERATOR), f"p{q * 100:.0f}")
                    for q in (0.5, 0.95, 0.99)
                ),
                unit="s",
                colors={"p50": GREEN, "p95": YELLOW, "p99": ORANGE},
            ),
            series(
                "Age of the queue, by pod",
                "Good: below 1 s. How long a change may have to wait before anybody looks at it.",
                Query(f"max by (pod) ({METRIC}_queue_oldest_seconds{{{OPERATOR}}})", "{{pod}}"),
                unit="s",
                steps=((None, GREEN), (60, RED)),
            ),
            series(
                "Queued and retried",
                "What was queued each second, and how much of it because it had failed before. Mostly retries: see "
                "the log.",
                Query(rate(f"{METRIC}_queue_adds_total", OPERATOR), "queued"),
                Query(rate(f"{METRIC}_queue_retries_total", OPERATOR), "retried"),
                unit="ops",
                colors={"queued": BLUE, "retried": YELLOW},
            ),
            series(
                "Drift repairs",
                "Good: empty. Objects that somebody else had changed or deleted. Steady repairs: two controllers "
                "disagree; the log says over which object.",
                Query(f"sum(increase({METRIC}_drift_repairs_total{{{OPERATOR}}}[{INTERVAL}]))", "repaired"),
                unit="short",
                bars=True,
                colors={"repaired": ORANGE},
            ),
            series(
                "Questions to sidecars",
                "How often sidecars are asked for their status. It follows the number of pods that are not yet as "
                "they should be.",
                Query(rate(f"{METRIC}_pod_polls_total", OPERATOR), "polls"),
                unit="reqps",
            ),
            series(
                "Events dropped",
                "Good: 0. Kubernetes Events that were not posted because there were too many, or the API server "
                "refused them.",
                Query(rate(f"{METRIC}_events_dropped_total", OPERATOR), "dropped"),
                unit="ops",
                colors={"dropped": RED},
            ),
        ],
    )


def _fleet() -> Row:
    return Row(
        "The fleet",
        [
            grid(
                "Conditions that are not as they should be",
                "Good: empty. One line for each condition of an MCPServer that is not True, with its reason: the page "
                "Conditions explains each, `kubectl describe mcpserver` says what to do.",
                [
                    Column("Namespace", label="namespace"),
                    Column("MCPServer", label="name"),
                    Column("Condition", label="type"),
                    Column("Status", label="status"),
                    Column("Reason", label="reason"),
                    Column(
                        "Told",
                        query="max by (namespace, name, type, status, reason) "
                        f'({METRIC}_mcpserver_condition{{{OPERATOR_FLEET}, status!="True"}} == 1)',
                        hidden=True,
                    ),
                ],
                sort_by="Condition",
                width=12,
                height=8,
            ),
            series(
                "Conditions not True, by type and reason",
                "Good: empty. What is wrong in the fleet, and since when.",
                Query(
                    "count by (type, reason) (max by (namespace, name, type, reason) "
                    f'({METRIC}_mcpserver_condition{{{OPERATOR_FLEET}, status!="True"}} == 1))',
                    "{{type}}: {{reason}}",
                ),
                unit="short",
                width=12,
                stacked=True,
            ),
            series(
                "Rollouts of a new sidecar",
                "After an upgrade of the operator: at most `maxConcurrentRollouts` at once, and none begins while one "
                "has failed.",
                Query(total(f"{METRIC}_fleet_rollouts", OPERATOR), "rolling"),
                Query(total(f"{METRIC}_fleet_rollouts_failed", OPERATOR), "failed"),
                unit="short",
                width=12,
                colors={"rolling": BLUE, "failed": RED},
            ),
            series(
                "Ready and not ready",
                "Good: one line. What the leader says of all MCPServers.",
                Query(f"sum(max by (namespace, name) ({METRIC}_mcpserver_ready{{{OPERATOR_FLEET}}}))", "ready"),
                Query(f"sum(1 - max by (namespace, name) ({METRIC}_mcpserver_ready{{{OPERATOR_FLEET}}}))", "not ready"),
                unit="short",
                width=12,
                stacked=True,
                colors={"ready": GREEN, "not ready": RED},
            ),
        ],
    )


def _api_server() -> Row:
    requests, seconds = f"{METRIC}_api_requests_total", f"{METRIC}_api_request_seconds_total"
    asked = f'{OPERATOR}, verb!="watch"'
    return Row(
        "The API server",
        [
            series(
                "Requests by verb and resource",
                "Good: next to nothing where nothing happens. A fleet at rest costs no writes.",
                Query(rate(requests, OPERATOR, "verb, resource") + " > 0", "{{verb}} {{resource}}"),
                unit="reqps",
                stacked=True,
            ),
            series(
                "Requests that failed, by code",
                "Good: empty, but for 404 of `get`, which asks whether something is there. 403: rights are missing "
                "(`outrigger rbac`); 409: somebody else writes the same; 429 and 5xx: the API server is not well; 0: "
                "it could not be reached.",
                Query(
                    rate(requests, f'{OPERATOR}, code!~"2.."', "verb, resource, code"), "{{code}} {{verb}} {{resource}}"
                ),
                unit="reqps",
                stacked=True,
            ),
            series(
                "Time of requests, mean",
                "Good: below 100 ms. The API server's answer time, as the operator sees it.",
                Query(
                    f"{rate(seconds, asked, 'verb')} / ({rate(requests, asked, 'verb')} > 0)",
                    "{{verb}}",
                ),
                unit="s",
            ),
            series(
                "Watch silence by resource",
                "Good: below 90 s: watches are renewed by then even where nothing happens. A line that climbs: the "
                "watch is dead.",
                Query(f"max by (resource) ({METRIC}_watch_silence_seconds{{{OPERATOR}}})", "{{resource}}"),
                unit="s",
                width=24,
                steps=((None, GREEN), (90, RED)),
            ),
        ],
    )


def _process() -> Row:
    return Row(
        "The process",
        [
            grid(
                "Versions",
                "Good: one version. Two during an upgrade only.",
                [
                    Column("Pod", label="pod"),
                    Column("Version", label="version"),
                    Column("Running", query=f"max by (pod, version) ({METRIC}_build_info{{{OPERATOR}}})", hidden=True),
                ],
                sort_by="Version",
                width=8,
                height=8,
            ),
            series(
                "CPU",
                "In cores, by pod. Near its limit reconciles get slow.",
                Query(rate("process_cpu_seconds_total", f"{OPERATOR}", "pod"), "{{pod}}"),
                unit="short",
            ),
            series(
                "Memory",
                "Resident, by pod: about 100 MiB and a few KiB for each MCPServer. A line that only climbs: report it.",
                Query(f"max by (pod) (process_resident_memory_bytes{{{OPERATOR}}})", "{{pod}}"),
                unit="bytes",
            ),
        ],
    )

"""The dashboard *Server*: one MCPServer, or several, as its callers and its sidecars see it.

The first screen says whether it is broken, what, and since when; each row below is one part of a call's way.
"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import server_connections, server_process
from dashboards.board import make, query_variable, server_variables
from dashboards.panels import (
    BREAKER,
    ERROR_RATIO,
    GRAY,
    GREEN,
    ORANGE,
    RED,
    SECONDS,
    YELLOW,
    YES_NO,
    ZERO_IS_GOOD,
    Query,
    Row,
    number,
    series,
    timeline,
)
from dashboards.promql import (
    EACH,
    FLEET_OPERATOR,
    INTERVAL,
    KNOWN,
    PROCESS,
    SERVER,
    breaker,
    error_ratio,
    quantile,
    rate,
    total,
)

UID = "outrigger-server"
NAME = "{{namespace}}/{{server}}"
OUTCOMES = {"ok": GREEN, "tool_error": YELLOW, "rejected": ORANGE, "error": RED, "cancelled": GRAY}


def server() -> Dashboard:
    """Rate, errors, duration and saturation of the chosen MCPServers, then their parts."""
    return make(
        uid=UID,
        title="Outrigger / Server",
        description="One MCPServer: what its callers get, what its server does, what protects one from the other.",
        variables=[
            *server_variables("The MCPServers to look at; rates and quantiles are of all chosen ones together."),
            query_variable(
                "pod",
                "Pod",
                "The pods to look at: compare one with All when only some callers complain.",
                'label_values(outrigger_upstream_up{namespace=~"$namespace", server=~"$server"}, pod)',
            ),
        ],
        docs=[("Conditions", "conditions.md"), ("Errors", "errors.md"), ("Settings", "mcpserver.md")],
        rows=[
            _first(),
            _calls(),
            _saturation(),
            _retries(),
            server_connections.connections(),
            server_connections.cache_and_sessions(),
            server_process.children(),
            server_process.sidecar(),
        ],
    )


def _first() -> Row:
    worst = "max(" + breaker(SERVER, EACH) + ")"
    return Row(
        "",
        [
            number(
                "Ready",
                "Good: yes. No: the condition Ready of a chosen MCPServer is not True; *Conditions that are not True* "
                "has the reason, the documentation's page Conditions what to do. Where no operator is scraped: "
                "whether every sidecar's server answers.",
                f"min({KNOWN})",
                unit="none",
                names=YES_NO,
            ),
            number(
                "Breaker",
                "Good: closed. Open: so many calls failed that calls are refused at once, to spare the server and its "
                "callers' time. It tries again by itself; mend the server.",
                worst,
                unit="none",
                names=BREAKER,
            ),
            number(
                "Error ratio",
                "Good: below 1 %. Calls that failed and were not the caller's fault; an error that a tool itself "
                "answers does not count. *Errors* says which, and whose.",
                error_ratio(SERVER),
                unit="percentunit",
                steps=ERROR_RATIO,
                decimals=2,
            ),
            number(
                "Calls",
                "Finished calls each second, refused ones among them. A sudden fall with callers alive means they "
                "cannot reach the Service at all.",
                rate("outrigger_calls_total", SERVER),
                unit="reqps",
            ),
            number(
                "Duration, p99",
                "What the slowest hundredth of the callers wait at least. Good is for you to say: compare with "
                "yesterday. *Duration* says whether the time is the server's or the queue's.",
                quantile(0.99, "outrigger_server_operation_duration_seconds", SERVER),
                unit="s",
                steps=SECONDS,
            ),
            number(
                "Waiting",
                "Good: 0 most of the time. Calls that wait for a permit of the bulkhead; a queue that stays means more "
                "calls than the server can do: more replicas, or a higher `limits.maxConcurrent` if it can take it.",
                total("outrigger_queue_length", SERVER),
                unit="short",
                steps=((None, GREEN), (1, YELLOW), (50, RED)),
            ),
            number(
                "Permits in use",
                "Good: below 80 %. Calls in flight as a share of what the bulkhead allows. At 100 % calls queue.",
                f"{total('outrigger_bulkhead_in_flight', SERVER)} / {total('outrigger_bulkhead_limit', SERVER)}",
                unit="percentunit",
                steps=((None, GREEN), (0.8, YELLOW), (1, RED)),
            ),
            number(
                "Process restarts",
                "Good: 0 in the time shown. Processes of a stdio server that were started again. Empty for a server "
                "over HTTP. *Exits* says how they ended; their stderr is in the sidecar's log.",
                f"sum(increase(outrigger_child_restarts_total{{{SERVER}}}[$__range]))",
                unit="short",
                steps=ZERO_IS_GOOD,
                decimals=0,
                sparkline=False,
            ),
            timeline(
                "Health and breaker, by pod",
                "Good: green throughout. One lane for what each sidecar thinks of its server, one for its breaker. "
                "Red in all lanes at once: the server, or what it depends on. Red in one: that pod.",
                Query(
                    f"2 - 2 * min by (pod) (outrigger_upstream_up{{{SERVER}}})",
                    "server, {{pod}}",
                ),
                Query(breaker(SERVER, "pod"), "breaker, {{pod}}"),
                names={
                    0: ("answers, closed", GREEN),
                    1: ("half open", YELLOW),
                    2: ("does not answer, open", RED),
                },
                width=12,
                height=8,
            ),
            series(
                "Calls by outcome",
                "Good: green only. `tool_error` is a tool's own no; `rejected` was refused before anything was sent "
                "(safe to retry); `error` failed; `cancelled` was given up by its caller.",
                Query(rate("outrigger_calls_total", SERVER, "outcome"), "{{outcome}}"),
                unit="reqps",
                width=12,
                stacked=True,
                colors=OUTCOMES,
            ),
            timeline(
                "Conditions that are not True",
                "Good: empty, but for moments of a rollout and what is scaled to zero. What is wrong, since when, in "
                "the operator's words: the documentation's page Conditions says what to do for each reason; `kubectl "
                "describe` has the message.",
                Query(
                    "max by (namespace, name, type, reason) "
                    f'(outrigger_operator_mcpserver_condition{{{FLEET_OPERATOR}, status!="True"}})',
                    "{{namespace}}/{{name}} {{type}}: {{reason}}",
                ),
                names={1: ("not True", RED)},
                width=24,
                height=5,
            ),
        ],
    )


def _calls() -> Row:
    duration = "outrigger_server_operation_duration_seconds"
    return Row(
        "Calls: rate, errors, duration",
        [
            series(
                "Errors by side and type",
                "Good: empty, but for what callers do wrong. `upstream`: the server; `sidecar`: refused to protect it; "
                "`caller`: the request. Every type is explained, with what to do, in the documentation's page Errors.",
                Query(rate("outrigger_errors_total", SERVER, "side, error_type") + " > 0", "{{side}}: {{error_type}}"),
                unit="reqps",
                stacked=True,
            ),
            series(
                "Duration",
                "From the request read to the answer written. Good: flat. A p50 that rises with the p99 is a slower "
                "server; a p99 alone is one tool or one pod: see *Duration by tool*.",
                *(Query(quantile(q, duration, SERVER), f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)),
                unit="s",
                colors={"p50": GREEN, "p95": YELLOW, "p99": ORANGE},
            ),
            series(
                "Duration by tool, p99",
                "Which tool is slow. `_other` is what found no label of its own (`metrics.maxToolLabels`).",
                Query(quantile(0.99, duration, f'{SERVER}, method="tools/call"', "tool"), "{{tool}}"),
                unit="s",
            ),
            series(
                "Calls by method",
                "What is asked. Much `initialize` with little else: callers that open a session for each call.",
                Query(rate("outrigger_calls_total", SERVER, "method"), "{{method}}"),
                unit="reqps",
                stacked=True,
            ),
            series(
                "Duration by method, p99",
                "As *Duration by tool*, for the methods of the protocol. `tools/list` should cost next to nothing: it "
                "is cached.",
                Query(quantile(0.99, duration, SERVER, "method"), "{{method}}"),
                unit="s",
            ),
            series(
                "Where the time goes, p95",
                "The server, the queue, or the sidecar itself (good: below 1 ms). Mend the largest.",
                Query(quantile(0.95, "outrigger_client_operation_duration_seconds", SERVER), "server"),
                Query(quantile(0.95, "outrigger_queue_wait_seconds", SERVER), "queue"),
                Query(quantile(0.95, "outrigger_overhead_seconds", PROCESS), "sidecar"),
                unit="s",
                colors={"server": ORANGE, "queue": YELLOW, "sidecar": GREEN},
            ),
        ],
    )


def _saturation() -> Row:
    return Row(
        "Saturation",
        [
            series(
                "In flight and permits",
                "Good: well below the line. At the line calls queue: the server is slower than its callers, or "
                "`limits.maxConcurrent` is lower than what it can take.",
                Query(total("outrigger_bulkhead_in_flight", SERVER, EACH), NAME),
                Query(total("outrigger_bulkhead_limit", SERVER, EACH), f"{NAME} permits"),
                unit="short",
            ),
            series(
                "Queue",
                "Good: 0, with short peaks. What stays here for longer than its wait is refused with `queue_timeout`.",
                Query(total("outrigger_queue_length", SERVER, EACH), NAME),
                unit="short",
            ),
            series(
                "Wait in the queue",
                "Good: a few milliseconds. What callers pay for saturation before the server has even seen their call.",
                *(
                    Query(quantile(q, "outrigger_queue_wait_seconds", SERVER), f"p{q * 100:.0f}")
                    for q in (0.5, 0.95, 0.99)
                ),
                unit="s",
                colors={"p50": GREEN, "p95": YELLOW, "p99": ORANGE},
            ),
            series(
                "Refused by reason",
                "Good: empty. Refused before anything was sent: `queue_full` and `queue_timeout` ask for capacity, "
                "`breaker_open` for a working server, `rate_limited` for patience or a higher limit.",
                Query(rate("outrigger_rejected_total", SERVER, "reason") + " > 0", "{{reason}}"),
                unit="reqps",
                width=12,
                stacked=True,
            ),
            series(
                "Refused by the rate limit and the breaker",
                "Good: 0. The rate limit refuses callers, the breaker spares a server that fails.",
                Query(rate("outrigger_rate_limited_total", SERVER), "rate limit"),
                Query(rate("outrigger_breaker_rejected_total", SERVER), "breaker"),
                unit="reqps",
                width=12,
                colors={"rate limit": YELLOW, "breaker": RED},
            ),
        ],
    )


def _retries() -> Row:
    return Row(
        "Retries and breaker",
        [
            series(
                "Attempts by outcome",
                "`ok` answered; `error` answered with an error; `failed` gave no answer; `cancelled`. The second "
                "number is 1 for retries: many retries that fail only add load.",
                Query(rate("outrigger_attempts_total", SERVER, "outcome, retry"), "{{outcome}}, retry {{retry}}"),
                unit="reqps",
                stacked=True,
            ),
            series(
                "Retries by what failed",
                "Good: a trickle. What made a second attempt necessary.",
                Query(rate("outrigger_retries_total", SERVER, "reason"), "{{reason}}"),
                unit="reqps",
                stacked=True,
            ),
            series(
                "Not retried, by reason",
                "`budget`: too many fail for retries to help; `not_idempotent`: mark the tool as safe if it is "
                "(`retry.tools`); `deadline`: no time left; `committed`: the answer had begun; `attempts`: enough "
                "tried.",
                Query(rate("outrigger_retries_denied_total", SERVER, "reason"), "{{reason}}"),
                unit="reqps",
                stacked=True,
            ),
            series(
                "Retry budget",
                "Good: full. Retries that may be made now; at 0 failures are passed on at once, so that retries never "
                "become the storm.",
                Query(total("outrigger_retry_budget_tokens", SERVER, EACH), NAME),
                unit="short",
                width=12,
            ),
            series(
                "Breaker transitions",
                "Good: empty. How often it changed, by the state it went to: open and half open in turn is a server "
                "that recovers and fails again.",
                Query(
                    f"sum by (to) (increase(outrigger_breaker_transitions_total{{{SERVER}}}[{INTERVAL}]))",
                    "{{to}}",
                ),
                unit="short",
                width=12,
                bars=True,
                stacked=True,
                colors={"open": RED, "half_open": YELLOW, "closed": GREEN},
            ),
        ],
    )

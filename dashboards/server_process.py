"""Rows of the dashboard *Server* on processes: those of a stdio server, and the sidecar itself."""

from __future__ import annotations

from dashboards.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    ZERO_IS_GOOD,
    Column,
    Query,
    Row,
    grid,
    number,
    series,
)
from dashboards.promql import INTERVAL, PROCESS, SERVER, quantile, rate, total

EACH = "namespace, server"
NAME = "{{namespace}}/{{server}}"
IN_USE = f"outrigger_config_hash_info{{{PROCESS}}} and on (namespace, pod, instance) outrigger_ready{{{PROCESS}}} == 1"
"""The configurations of the pods that are given calls."""


def children() -> Row:
    """The processes of stdio servers; empty for servers over HTTP."""
    return Row(
        "Processes of the server (stdio)",
        [
            series(
                "Restarts",
                "Good: empty. Processes started again. Steady restarts: a crash loop; its last words are in the "
                "sidecar's log.",
                Query(f"sum by ({EACH}) (increase(outrigger_child_restarts_total{{{SERVER}}}[{INTERVAL}]))", NAME),
                unit="short",
                bars=True,
            ),
            series(
                "Exits",
                "How processes ended: by themselves (`ok`), with an error code, by a signal (memory limit? killed?).",
                Query(
                    f"sum by (code_class) (increase(outrigger_child_exit_total{{{SERVER}}}[{INTERVAL}]))",
                    "{{code_class}}",
                ),
                unit="short",
                bars=True,
                stacked=True,
            ),
            series(
                "Lines of stderr dropped",
                "Good: 0. What the processes said beyond `log.stderrLinesPerSecond`: the log has gaps.",
                Query(rate("outrigger_child_stderr_dropped_total", SERVER, EACH), NAME),
                unit="ops",
            ),
            series(
                "CPU of the processes",
                "In cores, all processes together. At the container's limit calls get slow before they fail.",
                Query(rate("outrigger_child_cpu_seconds_total", SERVER, EACH), NAME),
                unit="short",
            ),
            series(
                "Memory of the processes",
                "Resident, all processes together. A line that only climbs ends in an OOM kill: mend the leak; until "
                "then a limit on the container (`podTemplate`) keeps the node out of it.",
                Query(total("outrigger_child_resident_bytes", SERVER, EACH), NAME),
                unit="bytes",
            ),
            series(
                "Open files of the processes",
                "Good: flat. A line that only climbs is a leak.",
                Query(total("outrigger_child_open_fds", SERVER, EACH), NAME),
                unit="short",
            ),
        ],
    )


def sidecar() -> Row:
    """Secrets, configuration and the health of the sidecars themselves."""
    return Row(
        "Sidecar: secrets, configuration, itself",
        [
            grid(
                "Version and configuration, by pod",
                "Good: the same hash of the file in all pods of an MCPServer. Two for longer than a minute: a pod "
                "whose configuration did not arrive or was refused; see its condition `ConfigApplied`.",
                [
                    Column("Namespace", label="namespace"),
                    Column("MCPServer", label="mcpserver"),
                    Column("Pod", label="pod"),
                    Column("Version", label="version", width=90),
                    Column("Configuration", label="file"),
                    Column(
                        "Configured",
                        query=f"max by (namespace, mcpserver, pod, file) (outrigger_config_hash_info{{{PROCESS}}})",
                        hidden=True,
                    ),
                    Column(
                        "Running",
                        query=f"max by (namespace, mcpserver, pod, version) (outrigger_build_info{{{PROCESS}}})",
                        hidden=True,
                    ),
                ],
                sort_by="Configuration",
                width=12,
                height=8,
            ),
            number(
                "Configurations too many",
                "Good: 0. How many configurations ready pods use beyond one for each MCPServer: for longer than a "
                "minute or two, some pods run an old one; the table beside has the odd hash.",
                f"count(count by (namespace, mcpserver, file) ({IN_USE}))"
                f" - count(count by (namespace, mcpserver) ({IN_USE})) or vector(0)",
                unit="short",
                steps=ZERO_IS_GOOD,
                width=4,
                height=8,
            ),
            series(
                "Configuration reloads",
                "Good: `ok` now and then. `refused`: the sidecar does not take a configuration, goes on with the one "
                "before, and says why in its log and in the condition `ConfigApplied`; the line counts the pods that "
                "do so now.",
                Query(
                    f"sum by (result) (increase(outrigger_config_reloads_total{{{PROCESS}}}[{INTERVAL}]))", "{{result}}"
                ),
                Query(total("outrigger_config_refused", PROCESS), "pods that refuse the newest"),
                unit="short",
                colors={"ok": GREEN, "refused": ORANGE, "pods that refuse the newest": RED},
            ),
            series(
                "Age of the secrets in use",
                "Falls to 0 when a Secret changes. Older than your rotation: the new value did not arrive.",
                Query(
                    f"max by (namespace, mcpserver, source) (outrigger_secret_age_seconds{{{PROCESS}}})", "{{source}}"
                ),
                unit="s",
            ),
            series(
                "Secret reloads",
                "Good: `ok` at each rotation. `error`: a file that is missing or cannot be read; the old value stays "
                "in use.",
                Query(
                    f"sum by (source, result) (increase(outrigger_secret_reloads_total{{{PROCESS}}}[{INTERVAL}]))",
                    "{{source}} {{result}}",
                ),
                unit="short",
                bars=True,
            ),
            series(
                "Event loop lag",
                "Good: p99 below 10 ms. What any call may have to wait inside the sidecar: above, it has too little "
                "CPU.",
                Query(quantile(0.5, "outrigger_loop_lag_seconds", PROCESS), "p50"),
                Query(quantile(0.99, "outrigger_loop_lag_seconds", PROCESS), "p99"),
                unit="s",
                steps=((None, GREEN), (0.05, RED)),
                colors={"p50": GREEN, "p99": ORANGE},
            ),
            series(
                "CPU of the sidecar, by pod",
                "In cores. One sidecar uses one core at most; near it, add replicas.",
                Query(rate("process_cpu_seconds_total", PROCESS, "pod"), "{{pod}}"),
                unit="short",
            ),
            series(
                "Memory of the sidecar, by pod",
                "Good: flat. Cache, sessions and long answers count here.",
                Query(f"max by (pod) (process_resident_memory_bytes{{{PROCESS}}})", "{{pod}}"),
                unit="bytes",
            ),
            series(
                "Connections of callers, by pod",
                "Good: even. All on one pod: a load balancer that keeps to its first choice.",
                Query(total("outrigger_front_connections", PROCESS, "pod"), "{{pod}}"),
                unit="short",
            ),
            series(
                "HTTP answers",
                "By status class. `4xx`: callers; `5xx`: refusals and failures, with a JSON-RPC error that says which.",
                Query(rate("outrigger_front_requests_total", PROCESS, "status"), "{{status}}"),
                unit="reqps",
                stacked=True,
                colors={"2xx": GREEN, "3xx": BLUE, "4xx": YELLOW, "5xx": RED},
            ),
            series(
                "Telemetry lost",
                "Good: 0. Log and audit lines that could not be written in time, values that a scrape could not read, "
                "labels without room. An audit line lost is worth a look at the node's disk.",
                Query(rate("outrigger_log_dropped_total", PROCESS), "log lines"),
                Query(rate("outrigger_audit_dropped_total", PROCESS), "audit lines"),
                Query(rate("outrigger_scrape_failures_total", PROCESS), "scrape values"),
                unit="ops",
                colors={"log lines": YELLOW, "audit lines": RED, "scrape values": ORANGE},
            ),
            series(
                "Audit lines",
                "One for each `tools/call`: as many as there are such calls.",
                Query(rate("outrigger_audit_records_total", PROCESS), "audit lines"),
                unit="ops",
            ),
        ],
    )

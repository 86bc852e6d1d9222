"""Rows of the dashboard *Server* on what the sidecar keeps: connections, streams, cached answers, sessions."""

from __future__ import annotations

from dashboards.panels import BLUE, GRAY, GREEN, ORANGE, RED, YELLOW, Query, Row, series
from dashboards.promql import PROCESS, SERVER, quantile, rate, total


def connections() -> Row:
    """TCP connections, processes or sockets, whatever the server is reached by."""
    return Row(
        "Connections to the server",
        [
            series(
                "Connections by state",
                "Good: ready and busy. `backoff`: could not be opened and waits before the next try. `busy` at the "
                "pool's size for long: see *Wait for a connection*.",
                Query(total("outrigger_connections", SERVER, "state"), "{{state}}"),
                unit="short",
                stacked=True,
                colors={"ready": GREEN, "busy": BLUE, "starting": YELLOW, "draining": GRAY, "backoff": RED},
            ),
            series(
                "Wait for a connection",
                "Good: next to 0. Callers wait for the pool: raise `pool.max`, or look why connections do not come "
                "back.",
                *(
                    Query(quantile(q, "outrigger_acquire_wait_seconds", SERVER), f"p{q * 100:.0f}")
                    for q in (0.5, 0.95, 0.99)
                ),
                unit="s",
                colors={"p50": GREEN, "p95": YELLOW, "p99": ORANGE},
            ),
            series(
                "Time to open, p95",
                "A TCP and TLS handshake, or the start of a process up to its first answer. Slow starts make restarts "
                "hurt.",
                Query(quantile(0.95, "outrigger_connection_start_seconds", SERVER, "server"), "{{server}}"),
                unit="s",
            ),
            series(
                "Opened, by outcome",
                "Good: no `failed`. Refused, unreachable, a process that does not start: the reason is in *Errors* "
                "and in the condition `ServerReachable`.",
                Query(rate("outrigger_connection_attempts_total", SERVER, "outcome"), "{{outcome}}"),
                unit="cps",
                colors={"ok": GREEN, "failed": RED},
            ),
            series(
                "Closed, by reason",
                "`idle`, `lifetime`, `secret`, `config` and `shutdown` are housekeeping; `error`, `exit` and "
                "`suspect` are the server's doing.",
                Query(rate("outrigger_connections_closed_total", SERVER, "reason"), "{{reason}}"),
                unit="cps",
                stacked=True,
            ),
            series(
                "Life of a connection, p50",
                "Good: as long as `pool.maxLifetime`, or hours. Minutes, where nothing is idle: something cuts them.",
                Query(quantile(0.5, "outrigger_connection_life_seconds", SERVER, "server"), "{{server}}"),
                unit="s",
            ),
            series(
                "Open streams and leaks",
                "Streams are what callers listen on. Leaked leases are a defect of the sidecar: good is 0 for ever; "
                "report it.",
                Query(total("outrigger_streams", SERVER), "streams"),
                Query(f"sum(increase(outrigger_leases_leaked_total{{{SERVER}}}[$__rate_interval]))", "leaked leases"),
                unit="short",
                colors={"streams": BLUE, "leaked leases": RED},
            ),
            series(
                "Health checks",
                "Good: `ok`, or `skipped` where calls already show that the server answers. `failed`: it does not.",
                Query(rate("outrigger_health_check_total", SERVER, "result"), "{{result}}"),
                unit="ops",
                colors={"ok": GREEN, "failed": RED, "skipped": GRAY},
            ),
            series(
                "Time since the server last answered",
                "Good: below the health interval. A line that climbs began when the server went away: *since when*.",
                Query(
                    "time() - max by (namespace, server) "
                    f"(outrigger_health_last_success_timestamp_seconds{{{SERVER}}})",
                    "{{namespace}}/{{server}}",
                ),
                unit="s",
                steps=((None, GREEN), (60, RED)),
            ),
        ],
    )


def cache_and_sessions() -> Row:
    """What makes calls cheap, and what legacy callers hold."""
    hits = rate("outrigger_cache_requests_total", f'{SERVER}, result=~"hit|stale|coalesced"')
    asked = rate("outrigger_cache_requests_total", f'{SERVER}, result!="bypass"')
    return Row(
        "Cache, sessions, bytes",
        [
            series(
                "Cache look-ups",
                "`hit`, `stale` and `coalesced` cost the server nothing. `bypass` is what must not be cached.",
                Query(rate("outrigger_cache_requests_total", SERVER, "result"), "{{result}}"),
                unit="reqps",
                stacked=True,
                colors={"hit": GREEN, "coalesced": BLUE, "stale": YELLOW, "miss": ORANGE, "bypass": GRAY},
            ),
            series(
                "Cache hit ratio",
                "Of what may be cached. Low, with evictions: `cache.maxBytes` is too small; low without: answers "
                "differ or expire (`cache.listTtl`, `cache.tools`).",
                Query(f"{hits} / ({asked} > 0)", "hit ratio"),
                unit="percentunit",
                maximum=1,
            ),
            series(
                "Cache size and evictions",
                "Bytes kept. Evictions mean that there was no room.",
                Query(total("outrigger_cache_bytes", SERVER, "namespace, server"), "{{namespace}}/{{server}}"),
                unit="bytes",
            ),
            series(
                "Cache entries and evictions",
                "Answers kept, and answers given up for room each second. Steady evictions: raise `cache.maxBytes`.",
                Query(total("outrigger_cache_entries", SERVER), "entries"),
                Query(rate("outrigger_cache_evictions_total", SERVER), "evictions/s"),
                unit="short",
                colors={"entries": BLUE, "evictions/s": ORANGE},
            ),
            series(
                "Sessions by pod",
                "Sessions of legacy callers. Growing without end: callers that never say DELETE; `front.maxSessions` "
                "bounds them. Uneven pods are normal: a session stays where it began.",
                Query(total("outrigger_sessions", SERVER, "pod"), "{{pod}}"),
                unit="short",
                stacked=True,
            ),
            series(
                "Forwarded requests",
                "Requests that came to one replica and belong to a session of another. `answered` is good, `gone` "
                "after a pod's death is expected (the caller opens a new session), `lost` means the replica could not "
                "be reached.",
                Query(rate("outrigger_forwarded_requests_total", PROCESS, "outcome"), "{{outcome}}"),
                unit="reqps",
                colors={"answered": GREEN, "gone": YELLOW, "lost": RED, "cancelled": GRAY},
            ),
            series(
                "Bytes to and from the server",
                "Parameters sent and results received. A jump of the received ones explains memory and duration.",
                Query(rate("outrigger_message_bytes_total", SERVER, "direction"), "{{direction}}"),
                unit="Bps",
                width=12,
                colors={"sent": BLUE, "received": GREEN},
            ),
            series(
                "Protocol errors",
                "Good: 0. What the server sent wrong: garbage on stdout is a server that prints there; `late_answers` "
                "are answers after their deadline.",
                Query(rate("outrigger_protocol_errors_total", SERVER, "kind"), "{{kind}}"),
                unit="ops",
                width=12,
            ),
        ],
    )

"""Every metric of the sidecar, in one place (notes/resilience.md E.2).

Names begin with `outrigger_`, units are base units. Labels are bounded: `server` comes from the config, `method` from a
closed list, `tool` from what the upstream lists, every other from an enumeration; never ids, URIs, arguments or users.
Who counts a thing is not said here: record.py counts calls, and what lives in other objects is bound by app.py:
`catalogue.bulkhead_in_flight.labels("git").bind(lambda: bulkhead.in_flight)`.
"""

from __future__ import annotations

import platform
from typing import Final

from mcp_sidecar.errors import Reason
from mcp_sidecar.telemetry.metrics import Family, Gauge, Registry

OPERATION_BUCKETS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
"""Seconds: the 14 buckets that OpenTelemetry advises for MCP operations, and 5 ms for local servers."""

FINE_BUCKETS: Final = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05)
"""Seconds, 10 µs to 50 ms: what the sidecar itself adds."""

LAG_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Seconds."""

OUTCOMES: Final = ("ok", "tool_error", "error", "rejected", "cancelled")
SOURCES: Final = ("upstream", "cache", "stale", "coalesced", "sidecar")
RELOAD_RESULTS: Final = ("ok", "refused")
EXITS: Final = ("ok", "error", "signal")
"""How processes end that were not told to."""
DENIALS: Final = ("budget", "not_idempotent", "deadline", "committed", "attempts")
"""Why a failure is not retried."""
FORESEEN_REFUSALS: Final = (
    Reason.RATE_LIMITED,
    Reason.QUEUE_FULL,
    Reason.QUEUE_TIMEOUT,
    Reason.BREAKER_OPEN,
    Reason.SERVER_NOT_READY,
)
FORESEEN_ERRORS: Final = (
    *FORESEEN_REFUSALS,
    Reason.DEADLINE_EXCEEDED,
    Reason.ATTEMPT_TIMEOUT,
    Reason.CONNECT_FAILED,
    Reason.CONNECTION_LOST,
    Reason.CHILD_EXITED,
    Reason.PROTOCOL_ERROR,
    Reason.UPSTREAM_STATUS,
)
"""What dashboards and alerts watch: their counters are there from the start, so that the first one is an increase and
not an appearance. The others are not, for the number of series."""
FORWARDING_OUTCOMES: Final = ("answered", "gone", "lost", "cancelled")
SIDES: Final = ("caller", "upstream", "sidecar")
"""Who is to blame for an error."""

METHODS: Final = frozenset(
    {
        "initialize",
        "ping",
        "server/discover",
        "tools/list",
        "tools/call",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "resources/subscribe",
        "resources/unsubscribe",
        "prompts/list",
        "prompts/get",
        "completion/complete",
        "logging/setLevel",
        "subscriptions/listen",
        "tasks/get",
        "tasks/list",
        "tasks/result",
        "tasks/update",
        "tasks/cancel",
    }
)
"""The request methods of all revisions from 2025-03-26 to 2026-07-28."""

OTHER_METHOD: Final = "_OTHER"
"""OpenTelemetry's word for a method outside the list."""

ERROR_TYPES: Final = (
    *(reason.label for reason in Reason),
    "tool_error",
    "parse_error",
    "invalid_request",
    "method_not_found",
    "invalid_params",
    "internal_error",
    "resource_not_found",
    "header_mismatch",
    "missing_client_capability",
    "unsupported_protocol_version",
    "other_error",
)
"""Closed: reasons of our own, then what an upstream's JSON-RPC error codes mean."""


class Catalogue:
    """The families of one process, by attribute."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        counter, gauge, histogram = registry.counter, registry.gauge, registry.histogram

        # calls, from the caller's side; counted by record.py
        self.operation_duration = histogram(
            "outrigger_server_operation_duration_seconds",
            "Calls as the caller sees them, from the request read to the answer written.",
            ["server", "method", "tool", "outcome"],
            buckets=OPERATION_BUCKETS,
        )
        self.calls = counter(
            "outrigger_calls_total", "Finished calls.", ["server", "method", "tool", "outcome", "source"]
        )
        self.errors = counter("outrigger_errors_total", "Failed calls by error.", ["server", "side", "error_type"])
        self.rejected = counter(
            "outrigger_rejected_total", "Calls refused before anything was sent.", ["server", "reason"]
        )
        self.overhead = histogram(
            "outrigger_overhead_seconds",
            "Time of a call that was spent neither in the queue nor upstream.",
            buckets=FINE_BUCKETS,
        )
        self.queue_wait = histogram(
            "outrigger_queue_wait_seconds", "Wait for a permit of the bulkhead.", ["server"], buckets=OPERATION_BUCKETS
        )

        # attempts upstream
        self.attempt_duration = histogram(
            "outrigger_client_operation_duration_seconds",
            "Attempts upstream.",
            ["server", "method", "outcome"],
            buckets=OPERATION_BUCKETS,
        )
        self.attempts = counter("outrigger_attempts_total", "Attempts upstream.", ["server", "outcome", "retry"])
        self.retries = counter(
            "outrigger_retries_total", "Attempts after the first, by what failed.", ["server", "reason"]
        )
        self.retries_denied = counter(
            "outrigger_retries_denied_total",
            "Failures that were not retried: budget, not_idempotent, deadline, committed, attempts.",
            ["server", "reason"],
        )
        self.retry_budget_tokens = gauge(
            "outrigger_retry_budget_tokens", "Retries that the budget allows now.", ["server"]
        )

        # protection
        self.breaker_state = gauge("outrigger_breaker_state", "1 for the state the breaker is in.", ["server", "state"])
        self.breaker_transitions = counter(
            "outrigger_breaker_transitions_total", "Changes of the breaker's state.", ["server", "to"]
        )
        self.breaker_rejected = counter("outrigger_breaker_rejected_total", "Calls refused by the breaker.", ["server"])
        self.bulkhead_in_flight = gauge("outrigger_bulkhead_in_flight", "Permits in use.", ["server"])
        self.bulkhead_limit = gauge("outrigger_bulkhead_limit", "Permits there are.", ["server"])
        self.queue_length = gauge("outrigger_queue_length", "Calls that wait for a permit.", ["server"])
        self.rate_limited = counter("outrigger_rate_limited_total", "Calls refused by the rate limit.", ["server"])

        # connections: TCP connections, processes or sockets, whatever the upstream pools
        self.connections = gauge(
            "outrigger_connections",
            "Pooled connections: starting, ready, busy, draining, backoff.",
            ["server", "state"],
        )
        self.streams = gauge("outrigger_streams", "Open listen, GET and SSE streams upstream.", ["server"])
        self.connection_attempts = counter(
            "outrigger_connection_attempts_total", "Connections tried, by outcome.", ["server", "outcome"]
        )
        self.connection_start = histogram(
            "outrigger_connection_start_seconds", "Time to open a connection.", ["server"], buckets=OPERATION_BUCKETS
        )
        self.connections_closed = counter(
            "outrigger_connections_closed_total",
            "Closed connections: idle, lifetime, error, exit, secret, config, suspect, shutdown.",
            ["server", "reason"],
        )
        self.acquire_wait = histogram(
            "outrigger_acquire_wait_seconds", "Wait for a pooled connection.", ["server"], buckets=OPERATION_BUCKETS
        )
        self.leases_leaked = counter("outrigger_leases_leaked_total", "Leases found unreturned.", ["server"])
        self.sessions = gauge("outrigger_sessions", "Legacy sessions of callers.", ["server"])
        self.connection_life = histogram(
            "outrigger_connection_life_seconds",
            "Life of a connection or process, once it is over.",
            ["server"],
            buckets=(1, 10, 60, 300, 1800, 3600, 14400, 86400),
        )

        # children
        self.child_restarts = counter("outrigger_child_restarts_total", "Processes started again.", ["server"])
        self.child_exits = counter(
            "outrigger_child_exit_total", "Processes that ended: zero, nonzero, signal.", ["server", "code_class"]
        )
        self.child_cpu = counter("outrigger_child_cpu_seconds_total", "CPU time of the processes.", ["server"])
        self.child_resident = gauge("outrigger_child_resident_bytes", "Resident memory of the processes.", ["server"])
        self.child_open_fds = gauge("outrigger_child_open_fds", "Open descriptors of the processes.", ["server"])
        self.child_stderr_dropped = counter(
            "outrigger_child_stderr_dropped_total", "Lines of stderr beyond the rate limit.", ["server"]
        )

        # cache
        self.cache_requests = counter(
            "outrigger_cache_requests_total",
            "Look-ups: hit, miss, stale, bypass, coalesced.",
            ["server", "result"],
        )
        self.cache_entries = gauge("outrigger_cache_entries", "Answers kept.", ["server"])
        self.cache_bytes = gauge("outrigger_cache_bytes", "Bytes of the answers kept.", ["server"])
        self.cache_evictions = counter("outrigger_cache_evictions_total", "Answers given up for room.", ["server"])

        # health of the upstream
        self.health_checks = counter("outrigger_health_check_total", "Probes of the upstream.", ["server", "result"])
        self.health_last_success = gauge(
            "outrigger_health_last_success_timestamp_seconds", "When the upstream last answered.", ["server"]
        )
        self.ready = gauge("outrigger_ready", "1 while /readyz says yes: the pod is given calls.")
        self.upstream_up = gauge("outrigger_upstream_up", "1 while the upstream answers.", ["server"])

        # wire
        self.message_bytes = counter(
            "outrigger_message_bytes_total",
            "Bytes of params sent to the upstream and of results received.",
            ["server", "direction"],
        )
        self.protocol_errors = counter(
            "outrigger_protocol_errors_total",
            "What an upstream sent wrong: garbage, unknown_id, late_answer, framing, poisoned.",
            ["server", "kind"],
        )
        self.front_connections = gauge("outrigger_front_connections", "Connections of callers.")
        self.front_requests = counter(
            "outrigger_front_requests_total", "HTTP requests by status class: 2xx, 3xx, 4xx, 5xx.", ["status"]
        )
        self.forwarded_requests = counter(
            "outrigger_forwarded_requests_total",
            "Requests passed on to the replica that holds their session: answered, gone, lost, cancelled.",
            ["outcome"],
        )
        for outcome in FORWARDING_OUTCOMES:
            self.forwarded_requests.labels(outcome)  # there from the start, so that the first one is an increase

        # telemetry of the telemetry, secrets, config, process
        self.audit_records = counter("outrigger_audit_records_total", "Audit lines made.")
        self.audit_dropped = counter("outrigger_audit_dropped_total", "Audit lines lost.")
        self.log_dropped = counter("outrigger_log_dropped_total", "Log lines lost.")
        self.scrape_failures = counter("outrigger_scrape_failures_total", "Values that could not be read at a scrape.")
        self.scrape_failures.labels().bind(lambda: registry.failures)
        self.secret_reloads = counter("outrigger_secret_reloads_total", "Secrets read again.", ["source", "result"])
        self.secret_age = gauge("outrigger_secret_age_seconds", "Age of the values in use.", ["source"])
        self.config_reloads = counter("outrigger_config_reloads_total", "Configurations read again.", ["result"])
        for result in RELOAD_RESULTS:
            self.config_reloads.labels(result)
        self.config_refused = gauge(
            "outrigger_config_refused", "1 while the newest text is refused and an older configuration is in use."
        )
        self.loop_lag = histogram(
            "outrigger_loop_lag_seconds", "Delay of the event loop's timers.", buckets=LAG_BUCKETS
        )

    def config_in_use(self, digest: str, file: str) -> Gauge:
        """Tell which configuration is in use, replacing the one before: `digest` of its settings, `file` of its text.

        The settings of replicas differ where each has an address of its own; their file is the same.
        """
        text = "Hashes of the configuration in use and of the file that it came from."
        return self.registry.info("outrigger_config_hash_info", text, hash=digest, file=file)

    def build(self, version: str, protocol: str) -> Gauge:
        """Tell the version of the sidecar, of Python and of the newest protocol revision."""
        return self.registry.info(
            "outrigger_build_info",
            "Version of the sidecar.",
            version=version,
            python=platform.python_version(),
            protocol=protocol,
        )

    def state(self, family: Family[Gauge], server: str, states: tuple[str, ...], current: str) -> None:
        """Set a family of states so that exactly one of them is 1."""
        for state in states:
            family.labels(server, state).set(1 if state == current else 0)

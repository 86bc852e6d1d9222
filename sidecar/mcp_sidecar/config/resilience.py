"""The sections that say how one server is protected: retry, breaker, pool, limits, cache, health, restart, stop.

The defaults are those of the seed document or better ones (notes/resilience.md A.1, B.3, B.7); each departure is
said in its description. What the settings do is the pipeline's and the upstreams' part; rules across
fields are in `rules`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_sidecar.config.scalars import ByteSize, Duration, Percent, Section, setting

HOUR = 3_600.0
"""Bound of `timeout`: some clients write milliseconds there, and 60000 must not be taken for 17 hours."""
DAY = 86_400.0
Execution = Literal["Safe", "Idempotent", "Unsafe"]


class Backoff(Section):
    """Wait between attempts: full jitter under base × 2ⁿ, capped."""

    base: Duration = setting(
        0.1,
        "First wait between attempts. A longer one lets calls fail for seconds over a glitch of 20 ms.",
        ge=0.001,
        le=60,
    )
    max: Duration = setting(
        lambda data: max(5.0, data.get("base", 0.0)), "Longest wait between attempts.", ge=0.001, le=600, shown="5s"
    )


class Budget(Section):
    """Tokens that retries draw on, so that an outage is not multiplied (gRPC retry throttling)."""

    enabled: bool = setting(True, "Bound retries by a budget.")
    max_tokens: int = setting(10, "Retries in a row that a full budget allows.", ge=1, le=1000)
    ratio: Percent = setting(10, "What each success gives back, in percent of one retry.", ge=0, le=100)
    min_per_second: float = setting(1.0, "Retries a second that are allowed without any success.", ge=0, le=100)
    timeout_cost: int = setting(2, "Tokens that the retry after a time-out costs.", ge=1, le=10)


class Retry(Section):
    """Which failed attempts are tried again. An unsafe tools/call that may have been executed never is."""

    max_retries: int = setting(3, "Retries after the first attempt; 0 turns retrying off.", ge=0, le=10)
    backoff: Backoff = setting(Backoff, "Wait between attempts.", shown="{}")
    budget: Budget = setting(Budget, "Bound of retries over all calls of this server.", shown="{}")
    trust_annotations: Literal["None", "ReadOnly", "All"] = setting(
        "None",
        "Which hints of the server's tools are believed: none, `readOnlyHint`, or `idempotentHint` too. "
        "Hints of a server that is not trusted can make an unsafe call run twice.",
    )
    tools: dict[str, Execution] = setting(
        dict, "What a second execution of a tool does, by tool name; wins over the server's hints.", shown="{}"
    )
    retry_on_429: bool = setting(True, "Try again after HTTP 429, by contract a refusal, when `Retry-After` allows.")
    retry_on_503: bool = setting(
        False, "Try unsafe calls again after HTTP 503 with `Retry-After`; safe and idempotent calls always are."
    )


class CircuitBreaker(Section):
    """When a failing server is left alone, and how it is tried again."""

    enabled: bool = setting(True, "Use a circuit breaker.")
    failure_rate_threshold: Percent = setting(50, "Share of failed calls in the window that opens it.", ge=1, le=100)
    minimum_calls: int = setting(10, "Calls in the window before a rate is believed.", ge=1, le=100_000)
    window: Duration = setting(30.0, "Length of the sliding window.", ge=1, le=3600)
    consecutive_failures: int = setting(5, "Failures in a row that open it; 0 turns this rule off.", ge=0, le=1000)
    slow_call_rate_threshold: Percent = setting(100, "Share of slow calls in the window that opens it.", ge=1, le=100)
    slow_call_duration: Duration = setting(30.0, "A call that takes longer is slow.", ge=0.001, le=DAY)
    open_duration: Duration = setting(
        30.0, "How long it stays open the first time; doubles with each re-opening.", ge=0.01, le=3600
    )
    max_open_duration: Duration = setting(
        lambda data: max(60.0, data.get("open_duration", 0.0)),
        "Longest time it stays open.",
        ge=0.01,
        le=3600,
        shown="60s, or openDuration if that is longer",
    )
    half_open_permits: int = setting(3, "Calls let through to try, all of which must succeed.", ge=1, le=100)
    probe_interval: Duration = setting(
        2.0,
        "While open, how often the server is probed in the background, sooner at first; 0 turns the probe off.",
        ge=0,
        le=3600,
    )


class Pool(Section):
    """The HTTP connections to one server."""

    max: int = setting(10, "Connections at most; streams are not counted.", ge=1, le=10_000, reload="Replaces")
    min: int = setting(
        lambda data: min(2, data.get("max", 2)),
        "Connections kept while there is traffic.",
        ge=0,
        le=10_000,
        shown="2, or max if that is less",
        reload="Replaces",
    )
    acquire_timeout: Duration = setting(30.0, "Longest wait for a connection.", ge=0.001, le=3600)
    idle_timeout: Duration = setting(
        4.0, "An idle connection is closed after this; most servers close theirs after 5s.", ge=0.1, le=DAY
    )
    max_lifetime: Duration = setting(1800.0, "A connection is replaced after this, less up to 10 %.", ge=1, le=7 * DAY)
    max_streams: int = setting(1000, "Open streams (listen, GET) to the server at most.", ge=1, le=100_000)
    leak_threshold: Duration = setting(600.0, "A lease held longer is reported as a leak.", ge=1, le=DAY)


class Rate(Section):
    """A token bucket."""

    requests_per_second: Annotated[float, Field(gt=0, le=1_000_000)] = Field(
        description="Calls a second in the long run."
    )
    burst: int = setting(
        lambda data: max(1, int(data.get("requests_per_second", 1.0))),
        "Calls at once that a rested bucket allows.",
        ge=1,
        le=1_000_000,
        shown="one second's worth",
    )
    per: Literal["Server", "Caller", "Tool"] = setting(
        "Server", "Who shares a bucket: all, each caller (a hash of its Authorization), or each tool."
    )


class Limits(Section):
    """How much is let through to one server at a time."""

    max_concurrent: int | None = setting(
        None, "Calls in flight at most; by default pool.max over HTTP and 100 over stdio.", ge=1, le=100_000
    )
    max_queue: int = setting(100, "Calls that may wait for a place; 0 refuses instead of waiting.", ge=0, le=100_000)
    queue_timeout: Duration = setting(10.0, "Longest wait for a place.", ge=0.001, le=3600)
    max_response_bytes: ByteSize = setting(16 << 20, "Largest message taken from the server.", ge=1024, le=1 << 30)
    rate: Rate | None = setting(None, "Rate limit; none by default.")


class Cache(Section):
    """Which answers are kept. Tool results only where a tool is named, since a tool may change something."""

    enabled: bool = setting(True, "Keep answers that may be kept.")
    max_bytes: ByteSize = setting(
        16 << 20, "Memory for answers of this server; the least used go first.", ge=1024, le=1 << 34
    )
    list_ttl: Duration = setting(
        300.0, "How long lists of a legacy server that announces changes are fresh; 0 asks each time.", ge=0, le=DAY
    )
    stale_if_error: Duration = setting(
        3600.0, "How long an old list may be given while the server fails; 0 never.", ge=0, le=7 * DAY
    )
    tools: dict[str, Annotated[Duration, Field(ge=0, le=DAY)]] = setting(
        dict, "Tools whose results may be kept, with how long. They must change nothing.", shown="{}"
    )


class Health(Section):
    """The active check of one server. It is skipped while calls prove that the server lives."""

    enabled: bool = setting(True, "Check the server.")
    interval: Duration = setting(60.0, "Time between checks, ±10 %.", ge=0.1, le=DAY)
    timeout: Duration = setting(
        lambda data: min(5.0, data.get("interval", 5.0)),
        "Longest time a check may take.",
        ge=0.01,
        le=600,
        shown="5s, or interval if that is less",
    )
    failure_threshold: int = setting(3, "Failed checks in a row after which the server counts as down.", ge=1, le=100)


class Restart(Section):
    """How often a server's process that ends is started again."""

    backoff_base: Duration = setting(1.0, "Wait before the first restart; doubles with each.", ge=0.001, le=3600)
    backoff_max: Duration = setting(
        lambda data: max(60.0, data.get("backoff_base", 0.0)),
        "Longest wait between restarts.",
        ge=0.001,
        le=3600,
        shown="60s, or backoffBase if that is longer",
    )
    reset_after: Duration = setting(60.0, "A process that lived this long starts the count anew.", ge=0, le=DAY)


class Stop(Section):
    """How a server's process is stopped: its input is closed, then SIGTERM, then SIGKILL to its group."""

    stdin_grace: Duration = setting(2.0, "Time after its input was closed, before SIGTERM.", ge=0, le=600)
    term_grace: Duration = setting(2.0, "Time after SIGTERM, before SIGKILL.", ge=0, le=600)


class UpstreamTls(Section):
    """TLS to one server. The certificate is verified unless it is said otherwise, loudly."""

    ca_file: str | None = setting(None, "CA bundle (PEM) instead of the system's.", reload="Replaces")
    cert_file: str | None = setting(None, "Client certificate (PEM).", reload="Replaces")
    key_file: str | None = setting(None, "Key of the client certificate (PEM).", reload="Replaces")
    server_name: str | None = setting(
        None, "Name to verify instead of the URL's host.", max_length=253, reload="Replaces"
    )
    verify: bool = setting(
        True, "Verify the server's certificate. `false` lets anybody read and change everything.", reload="Replaces"
    )

"""The config's words made into the settings of the parts: one function a part, no other logic.

The parts do not know the config package, which is the contract with people and the operator; this is the one place
where a name of one becomes a name of the other.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_sidecar.catalogue import KindSettings
from mcp_sidecar.front.limits import ListenerSettings
from mcp_sidecar.front.sessions import SessionSettings
from mcp_sidecar.health import HealthSettings
from mcp_sidecar.pipeline.attempt import AttemptSettings
from mcp_sidecar.pipeline.backoff import BackoffSettings
from mcp_sidecar.pipeline.breaker import BreakerSettings
from mcp_sidecar.pipeline.budget import BudgetSettings
from mcp_sidecar.pipeline.bulkhead import BulkheadSettings
from mcp_sidecar.pipeline.cache_policy import CacheSettings
from mcp_sidecar.pipeline.call import CallKind
from mcp_sidecar.pipeline.classification import ClassificationSettings
from mcp_sidecar.pipeline.deadline import DeadlineSettings
from mcp_sidecar.pipeline.rate_limit import Per, RateLimitSettings
from mcp_sidecar.pipeline.retry import RetrySettings
from mcp_sidecar.pipeline.singleflight import SingleFlightSettings
from mcp_sidecar.pipeline.stack import PipelineSettings
from mcp_sidecar.server import ServerSettings
from mcp_sidecar.upstream.channel_upstream import ChannelSettings
from mcp_sidecar.upstream.child import ChildSettings
from mcp_sidecar.upstream.child_pool import ChildPoolSettings
from mcp_sidecar.upstream.dial import DialSettings, TlsSettings
from mcp_sidecar.upstream.http_upstream import HttpUpstreamSettings
from mcp_sidecar.upstream.pool import PoolSettings
from mcp_sidecar.upstream.start_limiter import RestartSettings

if TYPE_CHECKING:
    from mcp_sidecar import config

_KINDS = {"Safe": CallKind.SAFE, "Idempotent": CallKind.IDEMPOTENT, "Unsafe": CallKind.UNSAFE}


def listener(front: config.Front) -> ListenerSettings:
    """Limits of the MCP port."""
    return ListenerSettings(
        header_timeout=front.header_timeout,
        body_timeout=front.body_timeout,
        idle_timeout=front.idle_timeout,
        max_header_bytes=front.max_header_bytes,
        max_body_bytes=front.max_request_bytes,
        max_connections=front.max_connections,
    )


def sessions(whole: config.Config) -> SessionSettings:
    """Legacy sessions of the front."""
    return SessionSettings(lifetime=whole.sessions.lifetime, max_sessions=whole.front.max_sessions)


def address(whole: config.Config) -> str:
    """By which other replicas reach this one, in its one spelling; empty where there are none."""
    named = whole.sessions.address
    return "" if named is None else str(ipaddress.ip_address(named))


def pipeline(server: config.Server) -> PipelineSettings:
    """All stages of one server."""
    retry, breaker, cache, limits = server.retry, server.circuit_breaker, server.cache, server.limits
    return PipelineSettings(
        cache=CacheSettings(
            max_bytes=cache.max_bytes,
            list_ttl=cache.list_ttl,
            stale_if_error=cache.stale_if_error,
            tools=dict(cache.tools),
        )
        if cache.enabled
        else None,
        single_flight=SingleFlightSettings() if cache.enabled else None,
        rate_limit=RateLimitSettings(limits.rate.requests_per_second, limits.rate.burst, Per[limits.rate.per.upper()])
        if limits.rate is not None
        else None,
        bulkhead=BulkheadSettings(server.max_concurrent, limits.max_queue, limits.queue_timeout),
        deadline=DeadlineSettings(server.total_timeout),
        retry=RetrySettings(
            max_retries=retry.max_retries,
            backoff=BackoffSettings(base=retry.backoff.base, max=retry.backoff.max),
            budget=BudgetSettings(
                enabled=retry.budget.enabled,
                max_tokens=float(retry.budget.max_tokens),
                ratio=retry.budget.ratio / 100,
                min_per_second=retry.budget.min_per_second,
                timeout_cost=float(retry.budget.timeout_cost),
            ),
            classification=ClassificationSettings(retry_429=retry.retry_on_429, retry_503=retry.retry_on_503),
        )
        if retry.max_retries
        else None,
        breaker=BreakerSettings(
            window=breaker.window,
            minimum=breaker.minimum_calls,
            failure_ratio=breaker.failure_rate_threshold / 100,
            slow_ratio=breaker.slow_call_rate_threshold / 100,
            slow_after=breaker.slow_call_duration,
            consecutive=breaker.consecutive_failures,
            open_time=breaker.open_duration,
            max_open_time=breaker.max_open_duration,
            half_open_permits=breaker.half_open_permits,
            half_open_wait=server.timeout,
        )
        if breaker.enabled
        else None,
        attempt=AttemptSettings(server.timeout),
    )


def kinds(server: config.Server) -> KindSettings:
    """What a second execution of its tools does."""
    trust = server.retry.trust_annotations
    return KindSettings(
        tools={name: _KINDS[kind] for name, kind in server.retry.tools.items()},
        trust_read_only=trust in ("ReadOnly", "All"),
        trust_idempotent=trust == "All",
    )


def server(server: config.Server) -> ServerSettings:
    """What the front asks of one server."""
    return ServerSettings(
        total_timeout=server.total_timeout,
        forward_authorization=server.credentials == "Forward",
        tool_filter=server.tools_filter,
        forward_headers=server.kind == "StreamableHTTP",
        max_streams=server.pool.max_streams,
    )


def health(server: config.Server) -> HealthSettings:
    """The active check."""
    breaker = server.circuit_breaker
    return HealthSettings(
        enabled=server.health.enabled,
        interval=server.health.interval,
        timeout=server.health.timeout,
        failure_threshold=server.health.failure_threshold,
        start_timeout=server.connect_timeout + server.timeout if server.is_http else server.start_timeout,
        probe_interval=breaker.probe_interval if breaker.enabled else 0.0,
    )


def channel(whole: config.Config, server: config.Server, *, sse: bool = False, address: str = "") -> ChannelSettings:
    """A server behind channels; `sse`: they are streams of the old HTTP transport; `address`: ours."""
    stateless = server.sessions == "Stateless"
    return ChannelSettings(
        per_session=server.isolation == "PerSession" or sse,
        max_sessions=whole.front.max_sessions if sse else server.max_sessions,
        session_idle=whole.sessions.idle_timeout,
        stateless=stateless,
        start_timeout=server.start_timeout,
        address="" if stateless else address,
    )


def processes(server: config.Server) -> ChildPoolSettings:
    """The shared processes of a stdio server."""
    return ChildPoolSettings(
        size=server.processes,
        acquire_timeout=server.start_timeout,
        start_timeout=server.start_timeout,
        drain_timeout=server.total_timeout,
        probe_timeout=server.health.timeout,
        restart=RestartSettings(
            base=server.restart.backoff_base, cap=server.restart.backoff_max, reset_after=server.restart.reset_after
        ),
    )


def child(
    whole: config.Config, server: config.Server, command: str, args: tuple[str, ...], directory: str | None
) -> ChildSettings:
    """One process of a stdio server."""
    rate = whole.log.stderr_lines_per_second
    return ChildSettings(
        command=command,
        args=args,
        cwd=directory,
        line_limit=server.limits.max_response_bytes,
        stdin_grace=server.stop.stdin_grace,
        term_grace=server.stop.term_grace,
        stderr_rate=float(rate),
        stderr_burst=4 * rate,
    )


def dial(server: config.Server, url: str, directory: Path) -> DialSettings:
    """How a URL is reached."""
    tls = server.tls

    def path(name: str | None) -> Path | None:
        return None if name is None else directory / Path(name).expanduser()

    return DialSettings(
        url=url,
        tls=TlsSettings(path(tls.ca_file), path(tls.cert_file), path(tls.key_file), tls.server_name, tls.verify),
        connect_timeout=server.connect_timeout,
        allow_link_local=server.allow_link_local,
    )


def http(name: str, server: config.Server, dialled: DialSettings) -> HttpUpstreamSettings:
    """A server behind Streamable HTTP."""
    pool = server.pool
    return HttpUpstreamSettings(
        name=name,
        dial=dialled,
        pool=PoolSettings(
            max_size=pool.max,
            min_size=pool.min,
            acquire_timeout=pool.acquire_timeout,
            idle_timeout=pool.idle_timeout,
            lifetime=pool.max_lifetime,
            leak_after=pool.leak_threshold,
            max_streams=pool.max_streams,
            max_waiting=max(1000, server.max_concurrent),
        ),
        result_limit=server.limits.max_response_bytes,
        notify_timeout=server.timeout,
        stateless=server.sessions == "Stateless",
    )

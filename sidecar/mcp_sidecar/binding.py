"""Ties the metrics of a server to the objects that hold their values: read at scrape time, nothing on the hot path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_sidecar.pipeline.breaker import State
from mcp_sidecar.upstream.channel_upstream import ChannelUpstream
from mcp_sidecar.upstream.http_upstream import HttpUpstream

if TYPE_CHECKING:
    from mcp_sidecar.telemetry.catalogue import Catalogue
    from mcp_sidecar.unit import ServerUnit

_STATES = tuple(state.name.lower() for state in State)


class UnitMetrics:
    """The series of one server. `collect` runs at each scrape."""

    def __init__(self, catalogue: Catalogue, unit: ServerUnit) -> None:
        self._catalogue = catalogue
        self._unit = unit

    def collect(self) -> None:
        """Copy the values as they are now."""
        catalogue, unit, name = self._catalogue, self._unit, self._unit.name
        pipeline, health, breaker = unit.pipeline, unit.health, unit.pipeline.breaker
        catalogue.state(catalogue.breaker_state, name, _STATES, breaker.state.name.lower())
        for state, count in breaker.transitions.items():
            catalogue.breaker_transitions.labels(name, state.name.lower()).value = count
        catalogue.breaker_rejected.labels(name).value = breaker.rejected
        catalogue.upstream_up.labels(name).set(1 if health.up and unit.refusal is None else 0)
        passed = health.checks - health.failed_checks
        for result, count in (("ok", passed), ("failed", health.failed_checks), ("skipped", health.skipped)):
            catalogue.health_checks.labels(name, result).value = count
        if health.last_success is not None:
            catalogue.health_last_success.labels(name).set(health.last_success)
        if pipeline.bulkhead is not None:
            bulkhead = pipeline.bulkhead
            catalogue.bulkhead_in_flight.labels(name).set(bulkhead.in_flight)
            catalogue.bulkhead_limit.labels(name).set(bulkhead.settings.limit)
            catalogue.queue_length.labels(name).set(bulkhead.queued)
        if pipeline.rate_limit is not None:
            catalogue.rate_limited.labels(name).value = pipeline.rate_limit.refused
        if pipeline.retry is not None:
            retry = pipeline.retry
            retry.budget.refill()
            catalogue.retry_budget_tokens.labels(name).set(retry.budget.tokens)
            catalogue.retries.labels(name, "any").value = retry.retries
        if pipeline.cache is not None:
            cache = pipeline.cache
            coalesced = pipeline.single_flight.coalesced if pipeline.single_flight is not None else 0
            for result, count in (
                ("hit", cache.hits),
                ("miss", cache.misses),
                ("stale", cache.stale),
                ("bypass", cache.bypassed),
                ("coalesced", coalesced),
            ):
                catalogue.cache_requests.labels(name, result).value = count
            catalogue.cache_entries.labels(name).set(len(cache))
            catalogue.cache_bytes.labels(name).set(cache.bytes)
            catalogue.cache_evictions.labels(name).value = cache.evictions
        upstream = unit.upstream
        if isinstance(upstream, HttpUpstream):
            self._http(upstream)
        elif isinstance(upstream, ChannelUpstream):
            self._channels(upstream)

    def _http(self, upstream: HttpUpstream) -> None:
        catalogue, name, pool = self._catalogue, self._unit.name, upstream.pool
        for state, count in pool.counts().items():
            if state == "stream":
                catalogue.streams.labels(name).set(count)
            else:
                catalogue.connections.labels(name, state).set(count)
        catalogue.connection_attempts.labels(name, "ok").value = pool.opened
        catalogue.connection_attempts.labels(name, "failed").value = pool.open_failures
        for reason, count in pool.closes.items():
            catalogue.connections_closed.labels(name, reason).value = count
        catalogue.leases_leaked.labels(name).value = pool.leaks
        catalogue.protocol_errors.labels(name, "bad_answer").value = upstream.bad_answers

    def _channels(self, upstream: ChannelUpstream) -> None:
        catalogue, name = self._catalogue, self._unit.name
        counts: dict[str, int] = {}
        for multiplexer in upstream.multiplexers():
            for kind in ("garbage_lines", "oversized_lines", "unknown_ids", "late_answers"):
                counts[kind] = counts.get(kind, 0) + getattr(multiplexer, kind)
        for kind, count in counts.items():
            catalogue.protocol_errors.labels(name, kind).value = max(
                count, catalogue.protocol_errors.labels(name, kind).value
            )
        states: dict[str, int] = {}
        for pool in upstream.pools():
            for slot in pool.slots:
                state = "busy" if slot.state.value == "ready" and slot.in_flight else slot.state.value
                states[state] = states.get(state, 0) + 1
            counters = pool.counters
            catalogue.connection_attempts.labels(name, "failed").value = sum(counters.start_failures.values())
            catalogue.connection_attempts.labels(name, "ok").value = counters.starts - sum(
                counters.start_failures.values()
            )
            catalogue.child_restarts.labels(name).value = counters.restarts
            for kind, count in counters.exits.items():
                catalogue.child_exits.labels(name, kind).value = count
            for reason, count in counters.closed.items():
                catalogue.connections_closed.labels(name, reason).value = count
            while counters.start_seconds:
                catalogue.connection_start.labels(name).observe(counters.start_seconds.popleft())
        states["busy"] = states.get("busy", 0) + len(upstream.own_processes)
        for state in ("starting", "ready", "busy", "draining", "backoff"):
            catalogue.connections.labels(name, state).set(states.get(state, 0))
        catalogue.streams.labels(name).set(sum(each.streams for each in upstream.multiplexers()))

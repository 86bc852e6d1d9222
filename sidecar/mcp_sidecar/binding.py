"""Ties metrics to the objects that hold their values: read at scrape time, nothing on the hot path.

Counters of the catalogue never go back, although what they are read from is replaced now and then, by a reload or a
restart of a process: `Total` adds up what each of them came to.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

from mcp_sidecar.pipeline.breaker import State
from mcp_sidecar.telemetry.catalogue import DENIALS, EXITS
from mcp_sidecar.telemetry.child_processes import usage
from mcp_sidecar.upstream.channel_upstream import ChannelUpstream
from mcp_sidecar.upstream.child import ChildChannel
from mcp_sidecar.upstream.http_server import HttpServer

if TYPE_CHECKING:
    from mcp_sidecar.app import Sidecar
    from mcp_sidecar.telemetry.catalogue import Catalogue
    from mcp_sidecar.unit import ServerUnit

_STATES = tuple(state.name.lower() for state in State)
_CONNECTION_STATES = ("starting", "ready", "busy", "draining", "backoff")
_IRREGULAR = ("garbage_lines", "oversized_lines", "unknown_ids", "late_answers")


class Total:
    """The sum of counters that come and go, those that are gone included."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, float] = {}
        self._gone = 0.0

    def of(self, counters: Mapping[Hashable, float]) -> float:
        """The total, where these are the counters there are now, each by what owns it."""
        for owner in self._seen.keys() - counters.keys():
            self._gone += self._seen.pop(owner)
        self._seen.update(counters)
        return self._gone + sum(self._seen.values())

    def add(self, owner: Hashable, value: float) -> float:
        """The total, where one counter is told at a time; for owners that are few, since none of them is dropped."""
        self._seen[owner] = value
        return self._gone + sum(self._seen.values())


class SidecarMetrics:
    """The series of no single server."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    def collect(self) -> None:
        """Copy the values as they are now."""
        sidecar = self._sidecar
        catalogue, listener = sidecar.catalogue, sidecar.listener
        catalogue.front_connections.labels().set(listener.open_connections)
        catalogue.ready.labels().set(1 if sidecar.probes.ready()[0] else 0)
        catalogue.config_refused.labels().set(1 if sidecar.reloading.last_refusal else 0)
        for status, count in enumerate(listener.statuses):
            if 2 <= status <= 5:
                catalogue.front_requests.labels(f"{status}xx").value = count
        sessions: dict[str, int] = dict.fromkeys(sidecar.units, 0)
        for session in sidecar.sessions.known():
            if session.server in sessions:
                sessions[session.server] += 1
        for name, count in sessions.items():
            catalogue.sessions.labels(name).set(count)
            age = sidecar.store.age(name)
            if age is not None:
                catalogue.secret_age.labels(name).set(age)
                for result in ("ok", "error"):
                    catalogue.secret_reloads.labels(name, result)  # there before the first rotation


class UnitMetrics:
    """The series of one server. `collect` runs at each scrape."""

    def __init__(self, catalogue: Catalogue, unit: ServerUnit) -> None:
        self._catalogue = catalogue
        self._unit = unit
        self._totals: dict[tuple[str, ...], Total] = {}

    def collect(self) -> None:
        """Copy the values as they are now."""
        catalogue, unit, name = self._catalogue, self._unit, self._unit.name
        self._protection()
        health = unit.health
        catalogue.upstream_up.labels(name).set(1 if health.up and unit.refusal is None else 0)
        passed = health.checks - health.failed_checks
        for result, count in (("ok", passed), ("failed", health.failed_checks), ("skipped", health.skipped)):
            catalogue.health_checks.labels(name, result).value = count
        if health.last_success is not None:
            catalogue.health_last_success.labels(name).set(health.last_success)
        catalogue.message_bytes.labels(name, "sent").value = unit.bytes_sent
        catalogue.message_bytes.labels(name, "received").value = unit.bytes_received
        upstream = unit.upstream
        if isinstance(upstream, HttpServer):
            self._http(upstream)
        elif isinstance(upstream, ChannelUpstream):
            self._channels(upstream)

    def _total(self, *key: str, owner: Hashable, value: float) -> float:
        return self._totals.setdefault(key, Total()).add(owner, value)

    def _protection(self) -> None:
        catalogue, name, pipeline = self._catalogue, self._unit.name, self._unit.pipeline
        breaker = pipeline.breaker
        catalogue.state(catalogue.breaker_state, name, _STATES, breaker.state.name.lower())
        for state, count in breaker.transitions.items():
            catalogue.breaker_transitions.labels(name, state.name.lower()).value = count
        catalogue.breaker_rejected.labels(name).value = breaker.rejected
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
            for reason, count in retry.reasons.items():
                catalogue.retries.labels(name, reason.label).value = count
            for why, count in (dict.fromkeys(DENIALS, 0) | retry.denied).items():
                catalogue.retries_denied.labels(name, why).value = count
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

    def _http(self, upstream: HttpServer) -> None:
        catalogue, name, pool = self._catalogue, self._unit.name, upstream.pool
        for state, count in pool.counts().items():
            if state == "stream":
                catalogue.streams.labels(name).set(count)
            else:
                catalogue.connections.labels(name, state).set(count)
        attempts = catalogue.connection_attempts
        attempts.labels(name, "ok").value = self._total("opened", owner=upstream, value=pool.opened)
        attempts.labels(name, "failed").value = self._total("unopened", owner=upstream, value=pool.open_failures)
        for reason, count in pool.closes.items():
            total = self._total("closed", reason, owner=upstream, value=count)
            catalogue.connections_closed.labels(name, reason).value = total
        catalogue.leases_leaked.labels(name).value = self._total("leaked", owner=upstream, value=pool.leaks)
        bad = self._total("bad", owner=upstream, value=upstream.bad_answers)
        catalogue.protocol_errors.labels(name, "bad_answer").value = bad

    def _channels(self, upstream: ChannelUpstream) -> None:
        catalogue, name = self._catalogue, self._unit.name
        multiplexers = upstream.multiplexers()
        for kind in _IRREGULAR:
            total = self._totals.setdefault((kind,), Total())
            counts: dict[Hashable, float] = {each: getattr(each, kind) for each in multiplexers}
            catalogue.protocol_errors.labels(name, kind).value = total.of(counts)
        self._processes([each.channel for each in multiplexers if isinstance(each.channel, ChildChannel)])
        states: dict[str, int] = dict.fromkeys(_CONNECTION_STATES, 0)
        for pool in upstream.pools():
            for slot in pool.slots:
                state = "busy" if slot.state.value == "ready" and slot.in_flight else slot.state.value
                states[state] = states.get(state, 0) + 1
            counters = pool.counters
            failed = sum(counters.start_failures.values())
            attempts = catalogue.connection_attempts
            attempts.labels(name, "failed").value = self._total("unopened", owner=pool, value=failed)
            attempts.labels(name, "ok").value = self._total("opened", owner=pool, value=counters.starts - failed)
            dropped = counters.stderr_dropped + sum(
                slot.mux.channel.stderr_dropped
                for slot in pool.slots
                if slot.mux is not None and isinstance(slot.mux.channel, ChildChannel)
            )
            catalogue.child_stderr_dropped.labels(name).value = self._total("stderr", owner=pool, value=dropped)
            restarts = self._total("restarts", owner=pool, value=counters.restarts)
            catalogue.child_restarts.labels(name).value = restarts
            for kind, count in (dict.fromkeys(EXITS, 0) | counters.exits).items():
                total_exits = self._total("exits", kind, owner=pool, value=count)
                catalogue.child_exits.labels(name, kind).value = total_exits
            for reason, count in counters.closed.items():
                total_closed = self._total("closed", reason, owner=pool, value=count)
                catalogue.connections_closed.labels(name, reason).value = total_closed
            while counters.start_seconds:
                catalogue.connection_start.labels(name).observe(counters.start_seconds.popleft())
            while counters.life_seconds:
                catalogue.connection_life.labels(name).observe(counters.life_seconds.popleft())
        for own in upstream.own_processes:
            states["busy" if own.busy else "ready"] += 1
        for state in _CONNECTION_STATES:
            catalogue.connections.labels(name, state).set(states[state])
        catalogue.streams.labels(name).set(sum(each.streams for each in multiplexers))

    def _processes(self, channels: list[ChildChannel]) -> None:
        """What the processes of the server use, those they started included."""
        catalogue, name = self._catalogue, self._unit.name
        used = {channel: usage(channel.pid) for channel in channels if channel.pid is not None}
        if not used and ("cpu",) not in self._totals:
            return
        cpu: dict[Hashable, float] = {channel: one.cpu_seconds for channel, one in used.items()}
        catalogue.child_cpu.labels(name).value = self._totals.setdefault(("cpu",), Total()).of(cpu)
        catalogue.child_resident.labels(name).set(sum(one.resident_bytes for one in used.values()))
        catalogue.child_open_fds.labels(name).set(sum(one.open_fds for one in used.values()))

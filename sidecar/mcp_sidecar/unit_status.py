"""What `/status` tells of one server: plain values, read at the moment, no secrets."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcp_sidecar.pipeline.breaker import State

if TYPE_CHECKING:
    from mcp_sidecar.unit import ServerUnit


class LastErrors:
    """The last failed attempts and checks of one server; the same one twice in a row is counted, not repeated."""

    def __init__(self, kept: int = 10, wall_clock: Callable[[], float] = time.time) -> None:
        self._errors: deque[dict[str, Any]] = deque(maxlen=kept)
        self._wall_clock = wall_clock

    def add(self, message: str, method: str, reason: str) -> None:
        """Take note of one."""
        now = self._wall_clock()
        last = self._errors[-1] if self._errors else None
        if last is not None and last["message"] == message and last["method"] == method:
            last["count"] += 1
            last["at"] = now
            return
        self._errors.append({"at": now, "method": method, "reason": reason, "message": message, "count": 1})

    def listed(self) -> list[dict[str, Any]]:
        """The newest first."""
        return [{**error, "at": timestamp(error["at"])} for error in reversed(self._errors)]


def timestamp(seconds: float | None) -> str | None:
    """RFC 3339 in UTC."""
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def status_of(unit: ServerUnit) -> dict[str, Any]:
    """All of one server."""
    pipeline, health, breaker = unit.pipeline, unit.health, unit.pipeline.breaker
    status: dict[str, Any] = {
        "up": health.up and unit.refusal is None,
        "answered": health.answered,
        "kind": unit.config.kind,
        "problem": unit.refusal,
        "health": {
            "checks": health.checks,
            "failed": health.failed_checks,
            "failuresInARow": health.failures,
            "lastSuccess": timestamp(health.last_success),
            "lastError": health.last_error or None,
            "waitingSeconds": round(unit.clock() - health.waiting_since, 1)
            if health.waiting_since is not None
            else None,
        },
        "tools": {"count": len(unit.catalogue), "complete": unit.catalogue.complete},
        "breaker": {
            "state": breaker.state.name.lower() if unit.config.circuit_breaker.enabled else "disabled",
            "forced": breaker.forced,
            "refuses": breaker.refuses,
            "rejected": breaker.rejected,
            "retryAfterSeconds": round(breaker.retry_after, 1) if breaker.state is State.OPEN else None,
        },
    }
    if pipeline.bulkhead is not None:
        bulkhead = pipeline.bulkhead
        status["bulkhead"] = {
            "inFlight": bulkhead.in_flight,
            "limit": bulkhead.settings.limit,
            "queued": bulkhead.queued,
            "maxQueue": bulkhead.settings.max_queue,
        }
    if pipeline.retry is not None:
        pipeline.retry.budget.refill()
        status["retryBudget"] = {"tokens": round(pipeline.retry.budget.tokens, 2)}
    if pipeline.cache is not None:
        cache = pipeline.cache
        status["cache"] = {
            "entries": len(cache),
            "bytes": cache.bytes,
            "hits": cache.hits,
            "misses": cache.misses,
            "stale": cache.stale,
        }
    if unit.upstream is not None:
        status["upstream"] = unit.upstream.status()
    status["lastErrors"] = unit.errors.listed()
    if unit.replacement_problem is not None:
        status["replacement"] = {"problem": unit.replacement_problem}
    if unit.retiring:
        status["retiring"] = unit.retiring
    return status

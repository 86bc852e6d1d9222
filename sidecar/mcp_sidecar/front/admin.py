"""The admin port: probes for the kubelet, metrics for Prometheus, status for people and the operator.

Plain answers, GET and HEAD only, no secrets: what is said is decided by `Probes`, which app.py provides. Metrics are
rendered at most once a second however many ask, and by steps that let the loop run (`Probes.metrics` is a coroutine).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Protocol

from mcp_sidecar.front.request import Request

_TEXT = b"text/plain; charset=utf-8"
_METRICS = b"text/plain; version=0.0.4; charset=utf-8"
_NO_STORE = ((b"Cache-Control", b"no-store"),)
_ALLOW = ((b"Allow", b"GET, HEAD"),)
_INDEX = """\
/livez     is the process alive: its event loop turns
/startupz  has it started: config and secrets are loaded, the port is open
/readyz    may callers be sent here
/metrics   Prometheus metrics
/status    everything, as JSON
Probes answer 200 or 503 with the reason; ?verbose shows all of them.
"""


class Probes(Protocol):
    """The state that the admin port tells. Each check says yes or no, and why."""

    def live(self) -> tuple[bool, str]:
        """The event loop turns. Never asks an upstream: a dead one must not restart the pod."""

    def started(self) -> tuple[bool, str]:
        """The sidecar serves. Never waits for an upstream."""

    def ready(self) -> tuple[bool, str]:
        """Callers may be sent here."""

    def status(self) -> dict[str, Any]:
        """All of it, JSON-able, without secrets."""

    async def metrics(self) -> bytes | None:
        """Prometheus text exposition 0.0.4; None where metrics are switched off."""


class LagSource(Protocol):
    """Who measures the loop's lag (telemetry/process.py `LoopLag`)."""

    last: float
    turned: float


def loop_turns(lag: LagSource, now: float, limit: float = 30.0) -> tuple[bool, str]:
    """The check behind `/livez`: the loop stood still for no longer than `limit` seconds.

    A loop that stands still answers no probe either; the kubelet's own time-out sees that. This tells of a stall that
    has just ended, or of timers that no longer run.
    """
    if lag.last > limit:
        return False, f"the event loop has just stood still for {lag.last:.0f} s"
    if now - lag.turned > limit:
        return False, f"the event loop's timers have not run for {now - lag.turned:.0f} s"
    return True, f"the event loop was {lag.last * 1000:.1f} ms late"


class AdminHandler:
    """The handler of the admin port's `Listener`."""

    def __init__(
        self, probes: Probes, *, metrics_age: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._probes = probes
        self._metrics_age = metrics_age
        self._clock = clock
        self._metrics: bytes | None = b""
        self._metrics_until = float("-inf")
        self._rendering = asyncio.Lock()
        self.renders = 0

    async def __call__(self, request: Request) -> None:
        """Answer one request."""
        path = request.path
        probes = self._probes
        check = {"/livez": probes.live, "/startupz": probes.started, "/readyz": probes.ready}.get(path)
        if check is None and path not in ("/metrics", "/status", "/"):
            request.respond(404, f"no {path!a} here\n{_INDEX}".encode(), _TEXT)
        elif request.method not in ("GET", "HEAD"):
            request.respond(405, b"only GET and HEAD\n", _TEXT, _ALLOW)
        elif check is not None:
            self._probe(request, check)
        elif path == "/metrics":
            metrics = await self._rendered()
            if metrics is None:
                request.respond(404, b"metrics are switched off: metrics.enabled is false\n", _TEXT)
            else:
                request.respond(200, metrics, _METRICS, _NO_STORE)
        elif path == "/status":
            body = json.dumps(probes.status(), indent=2, default=str).encode() + b"\n"
            request.respond(200, body, headers=_NO_STORE)
        else:
            request.respond(200, _INDEX.encode(), _TEXT)

    def _probe(self, request: Request, check: Callable[[], tuple[bool, str]]) -> None:
        passed, reason = check()
        status = 200 if passed else 503
        text = ("ok" if passed else "not ok") + (f": {reason}" if reason else "")
        if "verbose" in request.query.split("&"):
            text = "\n".join([text, *self._all_checks()])
        request.respond(status, text.encode() + b"\n", _TEXT, _NO_STORE)

    def _all_checks(self) -> list[str]:
        probes = self._probes
        lines = []
        for name, each in (("live", probes.live), ("started", probes.started), ("ready", probes.ready)):
            passed, reason = each()
            lines.append(f"[{'+' if passed else '-'}] {name}" + (f": {reason}" if reason else ""))
        return lines

    async def _rendered(self) -> bytes | None:
        async with self._rendering:  # who comes while it is being rendered gets the same
            if self._clock() >= self._metrics_until:
                self._metrics = await self._probes.metrics()
                self._metrics_until = self._clock() + self._metrics_age
                self.renders += 1
            return self._metrics

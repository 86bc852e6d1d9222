"""Records each finished call once: metrics, one log line and, for `tools/call`, one audit line.

The budget is 8 µs a call, all in (bench/telemetry.py measures it): children of metrics are looked up by one tuple of
bounded values and kept, lines are encoded from structs and written in batches by another thread. Recording never raises
into the call path. Which labels a call may carry is decided here; which metrics there are, in catalogue.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from mcp_sidecar.errors import CallError, Reason, Rejected
from mcp_sidecar.pipeline.call import Call, Reply, Source
from mcp_sidecar.telemetry.audit import Audit
from mcp_sidecar.telemetry.catalogue import FORESEEN_ERRORS, FORESEEN_REFUSALS, METHODS, OTHER_METHOD, Catalogue
from mcp_sidecar.telemetry.log import Level, Log, Timestamps
from mcp_sidecar.telemetry.metrics import OTHER, Counter, Histogram
from mcp_sidecar.telemetry.outcomes import OWN, answered_error, is_tool_error, side
from mcp_sidecar.telemetry.tool_labels import ToolLabels, tool_names

MAX_TOOL_LABELS: Final = 50

_MAX_TEXT: Final = 256
_INFO: Final = Level.INFO.value
_WARNING: Final = Level.WARNING.value
_UPSTREAM: Final = Source.UPSTREAM.value


class CallLine(msgspec.Struct, omit_defaults=True, gc=False):
    """The log line of one finished call, members in the order in which they are written."""

    ts: str
    level: str
    event: str
    call: str
    server: str
    era: str
    method: str
    outcome: str
    duration_ms: float
    queue_ms: float
    upstream_ms: float
    attempts: int
    source: str
    tool: str = ""
    reason: str = ""
    code: int = 0
    delivery: str = ""
    id: str = ""
    session: str = ""
    trace: str = ""


class _Series:
    """The children that one kind of call counts in."""

    __slots__ = ("calls", "duration", "queue_wait")

    def __init__(self, calls: Counter, duration: Histogram, queue_wait: Histogram) -> None:
        self.calls = calls
        self.duration = duration
        self.queue_wait = queue_wait


class CallRecorder:
    """Told of each call when it is over."""

    def __init__(
        self,
        catalogue: Catalogue,
        log: Log | None,
        audit: Audit | None,
        *,
        servers: Iterable[str] = (),
        max_tool_labels: int = MAX_TOOL_LABELS,
        tool_histograms: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`log` None writes no line per call, `audit` None no audit; both may be changed at any time."""
        self._catalogue = catalogue
        self.log = log
        self.audit = audit
        self._timestamps = log.timestamps if log is not None else Timestamps()
        self._max_tool_labels = max_tool_labels
        self._tool_histograms = tool_histograms
        self._clock = clock
        self._tools: dict[str, ToolLabels] = {}
        self._series: dict[tuple[str, str, str, str, str], _Series] = {}
        self._attempts: dict[tuple[str, str, str, bool], tuple[Histogram, Counter]] = {}
        self._overhead = catalogue.overhead.labels()
        self._encode = msgspec.json.Encoder().encode
        self.failures = 0
        """Calls that could not be recorded: always 0 unless there is a defect here."""
        for server in servers:
            self.add_server(server)
        registry = catalogue.registry
        registry.counter("outrigger_record_failures_total", "Calls that could not be recorded.").labels().bind(
            lambda: self.failures
        )
        if log is not None:
            catalogue.log_dropped.labels().bind(lambda: log.dropped)
        if audit is not None:
            catalogue.audit_dropped.labels().bind(lambda: audit.dropped)
            catalogue.audit_records.labels().bind(lambda: audit.records)

    def add_server(self, server: str) -> None:
        """Make a configured server known; calls to any other are counted as `_other`."""
        if server not in self._tools:
            self._tools[server] = ToolLabels(self._max_tool_labels, self._clock)
            # there from the start, so that the first failure is an increase and not an appearance
            for method in ("tools/call", "tools/list"):
                tool = OTHER if method == "tools/call" else ""
                self._catalogue.calls.labels(server, method, tool, "ok", "upstream")
                self._catalogue.calls.labels(server, method, tool, "error", "upstream")
            for reason in FORESEEN_ERRORS:
                self._catalogue.errors.labels(server, side(reason), reason.label)
            for reason in FORESEEN_REFUSALS:
                self._catalogue.rejected.labels(server, reason.label)

    def remove_server(self, server: str) -> None:
        """Forget a server that is no longer configured, and its series in all families."""
        self._tools.pop(server, None)
        self._series = {key: value for key, value in self._series.items() if key[0] != server}
        self._attempts = {key: value for key, value in self._attempts.items() if key[0] != server}
        self._catalogue.registry.remove(server=server)

    def connections(
        self, server: str
    ) -> tuple[Callable[[float], None], Callable[[float], None], Callable[[float], None]]:
        """What takes the seconds that opening a connection took, that one lived, and that a call waited for one."""
        catalogue = self._catalogue
        return (
            catalogue.connection_start.labels(server).observe,
            catalogue.connection_life.labels(server).observe,
            catalogue.acquire_wait.labels(server).observe,
        )

    def reconfigure(self, *, max_tool_labels: int, tool_histograms: bool) -> None:
        """Take new bounds; tools that have a label keep it."""
        self._max_tool_labels = max_tool_labels
        for labels in self._tools.values():
            labels.limit = max_tool_labels
        if tool_histograms != self._tool_histograms:
            self._tool_histograms = tool_histograms
            self._series.clear()

    def tools_listed(self, server: str, result: bytes) -> None:
        """Take the tool names from a `tools/list` result of the upstream: only these can become label values."""
        labels = self._tools.get(server)
        if labels is None or labels.just_listed(result):
            return
        given_up, homeless = labels.listed(tool_names(result))
        for tool in given_up:
            self._series = {k: v for k, v in self._series.items() if k[0] != server or k[2] != tool}
            self._catalogue.registry.remove(server=server, tool=tool)
        if homeless:
            self._catalogue.registry.overflows.labels("tool").inc(homeless)

    def refused(self, server: str, reason: Reason) -> None:
        """Count a request refused before there was a call: too large, not authorized, shutting down."""
        server = server if server in self._tools else OTHER
        self._catalogue.rejected.labels(server, reason.label).inc()
        self._catalogue.errors.labels(server, side(reason), reason.label).inc()

    def attempt(self, call: Call, seconds: float, reply: Reply | None, error: BaseException | None) -> None:
        """Count one attempt upstream: `ok`, `error` (answered with one), `failed` (no answer) or `cancelled`."""
        if error is not None:
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
        else:
            outcome = "ok" if reply is None or reply.error is None else "error"
        retry = call.attempts > 1
        key = (call.server, call.method, outcome, retry)
        children = self._attempts.get(key)
        if children is None:
            server = call.server if call.server in self._tools else OTHER
            method = call.method if call.method in METHODS else OTHER_METHOD
            children = (
                self._catalogue.attempt_duration.labels(server, method, outcome),
                self._catalogue.attempts.labels(server, outcome, "1" if retry else "0"),
            )
            if server != OTHER and method != OTHER_METHOD:
                self._attempts[key] = children
        children[0].observe(seconds)
        children[1].value += 1

    def finished(self, call: Call, reply: Reply | None, error: BaseException | None, now: float) -> None:
        """Record a call that is over, answered by `reply` or ended by `error`; `now` is of the call's clock.

        Never raises. To be called exactly once for each call, from the `finally` of whoever made it.
        """
        try:
            self._finished(call, reply, error, now)
        except Exception:  # noqa: BLE001 - telemetry must never fail the call it tells about
            self.failures += 1

    def _finished(self, call: Call, reply: Reply | None, error: BaseException | None, now: float) -> None:
        duration = now - call.started
        reason = ""
        code = 0
        rejected = False
        source = Source.SIDECAR.value
        method = call.method
        is_tool = method == "tools/call"
        if error is None and reply is not None:
            source = reply.source._value_  # plain: an Enum hashes in Python
            if reply.error is not None:
                outcome = "error"
                code, reason, blamed = answered_error(reply.error)
                self._error(call, blamed, reason)
            elif is_tool and reply.result is not None and is_tool_error(reply.result):
                outcome = reason = "tool_error"
                self._error(call, "upstream", reason)
            else:
                outcome = "ok"
        else:
            outcome, reason, code, rejected = self._ended(call, error)

        labels = self._tools.get(call.server)
        tool = ""
        if is_tool and labels is not None:
            tool = call.name if call.name is not None and call.name in labels else OTHER
        series = self._series.get((call.server, method, tool, outcome, source))
        if series is None:
            series = self._make(call.server, method, tool, outcome, source)
        series.calls.value += 1
        series.duration.observe(duration)
        upstream = call.upstream_time
        queued = call.queued_for
        if call.attempts:
            series.queue_wait.observe(queued)
            if call.attempts == 1 and source == _UPSTREAM:
                # a retry sleeps, which is neither ours nor the upstream's
                overhead = duration - upstream - queued - call.paused_for
                self._overhead.observe(overhead if overhead > 0.0 else 0.0)

        duration_ms = int(duration * 1e6) / 1000
        session = getattr(call.session, "log_id", "") if call.session is not None else ""
        trace = _trace(call.headers) if call.headers else ""
        era = call.era._value_
        # nothing is slow that is done once for both lines
        ts = self._timestamps.now()
        rpc_id = call.id.decode("utf-8", "replace")
        if len(rpc_id) > _MAX_TEXT:
            rpc_id = rpc_id[:_MAX_TEXT]
        log = self.log
        if log is not None:
            failed = outcome == "error" or rejected
            if log.enabled(_WARNING if failed else _INFO):
                name = call.name or ""
                line = CallLine(
                    ts,
                    "warning" if failed else "info",
                    "call",
                    call.uid,
                    call.server,
                    era,
                    method if len(method) <= _MAX_TEXT else method[:_MAX_TEXT],
                    outcome,
                    duration_ms,
                    int(queued * 1e6) / 1000,
                    int(upstream * 1e6) / 1000,
                    call.attempts,
                    source,
                    name if len(name) <= _MAX_TEXT else name[:_MAX_TEXT],
                    reason,
                    code,
                    call.delivery.name.lower() if failed else "",
                    rpc_id,
                    session,
                    trace,
                )
                log.raw(log.encoded(msgspec.structs.asdict(line)) if log.human else self._encode(line) + b"\n")
        if is_tool and self.audit is not None:
            self.audit.record(
                call, ts, outcome, reason, code, rejected, duration_ms, source, rpc_id, era, session, trace
            )

    def _make(self, server: str, method: str, tool: str, outcome: str, source: str) -> _Series:
        catalogue = self._catalogue
        key = (server, method, tool, outcome, source)
        known = server in self._tools and method in METHODS
        server = server if server in self._tools else OTHER
        method = method if method in METHODS else OTHER_METHOD
        series = _Series(
            catalogue.calls.labels(server, method, tool, outcome, source),
            catalogue.operation_duration.labels(server, method, tool if self._tool_histograms else "", outcome),
            catalogue.queue_wait.labels(server),
        )
        if known:  # a key from the caller's input must not stay
            self._series[key] = series
        return series

    def _error(self, call: Call, side: str, error_type: str) -> None:
        server = call.server if call.server in self._tools else OTHER
        self._catalogue.errors.labels(server, side, error_type).inc()

    def _ended(self, call: Call, error: BaseException | None) -> tuple[str, str, int, bool]:
        """Outcome, reason, code and whether it was a rejection, of a call that has no answer from upstream."""
        if isinstance(error, asyncio.CancelledError):
            return "cancelled", Reason.CANCELLED.label, 0, False
        code = error.reason.code if isinstance(error, CallError) else Reason.INTERNAL.code
        label, blamed = OWN[code]
        if code == Reason.CANCELLED.code:
            return "cancelled", label, 0, False
        self._error(call, blamed, label)
        if not isinstance(error, Rejected):
            return "error", label, code, False
        server = call.server if call.server in self._tools else OTHER
        self._catalogue.rejected.labels(server, label).inc()
        return "rejected", label, code, True


def _trace(headers: tuple[tuple[bytes, bytes], ...]) -> str:
    """The trace id of a `traceparent` header (W3C trace context), empty without a well-formed one."""
    for name, value in headers:
        if name == b"traceparent" and len(value) >= 55 and value[2:3] == b"-" and value[35:36] == b"-":
            return value[3:35].decode("ascii", "replace")
    return ""

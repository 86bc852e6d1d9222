"""What passes through the pipeline: a call on the way in, a reply on the way out.

Both are independent of the transport on either side: ids are the caller's, `params`, `result` and `error` are raw JSON
bytes that nobody decodes without need. Interim messages (progress, log, requests of the server to its caller) leave by
`Call.emit`; the reply is always the final answer. This module knows no stage and no transport.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from mcp_sidecar.errors import Delivery


class Era(enum.Enum):
    """The two ways to speak MCP (MCP 2026-07-28 `basic/versioning`)."""

    MODERN = "modern"
    LEGACY = "legacy"


class CallKind(enum.IntEnum):
    """What a second execution would do (notes/resilience.md B.7)."""

    SAFE = 0
    IDEMPOTENT = 1
    UNSAFE = 2


class Source(enum.Enum):
    """Where a reply came from."""

    UPSTREAM = "upstream"
    CACHE = "cache"
    STALE = "stale"
    COALESCED = "coalesced"
    SIDECAR = "sidecar"


class Event:
    """An interim message for the caller of one call, or one event of a stream.

    `data` is a JSON-RPC message with the caller's ids put back; it may be empty (priming events). `id` and `retry` are
    the SSE fields of an HTTP upstream, passed on 1:1 so that a legacy caller can resume.
    """

    __slots__ = ("data", "id", "retry")

    def __init__(self, data: bytes, id: bytes | None = None, retry: bytes | None = None) -> None:
        self.data = data
        self.id = id
        self.retry = retry


class Sink(Protocol):
    """The caller's side of a call: takes interim messages in order, never blocks."""

    def open(self) -> None:
        """Begin the stream now, before there is an event."""

    def emit(self, event: Event) -> None:
        """Hand over one event. Raises CallError(SLOW_CALLER) when the caller has too much unread."""


class Reply:
    """The final answer to a call: exactly one of `result` and `error`, as raw JSON; or neither, when `detached`.

    Immutable by agreement: a reply may be shared by several callers and the cache.
    """

    __slots__ = ("detached", "error", "event_id", "headers", "result", "source", "status")

    def __init__(
        self,
        result: bytes | None = None,
        error: bytes | None = None,
        *,
        status: int = 200,
        event_id: bytes | None = None,
        source: Source = Source.UPSTREAM,
        detached: bool = False,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self.result = result
        self.error = error
        self.status = status
        """HTTP status of the upstream, 200 where it had none."""
        self.event_id = event_id
        self.source = source
        self.detached = detached
        """A legacy HTTP upstream closed the stream for the caller to resume it by GET: nothing more comes here."""
        self.headers = headers
        """Response headers for the caller, such as a new session id."""


class Call:
    """One JSON-RPC request of a caller. Times are seconds of the injected monotonic clock."""

    __slots__ = (
        "attempts",
        "cancelled",
        "committed",
        "deadline",
        "delivery",
        "era",
        "extra",
        "headers",
        "id",
        "identity",
        "kind",
        "last_progress",
        "method",
        "name",
        "on_cancel",
        "params",
        "paused_for",
        "paused_since",
        "principal",
        "queued_for",
        "server",
        "session",
        "sink",
        "started",
        "uid",
        "unheard",
        "upstream_time",
        "version",
        "written",
    )

    def __init__(
        self,
        *,
        server: str,
        id: bytes,
        method: str,
        params: bytes | None,
        era: Era,
        version: str,
        name: str | None = None,
        identity: bytes = b"",
        principal: str = "",
        session: Any = None,
        kind: CallKind = CallKind.UNSAFE,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        deadline: float = float("inf"),
        started: float = 0.0,
        sink: Sink | None = None,
        uid: str = "",
    ) -> None:
        self.server = server
        self.id = id
        """The caller's id as raw JSON (`7`, `"7"`): types are kept."""
        self.method = method
        self.params = params
        """Raw JSON of `params`, None where absent."""
        self.era = era
        self.version = version
        self.name = name
        """Tool, prompt or resource URI where the method has one."""
        self.identity = identity
        """Hash of the caller's Authorization, empty for anonymous."""
        self.principal = principal
        """Name of the bearer token that admitted the caller, empty where no tokens are configured."""
        self.session = session
        """The legacy session (front/sessions.py), None for modern callers."""
        self.kind = kind
        self.headers = headers
        """Lower-case request headers to pass upstream (`mcp-param-*`, `traceparent`, …)."""
        self.deadline = deadline
        """When the call must be over, waiting for the caller not counted."""
        self.started = started
        self.sink = sink
        self.uid = uid
        """Joins the log line, the audit line and the trace of one call."""
        self.attempts = 0
        self.committed = False
        """Something was already passed to the caller: no further attempt."""
        self.delivery = Delivery.NOT_SENT
        """The worst delivery state over all attempts: decides `maybeExecuted`."""
        self.written: bool | None = None
        """What the transport knows of the attempt under way: False from when it took the attempt, True as soon as the
        last byte of the request was handed to the kernel. None where it does not tell, which counts as written."""
        self.cancelled = False
        self.unheard = False
        """The caller's connection is gone and nothing can reach it: nobody can be asked anything."""
        self.last_progress = 0.0
        self.paused_since: float | None = None
        self.paused_for = 0.0
        self.queued_for = 0.0
        self.upstream_time = 0.0
        self.on_cancel: Callable[[], None] | None = None
        self.extra: object | None = None
        """For the transport: what it must remember between attempts."""

    def emit(self, event: Event) -> None:
        """Pass an interim message to the caller; from here on the call is committed."""
        if self.sink is not None:
            self.committed = True
            self.sink.emit(event)

    def progressed(self, now: float) -> None:
        """The upstream showed life: the attempt's time starts anew, the total does not."""
        self.last_progress = now

    def pause(self, now: float) -> None:
        """The server waits for its caller (sampling, elicitation): time stands still."""
        if self.paused_since is None and not self.unheard:
            self.paused_since = now

    def caller_left(self, now: float) -> None:
        """Nobody will answer what the server asks, so time must not stand still for it."""
        self.unheard = True
        self.resume(now)

    def resume(self, now: float) -> None:
        """The caller answered."""
        if self.paused_since is not None:
            self.paused_for += now - self.paused_since
            self.paused_since = None
            self.last_progress = now

    def expires(self, now: float) -> float:
        """The deadline moved by the time spent waiting for the caller; infinite while waiting."""
        if self.paused_since is not None:
            return float("inf")
        return self.deadline + self.paused_for


Handler = Callable[[Call], Awaitable[Reply]]


class Stage(Protocol):
    """One concern of the pipeline: `async (Call, next) -> Reply`."""

    def __call__(self, call: Call, next: Handler) -> Awaitable[Reply]:
        """Answer the call, by `next` or without it. Raises CallError; re-raises cancellation, always.

        Usually `async def`. A stage that has nothing to do for a call returns `next(call)`, unawaited: that is free.
        """

"""Every exception of the sidecar, and what a caller is told for each.

    OutriggerError
    ├── ConfigError                 the config file: all problems at once
    ├── SecretError                 a value that cannot be read or opened
    └── CallError                   ends one call; its `reason` is the whole story
        ├── Rejected                refused here, nothing was sent upstream
        └── UpstreamError           an attempt failed; `delivery` says how far it got
            └── SessionLost         the upstream session is gone: the caller must start anew

A reason has one JSON-RPC code outside -32768…-32000 (the whole range is reserved: MCP 2026-07-28,
`basic/index#error-codes`), one HTTP status for modern callers, and says whether the same call may be tried again.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Delivery(enum.IntEnum):
    """How far an attempt got (notes/resilience.md B.7; gRPC A6)."""

    NOT_SENT = 0
    """Surely not sent: not the last byte, or nothing at all, was handed to the kernel."""
    REFUSED = 1
    """Surely refused unprocessed (429, lost session, unsupported version)."""
    MAYBE = 2
    """Perhaps executed: the last byte was written and no answer came."""
    ANSWERED = 3
    """Answered."""


class _Reason(NamedTuple):
    code: int
    status: int
    retryable: bool


class Reason(_Reason, enum.Enum):
    """Why a call failed here. Value: JSON-RPC code, HTTP status for modern callers, retryable by the caller."""

    # refused before anything was sent
    RATE_LIMITED = (-31001, 429, True)
    QUEUE_FULL = (-31002, 503, True)
    QUEUE_TIMEOUT = (-31003, 503, True)
    BREAKER_OPEN = (-31004, 503, True)
    SHUTTING_DOWN = (-31005, 503, True)
    TOOL_NOT_ALLOWED = (-31006, 403, False)
    REQUEST_TOO_LARGE = (-31007, 413, False)
    SERVER_NOT_READY = (-31008, 503, True)
    TOO_MANY_STREAMS = (-31009, 503, True)
    DUPLICATE_ID = (-31010, 400, False)
    TOO_MANY_SESSIONS = (-31011, 503, True)
    # time
    DEADLINE_EXCEEDED = (-31020, 504, True)
    ATTEMPT_TIMEOUT = (-31021, 504, True)
    ACQUIRE_TIMEOUT = (-31022, 503, True)
    # the upstream
    CONNECT_FAILED = (-31030, 502, True)
    START_FAILED = (-31031, 502, True)
    CONNECTION_LOST = (-31032, 502, True)
    CHILD_EXITED = (-31033, 502, True)
    PROTOCOL_ERROR = (-31034, 502, True)
    RESULT_TOO_LARGE = (-31035, 502, False)
    UPSTREAM_STATUS = (-31036, 502, True)
    UPSTREAM_THROTTLED = (-31037, 429, True)
    UPSTREAM_UNAUTHORIZED = (-31038, 502, False)
    SESSION_LOST = (-31039, 404, True)
    TLS_FAILED = (-31040, 502, True)
    SLOW_CALLER = (-31041, 503, True)
    CANCELLED = (-31042, 499, False)
    INTERNAL = (-31050, 500, False)

    @property
    def label(self) -> str:
        """The `reason` of error data and the `error_type` of metrics: `rate_limited`, `queue_full`, …"""
        return self.name.lower()


class OutriggerError(Exception):
    """Root of the tree."""


class Problem(NamedTuple):
    """One thing wrong in a config: a JSON path such as `servers.git.timeout`, and what would be right."""

    path: str
    message: str


class ConfigError(OutriggerError):
    """The config cannot be used. `problems` holds all of them, never only the first."""

    def __init__(self, problems: list[Problem], source: str = "") -> None:
        self.problems = problems
        self.source = source
        super().__init__("\n".join(f"{p.path}: {p.message}" if p.path else p.message for p in problems))


class SecretError(OutriggerError):
    """A secret value cannot be read or opened. The message names the place, never the value."""


class CallError(OutriggerError):
    """Ends one call. `message` is shown to callers: it must hold no secret and no upstream body."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retry_after: float | None = None,
        delivery: Delivery = Delivery.NOT_SENT,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        """Seconds after which the call may be tried again, where known."""
        self.delivery = delivery


class Rejected(CallError):
    """Refused here; nothing was sent. Neutral to the breaker, never retried by us."""


class UpstreamError(CallError):
    """An attempt failed. `counted` says whether the breaker counts it as a failure (notes/resilience.md B.3)."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        delivery: Delivery,
        retry_after: float | None = None,
        counted: bool = True,
        status: int | None = None,
    ) -> None:
        super().__init__(reason, message, retry_after=retry_after, delivery=delivery)
        self.counted = counted
        self.status = status
        """The upstream's HTTP status where there was one."""
        self.origin = object()
        """What happened: one and the same for all calls that the end of one process took along."""


class SessionLost(UpstreamError):
    """The upstream session is gone. Callers get HTTP 404 and begin a new session."""

    def __init__(self, message: str, *, delivery: Delivery = Delivery.REFUSED) -> None:
        super().__init__(Reason.SESSION_LOST, message, delivery=delivery, counted=False)

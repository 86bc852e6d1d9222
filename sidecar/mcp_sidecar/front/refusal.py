"""Answers to requests that never become a call: what was wrong, as an HTTP status and a JSON-RPC error body.

Refusals have no caller's id, because nothing was parsed that could hold one (but see skipped_body); errors of calls
are the endpoint's.
Codes lie outside the range that JSON-RPC and MCP reserve (-32768…-32000), one per reason, as in `errors.Reason`.
"""

from __future__ import annotations

import enum
import json
from typing import NamedTuple

from mcp_sidecar.errors import Reason


class _Fault(NamedTuple):
    code: int
    status: int
    retryable: bool


class Fault(_Fault, enum.Enum):
    """Why a request was refused. Value: JSON-RPC code, HTTP status, whether the same request may be tried again."""

    MALFORMED_HTTP = (-31101, 400, False)
    UNAUTHORIZED = (-31102, 401, False)
    ORIGIN_NOT_ALLOWED = (-31103, 403, False)
    METHOD_NOT_ALLOWED = (-31104, 405, False)
    REQUEST_TIMEOUT = (-31105, 408, True)
    REQUEST_TOO_LARGE = (Reason.REQUEST_TOO_LARGE.code, 413, False)
    TARGET_TOO_LONG = (-31106, 414, False)
    EXPECTATION_FAILED = (-31107, 417, False)
    HOST_NOT_ALLOWED = (-31108, 421, False)
    HEADERS_TOO_LARGE = (-31109, 431, False)
    INTERNAL = (Reason.INTERNAL.code, 500, False)
    TOO_MANY_CONNECTIONS = (-31110, 503, True)
    SHUTTING_DOWN = (Reason.SHUTTING_DOWN.code, 503, True)
    VERSION_NOT_SUPPORTED = (-31111, 505, False)
    TOO_MANY_BYTES = (-31112, 503, True)

    @property
    def label(self) -> str:
        """The `reason` of the error's data: `malformed_http`, `request_timeout`, …"""
        return self.name.lower()


class Refusal:
    """One refusal: the fault, a message for people, and the headers that go with it."""

    __slots__ = ("_answers", "body", "fault", "headers", "message")

    def __init__(
        self,
        fault: Fault,
        message: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        *,
        answers: bytes | None = None,
    ) -> None:
        """`answers` is the raw id of a legacy caller's request: the refusal becomes its answer, with HTTP 200."""
        self._answers = answers is not None
        self.fault = fault
        self.message = message
        self.headers = headers
        error = {
            "code": fault.code,
            "message": message,
            "data": {"reason": fault.label, "retryable": fault.retryable, "maybeExecuted": False},
        }
        id = json.loads(answers) if answers is not None else None
        self.body = json.dumps({"jsonrpc": "2.0", "id": id, "error": error}, separators=(",", ":")).encode()
        """The JSON-RPC error, ready to send."""

    @property
    def status(self) -> int:
        """HTTP status."""
        return 200 if self._answers else self.fault.status


def incomplete(part: str, limit: float) -> Refusal:
    """The 408 for a request whose head or body did not arrive within `limit` seconds."""
    return Refusal(Fault.REQUEST_TIMEOUT, f"request {part} not complete within {limit:g} s")

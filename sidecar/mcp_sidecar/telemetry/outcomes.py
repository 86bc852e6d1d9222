"""What an ended call was: whose fault an error is, which word of the closed list names it, whether a tool said no."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from mcp_sidecar.errors import Reason

_IS_ERROR: Final = re.compile(rb'"isError"\s*:\s*true').search

_CODES: Final = {
    -32700: ("parse_error", "caller"),
    -32600: ("invalid_request", "caller"),
    -32601: ("method_not_found", "caller"),
    -32602: ("invalid_params", "caller"),
    -32603: ("internal_error", "upstream"),
    -32002: ("resource_not_found", "caller"),
    -32020: ("header_mismatch", "caller"),
    -32021: ("missing_client_capability", "caller"),
    -32022: ("unsupported_protocol_version", "caller"),
}
_CALLER: Final = frozenset(
    {
        Reason.RATE_LIMITED,
        Reason.TOOL_NOT_ALLOWED,
        Reason.REQUEST_TOO_LARGE,
        Reason.DUPLICATE_ID,
        Reason.SLOW_CALLER,
        Reason.CANCELLED,
    }
)
_UPSTREAM: Final = frozenset(
    {
        Reason.DEADLINE_EXCEEDED,
        Reason.ATTEMPT_TIMEOUT,
        Reason.CONNECT_FAILED,
        Reason.START_FAILED,
        Reason.CONNECTION_LOST,
        Reason.CHILD_EXITED,
        Reason.PROTOCOL_ERROR,
        Reason.RESULT_TOO_LARGE,
        Reason.UPSTREAM_STATUS,
        Reason.UPSTREAM_THROTTLED,
        Reason.UPSTREAM_UNAUTHORIZED,
        Reason.SESSION_LOST,
        Reason.TLS_FAILED,
    }
)


def side(reason: Reason) -> str:
    """Who is to blame: `caller`, `upstream` or `sidecar`."""
    return "caller" if reason in _CALLER else "upstream" if reason in _UPSTREAM else "sidecar"


OWN: Final = {reason.code: (reason.label, side(reason)) for reason in Reason}
"""Label and side by code: a Reason itself hashes in Python, which the path of a refused call need not pay for."""


class _ResultHead(msgspec.Struct, gc=False):
    is_error: bool = msgspec.field(default=False, name="isError")


class _ErrorHead(msgspec.Struct, gc=False):
    code: int


_result_head: Final = msgspec.json.Decoder(_ResultHead)
_error_head: Final = msgspec.json.Decoder(_ErrorHead)


def is_tool_error(result: bytes) -> bool:
    """Whether a `tools/call` result says `isError: true`; the result is parsed only where it may."""
    if _IS_ERROR(result) is None:
        return False
    try:
        return _result_head.decode(result).is_error
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False


def answered_error(error: bytes) -> tuple[int, str, str]:
    """Code, error type and side of a JSON-RPC error that the upstream answered; code 0 where it cannot be read."""
    try:
        code = _error_head.decode(error).code
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        code = 0
    return code, *_CODES.get(code, ("other_error", "upstream"))

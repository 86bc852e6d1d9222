"""What an HTTP answer means: a reply, or which error, and whether the call may have been executed.

A JSON-RPC body is an answer whatever the status below 500; a body that is none (a proxy's page of HTML) is never passed
on. Statuses follow notes/resilience.md B.7. Pure: bytes in, Reply or UpstreamError out.
"""

from __future__ import annotations

import email.utils
import re
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec import UNSET, Raw

from mcp_sidecar.errors import Delivery, Reason, SessionLost, UpstreamError
from mcp_sidecar.pipeline.call import Call, Era, Reply
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.envelope import Message

_SECONDS: Final = re.compile(rb"[0-9]{1,12}(?:\.[0-9]{1,9})?\Z")
MAX_RETRY_AFTER: Final = 86_400.0
"""Seconds: more is never waited for, it only must not overflow anything."""
_SESSION_ID: Final = re.compile(rb"[\x21-\x7e]{1,1024}\Z")
_NOBODY: Final = frozenset({b"null", b'"server-error"', b'""'})
"""Ids under which servers refuse what they could not or would not read (SDK 1.x: "server-error")."""


def protocol_error(what: str, status: int | None = None) -> UpstreamError:
    """The server's answer cannot be used; the call may have been executed."""
    return UpstreamError(
        Reason.PROTOCOL_ERROR, f"the server's answer cannot be used: {what}", delivery=Delivery.MAYBE, status=status
    )


def unreadable(error: envelope.EnvelopeError, what: str) -> UpstreamError:
    """An answer, or an event, that cannot be parsed. One that is only nested too deeply is no sickness of the server:
    a caller may have made it repeat what it was sent, and must not open the breaker for others by that."""
    failure = protocol_error("it is nested too deeply" if error.too_deep else what, 200)
    failure.counted = not error.too_deep
    return failure


def too_large(limit: int) -> UpstreamError:
    """The answer, or one event of it, is larger than allowed; that is no sickness of the server."""
    message = f"the server's answer is larger than {limit} bytes"
    return UpstreamError(Reason.RESULT_TOO_LARGE, message, delivery=Delivery.MAYBE, counted=False)


def same_id(raw: bytes, sent: bytes) -> bool:
    """Whether two raw ids are the same value: a server may write a string with other escapes, an integer as 7.0."""
    if raw == sent:
        return True
    if raw[:1] in b"tfn[{" or (raw[:1] == b'"') != (sent[:1] == b'"'):
        return False
    try:
        return bool(msgspec.json.decode(raw) == msgspec.json.decode(sent))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def outcome(message: Message) -> tuple[bytes | None, bytes | None]:
    """Result and error of a response, exactly one of them. Raises UpstreamError(PROTOCOL_ERROR)."""
    result, error = message.result, message.error
    if isinstance(result, Raw):
        if error is UNSET or bytes(error) == b"null":
            return bytes(result), None
    elif isinstance(error, Raw) and envelope.is_error(bytes(error)):
        return None, bytes(error)
    raise protocol_error("neither a result nor an error")


def read_answer(
    call: Call,
    sent_id: bytes,
    status: int,
    headers: Mapping[bytes, bytes],
    body: bytes,
    *,
    limit: int,
    wall_clock: Callable[[], float] = time.time,
) -> Reply:
    """The reply in a complete answer that is no stream. Raises UpstreamError; after PROTOCOL_ERROR trust no more."""
    if status == 200:
        encoding = headers.get(b"content-encoding")
        if encoding is not None:
            body = decoded(body, encoding, limit)
        return _reply(call, sent_id, body, headers)
    if status >= 500 or status in (401, 403, 408, 425, 429) or 300 <= status < 400:
        raise refusal(status, headers, wall_clock)
    if 400 <= status < 500:
        if status == 404 and call.era is Era.LEGACY and getattr(call.session, "upstream_session", None) is not None:
            raise SessionLost("the server does not know the session any more")
        reply = _error_reply(sent_id, status, headers, body, limit)
        if reply is None:
            raise refusal(status, headers, wall_clock)
        return reply
    raise protocol_error(f"status {status} to a request", status)


def _reply(call: Call, sent_id: bytes, body: bytes, headers: Mapping[bytes, bytes]) -> Reply:
    try:
        message = envelope.parse(body)
    except envelope.EnvelopeError as illegible:
        raise unreadable(illegible, "it is not JSON-RPC") from None
    if message.method is not UNSET or message.id is UNSET:
        raise protocol_error("it is not a response", 200)
    id = bytes(message.id)
    # an error without an id still is the answer to the only request on this connection
    if id != sent_id and not same_id(id, sent_id) and (message.error is UNSET or id not in _NOBODY):
        raise protocol_error("it answers another request", 200)
    result, error = outcome(message)
    if b"mcp-session-id" in headers:
        return Reply(result, error, headers=session_header(call, headers))
    return Reply(result, error)


def session_header(call: Call, headers: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """The new session of an `initialize`, for the front to seal. Raises UpstreamError where it cannot be one."""
    session = headers.get(b"mcp-session-id")
    if session is None or call.method != "initialize" or call.era is not Era.LEGACY:
        return ()
    if not _SESSION_ID.match(session):
        raise protocol_error("its session id has characters that are not allowed")
    return ((b"mcp-session-id", session),)


def _error_reply(sent_id: bytes, status: int, headers: Mapping[bytes, bytes], body: bytes, limit: int) -> Reply | None:
    """The JSON-RPC error in the body of a 4xx; None where there is none."""
    try:
        if b"content-encoding" in headers:
            body = decoded(body, headers[b"content-encoding"], limit)
        message = envelope.parse(body)
    except (envelope.EnvelopeError, UpstreamError):
        return None
    if message.error is UNSET or message.method is not UNSET:
        return None
    id = bytes(message.id) if message.id is not UNSET else b"null"
    if not same_id(id, sent_id) and id not in _NOBODY:
        raise protocol_error("it answers another request", status)
    return Reply(None, outcome(message)[1], status=status)


def refusal(status: int, headers: Mapping[bytes, bytes], wall_clock: Callable[[], float] = time.time) -> UpstreamError:
    """The error for a status that is no answer. The body is not looked at: it may be anybody's."""
    if status == 429:
        return UpstreamError(
            Reason.UPSTREAM_THROTTLED,
            "the server wants fewer requests (429)",
            delivery=Delivery.REFUSED,
            retry_after=parse_retry_after(headers.get(b"retry-after"), wall_clock),
            counted=False,
            status=status,
        )
    if status in (401, 403):
        return UpstreamError(
            Reason.UPSTREAM_UNAUTHORIZED,
            f"the server does not accept the credentials it got ({status})",
            delivery=Delivery.ANSWERED,
            counted=False,
            status=status,
        )
    if 300 <= status < 400:
        return UpstreamError(
            Reason.UPSTREAM_STATUS,
            f"the server redirects ({status}): redirects are not followed, the URL must be the final one",
            delivery=Delivery.ANSWERED,
            counted=False,
            status=status,
        )
    failed = status >= 500 or status in (408, 425)
    return UpstreamError(
        Reason.UPSTREAM_STATUS,
        f"the server answered with HTTP status {status}",
        delivery=Delivery.MAYBE if failed else Delivery.ANSWERED,
        retry_after=parse_retry_after(headers.get(b"retry-after"), wall_clock) if failed else None,
        counted=failed,
        status=status,
    )


def parse_retry_after(value: bytes | None, wall_clock: Callable[[], float] = time.time) -> float | None:
    """Seconds to wait: of a number or an HTTP date (RFC 9110 10.2.3), in 0…MAX_RETRY_AFTER; None where illegible."""
    if value is None:
        return None
    value = value.strip()
    if _SECONDS.match(value):
        return min(float(value), MAX_RETRY_AFTER)
    if len(value) > 64 or not value[:1].isalpha():
        return None
    try:
        moment = email.utils.parsedate_to_datetime(value.decode("ascii")).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(moment - wall_clock(), 0.0), MAX_RETRY_AFTER)


def decoded(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without the compression that nobody asked for. Raises UpstreamError."""
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name not in (b"gzip", b"x-gzip", b"deflate"):
        raise protocol_error("its content encoding was not asked for")
    # "deflate" is sent with and without the zlib header (RFC 9110 8.4.1.2); the header's low bits are 8
    bare = name == b"deflate" and body[:1] and body[0] & 0x0F != 8
    inflater = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise protocol_error("its content encoding is broken") from None
    if len(plain) > limit:
        raise too_large(limit)
    if not inflater.eof:
        raise protocol_error("its content encoding is cut short")
    return plain

"""Response heads as bytes, encoded once and reused.

A head depends on few things: status, content type, whether the connection ends. The length and extra headers are
appended per answer. No `Server` and no `Date`: the first tells attackers a version, the second serves caches, and
nothing here may be cached by one (`Cache-Control: no-store` on streams, POST otherwise).
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

_PHRASES = {int(s): s.phrase.encode() for s in HTTPStatus} | {413: b"Content Too Large", 499: b"Client Closed Request"}
_heads: dict[tuple[int, bytes, bool], bytes] = {}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
STREAM_COMMENT = b":\n\n"
STREAM_COMMENT_CHUNK = b"3\r\n:\n\n\r\n"


def status_line(status: int) -> bytes:
    """`HTTP/1.1 200 OK` with its line end."""
    return b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, b"Status"))


def answer_head(status: int, content_type: bytes, close: bool) -> bytes:
    """Everything up to the value of `Content-Length`, which the caller appends with the end of the head."""
    key = (status, content_type, close)
    head = _heads.get(key)
    if head is None:
        head = status_line(status)
        if content_type:
            head += b"Content-Type: " + content_type + b"\r\n"
        if close:
            head += b"Connection: close\r\n"
        head += b"Content-Length: "
        if len(_heads) < 256:  # statuses and types are the sidecar's own and few; an upstream must not fill memory
            _heads[key] = head
    return head


def bodiless_head(status: int, close: bool) -> bytes:
    """The head of an answer that has neither body nor length (204, 304; RFC 9110 8.6), without its final line end."""
    return status_line(status) + (b"Connection: close\r\n" if close else b"")


def stream_head(status: int, chunked: bool, close: bool) -> bytes:
    """The head of an event stream, without its final line end."""
    return b"".join(
        (
            status_line(status),
            b"Content-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n",
            b"Transfer-Encoding: chunked\r\n" if chunked else b"",
            b"Connection: close\r\n" if close else b"",
        )
    )


def body_head(status: int, content_type: bytes, length: int | None, chunked: bool, close: bool) -> bytes:
    """The head of an answer whose body follows in pieces, without its final line end."""
    return b"".join(
        (
            status_line(status),
            b"Content-Type: " + content_type + b"\r\n" if content_type else b"",
            b"Content-Length: %d\r\n" % length if length is not None else b"",
            b"Transfer-Encoding: chunked\r\n" if chunked else b"",
            b"Connection: close\r\n" if close else b"",
        )
    )


def encode_headers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header lines. Raises ValueError for a line end or NUL in a value: an upstream's value must not add a header."""
    lines = b""
    for name, value in headers:
        if b"\n" in value or b"\r" in value or b"\0" in value:
            raise ValueError(f"control character in the value of response header {name!r}")
        lines += name + b": " + value + b"\r\n"
    return lines


def encode_event(data: bytes, id: bytes | None, retry: bytes | None) -> bytes:
    """One server-sent event (WHATWG HTML 9.2.6). `data` may span lines; `id` and `retry` that do are left out."""
    lines = b""
    if id is not None and b"\n" not in id and b"\r" not in id and b"\0" not in id:
        lines = b"id: " + id + b"\n"
    if retry is not None and retry.isdigit():
        lines += b"retry: " + retry + b"\n"
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return lines + b"data: " + data + b"\n\n"

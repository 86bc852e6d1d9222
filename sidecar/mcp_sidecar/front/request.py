"""One HTTP request and the one answer it gets: the only thing a handler sees of the front.

    async def handler(request):
        request.respond(200, b'{"jsonrpc":"2.0",…}')

or `start_stream()`, `send_event(…)` as often as needed, `end_stream()`. The request lives as long as its handler: one
that returns early is answered with 500, an open stream is ended. When the caller's connection is gone everything here
becomes a no-op and the callbacks of `on_disconnect` have been called.

**Disconnect.** The end of the caller's input while its request is in flight counts as a disconnect, as in nginx and
Go's net/http: FIN is all that a caller who aborts sends, and a modern caller's disconnect is its cancel. The way back
stays open, though: a handler that answers nevertheless (a legacy call, whose disconnect is no cancel) still reaches a
caller that only half-closed, such as `nc -N`. Over TLS the end of input closes both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from mcp_sidecar.errors import CallError, Reason
from mcp_sidecar.front.response import (
    LAST_CHUNK,
    answer_head,
    bodiless_head,
    body_head,
    encode_event,
    encode_headers,
    stream_head,
)

Headers = Iterable[tuple[bytes, bytes]]
_BODILESS = (204, 304)
_COPY_BELOW = 64 * 1024
"""Shorter bodies are copied behind their head: one write, one packet."""


class CallerConnection(Protocol):
    """What a request needs of the connection it came by."""

    peer: str
    """Address and port of the caller."""
    state: dict[Any, Any]
    """Free for whoever serves the connection's requests: what was found out once per connection."""
    statuses: list[int]
    """Answers by status class, counted over all connections of the listener."""
    gone: bool
    """The caller sends no more: it is disconnected, or half-closed."""

    @property
    def draining(self) -> bool:
        """The listener shuts down: this answer is the connection's last."""

    def write(self, data: bytes) -> None:
        """Queue bytes for the caller; dropped when the connection is closed."""

    def unsent(self) -> int:
        """Bytes the kernel has not taken yet."""

    def overfull(self) -> bool:
        """More is unsent than a caller may leave unread. Drops the connection if so."""

    def stream_started(self) -> None:
        """From here on comment lines keep the connection open."""

    def abort(self) -> None:
        """Close at once."""

    def answered(self, request: Request, keep_alive: bool) -> None:
        """The answer is complete: go on with the next request, or close."""


class Request:
    """A request, read whole. Not thread-safe; `respond` or `start_stream` at most once."""

    __slots__ = (
        "_callbacks",
        "_chunked",
        "_keep_alive",
        "body",
        "connection",
        "headers",
        "method",
        "path",
        "query",
        "repeated",
        "responded",
        "streaming",
    )

    def __init__(
        self,
        connection: CallerConnection,
        method: str,
        path: str,
        query: str,
        headers: dict[bytes, bytes],
        repeated: frozenset[bytes],
        body: bytes,
        keep_alive: bool,
        chunked: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.path = path
        """Decoded, without the query."""
        self.query = query
        """Raw, without the question mark."""
        self.headers = headers
        """Lower-case names, values without outer blanks; of a repeated header the first value."""
        self.repeated = repeated
        """Names that came more than once."""
        self.body = body
        self.responded = False
        """An answer was given, or begun."""
        self.streaming = False
        """A stream is open: `send_event` and `end_stream` may be used."""
        self._keep_alive = keep_alive
        self._chunked = chunked
        self._callbacks: list[Callable[[], object]] | None = None

    def _over(self) -> None:
        # the callbacks know the call, which knows this request: a circle that would keep bodies until a collection
        self._callbacks = None

    @property
    def peer(self) -> str:
        """Address and port of the caller."""
        return self.connection.peer

    @property
    def disconnected(self) -> bool:
        """The caller is gone, or sends no more."""
        return self.connection.gone

    @property
    def unsent(self) -> int:
        """Bytes written for this caller that the kernel has not taken yet."""
        return self.connection.unsent()

    def on_disconnect(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, once, when the caller goes while the request is open; at once if it is gone."""
        if self.connection.gone:
            callback()
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def respond(
        self,
        status: int,
        body: bytes = b"",
        content_type: bytes = b"application/json",
        headers: Headers = (),
    ) -> None:
        """Answer. Raises RuntimeError when answered before, ValueError for a line end in a header value."""
        extra = encode_headers(headers) if headers else b""
        self._begin()
        connection = self.connection
        connection.statuses[status // 100] += 1
        keep_alive = self._keep_alive and not connection.draining
        if status in _BODILESS:
            connection.write(bodiless_head(status, not keep_alive) + extra + b"\r\n")
        else:
            head = answer_head(status, content_type if body else b"", not keep_alive)
            if self.method == "HEAD":
                connection.write(b"%b%d\r\n%b\r\n" % (head, len(body), extra))
            elif len(body) < _COPY_BELOW:
                connection.write(b"%b%d\r\n%b\r\n%b" % (head, len(body), extra, body))
            else:
                connection.write(b"%b%d\r\n%b\r\n" % (head, len(body), extra))
                connection.write(body)
        connection.answered(self, keep_alive)
        self._over()

    def start_stream(self, status: int = 200, headers: Headers = ()) -> None:
        """Begin an event stream. Raises RuntimeError when answered before."""
        extra = encode_headers(headers)
        self._begin()
        if not self._chunked or self.connection.draining:
            self._keep_alive = False
        self.streaming = True
        self.connection.statuses[status // 100] += 1
        self.connection.write(stream_head(status, self._chunked, not self._keep_alive) + extra + b"\r\n")
        self.connection.stream_started()

    def send_event(self, data: bytes, id: bytes | None = None, retry: bytes | None = None) -> None:
        """Send one event. Raises CallError(SLOW_CALLER) when too much is unread: the connection is dropped then."""
        if not self.streaming:
            if self.connection.gone:
                return
            raise RuntimeError("no open stream")
        if self.connection.overfull():
            self.streaming = False
            raise CallError(Reason.SLOW_CALLER, "caller does not read its event stream")
        event = encode_event(data, id, retry)
        self.connection.write(b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event)

    def start_body(self, status: int, content_type: bytes, headers: Headers, length: int | None) -> None:
        """Begin an answer of another's making whose body comes by `send_piece` and ends with `end_stream`. `length`:
        its bytes, None where they are not known yet. Raises as `respond` does."""
        extra = encode_headers(headers)
        self._begin()
        if length is not None:
            self._chunked = False
        if self.connection.draining or (length is None and not self._chunked):
            self._keep_alive = False
        self.streaming = True
        self.connection.statuses[status // 100] += 1
        self.connection.write(body_head(status, content_type, length, self._chunked, not self._keep_alive) + extra)
        self.connection.write(b"\r\n")

    def send_piece(self, data: bytes) -> None:
        """Send a part of the body as it is. A no-op when the caller is gone."""
        if self.streaming and data:
            self.connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def break_off(self) -> None:
        """End the connection in the middle of an answer, so that its caller can tell that it is not whole."""
        self.streaming = False
        self.responded = True
        self.connection.abort()

    def end_stream(self) -> None:
        """End the stream in good order; a no-op when it is not open."""
        if self.streaming:
            self.streaming = False
            if self._chunked:
                self.connection.write(LAST_CHUNK)
            self.connection.answered(self, self._keep_alive and not self.connection.draining)
            self._over()

    @property
    def chunked(self) -> bool:
        """A stream of this answer is chunked (HTTP/1.1), not ended by the end of the connection."""
        return self._chunked

    def disconnect(self) -> None:
        """The connection's word that the caller is gone."""
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback()

    def _begin(self) -> None:
        if self.responded:
            raise RuntimeError("request was answered before")
        self.responded = True

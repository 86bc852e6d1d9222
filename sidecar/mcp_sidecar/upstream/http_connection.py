"""One HTTP/1.1 client connection that knows what a retry must know.

That is: whether the last byte of a request was handed to the kernel, whether a byte of an answer came, and whether the
bytes on the wire are still in step with the requests. A byte that nobody asked for poisons the connection: it is never
used again. One exchange at a time. Which exchange is allowed when, and who closes, is the pool's; what the bytes mean
in MCP is the upstream's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

import httptools

from mcp_sidecar.errors import CallError, Delivery, Reason, UpstreamError
from mcp_sidecar.protocol.sse import EventFramer, EventTooLarge, ServerEvent
from mcp_sidecar.upstream.http_answer import too_large

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of the status line and headers of one answer, interim answers included."""
ERROR_BODY_LIMIT: Final = 256 * 1024
"""Bytes kept of the body of a failed request: a JSON-RPC error fits, a page of HTML need not."""
DEFAULT_BODY_LIMIT: Final = 16 * 1024 * 1024
_ONE_WRITE: Final = 32 * 1024
"""Up to this size head and body are joined: a copy costs less than a second buffer."""
_KEPT_HEADERS: Final = frozenset(
    {
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"mcp-session-id",
        b"retry-after",
        b"transfer-encoding",
    }
)

_IDLE: Final = 0
_WAITING: Final = 1
_COMPLETE: Final = 2
_DEAD: Final = 3


class _Unasked(Exception):
    """An answer without a request."""


class Listener(Protocol):
    """Takes the events of an answer that is an event stream. A CallError raised in it ends the exchange with it."""

    def on_stream(self) -> None:
        """The answer is an event stream; its head has come."""

    def on_event(self, event: ServerEvent) -> None:
        """One event, in order."""


class HttpConnection(asyncio.Protocol):
    """See the module. `closed` is set once the transport is gone."""

    __slots__ = (
        "_bytes_in",
        "_chunks",
        "_discard",
        "_framer",
        "_head_done",
        "_interim",
        "_limit",
        "_listener",
        "_loop",
        "_parser",
        "_size",
        "_started",
        "_state",
        "_transport",
        "_unwritten",
        "_waiter",
        "closed",
        "headers",
        "on_complete",
        "on_lost",
        "on_written",
        "reason",
        "status",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._state = _IDLE
        self._waiter: asyncio.Future[bytes] | None = None
        self._listener: Listener | None = None
        self._framer: EventFramer | None = None
        self._unwritten = False
        self._started = False
        self._bytes_in = 0
        self._head_done = False
        self._interim = False
        self._discard = False
        self._chunks: list[bytes] = []
        self._size = 0
        self._limit = DEFAULT_BODY_LIMIT
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        """Those of the answer that matter to us, lower-case names."""
        self.reason = ""
        """Why it may not be used again; empty while it may."""
        self.on_lost: Callable[[], None] | None = None
        """Called once when it dies while nobody uses it."""
        self.on_complete: Callable[[], None] | None = None
        """Called when the rest of an answer has come whose exchange is already over, or never will."""
        self.on_written: Callable[[], None] | None = None
        """Called when the last byte of a request left after `send` had returned."""
        self.closed: asyncio.Future[None] = loop.create_future()

    @property
    def usable(self) -> bool:
        """Whether a new exchange may begin: nothing is under way and everything is in step."""
        return (self._state == _COMPLETE or self._state == _IDLE) and not self.reason

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come, wholly or in part."""
        return self._state == _WAITING

    @property
    def written(self) -> bool:
        """Whether the last byte of the last request was handed to the kernel."""
        return not self._unwritten

    @property
    def delivery(self) -> Delivery:
        """What is to be assumed of a request that has no answer."""
        return Delivery.NOT_SENT if self._unwritten and not self._started else Delivery.MAYBE

    def send(
        self, head: bytes, body: bytes, listener: Listener | None = None, limit: int = DEFAULT_BODY_LIMIT
    ) -> asyncio.Future[bytes]:
        """Write one request, all of it at once; the future gets the body of the answer.

        For an event stream the listener gets the events and the future b"" at its end. `limit`: bytes of the body, or
        of one event. The future fails with UpstreamError. The caller must own the connection and have seen it usable.
        """
        transport = self._transport
        self._waiter = waiter = self._loop.create_future()
        self._listener = listener
        self._limit = limit
        self._started = self._head_done = False
        self._bytes_in = 0
        self.on_written = None
        if self.headers:
            self.headers = {}
        if transport is None or self._state == _DEAD:
            self._unwritten = True
            waiter.set_exception(self._lost("the connection was closed before the request was sent"))
            return waiter
        self._state = _WAITING
        self._unwritten = True
        if len(body) <= _ONE_WRITE:
            transport.write(head + body)
        else:
            # not `writelines`: in 3.12 and 3.13.0 it does not tell when its last byte is gone (cpython gh-127655)
            transport.write(head)
            transport.write(body)
        # a write error closes the transport: then the buffer is empty and nothing was sent
        self._unwritten = transport.get_write_buffer_size() > 0 or transport.is_closing()
        return waiter

    def settle(self) -> None:
        """Answer the exchange now although its stream goes on: what follows is read and dropped."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(b"")
        self._discard = True

    def pause(self) -> None:
        """Stop reading: the caller is slower than the upstream."""
        if self._transport is not None and self._state == _WAITING:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and self._state == _WAITING:
            self._transport.resume_reading()

    def fail(self, error: CallError, reason: str) -> None:
        """End the exchange with an error; the connection is not used again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
        self._die(reason)

    async def close(self) -> None:
        """Close at once, whatever is under way. Only the owner calls this."""
        self._die("closed")
        if self._transport is not None:
            await self.closed

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's
        self._transport = transport = cast(asyncio.Transport, transport)
        # any unwritten byte pauses the protocol, so that resume_writing means: the last byte is gone
        transport.set_write_buffer_limits(high=0)

    def resume_writing(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._unwritten and transport.get_write_buffer_size() == 0:
            self._unwritten = False
            callback, self.on_written = self.on_written, None
            if callback is not None:
                callback()

    def data_received(self, data: bytes) -> None:
        if self._state != _WAITING:
            self._die("unasked bytes")
            return
        self._started = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._state != _WAITING:  # the answer stands, what came after it does not
                self._die("unasked bytes")
            else:
                self._garbage(f"its answer is not HTTP: {str(error) or type(error).__name__}")
            return
        if not self._head_done and self._state == _WAITING:
            self._bytes_in += len(data)
            if self._bytes_in > HEAD_LIMIT:
                self._garbage("the head of its answer is too long")

    def eof_received(self) -> bool:
        self._ended("closed by the upstream")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended("connection lost" if exc is not None else "closed by the upstream")
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)

    # httptools

    def on_message_begin(self) -> None:
        if self._state != _WAITING:
            # a second answer in the same chunk: stop before its headers mix with those of the first
            raise _Unasked
        self._interim = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _KEPT_HEADERS and name not in self.headers and not self._head_done:
            self.headers[name] = value

    def on_headers_complete(self) -> None:
        if self._state != _WAITING:
            return
        status = self._parser.get_status_code()
        headers = self.headers
        if status < 200:
            self._interim = True
            headers.clear()
            return
        self.status = status
        self._head_done = True
        if status == 200:
            content_type = headers.get(b"content-type", b"")
            if content_type[:17].lower() == b"text/event-stream" and self._listener is not None:
                self._framer = EventFramer(self._limit)
                self._deliver_head()
                return
        length = headers.get(b"content-length")
        if length is not None and status == 200 and int(length) > self._limit:
            self._too_large()

    def on_body(self, body: bytes) -> None:
        if self._state != _WAITING or self._discard:
            return
        framer = self._framer
        if framer is not None:
            self._feed_events(framer, body)
            return
        self._size += len(body)
        if self._size > (self._limit if self.status == 200 else ERROR_BODY_LIMIT):
            if self.status == 200:
                self._too_large()
            else:
                # the status tells enough; the rest is not worth reading
                self._finish(reusable=False)
            return
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._interim:
            return
        if self._state == _WAITING:
            self._finish(self._parser.should_keep_alive() and not self._unwritten)

    # the end of an exchange

    def _deliver_head(self) -> None:
        assert self._listener is not None
        try:
            self._listener.on_stream()
        except CallError as error:
            self.fail(error, "refused stream")

    def _feed_events(self, framer: EventFramer, body: bytes) -> None:
        try:
            for event in framer.feed(body):
                if self._discard or self._state != _WAITING:
                    return
                assert self._listener is not None
                self._listener.on_event(event)
        except EventTooLarge:
            self._too_large()
        except CallError as error:
            self.fail(error, "stream refused")

    def _finish(self, reusable: bool) -> None:
        """The answer is complete."""
        chunks = self._chunks
        if chunks:
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
        else:
            body = b""
        self._size = 0
        self._framer = None
        self._listener = None
        self._state = _COMPLETE
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(body)
        self._waiter = None
        if not reusable:
            self._die("not kept alive")
        if self._discard:
            self._discard = False
            self._completed()

    def _too_large(self) -> None:
        self.fail(too_large(self._limit), "answer too large")

    def _garbage(self, what: str) -> None:
        error = UpstreamError(Reason.PROTOCOL_ERROR, f"the server broke HTTP: {what}", delivery=Delivery.MAYBE)
        self.fail(error, "garbage")

    def _lost(self, message: str) -> UpstreamError:
        return UpstreamError(Reason.CONNECTION_LOST, message, delivery=self.delivery)

    def _ended(self, reason: str) -> None:
        """The other side is gone."""
        if self._state == _DEAD:
            return
        if self._state == _WAITING:
            headers = self.headers
            if self._head_done and b"content-length" not in headers and b"transfer-encoding" not in headers:
                self._finish(reusable=False)  # the end of the connection is the end of this body (RFC 9112 6.3)
                return
            waiter = self._waiter
            if waiter is not None and not waiter.done():
                part = "in the middle of its answer" if self._started else "without an answer"
                waiter.set_exception(self._lost(f"the server closed the connection {part}"))
        self._die(reason)

    def _die(self, reason: str) -> None:
        """Never to be used again. The transport is left to no late byte; the owner waits for `closed`."""
        if self._state == _DEAD:
            return
        unused = self._state != _WAITING
        if not self.reason:
            self.reason = reason
        self._state = _DEAD
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(self._lost("the connection was closed before the answer came"))
        if self._transport is not None:
            self._transport.abort()
        self._listener = None
        self._framer = None
        self._chunks.clear()
        if unused and self.on_lost is not None:
            self.on_lost()
        if self._discard:
            self._discard = False
            self._completed()

    def _completed(self) -> None:
        callback, self.on_complete = self.on_complete, None
        if callback is not None:
            callback()

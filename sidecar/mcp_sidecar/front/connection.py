"""One caller's TCP connection: requests in order, one at a time; answers, time-outs, the end.

Bytes that come while a request is in flight are kept unparsed up to a small window, so that a disconnect is noticed;
past the window reading pauses and only a failed write tells. Time-outs are one deadline per connection that the
listener's sweeper compares: a request that arrives whole starts no timer. After a last answer the connection lingers:
it sends FIN and discards input for a while, because closing with unread input would reset the caller before it reads
the answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol, cast

from mcp_sidecar.front.connection_stage import Stage
from mcp_sidecar.front.limits import ListenerSettings
from mcp_sidecar.front.reader import Phase, RequestReader
from mcp_sidecar.front.refusal import Fault, Refusal, incomplete
from mcp_sidecar.front.request import Request
from mcp_sidecar.front.response import CONTINUE, STREAM_COMMENT, STREAM_COMMENT_CHUNK, answer_head, encode_headers
from mcp_sidecar.front.write_progress import WriteProgress

_NEVER = float("inf")
_COUNTED = 64 * 1024
"""Bytes from which on a body or an answer counts towards `max_held_bytes`: what is shorter the other limits bound."""
_TOO_MANY_BYTES = Refusal(Fault.TOO_MANY_BYTES, "too many bytes are held for callers", ((b"Retry-After", b"1"),))


# Looked up once: on Python 3.11 every `Stage.X` costs a third of a microsecond, and a request needs ten.
_IDLE, _HEAD, _BODY, _HANDLER, _STREAM, _UNSENT, _LINGER, _CLOSED = Stage
_NOTHING, _IN_HEAD, _IN_BODY = Phase


class ConnectionOwner(Protocol):
    """The listener, as its connections see it."""

    settings: ListenerSettings
    draining: bool
    statuses: list[int]
    backlogged: dict[Connection, None]
    held_bodies: int

    def now(self) -> float:
        """Monotonic seconds."""

    def opened(self, connection: Connection) -> Refusal | None:
        """A new connection; the refusal to answer with when there are too many."""

    def closed(self, connection: Connection) -> None:
        """It is gone."""

    def serve(self, request: Request) -> None:
        """Start the handler."""

    def refused(self, refusal: Refusal) -> None:
        """Count a refusal."""

    def dropped_slow(self) -> None:
        """Count a caller that did not read."""

    def check_backlog(self) -> None:
        """Drop the slowest readers while too much is unread."""


class Connection(asyncio.Protocol):
    """See the module. Every method runs on the loop's thread."""

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._settings = owner.settings
        self._transport: asyncio.Transport | None = None
        self._reader = RequestReader(self, owner.settings)
        self._request: Request | None = None
        self._waiting: deque[Request | Refusal] = deque()
        self._held = bytearray()
        self._held_paused = False
        self._write_paused = False
        self._discarded = 0
        self._body_held = 0
        self._rests_since = owner.now()
        self._progress = WriteProgress()
        self.stage: Stage = _IDLE
        self.deadline = _NEVER
        self.peer = ""
        self.state: dict[Any, Any] = {}
        self.statuses = owner.statuses
        self.gone = False

    @property
    def draining(self) -> bool:
        """The listener shuts down."""
        return self._owner.draining

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass of it
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
        self.deadline = self._owner.now() + self._settings.header_timeout
        refusal = self._owner.opened(self)
        if refusal is not None:
            self._refuse(refusal)

    def data_received(self, data: bytes) -> None:
        stage = self.stage
        if stage <= _BODY:
            self._read(data)
        elif stage == _LINGER:
            self._discarded += len(data)
            if self._discarded > self._settings.max_linger_bytes:
                self.abort()
        elif stage != _CLOSED:
            if not self._reader.finished:
                self._held += data
            if self._reader.finished or len(self._held) > self._settings.max_pipelined_bytes:
                self._pause_reading()

    def eof_received(self) -> bool:
        self.gone = True
        if self._request is not None:
            self._waiting.clear()
            self._request.disconnect()
            transport = self._transport
            return transport is not None and transport.can_write_eof()
        if self.stage in (_HEAD, _BODY):
            self._refuse(Refusal(Fault.MALFORMED_HTTP, "the request ends in the middle"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self.stage = _CLOSED
        self.deadline = _NEVER
        self._transport = None
        self._waiting.clear()
        self._held.clear()
        self._reader.close()
        self._hold_body(0)
        self._owner.backlogged.pop(self, None)
        request, self._request = self._request, None
        self._owner.closed(self)
        if request is not None:
            request.streaming = False
            request.disconnect()

    def pause_writing(self) -> None:
        self._write_paused = True
        self._owner.backlogged[self] = None
        self._owner.check_backlog()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._owner.backlogged.pop(self, None)
        if self.stage == _UNSENT:
            self._proceed()

    # For the requests.

    def write(self, data: bytes) -> None:
        """Queue bytes for the caller; dropped when the connection is closed."""
        if self._transport is not None:
            self._progress.written += len(data)
            self._transport.write(data)
            if self._write_paused and len(data) >= _COUNTED:
                self._owner.check_backlog()

    def unsent(self) -> int:
        """Bytes the kernel has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def overfull(self) -> bool:
        """More is unsent than a caller may leave unread. Drops the connection if so."""
        if self._write_paused and self.unsent() > self._settings.max_unsent_bytes:
            self._owner.dropped_slow()
            self.abort()
            return True
        return False

    def stream_started(self) -> None:
        """From here on comment lines keep the connection open."""
        if self.stage == _HANDLER:
            self.stage = _STREAM
            self.deadline = self._owner.now() + self._settings.stream_comment_interval

    def answered(self, request: Request, keep_alive: bool) -> None:
        """The answer is complete: go on with the next request, or close."""
        if request is not self._request:
            return
        self._request = None
        if self._body_held:
            self._hold_body(0)
        if self.gone:
            self.close()
        elif not keep_alive:
            self._linger()
        else:
            self._proceed()

    # For the reader.

    def request_read(self, request: Request) -> None:
        """A whole request: serve it, or queue it behind the one in flight."""
        if self._request is None and self.stage <= _BODY and not self._waiting:
            self._start(request)
        else:
            self._waiting.append(request)

    # For the listener.

    def sweep(self, now: float) -> None:
        """Judge the deadline and whether the caller reads."""
        transport = self._transport
        if transport is None:
            return
        if now >= self.deadline:
            self._expire(now)
        unsent = transport.get_write_buffer_size()
        if unsent and self._progress.stood_still(unsent, now) >= self._settings.write_timeout:
            self._owner.dropped_slow()
            self.abort()

    def fail_request(self, request: Request, refusal: Refusal) -> None:
        """Answer with a fault of ours; a stream is broken off, so that its caller can tell."""
        if request.streaming:
            request.streaming = False
            self.abort()
        elif not request.responded:
            request.respond(refusal.status, refusal.body, headers=refusal.headers)

    def close_if_idle(self, seconds: float = 0.0) -> None:
        """End a connection that has waited so long for a next request."""
        if self.stage == _IDLE and self._owner.now() - self._rests_since >= seconds:
            self._linger()

    def reconfigure(self, settings: ListenerSettings) -> None:
        """New limits, from the next request on."""
        self._settings = settings
        self._reader.reconfigure(settings)

    def close(self) -> None:
        """Close once what is written was sent."""
        self.stage = _CLOSED
        self.deadline = _NEVER
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.gone = True
        self.stage = _CLOSED
        self.deadline = _NEVER
        if self._transport is not None:
            self._transport.abort()

    # Inside.

    def _read(self, data: bytes) -> None:
        refusal = self._reader.feed(data)
        if refusal is not None:
            if self._request is None and not self._waiting:
                self._refuse(refusal)
            else:
                self._waiting.append(refusal)
                self._reader.finished = True
        elif self._request is None:
            self._await_rest()

    def _await_rest(self) -> None:
        """A request has begun, or not even that: set the deadline of what is missing."""
        phase = self._reader.phase
        if phase is _IN_BODY:
            size = self._reader.body_size
            if size >= _COUNTED and not self._hold_body(size):
                self._reader.close()
                return
            if self.stage != _BODY:
                self.stage = _BODY
                self.deadline = self._owner.now() + self._settings.body_timeout
                if self._reader.expects_continue:
                    self.write(CONTINUE)
        elif phase is _IN_HEAD and self.stage != _HEAD:
            self.stage = _HEAD
            self.deadline = self._owner.now() + self._settings.header_timeout

    def _hold_body(self, size: int) -> bool:
        """Account for `size` bytes of a body. False where they are too many: then it is refused."""
        owner = self._owner
        grown = size - self._body_held
        fits = grown <= 0 or owner.held_bodies + grown <= self._settings.max_held_bytes
        if not fits:
            size, grown = 0, -self._body_held
        self._body_held = size
        owner.held_bodies += grown
        if not fits:
            self._refuse(_TOO_MANY_BYTES)
        return fits

    def _start(self, request: Request) -> None:
        size = len(request.body)
        if (size >= _COUNTED or self._body_held) and not self._hold_body(size if size >= _COUNTED else 0):
            return
        self._request = request
        self.stage = _HANDLER
        self.deadline = _NEVER
        self._owner.serve(request)

    def _proceed(self) -> None:
        """After an answer: the next request, queued or held; else idle."""
        if self._write_paused:
            self.stage = _UNSENT
            self.deadline = _NEVER
            return
        self.stage = _IDLE
        if self._waiting:
            item = self._waiting.popleft()
            if isinstance(item, Refusal):
                self._refuse(item)
            else:
                self._start(item)
            return
        self._rests_since = self._owner.now()
        self.deadline = self._rests_since + self._settings.idle_timeout
        if self._held:
            held = bytes(self._held)
            self._held.clear()
            self._read(held)
            if self._request is not None:
                return
        elif self._reader.phase is not _NOTHING:
            self._await_rest()
        elif self.draining:
            self._linger()
            return
        if self._held_paused and self._transport is not None and self.stage <= _BODY:
            self._held_paused = False
            self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._held_paused and self._transport is not None:
            self._held_paused = True
            self._transport.pause_reading()

    def _refuse(self, refusal: Refusal) -> None:
        self._owner.refused(refusal)
        body = refusal.body
        head = answer_head(refusal.status, b"application/json", close=True)
        self.write(b"%b%d\r\n%b\r\n%b" % (head, len(body), encode_headers(refusal.headers), body))
        self._linger()

    def _expire(self, now: float) -> None:
        settings = self._settings
        stage = self.stage
        if stage == _STREAM:
            self.deadline = now + settings.stream_comment_interval
            if self._request is not None and not self.unsent():
                self.write(STREAM_COMMENT_CHUNK if self._request.chunked else STREAM_COMMENT)
        elif stage == _HEAD:
            self._refuse(incomplete("head", settings.header_timeout))
        elif stage == _BODY:
            self._refuse(incomplete("body", settings.body_timeout))
        elif stage == _IDLE:
            self._linger()
        elif self.unsent():  # lingering with a long answer that is being read: the write time-out judges
            self.deadline = now + settings.linger_timeout
        else:
            self.abort()

    def _linger(self) -> None:
        transport = self._transport
        if transport is None or self.stage in (_LINGER, _CLOSED):
            return
        self.stage = _LINGER
        self.deadline = self._owner.now() + self._settings.linger_timeout
        self._waiting.clear()
        self._held.clear()
        if self._held_paused:
            self._held_paused = False
            transport.resume_reading()
        if transport.can_write_eof():
            try:
                transport.write_eof()
            except OSError:  # reset under way
                self.abort()
        else:
            transport.close()  # TLS: the end of both ways, but it reads and discards until the caller agrees

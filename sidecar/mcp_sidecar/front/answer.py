"""The caller's side of one HTTP request: interim events, then the answer, in the form its era understands.

Modern callers get our errors with an HTTP status and `Retry-After`; legacy callers get them with 200, because SDK 1.x
clients end their whole session on a 5xx (design.md, "Errors of our own"). A lost session is 404 to both.
"""

from __future__ import annotations

import math
from typing import Any, Final

from mcp_sidecar.errors import CallError, Delivery, Reason, Rejected, SessionLost
from mcp_sidecar.front.request import Request
from mcp_sidecar.pipeline.call import Call, CallKind, Era, Event, Reply
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.revisions import ERROR_STATUS

Headers = tuple[tuple[bytes, bytes], ...]

_MAX_HELD = 100
_MAX_HELD_BYTES: Final = 1 << 20
_RETRY_AFTER_SHUTDOWN: Final = 1.0


def error_of(error: CallError, call: Call | None = None) -> bytes:
    """The JSON-RPC `error` of one of our own errors."""
    delivery = max(error.delivery, call.delivery) if call is not None else error.delivery
    data: dict[str, Any] = {
        "reason": error.reason.label,
        "retryable": error.reason.retryable and not _may_harm(delivery, call),
        "maybeExecuted": delivery == Delivery.MAYBE,
        "attempts": call.attempts if call is not None else 0,
    }
    if error.retry_after is not None:
        data["retryAfterMs"] = math.ceil(error.retry_after * 1000)
    return envelope.error_object(error.reason.code, error.message, data)


def _may_harm(delivery: Delivery, call: Call | None) -> bool:
    """The call may have been executed, and a second execution is not known to be harmless."""
    return delivery == Delivery.MAYBE and (call is None or call.kind is CallKind.UNSAFE)


def retry_after(error: CallError) -> Headers:
    """`Retry-After` in whole seconds, at least 1, where the error says when."""
    if error.retry_after is None:
        return ()
    return ((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))),)


class Answer:
    """Writes to one caller. Also the `Sink` of its call: the first event turns the answer into a stream."""

    __slots__ = ("_batch", "_headers", "_held", "_held_bytes", "_request", "era")

    def __init__(self, request: Request, era: Era, *, batch: bool = False) -> None:
        self._request = request
        self._headers: Headers = ()
        self._batch: list[bytes] | None = [] if batch else None
        self._held: list[Event] | None = None
        self._held_bytes = 0
        self.era = era

    @property
    def gone(self) -> bool:
        """The caller's connection is lost."""
        return self._request.disconnected

    @property
    def unsent(self) -> int:
        """Bytes that the caller has not taken yet: who feeds the stream pauses by it."""
        return self._request.unsent

    def add_headers(self, headers: Headers) -> None:
        """Send these with the head of the answer, whatever form it takes."""
        self._headers += headers

    def hold(self) -> None:
        """Keep events back until the answer is there: its head must carry what only the answer brings, such as the
        session id of an `initialize` whose server first sends a priming event."""
        self._held = []

    def open(self) -> None:
        """Begin a stream now, before there is an event."""
        if not self._request.streaming and not self._request.responded and not self._request.disconnected:
            self._request.start_stream(headers=self._headers)

    def emit(self, event: Event) -> None:
        """Pass on an interim message. Raises CallError(SLOW_CALLER) when too much is unread."""
        request = self._request
        if self._held is not None:
            self._held_bytes += len(event.data)
            if len(self._held) >= _MAX_HELD or self._held_bytes > _MAX_HELD_BYTES:
                raise CallError(Reason.SLOW_CALLER, "too many messages before the answer")
            self._held.append(event)
            return
        if not request.streaming:
            if request.responded or request.disconnected:
                return
            request.start_stream(headers=self._headers)
        request.send_event(event.data, id=event.id, retry=event.retry)

    def reply(self, id: bytes, reply: Reply) -> None:
        """The final answer."""
        if reply.detached:
            self.end()
        elif reply.error is not None:
            status = reply.status
            if status == 200 and self.era is Era.MODERN and reply.error:
                status = ERROR_STATUS.get(envelope.error_head(reply.error).code, 200)
            self._final(envelope.error_response(id, reply.error), status, reply.event_id)
        else:
            self._final(envelope.result_response(id, reply.result or b"{}"), reply.status, reply.event_id)

    def fail(self, id: bytes, error: CallError, call: Call | None = None) -> None:
        """One of our own errors in place of an answer."""
        self._headers += retry_after(error)
        if isinstance(error, SessionLost):
            status = 404
        else:
            status = error.reason.status if self.era is Era.MODERN else 200
            if error.reason is Reason.CANCELLED:
                status = 200
        self._final(envelope.error_response(id, error_of(error, call)), status, None)

    def refuse(self, status: int, code: int, message: str, id: bytes = b"null", data: object = None) -> None:
        """A protocol error found before there was a call."""
        self._final(envelope.error_response(id, envelope.error_object(code, message, data)), status, None)

    def accepted(self, status: int = 202) -> None:
        """Nothing to say: a notification or a response was taken in."""
        self._request.respond(status, headers=self._headers)

    def end(self) -> None:
        """End the stream, or answer with an empty one."""
        self.open()
        self._request.end_stream()

    def finish_batch(self) -> None:
        """All messages of a batch are answered."""
        if self._request.streaming:
            self._request.end_stream()
        elif self._batch:
            self._request.respond(200, b"[" + b",".join(self._batch) + b"]", headers=self._headers)
        elif not self._request.responded:
            self.accepted()

    def _final(self, body: bytes, status: int, event_id: bytes | None) -> None:
        try:
            self._write(body, status, event_id)
        except CallError:
            return  # SLOW_CALLER: its connection is dropped, there is nobody to be told

    def _write(self, body: bytes, status: int, event_id: bytes | None) -> None:
        request = self._request
        held, self._held = self._held, None
        if held and status == 200:
            for event in held:
                self.emit(event)
        if self._batch is not None:
            if request.streaming:
                request.send_event(body, id=event_id)
            else:
                self._batch.append(body)
        elif request.streaming:
            request.send_event(body, id=event_id)
            request.end_stream()
        elif event_id is not None:
            # the event id lets a legacy caller resume; it exists only on a stream
            request.start_stream(headers=self._headers)
            request.send_event(body, id=event_id)
            request.end_stream()
        else:
            request.respond(status, body, headers=self._headers)


def shutting_down(call: Call | None = None) -> CallError:
    """The answer to a call that is refused, or that was given up after `shutdown.gracePeriod`."""
    if call is None:
        return Rejected(Reason.SHUTTING_DOWN, "the sidecar is shutting down", retry_after=_RETRY_AFTER_SHUTDOWN)
    message = "the sidecar is shutting down, and the call did not end in time"
    sent = call.attempts > 0 and call.written is not False
    delivery = Delivery.MAYBE if sent else call.delivery
    return CallError(Reason.SHUTTING_DOWN, message, delivery=delivery, retry_after=_RETRY_AFTER_SHUTDOWN)

"""Answers that are event streams: interim messages go to the caller as they come, the answer ends the call.

Ids that went up as ours come down as the caller's. A server that asks its caller something stops the call's clock until
the caller has answered. What an event stream is made of belongs to `protocol.sse`, who may open one to `http_upstream`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import UNSET, Raw

from mcp_sidecar.pipeline.call import Call, Era, Event, Reply, Sink
from mcp_sidecar.pipeline.upstream import LegacySession
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.correlation import restore_subscription, subscription_of
from mcp_sidecar.protocol.envelope import Message
from mcp_sidecar.protocol.revisions import LISTEN
from mcp_sidecar.protocol.sse import ServerEvent
from mcp_sidecar.upstream.http_answer import outcome, protocol_error, same_id, unreadable
from mcp_sidecar.upstream.http_connection import HttpConnection

HIGH_WATER: Final = 256 * 1024
"""Bytes a caller may have unread before its upstream is read no further."""
LOW_WATER: Final = 64 * 1024
_SUBSCRIPTION: Final = b"subscriptionId"
"""The part of the member's name that no encoder escapes."""
_LOOK: Final = 0.02
"""Seconds between two looks at a slow caller."""


class Home(Protocol):
    """What a stream needs of its upstream."""

    clock: Callable[[], float]
    unasked_requests: int

    def streaming(self, stream: CallStream) -> None:
        """The answer is a stream: it gives its place in the pool back."""

    def asked(self, stream: CallStream, id: bytes) -> None:
        """The server sent its caller a request."""


class Backpressure:
    """Stops reading a connection while its caller has too much unread, for sinks that can tell (`unsent`)."""

    __slots__ = ("_connection", "_sink", "_timer")

    def __init__(self, connection: HttpConnection, sink: Sink | None) -> None:
        self._connection = connection
        self._sink = sink if hasattr(sink, "unsent") else None
        self._timer: asyncio.TimerHandle | None = None

    def check(self) -> None:
        """Called after each event."""
        if self._sink is not None and self._timer is None and self._unsent() > HIGH_WATER:
            self._connection.pause()
            self._wait()

    def end(self) -> None:
        """The stream is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._connection.resume()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _look(self) -> None:
        if self._unsent() > LOW_WATER:
            self._wait()
        else:
            self._timer = None
            self._connection.resume()

    def _unsent(self) -> int:
        return int(getattr(self._sink, "unsent", 0))


class CallStream:
    """The answer to one call, should it be a stream. Also remembers what the attempt must know afterwards."""

    __slots__ = ("_home", "_pressure", "asked", "call", "connection", "id", "last_id", "lease", "reply", "streaming")

    def __init__(self, home: Home, call: Call, id: bytes, connection: HttpConnection, lease: object) -> None:
        self._home = home
        self._pressure: Backpressure | None = None
        self.call = call
        self.id = id
        """The id that was sent."""
        self.connection = connection
        self.lease = lease
        self.reply: Reply | None = None
        self.last_id: bytes | None = None
        """Of the last event that had one: from here a legacy caller resumes."""
        self.asked: set[bytes] = set()
        """Requests of the server that the caller has not answered."""
        self.streaming = False

    def written(self) -> None:
        """The last byte of the request left."""
        self.call.written = True

    def on_stream(self) -> None:
        self.streaming = True
        self._pressure = Backpressure(self.connection, self.call.sink)
        self._home.streaming(self)

    def on_event(self, event: ServerEvent) -> None:
        if event.id is not None:
            self.last_id = event.id
        legacy = self.call.era is Era.LEGACY
        if not event.data:
            if legacy and event.is_message:
                self.call.emit(Event(b"", event.id, event.retry))
            return
        if not event.is_message:
            return
        if legacy and envelope.is_batch(event.data):  # revision 2025-03-26 allows it
            messages = envelope.split_batch(event.data)
            for data in messages[:-1]:
                self._message(data, None, None)
            self._message(messages[-1], event.id, event.retry)
        else:
            self._message(event.data, event.id if legacy else None, event.retry if legacy else None)
        if self._pressure is not None:
            self._pressure.check()

    def end(self) -> None:
        """The attempt is over, however."""
        if self._pressure is not None:
            self._pressure.end()
        self.asked.clear()

    def _message(self, data: bytes, id: bytes | None, retry: bytes | None) -> None:
        try:
            message = envelope.parse(data)
        except envelope.EnvelopeError as error:
            raise unreadable(error, "an event is not JSON-RPC") from None
        if message.method is UNSET:
            self._answer(message, id)
            return
        call, home = self.call, self._home
        if message.id is not UNSET:
            if call.era is Era.MODERN:
                home.unasked_requests += 1  # forbidden since 2026-07-28; the caller could not answer
                return
            if call.sink is not None:
                request = bytes(message.id)
                self.asked.add(request)
                home.asked(self, request)
                call.pause(home.clock())
        elif message.method == "notifications/progress":
            call.progressed(home.clock())
        elif self._listens() and _SUBSCRIPTION in data:
            data = self._restored(message, data)
        call.emit(Event(data, id, retry))

    def _listens(self) -> bool:
        return self.call.method == LISTEN and self.call.era is Era.MODERN

    def _restored(self, message: Message, data: bytes) -> bytes:
        if not isinstance(message.params, Raw) or not isinstance(message.method, str):
            return data
        subscription = subscription_of(message.params)
        if subscription == -1:
            return data
        if subscription != int(self.id):
            raise protocol_error("an event is of another subscription", 200)
        return envelope.notification(message.method, restore_subscription(message.params, self.call.id))

    def _answer(self, message: Message, event_id: bytes | None) -> None:
        if message.id is UNSET or not same_id(bytes(message.id), self.id):
            raise protocol_error("it answers another request", 200)
        result, error = outcome(message)
        if result is not None and self._listens() and subscription_of(result) == int(self.id):
            result = restore_subscription(result, self.call.id)
        self.reply = Reply(result, error, event_id=event_id)
        self.connection.settle()


class Questions:
    """Requests of servers that wait for their callers' answers, by session and the server's raw id."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str | None, bytes], CallStream] = {}

    def asked(self, stream: CallStream, id: bytes) -> None:
        """A request went to the caller."""
        self._streams[session_of(stream.call), id] = stream

    def answered(self, session: LegacySession | None, id: bytes, now: float) -> None:
        """The caller answered one: when it was the last of its call, the call's clock goes on."""
        stream = self._streams.pop((session.upstream_session if session is not None else None, id), None)
        if stream is not None:
            stream.asked.discard(id)
            if not stream.asked:
                stream.call.resume(now)

    def leave(self, stream: CallStream) -> None:
        """The attempt is over."""
        for id in stream.asked:
            self._streams.pop((session_of(stream.call), id), None)


def session_of(call: Call) -> str | None:
    """The server's session of a legacy call."""
    session: str | None = getattr(call.session, "upstream_session", None)
    return session


class RelayedStream:
    """A legacy GET stream: everything goes to the caller, whose ids are in the ids that were sent."""

    __slots__ = ("_pressure", "_sink", "opened")

    def __init__(self, connection: HttpConnection, sink: Sink) -> None:
        self._sink = sink
        self._pressure = Backpressure(connection, sink)
        self.opened = False

    def on_stream(self) -> None:
        self.opened = True
        begin: Callable[[], None] | None = getattr(self._sink, "open", None)
        if begin is not None:
            begin()

    def on_event(self, event: ServerEvent) -> None:
        if not event.is_message:
            return
        if not event.data:
            self._sink.emit(Event(b"", event.id, event.retry))
            return
        messages = envelope.split_batch(event.data) if envelope.is_batch(event.data) else [event.data]
        for i, data in enumerate(messages):
            last = i == len(messages) - 1
            own = caller_message(data)
            if own is not None:
                self._sink.emit(Event(own, event.id if last else None, event.retry if last else None))
        self._pressure.check()

    def end(self) -> None:
        """The stream is over, however."""
        self._pressure.end()


def caller_message(data: bytes) -> bytes | None:
    """A message of a resumed stream with the caller's id put back; None where it answers nothing of ours."""
    try:
        message = envelope.parse(data)
    except envelope.EnvelopeError as illegible:
        raise unreadable(illegible, "an event is not JSON-RPC") from None
    if message.method is not UNSET:
        return data
    id = envelope.open_id(bytes(message.id)) if message.id is not UNSET else None
    if id is None:
        return None
    result, error = outcome(message)
    if result is not None:
        return envelope.result_response(id, result)
    return envelope.error_response(id, error or b"{}")


class FirstEvent:
    """Waits for the first event of a stream: its name, None where there is no stream or it ends before."""

    __slots__ = ("name",)

    def __init__(self) -> None:
        self.name: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def on_stream(self) -> None:
        """The event is still to come."""

    def on_event(self, event: ServerEvent) -> None:
        if not self.name.done():
            self.name.set_result(event.name)

    def ended(self, answer: asyncio.Future[bytes]) -> None:
        """The exchange is over."""
        failed = answer.cancelled() or answer.exception() is not None
        if not self.name.done():
            self.name.set_result(None if failed else b"")

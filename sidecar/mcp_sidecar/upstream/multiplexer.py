"""Many callers' requests over one channel: who gets which answer.

Ids come from one counter and only an answer that carries the number of a waiting request is delivered, to that request;
progress tokens and subscription ids are rewritten and put back; what cannot be attributed goes to the `Peer`, and what
belongs to nobody any more is counted and dropped. No task per request, no timer: time-outs are stages of the pipeline,
which cancel the waiting task. Starting and stopping the channel is its owner's work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from msgspec import UNSET, Raw

from mcp_sidecar.errors import CallError, Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.call import Call, Reply
from mcp_sidecar.protocol import correlation, envelope
from mcp_sidecar.protocol.lines import Oversized, find_id
from mcp_sidecar.upstream.channel import Channel, Peer
from mcp_sidecar.upstream.pending import Pending, with_delivery
from mcp_sidecar.upstream.suspicion import Suspicion

NOT_CANCELLABLE: Final = frozenset({"initialize", "server/discover"})
"""MCP forbids to cancel `initialize`; a server that hangs in `server/discover` would not know what is cancelled."""

IRREGULAR: Final = ("garbage_lines", "oversized_lines", "unknown_ids", "late_answers", "late_events")
"""Counters of what a server sent that it should not have, or too late."""

_FORGET: Final = 1024
_SAMPLE: Final = 200


class Multiplexer:
    """See the module. `ids` gives the next number of the sidecar's one counter; `report(kind, sample)` gets at most
    one sample (200 bytes) a second of what was not understood.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        ids: Callable[[], int],
        clock: Callable[[], float],
        peer: Peer,
        report: Callable[[str, bytes], None] | None = None,
        suspicion: Suspicion | None = None,
    ) -> None:
        self.channel = channel
        self.peer = peer
        self.suspicion = suspicion or Suspicion()
        self.on_end: Callable[[], None] | None = None
        """Called once, when the channel is gone and every request has been failed."""
        self.on_idle: Callable[[], None] | None = None
        """Called whenever the last call in flight has ended."""
        self._loop = asyncio.get_running_loop()
        self._ids = ids
        self._clock = clock
        self._report = report
        self._next_report = float("-inf")
        self._pending: dict[int, Pending] = {}
        self._abandoned: dict[int, None] = {}
        self._error: UpstreamError | None = None
        self._last_sent = -1
        self.in_flight = 0
        """Calls from entry to answer, waiting to be written included, listen streams not."""
        self.streams = 0
        self.last_used = clock()
        self.requests = 0
        self.garbage_lines = 0
        self.oversized_lines = 0
        self.unknown_ids = 0
        self.late_answers = 0
        self.late_events = 0
        self.abandoned = 0
        self.dropped_notifications = 0
        channel.on_message = self._on_message
        channel.on_oversized = self._on_oversized
        channel.on_closed = self._on_closed

    # --- to the server

    async def request(
        self,
        method: str,
        params: bytes | None,
        *,
        on_event: Callable[[bytes], None] | None = None,
        call: Call | None = None,
    ) -> Reply:
        """Send a request and wait for its answer, an error of the server included.

        Interim messages go to `on_event`, else to `call.emit`. Raises UpstreamError with the delivery state when the
        channel dies. When the waiting task is cancelled the server is told (except where MCP forbids it).
        """
        pending = Pending(method, self._loop.create_future(), on_event, call)
        if call is not None:
            call.written = False
        if pending.listen:
            self.streams += 1
        else:
            self.in_flight += 1
        try:
            while self._error is None and self.channel.congested:
                await self.channel.drain()
            if self._error is not None:
                raise with_delivery(self._error, Delivery.NOT_SENT)
            number = self._ids()
            raw_id = b"%d" % number
            if params is not None:
                if correlation.PROGRESS_TOKEN_BYTES in params or b"\\u00" in params:  # names may be written escaped
                    params, pending.token = correlation.replace_progress_token(params, raw_id)
                params = _one_line(params)
            pending.sent = self.channel.send(envelope.request(raw_id, method, params))
            self._pending[number] = pending
            self._last_sent = number
            self.requests += 1
            try:
                return await pending.future
            except asyncio.CancelledError:
                self._give_up(number, pending, "the caller is gone or out of time")
                raise
        finally:
            self.last_used = self._clock()
            if pending.listen:
                self.streams -= 1
            else:
                self.in_flight -= 1
                if not self.in_flight and self.on_idle is not None:
                    self.on_idle()

    def notify(self, method: str, params: bytes | None = None) -> bool:
        """Send a notification; False where it could not be queued (closed, or the server does not read)."""
        return self._post(_one_line(envelope.notification(method, params)))

    def respond(self, id_raw: bytes, *, result: bytes | None = None, error: bytes | None = None) -> bool:
        """Answer a request of the server with exactly one of `result` and `error`; False where it cannot be queued."""
        if error is not None:
            return self._post(_one_line(envelope.error_response(id_raw, error)))
        return self._post(_one_line(envelope.result_response(id_raw, result or b"{}")))

    def _post(self, message: bytes) -> bool:
        if self._error is None:
            try:
                self.channel.send(message)
            except UpstreamError:
                pass
            else:
                self._last_sent = -1
                return True
        self.dropped_notifications += 1
        return False

    def irregular(self) -> dict[str, int]:
        """The counters named in IRREGULAR."""
        return {name: getattr(self, name) for name in IRREGULAR}

    def calls(self) -> Iterator[Call]:
        """The calls that wait for an answer, streams not included."""
        return (p.call for p in self._pending.values() if p.call is not None and not p.listen)

    @property
    def closed(self) -> bool:
        """Whether the channel is gone."""
        return self._error is not None

    @property
    def error(self) -> UpstreamError | None:
        """What ended the channel, None while it lives."""
        return self._error

    @property
    def suspect(self) -> bool:
        """Whether the channel is perhaps dead."""
        return self.suspicion.suspect

    def absolve(self) -> None:
        """The channel has proved to be alive by other means."""
        self.suspicion.alive()

    # --- from the server

    def _on_message(self, line: bytes) -> None:
        try:
            message = envelope.parse(line)
            if not line.isascii():
                line.decode()  # raw members were not looked at, and the caller's JSON parser will
        except envelope.EnvelopeError as error:
            self._not_understood(line, too_deep=error.too_deep)
            return
        except UnicodeDecodeError:
            self._not_understood(line)
            return
        try:
            if message.method is UNSET:
                self._on_answer(line, message)
            elif message.id is UNSET:
                self._on_notification(line, message.method, message)
            else:
                params = None if message.params is UNSET else bytes(message.params)
                self.peer.on_request(bytes(message.id), message.method, params, line)
        except envelope.EnvelopeError:  # JSON-RPC, and its members are not what the method needs
            self.garbage_lines += 1
            self._tell("garbage", line)
        except Exception as error:  # noqa: BLE001 one message must not take its neighbours with it
            self._loop.call_exception_handler({"message": "a message of a server was not handled", "exception": error})

    def _on_answer(self, line: bytes, message: envelope.Message) -> None:
        raw = b"" if message.id is UNSET else bytes(message.id)
        number = correlation.number(raw)
        pending = self._pending.pop(number, None)
        if pending is None:
            self._on_stray(number, raw, line, message)
            return
        self.suspicion.alive()
        if not pending.answer(message):
            self.late_answers += 1

    def _on_stray(self, number: int, raw: bytes, line: bytes, message: envelope.Message) -> None:
        """An answer that nobody waits for."""
        if number in self._abandoned:
            del self._abandoned[number]
            self.late_answers += 1
            self.suspicion.alive()
            return
        if (
            raw in (b"null", b"")
            and isinstance(message.error, Raw)
            and envelope.is_error(bytes(message.error))
            and self._sole() == self._last_sent >= 0
        ):
            # The server could not read the last thing we sent, and that was the only request that waits.
            self._pending.pop(self._last_sent).answer(message)
            return
        self.unknown_ids += 1
        self._tell("unknown id", line)

    def _on_notification(self, line: bytes, method: str, message: envelope.Message) -> None:
        params = message.params
        if params is not UNSET:
            if method == "notifications/progress":
                self._on_progress(bytes(params))
                return
            if correlation.SUBSCRIPTION_BYTES in line:
                number = correlation.subscription_of(params)
                pending = self._pending.get(number)
                if pending is None or not pending.listen:
                    self.late_events += 1
                    return
                own = correlation.restore_subscription(params, pending.caller_id(number))
                self._hand_over(number, pending, envelope.notification(method, own))
                return
            if method == "notifications/cancelled" and self._on_torn_down(bytes(params)):
                return
        self.peer.on_notification(method, line)

    def _on_progress(self, params: bytes) -> None:
        number, top = correlation.progress_of(params)
        pending = self._pending.get(number)
        if pending is None or pending.token is None:
            self.late_events += 1
            return
        self.suspicion.alive()
        if pending.call is not None:
            pending.call.progressed(self._clock())
        self._hand_over(number, pending, correlation.restore_progress(top, pending.token))

    def _on_torn_down(self, params: bytes) -> bool:
        """Whether a server's cancellation ends a subscription (MCP 2026-07-28 `basic/patterns/cancellation`).

        Else it is of a request of the server's own (legacy), which is for the peer to know.
        """
        number = correlation.cancelled_request(params)
        pending = self._pending.get(number)
        if pending is None or not pending.listen:
            return False
        del self._pending[number]
        pending.complete(number)
        return True

    def _hand_over(self, number: int, pending: Pending, message: bytes) -> None:
        try:
            pending.emit(message)
        except CallError as error:
            pending.fail(error)
            self._give_up(number, pending, "the caller does not read")

    # --- what is not understood

    def _not_understood(self, line: bytes, *, too_deep: bool = False) -> None:
        if envelope.is_batch(line) and self._on_batch(line):
            return
        self.garbage_lines += 1
        self._tell("garbage", line)
        number = correlation.number(find_id(line[:1024], line[-256:]))
        if number < 0 and b"jsonrpc" in line[:1024] and b'"method"' not in line[:1024]:
            # It was meant to be an answer, and there is only one that it can be (notes/resilience.md D.3 row 6).
            number = self._sole()
        pending = self._pending.pop(number, None)
        if pending is not None:
            # a caller may have made the server repeat what is deep, and must not open the breaker for others by that
            pending.invalid(
                "an answer that is nested too deeply" if too_deep else "an answer that is not JSON-RPC",
                counted=not too_deep,
            )
        else:
            self.suspicion.garbage()

    def _on_batch(self, line: bytes) -> bool:
        """A JSON array of messages (revision 2025-03-26)."""
        try:
            batch = envelope.split_batch(line)
        except envelope.EnvelopeError:
            return False
        for single in batch:
            if not envelope.is_batch(single):
                self._on_message(single)
        return True

    def _on_oversized(self, line: Oversized) -> None:
        self.oversized_lines += 1
        self._tell("oversized", line.head)
        number = correlation.number(line.id())
        if number < 0 and b'"method"' not in line.head[:1024]:
            number = self._sole()
        pending = self._pending.pop(number, None)
        if pending is not None:
            message = f"the server's answer has {line.size} bytes, more than the limit"
            pending.fail(UpstreamError(Reason.RESULT_TOO_LARGE, message, delivery=Delivery.MAYBE, counted=False))

    def _sole(self) -> int:
        """The one call that waits for an answer, -1 where there are none or several."""
        waiting = [number for number, pending in self._pending.items() if not pending.listen]
        return waiting[0] if len(waiting) == 1 else -1

    def _tell(self, kind: str, sample: bytes) -> None:
        if self._report is not None:
            now = self._clock()
            if now >= self._next_report:
                self._next_report = now + 1.0
                self._report(kind, sample[:_SAMPLE])

    # --- giving up

    def _give_up(self, number: int, pending: Pending, why: str) -> None:
        """Forget a request whose caller waits no more, and tell the server."""
        if pending.future.done() and not pending.future.cancelled():
            pending.future.exception()
        if self._pending.pop(number, None) is None or pending.sent is None or self._error is not None:
            return
        if pending.sent.withdraw():
            return
        if pending.call is not None:
            pending.call.written = True
        self.abandoned += 1
        self._abandoned[number] = None
        if len(self._abandoned) > _FORGET:
            del self._abandoned[next(iter(self._abandoned))]
        if pending.method not in NOT_CANCELLABLE:
            self._post(
                b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d,"reason":%b}}'
                % (number, envelope.encode(why))
            )
        if not pending.listen:
            self.suspicion.request_given_up()

    def _on_closed(self, error: UpstreamError) -> None:
        if self._error is not None:
            return
        self._error = error
        waiting, self._pending = self._pending, {}
        for pending in waiting.values():
            pending.lost(error)
        self._abandoned.clear()
        self.peer.on_closed(error)
        if self.on_end is not None:
            self.on_end()


def _one_line(raw: bytes) -> bytes:
    """Newlines outside of JSON strings are white space, and inside they are not JSON: no message can lose by this."""
    if b"\n" in raw or b"\r" in raw:
        return raw.replace(b"\n", b" ").replace(b"\r", b" ")
    return raw

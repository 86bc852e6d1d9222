"""A request on its way: who waits for it, how its interim messages reach the caller, how far it got.

Used by the multiplexer alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import UNSET

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.call import Call, Event, Reply
from mcp_sidecar.protocol import correlation
from mcp_sidecar.protocol.envelope import Message, compose, is_error
from mcp_sidecar.upstream.channel import Sent

LISTEN: Final = "subscriptions/listen"


class Pending:
    """A request that waits for its answer. `token` is the caller's own progress token, raw JSON."""

    __slots__ = ("call", "future", "listen", "method", "on_event", "sent", "token")

    def __init__(
        self,
        method: str,
        future: asyncio.Future[Reply],
        on_event: Callable[[bytes], None] | None,
        call: Call | None,
    ) -> None:
        self.method = method
        self.future = future
        self.on_event = on_event
        self.call = call
        self.listen = method == LISTEN
        self.token: bytes | None = None
        self.sent: Sent | None = None

    def caller_id(self, number: int) -> bytes:
        """The caller's raw id, `number` where the sidecar itself asked."""
        return b"%d" % number if self.call is None else self.call.id

    def answer(self, message: Message) -> bool:
        """Hand the answer to who waits; False where nobody does any more."""
        if self.future.done():
            return False
        error, result = message.error, message.result
        if error is not UNSET and bytes(error) != b"null":
            if result is not UNSET and bytes(result) != b"null":
                self.invalid("an answer with both a result and an error")
            elif not is_error(bytes(error)):
                self.invalid("an answer whose error has no code or no message")
            else:
                self.future.set_result(Reply(error=bytes(error)))
        elif result is UNSET:
            self.invalid("an answer with neither a result nor an error")
        else:
            raw = bytes(result)
            if self.listen and self.call is not None and correlation.subscription_of(raw) >= 0:
                raw = correlation.restore_subscription(raw, self.call.id)
            self.future.set_result(Reply(raw))
        return True

    def complete(self, number: int) -> None:
        """The server tore the subscription down without an answer: end it as an answer would."""
        if not self.future.done():
            meta = compose({correlation.SUBSCRIPTION_ID: self.caller_id(number)})
            self.future.set_result(Reply(b'{"resultType":"complete","_meta":%b}' % meta))

    def fail(self, error: Exception) -> None:
        """End the waiting by an error."""
        if not self.future.done():
            self.future.set_exception(error)

    def invalid(self, what: str, *, counted: bool = True) -> None:
        """The answer came and cannot be used. `counted`: as a failure of the server, by the breaker."""
        message = f"the server sent {what}"
        self.fail(UpstreamError(Reason.PROTOCOL_ERROR, message, delivery=Delivery.MAYBE, counted=counted))

    def lost(self, error: UpstreamError) -> None:
        """The channel died by `error`."""
        delivered = self.sent is not None and self.sent.delivered
        self.fail(with_delivery(error, Delivery.MAYBE if delivered else Delivery.NOT_SENT))

    def emit(self, message: bytes) -> None:
        """Pass an interim message on. Raises CallError when the caller has too much unread."""
        if self.on_event is not None:
            self.on_event(message)
        elif self.call is not None:
            self.call.emit(Event(message))


def with_delivery(error: UpstreamError, delivery: Delivery) -> UpstreamError:
    """The same failure as one request sees it: exceptions are never shared between tasks."""
    seen = UpstreamError(
        error.reason, error.message, delivery=delivery, retry_after=error.retry_after, counted=error.counted
    )
    seen.origin = error.origin
    return seen

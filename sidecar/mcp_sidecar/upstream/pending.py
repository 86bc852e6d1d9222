"""A request on its way: who waits for it, how its interim messages reach the caller, how far it got.

Used by the multiplexer alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.call import Call, Event, Reply
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

    def answer(self, reply: Reply) -> bool:
        """Hand the answer to who waits; False where nobody does any more."""
        if self.future.done():
            return False
        self.future.set_result(reply)
        return True

    def fail(self, error: Exception) -> None:
        """End the waiting by an error."""
        if not self.future.done():
            self.future.set_exception(error)

    def invalid(self, what: str) -> None:
        """The answer came and cannot be used."""
        self.fail(UpstreamError(Reason.PROTOCOL_ERROR, f"the server sent {what}", delivery=Delivery.MAYBE))

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
    return UpstreamError(
        error.reason, error.message, delivery=delivery, retry_after=error.retry_after, counted=error.counted
    )

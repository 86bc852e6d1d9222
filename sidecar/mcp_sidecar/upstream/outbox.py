"""What a server says to a legacy caller outside of any answer: waits here for the caller's GET stream.

Bounded: a caller that opens no stream loses the oldest messages, which is what it would have had without us.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from mcp_sidecar.errors import CallError
from mcp_sidecar.pipeline.call import Event, Sink

_KEPT: Final = 256
_KEPT_BYTES: Final = 1 << 20
"""A server must not fill memory with what nobody fetches."""


class Outbox:
    """The messages for one caller. Several GET streams may be open; each message goes to the newest only."""

    __slots__ = ("_bytes", "_closed", "_sinks", "_waiting", "dropped")

    def __init__(self) -> None:
        self._sinks: list[Sink] = []
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._closed = asyncio.Event()
        self.dropped = 0

    @property
    def has_stream(self) -> bool:
        """Whether somebody listens."""
        return bool(self._sinks)

    def deliver(self, message: bytes) -> None:
        """Pass a message on, or keep it for the next stream."""
        while self._sinks:
            sink = self._sinks[-1]
            try:
                sink.emit(Event(message))
            except CallError:
                self._sinks.remove(sink)
            else:
                return
        self._waiting.append(message)
        self._bytes += len(message)
        while len(self._waiting) > _KEPT or self._bytes > _KEPT_BYTES:
            self._bytes -= len(self._waiting.popleft())
            self.dropped += 1

    async def serve(self, sink: Sink) -> None:
        """Be the stream of `sink` until the outbox closes."""
        sink.open()
        self._sinks.append(sink)
        try:
            while self._waiting:
                sink.emit(Event(self._waiting[0]))
                self._bytes -= len(self._waiting.popleft())
            await self._closed.wait()
        finally:
            if sink in self._sinks:
                self._sinks.remove(sink)

    def close(self) -> None:
        """End all streams: the session is over."""
        self._closed.set()

"""A legacy session with a process of its own (`isolation: PerSession`), or with a stream of its own (HTTP+SSE).

The process speaks with this caller alone, so everything the server can do passes: its requests (sampling, elicitation,
roots), its log, its notices. Over stdio nothing says which call a server's message belongs to; it goes out on the newest
call's stream, or waits for the GET stream. When the process dies the session is lost: replay into a fresh one would
give wrong answers (design.md, "Sessions").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import UNSET, Raw

from mcp_sidecar.errors import CallError, SessionLost, UpstreamError
from mcp_sidecar.pipeline.call import Call, Event, Reply
from mcp_sidecar.protocol import envelope
from mcp_sidecar.upstream.audience import LIST_CHANGES, UPDATED
from mcp_sidecar.upstream.channel import Channel
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.outbox import Outbox
from mcp_sidecar.upstream.profile import Profile, profile_of

_UNRELATED: Final = frozenset({*LIST_CHANGES, UPDATED})
"""Notices that belong to no call."""


class OwnProcess:
    """One session's process. An owner task opens and closes the channel; nobody else does."""

    def __init__(
        self,
        channel: Channel,
        *,
        ids: Callable[[], int],
        clock: Callable[[], float],
        report: Callable[[str, bytes], None],
    ) -> None:
        self.outbox = Outbox()
        self.profile: Profile | None = None
        self.last_used = clock()
        self._clock = clock
        self._asked: set[bytes] = set()
        """Raw ids of the server's requests that the caller has not answered."""
        self._ended = asyncio.Event()
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost: UpstreamError | None = None
        self.on_ended: Callable[[OwnProcess], None] | None = None
        self.multiplexer = Multiplexer(channel, ids=ids, clock=clock, peer=self, report=report)
        self._owner = asyncio.get_running_loop().create_task(self._own(channel), name="own-process")

    async def _own(self, channel: Channel) -> None:
        try:
            try:
                await channel.open()
            except CallError as error:
                self._lost = error if isinstance(error, UpstreamError) else None
                if not self._opened.done():
                    self._opened.set_exception(error)
                return
            if not self._opened.done():
                self._opened.set_result(None)
            await self._ended.wait()
            await channel.close("session over")
        finally:
            self._ended.set()
            self.outbox.close()
            if not self._opened.done():
                self._opened.cancel()
            if self.on_ended is not None:
                self.on_ended(self)

    @property
    def over(self) -> bool:
        """The process is gone, or about to go."""
        return self._ended.is_set()

    @property
    def busy(self) -> bool:
        """A call is in flight, or a stream is open."""
        return self.multiplexer.in_flight > 0 or self.multiplexer.streams > 0 or self.outbox.has_stream

    async def initialize(self, call: Call) -> Reply:
        """Start the process and pass the caller's own `initialize` on. Raises UpstreamError where it does not start."""
        await asyncio.shield(self._opened)
        reply = await self.multiplexer.request(call.method, call.params, call=call)
        if reply.result is not None:
            self.profile = profile_of(reply)
        return reply

    async def exchange(self, call: Call) -> Reply:
        """One call of the session. Raises SessionLost when the process is gone."""
        if self.over:
            raise SessionLost("the process of this session is gone: begin a new one")
        self.last_used = self._clock()
        try:
            return await self.multiplexer.request(call.method, call.params, call=call)
        finally:
            self.last_used = self._clock()

    def forward(self, message: envelope.Message) -> None:
        """The caller's notification, or its response to a request of the server."""
        self.last_used = self._clock()
        if message.method is not UNSET:
            self.multiplexer.notify(message.method, None if message.params is UNSET else bytes(message.params))
            return
        id = bytes(message.id) if message.id is not UNSET else b"null"
        if id not in self._asked:
            return  # nobody asked for this
        self._asked.discard(id)
        if not self._asked:
            for call in self.multiplexer.calls():
                call.resume(self._clock())
        if isinstance(message.error, Raw):
            self.multiplexer.respond(id, error=bytes(message.error))
        else:
            self.multiplexer.respond(id, result=bytes(message.result) if isinstance(message.result, Raw) else b"{}")

    def on_notification(self, method: str, message: bytes) -> None:
        """See Peer."""
        self._say(message, related=method not in _UNRELATED)

    def on_request(self, id_raw: bytes, method: str, params: bytes | None, message: bytes) -> None:
        """See Peer: the caller is asked; which call waits for it cannot be known, so time stands still for all."""
        self._asked.add(id_raw)
        now = self._clock()
        for call in self.multiplexer.calls():
            call.pause(now)
        self._say(message, related=True)

    def on_closed(self, error: UpstreamError) -> None:
        """See Peer."""
        self._lost = error
        self._ended.set()

    def _say(self, message: bytes, *, related: bool) -> None:
        if related:
            calls = list(self.multiplexer.calls())
            if calls:
                try:
                    calls[-1].emit(Event(message))
                except CallError:
                    pass
                else:
                    return
        self.outbox.deliver(message)

    async def close(self) -> None:
        """End the process, in good order."""
        self._ended.set()
        await asyncio.wait((self._owner,))

"""A legacy session with a process of its own (`isolation: PerSession`), or with a stream of its own (HTTP+SSE).

The process speaks with this caller alone, so everything the server can do passes: its requests (sampling, elicitation,
roots), its log, its notices. Over stdio nothing says which call a server's message belongs to; it goes out on the
newest call's stream, or waits for the GET stream. When the process dies the session is lost: replay into a fresh one
would give wrong answers (design.md, "Sessions"), unless the config says that the server keeps nothing in a session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import UNSET, Raw

from mcp_sidecar.errors import CallError, Reason, SessionLost, UpstreamError
from mcp_sidecar.pipeline.call import Call, Era, Event, Reply
from mcp_sidecar.pipeline.upstream import LegacySession
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.revisions import INITIALIZE
from mcp_sidecar.upstream.audience import LIST_CHANGES, UPDATED
from mcp_sidecar.upstream.channel import Channel, StartError
from mcp_sidecar.upstream.lost_sessions import initialize_params_of
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.outbox import Outbox
from mcp_sidecar.upstream.profile import Profile, profile_of

_UNRELATED: Final = frozenset({*LIST_CHANGES, UPDATED})
"""Notices that belong to no call."""
_CANCELLED: Final = "notifications/cancelled"
_MAX_QUESTIONS: Final = 256
_SIGN_OF_LIFE: Final = 1.0
"""Seconds between the times a call is told that its process is still being started."""


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
        self._asked: dict[bytes, tuple[bytes, list[Call]]] = {}
        """The server's requests that the caller has not answered, by id: the id as it was spelled, and for which calls
        time stands still meanwhile."""
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

    async def initialize(self, call: Call, start_timeout: float) -> Reply:
        """Start the process and pass the caller's own `initialize` on. Raises UpstreamError where it does not start.

        A start may take longer than an attempt of a call (npx and uvx download first): `start_timeout` bounds it.
        """
        alive = asyncio.get_running_loop().create_task(self._show_life(call), name="start-of-own-process")
        try:
            async with asyncio.timeout(start_timeout):
                await asyncio.shield(self._opened)
                reply = await self.multiplexer.request(call.method, call.params, call=call)
        except TimeoutError:
            raise StartError(
                "timeout",
                f"the server did not start: no answer within {start_timeout:g} s",
                reason=Reason.START_FAILED,
            ) from None
        finally:
            alive.cancel()
        if reply.result is not None:
            self.profile = profile_of(reply)
        return reply

    async def _show_life(self, call: Call) -> None:
        while True:
            await asyncio.sleep(_SIGN_OF_LIFE)
            call.progressed(self._clock())

    async def reopen(self, session: LegacySession, start_timeout: float) -> None:
        """Begin a session that was lost anew, as its caller had begun it. Raises UpstreamError."""
        params = initialize_params_of(session)
        call = Call(server="", id=b"0", method=INITIALIZE, params=params, era=Era.LEGACY, version=session.version)
        self.profile = profile_of(await self.initialize(call, start_timeout))
        self.multiplexer.notify("notifications/initialized")

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
        asked = self._answered(b"null" if message.id is UNSET else bytes(message.id))
        if asked is None:
            return  # nobody asked for this
        if isinstance(message.error, Raw):
            self.multiplexer.respond(asked, error=bytes(message.error))
        else:
            self.multiplexer.respond(asked, result=bytes(message.result) if isinstance(message.result, Raw) else b"{}")

    def _answered(self, id: bytes) -> bytes | None:
        """A question is settled: its id as the server spells it, None where there is no such question."""
        spelled, calls = self._asked.pop(envelope.canonical_id(id), (None, []))
        waiting = [call for _, others in self._asked.values() for call in others]
        for call in calls:
            if call not in waiting:
                call.resume(self._clock())
        return spelled

    def on_notification(self, method: str, message: bytes) -> None:
        """See Peer."""
        if method == _CANCELLED:
            params = envelope.parse(message).params
            cancelled = envelope.members(params).get("requestId") if isinstance(params, Raw) else None
            if cancelled is None or self._answered(bytes(cancelled)) is None:
                return  # nothing that its caller was asked
        self._say(message, related=method not in _UNRELATED)

    def on_request(self, id_raw: bytes, method: str, params: bytes | None, message: bytes) -> None:
        """See Peer: the caller is asked; which call waits for it cannot be known, so time stands still for all."""
        now = self._clock()
        calls = list(self.multiplexer.calls())
        for call in calls:
            call.pause(now)
        if len(self._asked) >= _MAX_QUESTIONS:
            self._answered(next(iter(self._asked)))
        self._asked[envelope.canonical_id(id_raw)] = (id_raw, calls)
        self._say(message, related=True)

    def on_closed(self, error: UpstreamError) -> None:
        """See Peer."""
        self._lost = error
        self._ended.set()

    def _say(self, message: bytes, *, related: bool) -> None:
        """To the newest call whose caller still listens, else to the session's own stream."""
        if related:
            for call in reversed(list(self.multiplexer.calls())):
                if call.unheard:
                    continue
                try:
                    call.emit(Event(message))
                except CallError:
                    continue
                return
        self.outbox.deliver(message)

    async def drain(self, grace: float) -> None:
        """Let calls finish, at most `grace` seconds, then end the process."""
        multiplexer = self.multiplexer
        idle = asyncio.Event()
        multiplexer.on_idle = idle.set
        try:
            async with asyncio.timeout(grace):
                while multiplexer.in_flight and not self.over:
                    idle.clear()
                    await idle.wait()
        except TimeoutError:
            pass
        await self.close()

    async def close(self) -> None:
        """End the process, in good order."""
        self._ended.set()
        await asyncio.wait((self._owner,))

"""A stdio server whose processes are shared by all callers: every caller served in their own era.

What differs between the eras is translated (protocol/translate.py). Which processes there are and what they speak,
`shared_processes` knows; who hears what, `audience`; what must be told to each new process, `standing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Raw

from mcp_sidecar.errors import CallError
from mcp_sidecar.pipeline.call import Call, Era, Reply, Source
from mcp_sidecar.protocol import envelope, translate
from mcp_sidecar.protocol.revisions import DISCOVER, INITIALIZE, negotiate
from mcp_sidecar.upstream import profile as profiles
from mcp_sidecar.upstream.audience import Audience, Listener, OnChange, SharedSession
from mcp_sidecar.upstream.child_pool import ChildPool
from mcp_sidecar.upstream.input_rounds import answer_inputs
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.profile import Profile
from mcp_sidecar.upstream.shared_processes import SharedPeer, SharedProcesses, Started
from mcp_sidecar.upstream.standing import METHODS, StandingRequests

_EMPTY: Final = b"{}"
_LEGACY_ONLY: Final = METHODS | {INITIALIZE, "ping"}


class SharedServer:
    """See the module."""

    def __init__(
        self,
        make_pool: Callable[[Started, Started], ChildPool],
        *,
        on_change: OnChange,
        clock: Callable[[], float],
        discover_timeout: float = profiles.DISCOVER_TIMEOUT,
    ) -> None:
        """`make_pool(started, probe)` makes a pool; `started(multiplexer)` is awaited for each new process before it
        is used, and its failure is a failed start; `probe(multiplexer)` asks a suspect one for a sign of life."""
        self._clock = clock
        self.audience = Audience(on_change)
        self.processes = SharedProcesses(make_pool, self.audience, self._restore, discover_timeout=discover_timeout)
        self._standing = StandingRequests(
            self.audience, lambda: self.processes.ready(Era.LEGACY), self.processes.refresh_feed
        )

    def peer(self) -> SharedPeer:
        """Who a new process talks to."""
        return SharedPeer(self.audience)

    # --- calls

    async def exchange(self, call: Call) -> Reply:
        """One attempt of a modern caller's call, or of a legacy caller's on a session of ours."""
        if call.era is Era.MODERN:
            return await self._modern(call)
        state = call.session.state
        assert isinstance(state, SharedSession)
        return await self._legacy(call, state)

    async def _modern(self, call: Call) -> Reply:
        method = call.method
        if method in _LEGACY_ONLY:
            return _not_found(method)  # a modern process of SDK 2.3.0 answers `initialize` with -32022
        multiplexer, profile = await self.processes.acquire(Era.MODERN, call)
        if profile.era is Era.MODERN:
            return await multiplexer.request(method, call.params, call=call)
        if method == DISCOVER:
            return _ours(translate.discover_result(profile.raw))
        if method not in profile.methods:
            return _not_found(method)
        reply = await multiplexer.request(method, translate.legacy_params(call.params), call=call)
        if reply.error is not None:
            return Reply(error=translate.modern_error(reply.error))
        return Reply(translate.modern_result(method, reply.result or _EMPTY))

    async def _legacy(self, call: Call, state: SharedSession) -> Reply:
        multiplexer, profile = await self.processes.acquire(Era.LEGACY, call)
        method = call.method
        if method in METHODS:
            return await self._standing.ask(call, state, multiplexer, profile)
        if profile.era is Era.LEGACY:
            if method not in profile.methods:
                return _not_found(method)
            return await multiplexer.request(method, call.params, call=call)
        if method == "ping":
            return _ours(_EMPTY)
        if method not in profile.methods or method == DISCOVER:
            return _not_found(method)
        return await answer_inputs(call, state, multiplexer, self._clock)

    async def listen(self, call: Call) -> Reply:
        """A modern caller's stream of changes."""
        multiplexer, profile = await self.processes.acquire(Era.MODERN, call)
        if profile.era is Era.MODERN:
            return await multiplexer.request(call.method, call.params, call=call)
        try:
            listener = Listener(call, profile, self)
        except envelope.EnvelopeError as error:
            return Reply(error=envelope.error_object(error.code, str(error)))
        try:
            await self._standing.want(listener)
            listener.acknowledge()
            self.audience.listeners.add(listener)
            await listener.ended
        finally:
            # the server may have been replaced meanwhile: its successor has the listener now
            listener.home.stop_listening(listener)
        return _ours(translate.listen_result(call.id))

    def stop_listening(self, listener: Listener) -> None:
        """The caller of a `subscriptions/listen` is gone, or its stream was ended."""
        self.audience.listeners.discard(listener)
        self._standing.unwant(listener.wanted)

    # --- sessions

    async def initialize(self, call: Call) -> Reply:
        """Open a legacy session: answered from what the process said when it was started."""
        _, profile = await self.processes.acquire(Era.LEGACY, call)
        opening = call.session
        opening.version = version = negotiate(opening.version)
        opening.state = self.session()
        if profile.era is Era.MODERN:
            return _ours(translate.initialize_result(profile.raw, version))
        return _ours(translate.with_version(profile.raw, version))

    def session(self) -> SharedSession:
        """A new session, or one whose token outlived a restart of the sidecar."""
        state = SharedSession()
        self.audience.sessions.add(state)
        return state

    def end_session(self, state: SharedSession) -> None:
        """The session is over."""
        self.audience.sessions.discard(state)
        uris, state.uris = state.uris, set()
        state.end()
        self._standing.unwant(sorted(uris))

    def respond(self, state: SharedSession, message: envelope.Message) -> None:
        """A caller's response to a request of ours (only callers of a modern server are ever asked)."""
        if not isinstance(message.id, Raw):
            return
        future = state.asked.get(envelope.canonical_id(bytes(message.id)))
        if future is not None and not future.done():
            if isinstance(message.error, Raw):
                future.set_result(Reply(error=bytes(message.error)))
            else:
                future.set_result(Reply(bytes(message.result) if isinstance(message.result, Raw) else _EMPTY))

    # --- life

    async def _restore(self, multiplexer: Multiplexer) -> None:
        await self._standing.restore(multiplexer)

    @property
    def profile(self) -> Profile | None:
        """What the server said of itself, the newer era's word first."""
        return self.processes.profile

    async def adopt(self, other: SharedServer) -> None:
        """Take over the callers of the server that this one replaces."""
        self.audience.adopt(other.audience, self)
        for multiplexer in self.processes.ready(Era.LEGACY):
            try:
                await self._standing.restore(multiplexer)
            except CallError:
                continue  # it died: the next one is told when it is started
        self.processes.refresh_feed()
        if self.profile is not None:
            self.audience.changed_everything(self.profile)

    async def drain(self, grace: float) -> None:
        """Let calls finish, then end."""
        self.audience.close()
        await self.processes.drain(grace)
        self._standing.close()

    async def close(self) -> None:
        """End all processes."""
        self._standing.close()
        self.audience.close()
        await self.processes.close()


def _not_found(method: str) -> Reply:
    """The answer to a method that the server's own revision does not have."""
    error = envelope.error_object(envelope.METHOD_NOT_FOUND, f"method not found: {method}")
    return Reply(error=error, source=Source.SIDECAR)


def _ours(result: bytes) -> Reply:
    """An answer that the sidecar gives itself."""
    return Reply(result, source=Source.SIDECAR)

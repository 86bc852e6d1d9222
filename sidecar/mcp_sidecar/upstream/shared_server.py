"""A stdio server whose processes are shared by all callers: which era it speaks, and every caller served in theirs.

The first process is asked by `server/discover`; one that dies of the question is legacy, is started again and not asked
again. A dual-era server gets a process per era once callers of both eras are there. What differs between the eras is
translated (protocol/translate.py); who hears what, is `audience`'s business, and starting and stopping, the pool's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from mcp_sidecar.errors import CallError, Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.call import Call, Era, Reply, Source
from mcp_sidecar.protocol import envelope, translate
from mcp_sidecar.protocol.revisions import DISCOVER, INITIALIZE, MODERN_METHODS, legacy_methods, negotiate
from mcp_sidecar.upstream import profile as profiles
from mcp_sidecar.upstream.audience import LEVELS, Audience, Listener, OnChange, SharedSession
from mcp_sidecar.upstream.child_pool import ChildPool
from mcp_sidecar.upstream.input_rounds import answer_inputs
from mcp_sidecar.upstream.listen_feed import ListenFeed
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.profile import InitializeRefused, Profile

_EMPTY: Final = b"{}"
_LEGACY_ONLY: Final = frozenset(
    {INITIALIZE, "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"}
)


Started = Callable[[Multiplexer], Awaitable[None]]


def not_found(method: str) -> Reply:
    """The answer to a method that the server's own revision does not have."""
    error = envelope.error_object(envelope.METHOD_NOT_FOUND, f"method not found: {method}")
    return Reply(error=error, source=Source.SIDECAR)


def ours(result: bytes) -> Reply:
    """An answer that the sidecar gives itself."""
    return Reply(result, source=Source.SIDECAR)


class SharedPeer:
    """What a shared process says on its own account goes to the audience; what it asks cannot be asked of anybody."""

    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self.multiplexer: Multiplexer | None = None

    def on_notification(self, method: str, message: bytes) -> None:
        """See Peer."""
        self._audience.hear(method, message)

    def on_request(self, id_raw: bytes, method: str, params: bytes | None, message: bytes) -> None:
        """See Peer: no capability was offered, so only `ping` is answered."""
        if self.multiplexer is None:
            return
        if method == "ping":
            self.multiplexer.respond(id_raw, result=_EMPTY)
        else:
            error = envelope.error_object(envelope.METHOD_NOT_FOUND, f"not offered by this client: {method}")
            self.multiplexer.respond(id_raw, error=error)

    def on_closed(self, error: UpstreamError) -> None:
        """See Peer."""


class SharedServer:
    """The shared processes of one server."""

    def __init__(
        self,
        make_processes: Callable[[Started, Started], ChildPool],
        *,
        on_change: OnChange,
        clock: Callable[[], float],
        discover_timeout: float = profiles.DISCOVER_TIMEOUT,
    ) -> None:
        """`make_processes(started, probe)` makes a pool; `started(multiplexer)` is awaited for each new process before
        it is used, and its failure is a failed start; `probe(multiplexer)` asks a suspect one for a sign of life."""
        self._make_processes = make_processes
        self._clock = clock
        self._discover_timeout = discover_timeout
        self._groups: dict[Era, ChildPool] = {}
        self._profiles: dict[Era, Profile] = {}
        self._feeds: dict[Multiplexer, ListenFeed] = {}
        self._era: Era | None = None
        """What a process answered to the first question; None as long as none was asked."""
        self._dies_of_discover = False
        self._serves_legacy: bool | None = None
        """Whether a modern server knows `initialize` as well; None as long as nobody asked."""
        self._deciding: asyncio.Lock = asyncio.Lock()
        self.audience = Audience(on_change)
        self._asides: set[asyncio.Task[None]] = set()

    # --- which processes

    async def _group(self, era: Era) -> tuple[ChildPool, Era]:
        """The processes that serve callers of `era`, and what they speak."""
        if self._era is None:
            async with self._deciding:
                if self._era is None:
                    return await self._decide()
        if self._era is Era.LEGACY or era is Era.MODERN or self._serves_legacy is False:
            return self._groups[self._era], self._era
        group = self._groups.get(Era.LEGACY)
        if group is None:
            group = self._groups[Era.LEGACY] = self._make(self._start_legacy)
        if self._serves_legacy is None:
            try:
                await group.acquire()
                self._serves_legacy = True
            except UpstreamError:
                if self._serves_legacy is not False:
                    raise
                self._groups.pop(Era.LEGACY, None)
                await group.close()
                return self._groups[Era.MODERN], Era.MODERN
        return group, Era.LEGACY

    def _make(self, started: Started) -> ChildPool:
        group = self._make_processes(started, self._ask_for_life)
        group.start()
        return group

    async def _decide(self) -> tuple[ChildPool, Era]:
        group = self._groups.get(Era.MODERN) or self._make(self._start_first)
        self._groups[Era.MODERN] = group
        await group.acquire()
        assert self._era is not None
        if self._era is Era.LEGACY:
            self._groups = {Era.LEGACY: group}
        return group, self._era

    async def _start_first(self, multiplexer: Multiplexer) -> None:
        """Open the conversation with a process of a server whose era is, or was, to be found out."""
        _attach(multiplexer)
        profile = None
        if not self._dies_of_discover and self._era is not Era.LEGACY:
            try:
                profile = await profiles.discover(multiplexer, self._discover_timeout)
            except UpstreamError as error:
                if error.reason in (Reason.CHILD_EXITED, Reason.CONNECTION_LOST) and self._era is None:
                    self._dies_of_discover = True
                    error.counted = False  # not the server's failure: start another at once
                raise
        if profile is None:
            profile = await profiles.initialize(multiplexer)
        self._era = self._era or profile.era
        await self._started(multiplexer, profile)

    async def _start_legacy(self, multiplexer: Multiplexer) -> None:
        _attach(multiplexer)
        try:
            profile = await profiles.initialize(multiplexer)
        except InitializeRefused:
            if self._serves_legacy is None:
                self._serves_legacy = False
            raise
        await self._started(multiplexer, profile)

    async def _started(self, multiplexer: Multiplexer, profile: Profile) -> None:
        restarted = profile.era in self._profiles
        self._profiles[profile.era] = profile
        if profile.era is Era.MODERN:
            self._feed(multiplexer, profile)
        else:
            await self._restore(multiplexer)
        if restarted:
            self.audience.changed_everything(profile)

    async def _restore(self, multiplexer: Multiplexer) -> None:
        """Tell a legacy process what the sessions had asked of the one before."""
        level = self.audience.level
        if level is not None:
            await multiplexer.request("logging/setLevel", envelope.encode({"level": level}))
        for uri in self.audience.uris:
            await multiplexer.request("resources/subscribe", envelope.encode({"uri": uri}))

    async def adopt(self, other: SharedServer) -> None:
        """Take over the callers of the server that this one replaces."""
        self.audience.adopt(other.audience)
        for multiplexer in _ready(self._groups.get(Era.LEGACY)):
            await self._restore(multiplexer)
        self._refresh_feeds()
        profile = self.profile
        if profile is not None:
            self.audience.changed_everything(profile)

    def rotate(self, reason: str) -> None:
        """New secrets: move to new processes, each old one only when its successor is ready."""
        for group in self._groups.values():
            group.replace(reason)

    def _feed(self, multiplexer: Multiplexer, profile: Profile) -> None:
        """Listen to a modern process for the legacy sessions and for the cache; one process is enough."""
        self._feeds = {each: feed for each, feed in self._feeds.items() if not each.closed}
        if not self._feeds:
            self._feeds[multiplexer] = ListenFeed(multiplexer, profile, self.audience)

    # --- calls

    async def exchange(self, call: Call) -> Reply:
        """One attempt of a modern caller's call, or of a legacy caller's on a session of ours."""
        if call.era is Era.MODERN:
            return await self._modern(call)
        return await self._legacy(call)

    async def _modern(self, call: Call) -> Reply:
        method = call.method
        if method in _LEGACY_ONLY:
            return not_found(method)  # a modern process of SDK 2.3.0 answers `initialize` with -32022
        group, era = await self._group(Era.MODERN)
        if era is Era.MODERN:
            multiplexer = await group.acquire(call)
            return await multiplexer.request(method, call.params, call=call)
        profile = self._profiles[Era.LEGACY]
        if method == DISCOVER:
            await group.acquire(call)  # the answer is known, but a server that is down must not be called well
            return ours(translate.discover_result(self._profiles[Era.LEGACY].raw))
        if method not in legacy_methods(profile.version):
            return not_found(method)
        multiplexer = await group.acquire(call)
        reply = await multiplexer.request(method, translate.legacy_params(call.params), call=call)
        if reply.error is not None:
            return Reply(error=translate.modern_error(reply.error))
        return Reply(translate.modern_result(method, reply.result or _EMPTY))

    async def _legacy(self, call: Call) -> Reply:
        group, era = await self._group(Era.LEGACY)
        method = call.method
        state = call.session.state if call.session is not None else None
        assert isinstance(state, SharedSession)
        if method == "logging/setLevel":
            return await self._set_level(call, state, group, era)
        if method in ("resources/subscribe", "resources/unsubscribe"):
            return await self._subscribe(call, state, group, era)
        if era is Era.LEGACY:
            if method not in legacy_methods(self._profiles[Era.LEGACY].version):
                return not_found(method)
            multiplexer = await group.acquire(call)
            return await multiplexer.request(method, call.params, call=call)
        multiplexer = await group.acquire(call)
        if method == "ping":
            return ours(_EMPTY)
        if method not in MODERN_METHODS or method == DISCOVER:
            return not_found(method)
        return await answer_inputs(call, state, multiplexer, self._clock)

    async def initialize(self, call: Call) -> Reply:
        """Open a legacy session: answered from what the process said when it was started."""
        group, era = await self._group(Era.LEGACY)
        await group.acquire(call)
        opening = call.session
        version = negotiate(opening.version)
        opening.version = version
        opening.state = self.session()
        profile = self._profiles[era]
        if era is Era.MODERN:
            return ours(translate.initialize_result(profile.raw, version))
        return ours(translate.with_version(profile.raw, version))

    def session(self) -> SharedSession:
        """A new session, or one whose token outlived a restart of the sidecar."""
        state = SharedSession()
        self.audience.sessions.add(state)
        return state

    def end_session(self, state: SharedSession) -> None:
        """The session is over."""
        self.audience.sessions.discard(state)
        state.outbox.close()
        for uri in state.uris:
            if self.audience.unwant(uri):
                self._tell("resources/unsubscribe", {"uri": uri})
        for future in state.asked.values():
            future.cancel()

    def _tell(self, method: str, params: dict[str, Any]) -> None:
        """Ask legacy processes something whose answer nobody waits for."""
        group = self._groups.get(Era.LEGACY)
        if group is None:
            self._refresh_feeds()
            return
        for multiplexer in _ready(group):
            task = asyncio.get_running_loop().create_task(self._ask_quietly(multiplexer, method, params))
            self._asides.add(task)
            task.add_done_callback(self._asides.discard)

    async def _ask_quietly(self, multiplexer: Multiplexer, method: str, params: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(10):
                await multiplexer.request(method, envelope.encode(params))
        except (TimeoutError, CallError):
            return

    async def _set_level(self, call: Call, state: SharedSession, group: ChildPool, era: Era) -> Reply:
        try:
            level = envelope.text(envelope.members(call.params or _EMPTY)["level"])
        except (KeyError, ValueError):
            level = ""
        if level not in LEVELS:
            return Reply(
                error=envelope.error_object(envelope.INVALID_PARAMS, f"level must be one of {', '.join(LEVELS)}")
            )
        before = self.audience.level
        if era is Era.LEGACY and "logging" not in self._profiles[Era.LEGACY].capabilities:
            multiplexer = await group.acquire(call)
            return await multiplexer.request(call.method, call.params, call=call)
        state.level = level
        if era is Era.LEGACY and self.audience.level != before:
            for multiplexer in _ready(group):
                await multiplexer.request(call.method, envelope.encode({"level": self.audience.level}), call=call)
        return ours(_EMPTY)

    async def _subscribe(self, call: Call, state: SharedSession, group: ChildPool, era: Era) -> Reply:
        uri = envelope.params_head(call.params).uri
        if not isinstance(uri, str):
            return Reply(error=envelope.error_object(envelope.INVALID_PARAMS, "params.uri is missing"))
        wanted = call.method == "resources/subscribe"
        if wanted == (uri in state.uris):
            return ours(_EMPTY)
        multiplexer = await group.acquire(call)
        if era is Era.LEGACY and (wanted or self.audience.uris.count(uri) == 1):
            reply = await multiplexer.request(call.method, call.params, call=call)
            if reply.error is not None:
                return reply
        if wanted:
            state.uris.add(uri)
            self.audience.want(uri)
        else:
            state.uris.discard(uri)
            self.audience.unwant(uri)
        self._refresh_feeds()
        return ours(_EMPTY)

    def _refresh_feeds(self) -> None:
        for feed in self._feeds.values():
            feed.refresh()

    async def listen(self, call: Call) -> Reply:
        """A modern caller's stream of changes."""
        group, era = await self._group(Era.MODERN)
        multiplexer = await group.acquire(call)
        if era is Era.MODERN:
            return await multiplexer.request(call.method, call.params, call=call)
        try:
            listener = Listener(call, self._profiles[Era.LEGACY])
        except envelope.EnvelopeError as error:
            return Reply(error=envelope.error_object(error.code, str(error)))
        listener.acknowledge()
        self.audience.listeners.add(listener)
        subscribed = []
        try:
            for uri in listener.uris:
                subscribed.append(uri)
                if self.audience.want(uri):
                    await multiplexer.request("resources/subscribe", envelope.encode({"uri": uri}))
            await listener.ended
        finally:
            self.audience.listeners.discard(listener)
            for uri in subscribed:
                if self.audience.unwant(uri):
                    self._tell("resources/unsubscribe", {"uri": uri})
        end = b'{"resultType":"complete","_meta":{%b:%b}}' % (envelope.encode(translate.SUBSCRIPTION_KEY), call.id)
        return ours(end)

    def respond(self, state: SharedSession, message: envelope.Message) -> None:
        """A caller's response to a request of ours (only callers of a modern server are ever asked)."""
        future = state.asked.get(bytes(message.id)) if isinstance(message.id, msgspec.Raw) else None
        if future is not None and not future.done():
            future.set_result(bytes(message.result) if isinstance(message.result, msgspec.Raw) else None)

    # --- life

    async def probe(self) -> Profile:
        """A sign of life from one process: starts it where there is none."""
        group, era = await self._group(Era.MODERN)
        await self._ask_for_life(await group.acquire())
        return self._profiles[era]

    async def _ask_for_life(self, multiplexer: Multiplexer) -> None:
        if self._profile_of(multiplexer) is Era.MODERN:
            reply = await multiplexer.request(DISCOVER, profiles.modern_meta())
        else:
            reply = await multiplexer.request("ping", None)
        if reply.error is not None and envelope.error_head(reply.error).code != envelope.METHOD_NOT_FOUND:
            code = envelope.error_head(reply.error).code
            raise UpstreamError(
                Reason.PROTOCOL_ERROR, f"the check was answered by error {code}", delivery=Delivery.ANSWERED
            )
        multiplexer.absolve()

    def _profile_of(self, multiplexer: Multiplexer) -> Era:
        modern = self._groups.get(Era.MODERN)
        return Era.MODERN if modern is not None and multiplexer in _ready(modern) else Era.LEGACY

    async def list_tools(self, cursor: str | None) -> bytes | None:
        """A page of `tools/list` for the sidecar itself; None where the server has none."""
        group, era = await self._group(Era.MODERN)
        multiplexer = await group.acquire()
        params = envelope.encode({"cursor": cursor}) if cursor is not None else None
        reply = await multiplexer.request("tools/list", profiles.modern_meta(params) if era is Era.MODERN else params)
        return reply.result

    @property
    def profile(self) -> Profile | None:
        """What the server said of itself, the newer era's word first."""
        return self._profiles.get(Era.MODERN) or self._profiles.get(Era.LEGACY)

    @property
    def eras(self) -> list[str]:
        """The eras that the server itself is known to speak."""
        known = [self._era.value] if self._era is not None else []
        return [*known, Era.LEGACY.value] if self._era is Era.MODERN and self._serves_legacy else known

    def groups(self) -> dict[Era, ChildPool]:
        """The pools by era."""
        return dict(self._groups)

    async def drain(self, grace: float) -> None:
        """Let calls finish, then end."""
        for feed in self._feeds.values():
            feed.close()
        self.audience.close()
        await asyncio.gather(*(group.drain(grace) for group in self._groups.values()))

    async def close(self) -> None:
        """End all processes."""
        for feed in self._feeds.values():
            feed.close()
        for task in list(self._asides):
            task.cancel()
        self.audience.close()
        await asyncio.gather(*(group.close() for group in self._groups.values()))


def _attach(multiplexer: Multiplexer) -> None:
    peer = multiplexer.peer
    assert isinstance(peer, SharedPeer)
    peer.multiplexer = multiplexer


def _ready(group: ChildPool | None) -> list[Multiplexer]:
    """The processes of a pool that take calls now."""
    return group.ready() if group is not None else []

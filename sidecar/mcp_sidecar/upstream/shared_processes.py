"""The processes of a shared stdio server: which era each speaks, and how the conversation with each is opened.

A new process is asked by `server/discover`; a server that dies of the question, or stays silent, is legacy and is not
asked again. One that was only slow to start is what it answers first. A dual-era server gets a second pool, of legacy
processes, once legacy callers are there. What is sent to them is `shared_server`'s business, starting and stopping the
pool's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.call import Call, Era
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.revisions import DISCOVER
from mcp_sidecar.upstream import profile as profiles
from mcp_sidecar.upstream.audience import Audience
from mcp_sidecar.upstream.child_pool import ChildPool
from mcp_sidecar.upstream.listen_feed import ListenFeed
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.profile import InitializeRefused, Profile

_EMPTY: Final = b"{}"

Started = Callable[[Multiplexer], Awaitable[None]]
Process = tuple[Multiplexer, Profile]
"""A process that takes calls, and what it said of itself."""


class SharedPeer:
    """What a shared process says on its own account goes to the audience; what it asks cannot be asked of anybody."""

    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self.multiplexer: Multiplexer | None = None
        self.profile: Profile | None = None

    def on_notification(self, method: str, message: bytes) -> None:
        """See Peer."""
        self._audience.hear(method, message, self.multiplexer.calls() if self.multiplexer is not None else ())

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


class SharedProcesses:
    """See the module. `restore` tells a new legacy process what the callers had asked of the one before."""

    def __init__(
        self,
        make_pool: Callable[[Started, Started], ChildPool],
        audience: Audience,
        restore: Started,
        *,
        discover_timeout: float = profiles.DISCOVER_TIMEOUT,
    ) -> None:
        self._make_pool = make_pool
        self._audience = audience
        self._restore = restore
        self._discover_timeout = discover_timeout
        self._first: ChildPool | None = None
        """The pool whose processes were asked what they speak."""
        self._second: ChildPool | None = None
        """Legacy processes of a server whose first ones are modern."""
        self._profiles: dict[Era, Profile] = {}
        self._era: Era | None = None
        """What the newest process of the first pool speaks; None as long as there was none."""
        self._deaf = False
        """The server dies of `server/discover`, or does not answer it."""
        self._serves_legacy: bool | None = None
        """Whether a modern server knows `initialize` as well; None as long as nobody asked."""
        self._feed: ListenFeed | None = None
        self._closing: set[asyncio.Task[None]] = set()

    # --- for calls

    async def acquire(self, era: Era, call: Call | None = None) -> Process:
        """A process for a caller of `era`: one that speaks it where there is any. Raises CallError."""
        if era is Era.MODERN or self._era is Era.LEGACY or self._serves_legacy is False:
            return _with_profile(await self._first_pool().acquire(call))
        if self._era is None:
            first = _with_profile(await self._first_pool().acquire(call))
            if first[1].era is Era.LEGACY:
                return first
        return await self._acquire_legacy(call)

    async def _acquire_legacy(self, call: Call | None) -> Process:
        """A legacy process of a server whose first processes are modern; a modern one where it has no other."""
        if self._second is None:
            self._second = self._make_pool(self._open_legacy, self.ask_for_life)
            self._second.start()
        second = self._second
        try:
            return _with_profile(await second.acquire(call))
        except UpstreamError:
            if self._serves_legacy is not False:
                raise
        if self._second is second:
            self._drop_second()
        return _with_profile(await self._first_pool().acquire(call))

    def _first_pool(self) -> ChildPool:
        if self._first is None:
            self._first = self._make_pool(self._open_first, self.ask_for_life)
            self._first.start()
        return self._first

    def _drop_second(self) -> None:
        second, self._second = self._second, None
        if second is not None:
            self._profiles.pop(Era.LEGACY, None)
            task = asyncio.get_running_loop().create_task(second.close(), name="close-legacy-processes")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def ready(self, era: Era) -> list[Multiplexer]:
        """The processes that speak `era` and take calls now."""
        ready = [mux for pool in (self._first, self._second) if pool is not None for mux in pool.ready()]
        return [mux for mux in ready if _with_profile(mux)[1].era is era]

    # --- opening the conversation

    async def _open_first(self, multiplexer: Multiplexer) -> None:
        _peer(multiplexer).multiplexer = multiplexer
        profile = await self._introduced(multiplexer)
        restarted = bool(self._profiles)
        if profile.era is not self._era:
            self._era, self._serves_legacy = profile.era, None
            self._drop_second()
            self._profiles.clear()
        await self._started(multiplexer, profile, restarted=restarted)

    async def _introduced(self, multiplexer: Multiplexer) -> Profile:
        if self._deaf:
            return await self._initialized(multiplexer)
        question = asyncio.create_task(profiles.discover(multiplexer), name="discover")
        try:
            await asyncio.wait({question}, timeout=self._discover_timeout)
            if not question.done():
                self._deaf = True
                return await self._first_answer(question, multiplexer)
            return self._answer(question) or await self._initialized(multiplexer)
        finally:
            await _give_up(question)

    def _answer(self, question: asyncio.Task[Profile | None]) -> Profile | None:
        try:
            return question.result()
        except UpstreamError as error:
            died = error.reason in (Reason.CHILD_EXITED, Reason.CONNECTION_LOST)
            # one that ended without having read the question did not die of it: it cannot start just now
            if died and error.delivery is Delivery.MAYBE and self._era is not Era.MODERN:
                self._deaf = True
                error.counted = False  # not the server's failure: start another at once
            raise

    async def _first_answer(self, question: asyncio.Task[Profile | None], multiplexer: Multiplexer) -> Profile:
        """By `initialize` after a silence; or by `question` all the same, if a server that starts slowly reads it now:
        that fixes its era, and it refuses `initialize`.
        """
        handshake = asyncio.create_task(self._initialized(multiplexer), name="initialize")
        try:
            await asyncio.wait({question, handshake}, return_when=asyncio.FIRST_COMPLETED)
            if handshake.done() and isinstance(handshake.exception(), InitializeRefused):
                await asyncio.wait({question}, timeout=self._discover_timeout)
            if question.done() and question.exception() is None and (profile := question.result()) is not None:
                self._deaf = False
                return profile
            return await handshake
        finally:
            await _give_up(handshake)

    async def _initialized(self, multiplexer: Multiplexer) -> Profile:
        try:
            return await profiles.initialize(multiplexer)
        except InitializeRefused:
            self._deaf = False  # it may have been replaced by one that knows nothing else
            raise

    async def _open_legacy(self, multiplexer: Multiplexer) -> None:
        _peer(multiplexer).multiplexer = multiplexer
        try:
            profile = await profiles.initialize(multiplexer)
        except InitializeRefused:
            self._serves_legacy = False
            raise
        self._serves_legacy = True
        await self._started(multiplexer, profile, restarted=Era.LEGACY in self._profiles)

    async def _started(self, multiplexer: Multiplexer, profile: Profile, *, restarted: bool) -> None:
        _peer(multiplexer).profile = self._profiles[profile.era] = profile
        if profile.era is Era.MODERN:
            # one process is enough to hear of changes, and the newest lives longest
            feed, self._feed = self._feed, ListenFeed(multiplexer, profile, self._audience)
            if feed is not None:
                feed.close()
        else:
            await self._restore(multiplexer)
        if restarted:
            self._audience.changed_everything(profile)

    def refresh_feed(self) -> None:
        """The resources that somebody wants to hear of are others now."""
        if self._feed is not None:
            self._feed.refresh()

    # --- for the sidecar itself

    async def probe(self) -> Profile:
        """A sign of life from one process: starts it where there is none."""
        multiplexer, profile = await self.acquire(Era.MODERN)
        await self.ask_for_life(multiplexer)
        return profile

    async def ask_for_life(self, multiplexer: Multiplexer) -> None:
        """Have a process answer anything at all. Raises UpstreamError where it answers by an odd error."""
        profile = _peer(multiplexer).profile
        if profile is not None and profile.era is Era.MODERN:
            reply = await multiplexer.request(DISCOVER, profiles.modern_meta())
        else:
            reply = await multiplexer.request("ping", None)
        if reply.error is not None and envelope.error_head(reply.error).code != envelope.METHOD_NOT_FOUND:
            code = envelope.error_head(reply.error).code
            raise UpstreamError(
                Reason.PROTOCOL_ERROR, f"the check was answered by error {code}", delivery=Delivery.ANSWERED
            )
        multiplexer.absolve()

    async def list_tools(self, cursor: str | None) -> bytes | None:
        """A page of `tools/list` for the sidecar itself; None where the server has none."""
        multiplexer, profile = await self.acquire(Era.MODERN)
        params = envelope.encode({"cursor": cursor}) if cursor is not None else None
        if profile.era is Era.MODERN:
            params = profiles.modern_meta(params)
        return (await multiplexer.request("tools/list", params)).result

    @property
    def profile(self) -> Profile | None:
        """What the server said of itself, the newer era's word first."""
        return self._profiles.get(Era.MODERN) or self._profiles.get(Era.LEGACY)

    @property
    def eras(self) -> list[str]:
        """The eras that the server itself is known to speak."""
        known = [self._era.value] if self._era is not None else []
        return [*known, Era.LEGACY.value] if self._era is Era.MODERN and self._serves_legacy else known

    def pools(self) -> dict[Era, ChildPool]:
        """The pools by what their processes speak."""
        pools = {}
        if self._first is not None:
            pools[self._era or Era.MODERN] = self._first
        if self._second is not None:
            pools[Era.LEGACY] = self._second
        return pools

    # --- life

    def rotate(self, reason: str) -> None:
        """Move to new processes, each old one only when its successor is ready."""
        for pool in self.pools().values():
            pool.replace(reason)

    async def drain(self, grace: float) -> None:
        """Let calls finish, then end."""
        self._stop_feed()
        await asyncio.gather(*(pool.drain(grace) for pool in self.pools().values()))

    async def close(self) -> None:
        """End all processes."""
        self._stop_feed()
        await asyncio.gather(*(pool.close() for pool in self.pools().values()), *self._closing)

    def _stop_feed(self) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None


async def _give_up(task: asyncio.Task[Any]) -> None:
    """Cancel it and wait for its end; what it would have told is of no interest."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _peer(multiplexer: Multiplexer) -> SharedPeer:
    peer = multiplexer.peer
    assert isinstance(peer, SharedPeer)
    return peer


def _with_profile(multiplexer: Multiplexer) -> Process:
    profile = _peer(multiplexer).profile
    assert profile is not None, "a process is ready only after its profile is known"
    return multiplexer, profile

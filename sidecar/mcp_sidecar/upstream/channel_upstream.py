"""An upstream behind channels: stdio children, the bridge's socket, legacy HTTP+SSE.

The sidecar holds the legacy sessions of such a server. Where they share processes, `shared_server` serves them; where
each has its own, `own_process` does, and modern callers, who have no session, share one more. Behind HTTP+SSE there is
nothing to share: modern callers are told to fall back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcp_sidecar.errors import CallError, Reason, Rejected, SessionLost
from mcp_sidecar.pipeline.call import Call, Era, Reply, Sink
from mcp_sidecar.pipeline.upstream import LegacySession, Opening
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.revisions import INITIALIZE
from mcp_sidecar.upstream import profile as profiles
from mcp_sidecar.upstream.audience import SharedSession
from mcp_sidecar.upstream.channel import Channel
from mcp_sidecar.upstream.child_pool import ChildPool
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.other_era import fall_back
from mcp_sidecar.upstream.own_process import OwnProcess
from mcp_sidecar.upstream.profile import Profile
from mcp_sidecar.upstream.shared_server import SharedServer


@dataclass(frozen=True)
class ChannelSettings:
    """per_session: each legacy session has its own channel; max_sessions: of those at once; session_idle: seconds
    after which an unused one is closed; stateless: a session whose process is gone is begun anew in silence;
    start_timeout: seconds from the start of a process to its first answer; address: of this pod, where other replicas
    can pass on what is of a session in it."""

    per_session: bool = False
    max_sessions: int = 16
    session_idle: float = 1800.0
    stateless: bool = False
    start_timeout: float = 60.0
    address: str = ""


class ChannelUpstream:
    """See pipeline/upstream.py."""

    holds_sessions = True

    def __init__(
        self,
        settings: ChannelSettings,
        shared: SharedServer | None,
        *,
        open_channel: Callable[[], Channel],
        ids: Callable[[], int],
        clock: Callable[[], float],
        report: Callable[[str, bytes], None],
        instance: str,
    ) -> None:
        """`shared` is None where nothing can be shared (HTTP+SSE); `instance` names this life of the sidecar."""
        self.settings = settings
        self.shared = shared
        self._open_channel = open_channel
        self._ids = ids
        self._clock = clock
        self._report = report
        self._instance = instance
        self._own: set[OwnProcess] = set()
        self._profile: Profile | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._renewing: dict[str, asyncio.Lock] = {}

    def reconfigure(self, settings: ChannelSettings) -> None:
        """Use new bounds from now on."""
        self.settings = settings

    # --- Upstream

    async def exchange(self, call: Call) -> Reply:
        """One attempt. Raises UpstreamError, SessionLost, Rejected."""
        if call.era is Era.MODERN:
            if self.shared is None:
                return fall_back()
            return await self.shared.exchange(call)
        if call.method == INITIALIZE:
            return await self._initialize(call)
        state = await self._renewed(call.session)
        if isinstance(state, OwnProcess):
            return await state.exchange(call)
        assert self.shared is not None
        return await self.shared.exchange(call)

    async def _initialize(self, call: Call) -> Reply:
        if not self.settings.per_session:
            assert self.shared is not None
            return await self.shared.initialize(call)
        own = self._new_process()
        try:
            reply = await own.initialize(call, self.settings.start_timeout)
        except BaseException:
            self._close(own)
            raise
        if reply.result is None:
            self._close(own)
            if self.shared is not None and await self._is_modern():
                return await self.shared.initialize(call)
            return reply
        self._profile = own.profile
        call.session.state = own
        call.session.instance = self._instance
        call.session.address = self.settings.address
        return reply

    def _new_process(self) -> OwnProcess:
        """A process for one session. Raises Rejected where there are as many as are allowed."""
        if len(self._own) >= self.settings.max_sessions and not self._close_idlest():
            raise Rejected(
                Reason.TOO_MANY_SESSIONS,
                f"{len(self._own)} sessions are open, the bound is maxSessions",
                retry_after=5.0,
            )
        own = OwnProcess(self._open_channel(), ids=self._ids, clock=self._clock, report=self._report)
        own.on_ended = self._ended
        self._own.add(own)
        return own

    def _ended(self, own: OwnProcess) -> None:
        self._own.discard(own)

    async def _is_modern(self) -> bool:
        """Whether a server that refuses `initialize` is one that knows the modern era only."""
        assert self.shared is not None
        try:
            return (await self.shared.processes.probe()).era is Era.MODERN
        except CallError:
            return False

    async def _renewed(self, session: LegacySession | None) -> object:
        """The state of a session; where it is lost and declared to hold nothing, a new one. Raises SessionLost."""
        try:
            return self._state(session)
        except SessionLost:
            if session is None or not self.settings.stateless or not self.settings.per_session:
                raise
        lock = self._renewing.setdefault(session.log_id, asyncio.Lock())
        async with lock:
            try:
                return self._state(session)  # another call was first
            except SessionLost:
                own = self._new_process()
            try:
                await own.reopen(session, self.settings.start_timeout)
            except BaseException:
                self._close(own)
                raise
            finally:
                self._renewing.pop(session.log_id, None)
            session.state = own
            return own

    def _state(self, session: LegacySession | None) -> object:
        if session is None:
            raise SessionLost("the session is unknown: begin a new one")
        state = session.state
        if isinstance(state, OwnProcess):
            if state.over:
                raise SessionLost("the process of this session is gone: begin a new one")
        elif state is None:
            if session.instance or self.shared is None:
                raise SessionLost("the process of this session is gone: begin a new one")
            state = session.state = self.shared.session()
        return state

    async def listen(self, call: Call) -> Reply:
        """A modern caller's stream of changes."""
        return await self.shared.listen(call) if self.shared is not None else fall_back()

    async def notify(
        self,
        session: LegacySession | None,
        message: bytes,
        *,
        version: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> int:
        """A legacy caller's notification or response. Raises SessionLost."""
        state = await self._renewed(session)
        parsed = envelope.parse(message)
        if isinstance(state, OwnProcess):
            state.forward(parsed)
        elif isinstance(state, SharedSession) and self.shared is not None and not isinstance(parsed.method, str):
            self.shared.respond(state, parsed)
        # any other notification would speak for all callers of the process: there is none that it needs
        return 202

    async def stream(
        self,
        session: LegacySession | None,
        sink: Sink,
        *,
        version: str,
        last_event_id: bytes | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """The GET stream of a session: what the server says outside of answers. Nothing to resume here."""
        state = await self._renewed(session)
        assert isinstance(state, OwnProcess | SharedSession)
        await state.outbox.serve(sink)

    def session_opened(self, session: LegacySession) -> None:
        """The token is the session's own; nothing to do."""

    async def end_session(self, session: LegacySession) -> None:
        """End its process, or its place in the audience."""
        state, session.state = session.state, None
        if isinstance(state, OwnProcess):
            await state.close()
        elif isinstance(state, SharedSession) and self.shared is not None:
            self.shared.end_session(state)

    def rest(self, session: LegacySession) -> bool:
        """A session was not used for long. True: it may be forgotten here, and begins anew when it comes back."""
        state = session.state
        if isinstance(state, OwnProcess):
            return state.over  # `sweep` ends its process
        if isinstance(state, SharedSession) and self.shared is not None:
            if state.outbox.has_stream:
                return False
            self.shared.end_session(state)
        session.state = None
        return True

    async def probe(self) -> None:
        """A sign of life from the server."""
        if self.shared is not None:
            self._profile = await self.shared.processes.probe()
            return
        own = OwnProcess(self._open_channel(), ids=self._ids, clock=self._clock, report=self._report)
        try:
            params = profiles.initialize_params()
            call = Call(server="", id=b"0", method=INITIALIZE, params=params, era=Era.LEGACY, version="")
            reply = await own.initialize(call, self.settings.start_timeout)
            self._profile = profiles.profile_of(reply)
        finally:
            await own.close()

    async def list_tools(self, cursor: str | None) -> bytes | None:
        """A page of `tools/list` for the sidecar itself, None where it cannot be had."""
        return await self.shared.processes.list_tools(cursor) if self.shared is not None else None

    async def adopt(self, other: ChannelUpstream) -> None:
        """Take over the callers of the upstream that this one replaces; sessions with own processes keep theirs."""
        own, other._own = other._own, set()
        for process in own:
            process.on_ended = self._ended
        self._own |= own
        if self.shared is not None and other.shared is not None:
            await self.shared.adopt(other.shared)

    def rotate(self) -> bool:
        """New secrets: sessions with own processes keep theirs, shared processes are replaced one by one."""
        if self.shared is not None:
            self.shared.processes.rotate("secret")
        return True

    def pools(self) -> list[ChildPool]:
        """The pools of shared processes."""
        return list(self.shared.processes.pools().values()) if self.shared is not None else []

    def multiplexers(self) -> list[Multiplexer]:
        """Every channel there is."""
        shared = [slot.mux for pool in self.pools() for slot in pool.slots if slot.mux is not None]
        return [*shared, *(own.multiplexer for own in self._own)]

    def last_words(self) -> str:
        """The newest lines that a process which does not start has said on stderr."""
        for pool in self.pools():
            for slot in pool.slots:
                if slot.last_words:
                    return slot.last_words[-1]
        return ""

    def legacy_scope(self, call: Call) -> bytes | None:
        """Lists of shared processes are the same for all; a session's own process may show other ones."""
        if call.session is None or isinstance(call.session, Opening):
            return None
        return call.session.log_id.encode() if isinstance(call.session.state, OwnProcess) else b"shared"

    def announces(self, call: Call, method: str) -> bool:
        """Whether the server promised to say when the list of a method changes, and can reach this sidecar."""
        state = call.session.state if call.session is not None else None
        profile = state.profile if isinstance(state, OwnProcess) else self.profile
        return profile is not None and profile.announces(method.partition("/")[0])

    # --- life

    def sweep(self) -> None:
        """Close sessions' processes that nobody used for long."""
        horizon = self._clock() - self.settings.session_idle
        for own in list(self._own):
            if not own.busy and own.last_used < horizon:
                self._close(own)

    def _close_idlest(self) -> bool:
        """Make room: close the process of the session that was not used for the longest, if it is idle for a minute."""
        idle = [own for own in self._own if not own.busy and own.last_used < self._clock() - 60.0]
        if not idle:
            return False
        self._close(min(idle, key=lambda own: own.last_used))
        return True

    def _close(self, own: OwnProcess) -> None:
        self._own.discard(own)
        task = asyncio.get_running_loop().create_task(own.close(), name="close-own-process")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    @property
    def profile(self) -> Profile | None:
        """What the server said of itself."""
        return (self.shared.profile if self.shared is not None else None) or self._profile

    @property
    def own_processes(self) -> frozenset[OwnProcess]:
        """The processes of single sessions."""
        return frozenset(self._own)

    def status(self) -> dict[str, Any]:
        """For `/status`."""
        profile = self.profile
        status: dict[str, Any] = {
            "eras": self.shared.processes.eras if self.shared is not None else ["legacy"],
            "serverInfo": profile.server_info if profile is not None else None,
            "protocolVersion": profile.version if profile is not None else None,
            "capabilities": sorted(profile.capabilities) if profile is not None else None,
        }
        if self.shared is not None:
            status["processes"] = {era.value: group.status() for era, group in self.shared.processes.pools().items()}
            status["sharedSessions"] = len(self.shared.audience.sessions)
        if self.settings.per_session:
            status["ownSessions"] = len(self._own)
        return status

    async def drain(self, grace: float) -> None:
        """Let calls finish, at most `grace` seconds, then end all processes."""
        owns = [own.drain(grace) for own in self._own]
        await asyncio.gather(*owns, *([self.shared.drain(grace)] if self.shared is not None else []))
        await self.close()

    async def close(self) -> None:
        """End all processes now."""
        await asyncio.gather(
            *(own.close() for own in list(self._own)),
            *self._closing,
            *([self.shared.close()] if self.shared is not None else []),
        )

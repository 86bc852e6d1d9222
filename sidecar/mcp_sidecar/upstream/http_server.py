"""A Streamable HTTP upstream as its unit needs it: also asked for its tools, and listened to for the cache.

`http_upstream` makes attempts; what the sidecar wants of the server on its own account, and what it learns while it
relays a legacy caller's stream, is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET, Raw

from mcp_sidecar.errors import CallError, SessionLost, UpstreamError
from mcp_sidecar.pipeline.call import Call, CallKind, Era, Event, Reply, Sink
from mcp_sidecar.pipeline.upstream import LegacySession, Opening
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.revisions import INITIALIZE, LATEST_LEGACY, LATEST_MODERN
from mcp_sidecar.upstream.audience import LIST_CHANGES, UPDATED, OnChange
from mcp_sidecar.upstream.connection_quota import ConnectionQuota
from mcp_sidecar.upstream.http_connection import HttpConnection
from mcp_sidecar.upstream.http_request import Headers
from mcp_sidecar.upstream.http_upstream import HttpUpstream
from mcp_sidecar.upstream.lost_sessions import LostSessions
from mcp_sidecar.upstream.other_era import NOT_UNDERSTOOD, fall_back, modern_only, refuses_initialize
from mcp_sidecar.upstream.profile import initialize_params, modern_meta, profile_of

_CHANGES: Final = (b"list_changed", b"resources/updated")


class HttpServer(HttpUpstream):
    """See the module. `on_change` is told what the server says has changed."""

    def __init__(self, *args: Any, quota: ConnectionQuota | None = None, address: str = "", **options: Any) -> None:
        """As HttpUpstream; `quota` bounds the connections of all servers together; `address`: of this pod, where the
        server's sessions live in it and other replicas can pass on to it."""
        super().__init__(*args, **options)
        self._address = address
        self.on_change: OnChange | None = None
        self.on_opened: Callable[[float], object] = float
        """Told how many seconds it took to open a connection."""
        self.on_ended: Callable[[float], object] = float
        """Told how many seconds a connection lived."""
        self._lost = LostSessions(super().exchange, super().notify)
        self._quota = quota
        if quota is not None:
            quota.on_scarce.append(self._spare)

    async def _open(self) -> HttpConnection:
        quota = self._quota
        if quota is not None:
            await quota.take()
        began = self.clock()
        try:
            connection = await super()._open()
        except BaseException:
            if quota is not None:
                quota.give()
            raise
        opened = self.clock()
        self.on_opened(opened - began)

        def ended(_: object) -> None:
            self.on_ended(self.clock() - opened)
            if quota is not None:
                quota.give()

        connection.closed.add_done_callback(ended)
        return connection

    def _spare(self) -> None:
        """Others wait for a place: keep no connection that nobody uses."""
        pool = self.pool
        while pool.idle:
            pool.end(pool.idle.pop(0), "surplus")

    async def close(self) -> None:
        """End everything now."""
        await super().close()
        if self._quota is not None and self._spare in self._quota.on_scarce:
            self._quota.on_scarce.remove(self._spare)

    def rest(self, session: LegacySession) -> bool:
        """A session was not used for long; the server's own session is not ours to end. True: it may be forgotten."""
        session.state = None
        return True

    @property
    def found_sse(self) -> bool:
        """The URL speaks the transport of 2024-11-05."""
        return self.found is not None and self.found.transport == "sse"

    def session_opened(self, session: LegacySession) -> None:
        """Nothing to do: the session is the server's own."""

    async def exchange(self, call: Call) -> Reply:
        """One attempt; an `initialize` also tells which changes the server announces."""
        if call.sink is not None and call.era is Era.LEGACY and self.on_change is not None:
            call.sink = call.sink if isinstance(call.sink, _Listening) else _Listening(call.sink, self.on_change)
        reply = await self._answered(call)
        if self._quota is not None and self._quota.waiting:
            self._spare()
        if call.method == INITIALIZE and reply.result is not None and isinstance(call.session, Opening):
            call.session.address = "" if self.settings.stateless else self._address
            try:
                profile = profile_of(reply)
            except CallError:
                return reply
            call.session.state = _Announced(
                frozenset(group for group, _ in LIST_CHANGES.values() if profile.announces(group))
            )
        return reply

    async def _answered(self, call: Call) -> Reply:
        """An attempt; a lost session that holds nothing is begun anew, and who is of the other era is told so."""
        held = call.session.upstream_session if call.session is not None else None
        try:
            reply = await super().exchange(call)
        except SessionLost:
            if held is None or not await self._begun_anew(call.session, held, call.headers) or call.committed:
                raise
            return await super().exchange(call)
        except UpstreamError as error:
            other = await self._of_other_era(call) if error.status in NOT_UNDERSTOOD else None
            if other is None:
                raise
            return other
        if call.method == INITIALIZE and refuses_initialize(reply):
            return await self._of_other_era(call) or reply
        return reply

    async def _begun_anew(self, session: LegacySession, lost: str, headers: Headers) -> bool:
        return self.settings.stateless and await self._lost.begin_anew(session, lost, headers)

    async def _of_other_era(self, call: Call) -> Reply | None:
        """The answer to a caller whose era the server does not speak; None where it does, or cannot be asked."""
        if not call.server:
            return None  # the sidecar's own question, by which it finds out
        try:
            found = await self.discover()
        except CallError:
            return None
        if call.era is Era.MODERN:
            return fall_back() if found.era is Era.LEGACY else None
        if call.method != INITIALIZE or found.era is Era.LEGACY:
            return None
        return modern_only(found, call.session.version if call.session is not None else call.version)

    async def notify(
        self, session: LegacySession | None, message: bytes, *, version: str, headers: Headers = ()
    ) -> int:
        """POST a notification, or a response to a request of the server. Returns its HTTP status, below 500."""
        held = session.upstream_session if session is not None else None
        try:
            return await super().notify(session, message, version=version, headers=headers)
        except SessionLost:
            if session is None or held is None or not await self._begun_anew(session, held, headers):
                raise
        return await super().notify(session, message, version=version, headers=headers)

    async def stream(
        self,
        session: LegacySession | None,
        sink: Sink,
        *,
        version: str,
        last_event_id: bytes | None = None,
        headers: Headers = (),
    ) -> None:
        """The legacy GET stream; while it is open, change notices are heard and lists may be kept."""
        announced = session.state if session is not None and isinstance(session.state, _Announced) else None
        if announced is not None:
            announced.streams += 1
        try:
            heard = _Listening(sink, self.on_change) if self.on_change is not None else sink
            held = session.upstream_session if session is not None else None
            try:
                await super().stream(session, heard, version=version, last_event_id=last_event_id, headers=headers)
            except SessionLost:
                if session is None or held is None or not await self._begun_anew(session, held, headers):
                    raise
                await super().stream(session, heard, version=version, headers=headers)
        finally:
            if announced is not None:
                announced.streams -= 1

    def legacy_scope(self, call: Call) -> bytes | None:
        """A legacy answer depends on the upstream's session; without one on nothing that could be named."""
        held = call.session.upstream_session if call.session is not None else None
        return held.encode() if held is not None else None

    def announces(self, call: Call, method: str) -> bool:
        """Whether this session would hear of a change: announced by the server, and a stream open to hear it."""
        state = call.session.state if call.session is not None else None
        return isinstance(state, _Announced) and state.streams > 0 and method.partition("/")[0] in state.groups

    async def list_tools(self, cursor: str | None) -> bytes | None:
        """A page of `tools/list` for the sidecar itself. Raises UpstreamError."""
        found = await self.discover()
        params = envelope.encode({"cursor": cursor}) if cursor is not None else None
        if found.era is Era.MODERN:
            call = _own_call("tools/list", modern_meta(params), Era.MODERN, LATEST_MODERN)
            return (await super().exchange(call)).result
        opening = Opening(version=LATEST_LEGACY, capabilities=b"{}", client_info=b"", identity=b"")
        opened = await super().exchange(_own_call(INITIALIZE, initialize_params(), Era.LEGACY, LATEST_LEGACY, opening))
        if opened.result is None:
            return None
        version = profile_of(opened).version
        session = next((value for name, value in opened.headers if name == b"mcp-session-id"), None)
        opening.upstream_session = session.decode("latin-1") if session is not None else None
        try:
            await self.notify(opening, envelope.notification("notifications/initialized", None), version=version)
            call = _own_call("tools/list", params, Era.LEGACY, version, opening)
            return (await super().exchange(call)).result
        finally:
            try:
                await self.end_session(opening)
            except CallError:
                pass  # what the server keeps of it expires by itself


class _Announced:
    """Which lists the server of a session tells changes of, and how many streams there are to tell them on."""

    __slots__ = ("groups", "streams")

    def __init__(self, groups: frozenset[str]) -> None:
        self.groups = groups
        self.streams = 0


class _Listening:
    """A caller's sink that also hears change notices."""

    __slots__ = ("_on_change", "_sink")

    def __init__(self, sink: Sink, on_change: OnChange) -> None:
        self._sink = sink
        self._on_change = on_change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def open(self) -> None:
        self._sink.open()

    def emit(self, event: Event) -> None:
        if any(mark in event.data for mark in _CHANGES):
            _hear(event.data, self._on_change)
        self._sink.emit(event)


def _hear(data: bytes, on_change: Callable[[str, str | None], None]) -> None:
    try:
        message = envelope.parse(data)
        if message.method is UNSET:
            return
        if message.method in LIST_CHANGES:
            on_change(LIST_CHANGES[message.method][0], None)
        elif message.method == UPDATED and isinstance(message.params, Raw):
            uri = envelope.params_head(message.params).uri
            if isinstance(uri, str):
                on_change("resource", uri)
    except envelope.EnvelopeError:
        return


def _own_call(method: str, params: bytes | None, era: Era, version: str, session: Opening | None = None) -> Call:
    return Call(
        server="", id=b"0", method=method, params=params, era=era, version=version, session=session, kind=CallKind.SAFE
    )

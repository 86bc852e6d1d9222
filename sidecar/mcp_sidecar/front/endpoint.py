"""The MCP endpoint: from one HTTP request to one call, and from its reply to one answer.

Finds the server by path, the era by header and the caller by credentials; `modern` and `legacy` know the rest of their
era. Everything that takes long goes through `Server.answer`; streams that never end by themselves are counted and ended
in good order at shutdown.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from mcp_sidecar.errors import CallError, Reason, Rejected
from mcp_sidecar.front import legacy, modern
from mcp_sidecar.front.admission import ToolFilter, ToolPolicy, accepts, forwarded, identity_of, is_json
from mcp_sidecar.front.answer import Answer, shutting_down
from mcp_sidecar.front.refusal import Refusal
from mcp_sidecar.front.replica_proof import PATH as PROOF_PATH
from mcp_sidecar.front.replicas import Replicas
from mcp_sidecar.front.request import Request
from mcp_sidecar.front.sessions import Session, Sessions
from mcp_sidecar.front.silence import STREAM_AFTER, Silence
from mcp_sidecar.front.streams import CallerStreams
from mcp_sidecar.pipeline.call import Call, Era, Reply, Source
from mcp_sidecar.pipeline.upstream import Opening
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.revisions import INITIALIZE, LEGACY_VERSIONS
from mcp_sidecar.server import Server

_LEGACY: Final = frozenset(version.encode() for version in LEGACY_VERSIONS)


class Recorder(Protocol):
    """Told of each finished call (telemetry/record.py)."""

    def finished(self, call: Call, reply: Reply | None, error: BaseException | None, now: float) -> None:
        """Exactly once a call."""

    def tools_listed(self, server: str, result: bytes) -> None:
        """The upstream listed its tools."""


class Gate(Protocol):
    """Hosts, origins and credentials: what a request must show before it is looked at (gate.py)."""

    def refusal(self, request: Request) -> Refusal | None:
        """Why a request is not looked at; None where host and origin are allowed."""

    def principal(self, request: Request) -> tuple[str, ToolFilter | None] | Refusal:
        """Name and tool filter of who asks; a refusal where credentials are needed and missing or wrong."""


class Caller:
    """One HTTP request with what was found out about it."""

    __slots__ = ("identity", "principal", "request", "server", "tool_filter")

    def __init__(
        self, request: Request, server: Server, identity: bytes, principal: str, tool_filter: ToolFilter | None
    ) -> None:
        self.request = request
        self.server = server
        self.identity = identity
        self.principal = principal
        self.tool_filter = tool_filter


class Endpoint:
    """The handler of the MCP port."""

    def __init__(
        self,
        servers: Mapping[str, Server],
        gate: Gate,
        sessions: Sessions,
        recorder: Recorder,
        *,
        max_batch: int = 100,
        clock: Callable[[], float] = time.monotonic,
        run_id: str = "",
        stream_after: float = STREAM_AFTER,
    ) -> None:
        self.sessions = sessions
        self.max_batch = max_batch
        self.shutting_down = False
        self.replicas: Replicas | None = None
        """Where sessions may be with another replica; None where there is none."""
        self._gate = gate
        self._recorder = recorder
        self._clock = clock
        self._run_id = run_id
        self._serial = itertools.count(1)
        self._paths: dict[str, Server] = {}
        self.streams = CallerStreams(recorder, clock)
        self._silence = Silence(stream_after, clock=clock)
        self.serve(servers)

    def serve(self, servers: Mapping[str, Server]) -> None:
        """Serve these servers from now on: `/servers/NAME/mcp` each, `/mcp` where there is exactly one."""
        paths = {f"/servers/{name}/mcp": server for name, server in servers.items()}
        if len(servers) == 1:
            paths["/mcp"] = next(iter(servers.values()))
        self._paths = paths

    @property
    def open_streams(self) -> int:
        """Listen and GET streams of callers."""
        return len(self.streams)

    async def __call__(self, request: Request) -> None:
        """Answer one HTTP request."""
        refused = self._gate.refusal(request)
        if refused is not None:
            request.respond(refused.status, refused.body, headers=refused.headers)
            return
        if request.path == PROOF_PATH and self.replicas is not None:
            self.replicas.prove(request)
            return
        server = self._paths.get(request.path)
        if server is None:
            self._not_found(request)
            return
        admitted = self._gate.principal(request)
        if isinstance(admitted, Refusal):
            request.respond(admitted.status, admitted.body, headers=admitted.headers)
            return
        headers = request.headers
        caller = Caller(request, server, identity_of(headers.get(b"authorization")), *admitted)
        version = headers.get(b"mcp-protocol-version")
        if version is None or version in _LEGACY:
            await legacy.serve(self, caller)
        else:
            await modern.serve(self, caller)

    def _not_found(self, request: Request) -> None:
        names = ", ".join(sorted(path for path in self._paths if path.startswith("/servers/")))
        message = f"nothing is served here; MCP endpoints: {names or 'none'}"
        request.respond(404, envelope.error_response(b"null", envelope.error_object(envelope.INVALID_REQUEST, message)))

    def acceptable(self, caller: Caller, answer: Answer) -> bool:
        """Whether a POST declares JSON and takes both forms of answer; answers where not."""
        headers = caller.request.headers
        if not all(accepts(headers.get(b"accept"))):
            message = "a POST needs Accept: application/json, text/event-stream"
            answer.refuse(406, envelope.INVALID_REQUEST, message)
            return False
        if not is_json(headers.get(b"content-type")):
            answer.refuse(415, envelope.INVALID_REQUEST, "the body must be application/json")
            return False
        return True

    def accepts_stream(self, caller: Caller) -> bool:
        """Whether the caller takes event streams."""
        return accepts(caller.request.headers.get(b"accept"))[1]

    def call(
        self,
        caller: Caller,
        answer: Answer,
        *,
        id: bytes,
        method: str,
        params: bytes | None,
        name: str | None,
        version: str,
        session: Session | Opening | None = None,
    ) -> Call:
        """A call of this caller."""
        server = caller.server
        settings = server.settings
        now = self._clock()
        return Call(
            server=server.name,
            id=id,
            method=method,
            params=params,
            era=answer.era,
            version=version,
            name=name,
            identity=caller.identity,
            principal=caller.principal,
            session=session,
            kind=server.kind(method, name),
            headers=forwarded(caller.request.headers, authorization=settings.forward_authorization)
            if settings.forward_headers
            else (),
            deadline=now + settings.total_timeout,
            started=now,
            sink=answer,
            uid=f"{self._run_id}{next(self._serial):x}",
        )

    async def answer(self, caller: Caller, call: Call, answer: Answer, *, cancel_on_disconnect: bool) -> None:
        """Pass a call on and answer its caller, whatever happens. Records it once."""
        task = asyncio.current_task()
        assert task is not None
        session = call.session if isinstance(call.session, Session) else None
        reply: Reply | None = None
        failure: BaseException | None = None

        def cancel() -> None:
            if not call.cancelled:
                call.cancelled = True
                task.cancel()

        if cancel_on_disconnect:
            caller.request.on_disconnect(cancel)
        elif caller.server.upstream.holds_sessions:  # behind HTTP a stream may be resumed
            caller.request.on_disconnect(lambda: call.caller_left(self._clock()))
        if session is not None:
            key = envelope.canonical_id(call.id)
            session.in_flight[key] = cancel
        if call.method != INITIALIZE:  # its head waits for the session's id
            self._silence.began(call, answer)
        try:
            reply = await self._answer(caller, call)
            if call.method == INITIALIZE and reply.result is not None and isinstance(call.session, Opening):
                reply = self._open(caller, call.session, reply, answer)
            answer.reply(call.id, reply)
        except CallError as error:
            failure = error
            answer.fail(call.id, error, call)
        except asyncio.CancelledError as cancelled:
            failure = cancelled
            if not call.cancelled:
                if self.shutting_down:
                    answer.fail(call.id, shutting_down(call), call)
                raise
            task.uncancel()
            answer.fail(call.id, CallError(Reason.CANCELLED, "cancelled by the caller", delivery=call.delivery), call)
        except envelope.EnvelopeError as error:  # found in the params by whoever had to read them
            failure = error
            answer.refuse(400 if call.era is Era.MODERN else 200, error.code, str(error), call.id)
        except Exception as error:
            failure = error
            raise
        finally:
            self._silence.ended(call)
            if session is not None:
                session.in_flight.pop(key, None)
            self._recorder.finished(call, reply, failure, self._clock())
            failure = None  # its traceback knows this frame: a circle that would keep bodies until a collection

    async def _answer(self, caller: Caller, call: Call) -> Reply:
        server = caller.server
        if self.shutting_down:
            raise shutting_down()
        if call.method == INITIALIZE and not self.sessions.make_room(self._rest):
            raise Rejected(Reason.TOO_MANY_SESSIONS, "too many sessions are open", retry_after=5.0)
        restricted = caller.tool_filter is not None or server.settings.tool_filter is not None
        if not restricted:
            reply = await server.answer(call)
        else:
            policy = ToolPolicy(caller.tool_filter, server.settings.tool_filter)
            if call.method == "tools/call":
                if call.name is None or not policy.allows(call.name):
                    raise Rejected(Reason.TOOL_NOT_ALLOWED, "this tool is not allowed")
                # a repeated member, or one that only differs in case (Go's parser matches any), would let the server
                # read another name than the one that was checked
                if call.params is not None:
                    members = envelope.members(call.params).items()
                    call.params = envelope.compose(
                        {key: raw for key, raw in members if key == "name" or key.casefold() != "name"}
                    )
            reply = await server.answer(call)
            if call.method == "tools/list" and reply.result is not None:
                reply = Reply(
                    policy.narrow(reply.result), status=reply.status, event_id=reply.event_id, source=reply.source
                )
        if call.method == "tools/list" and reply.result is not None and reply.source is Source.UPSTREAM:
            self._recorder.tools_listed(server.name, reply.result)
        return reply

    def _rest(self, session: Session) -> bool:
        """Whether memory can do without a session that is not in use."""
        holder = self._paths.get(f"/servers/{session.server}/mcp")
        return holder is None or holder.upstream.rest(session)

    def _open(self, caller: Caller, opening: Opening, reply: Reply, answer: Answer) -> Reply:
        """Seal the session that an `initialize` opened, where there is one."""
        upstream = next((value.decode("latin-1") for name, value in reply.headers if name == b"mcp-session-id"), None)
        if upstream is None and not caller.server.upstream.holds_sessions:
            return reply
        assert reply.result is not None
        try:
            version = envelope.text(envelope.members(reply.result)["protocolVersion"])
        except (KeyError, ValueError):
            version = opening.version
        session = self.sessions.open(
            server=caller.server.name,
            version=version,
            identity=caller.identity,
            upstream=upstream,
            capabilities=opening.capabilities,
            client_info=opening.client_info,
            instance=opening.instance,
            address=opening.address,
        )
        session.state = opening.state
        caller.server.upstream.session_opened(session)
        answer.add_headers(((b"mcp-session-id", session.token.encode()),))
        return reply

    async def forward(
        self,
        caller: Caller,
        answer: Answer,
        session: Session | None,
        message: bytes,
        version: str,
        *,
        silent: bool = False,
    ) -> None:
        """Pass on a notification, or a response to a server's request."""
        server = caller.server
        try:
            if self.shutting_down:
                raise shutting_down()
            status = await server.upstream.notify(
                session,
                message,
                version=version,
                headers=forwarded(caller.request.headers, authorization=server.settings.forward_authorization),
            )
        except CallError as error:
            if not silent:
                answer.fail(b"null", error)
            return
        if not silent:
            answer.accepted(status if 200 <= status < 300 else 202)

    async def listen(self, caller: Caller, call: Call, answer: Answer) -> None:
        """Serve `subscriptions/listen` until an end."""
        await self.streams.listen(caller, call, answer)

    async def stream(self, caller: Caller, answer: Answer, session: Session | None, version: str) -> None:
        """Serve a legacy GET stream until an end."""
        await self.streams.get(caller, answer, session, version)

    async def end_session(self, server: Server, session: Session) -> None:
        """Tell the upstream that a session is over. Its failure is not the caller's."""
        try:
            await server.upstream.end_session(session)
        except CallError:
            return

    async def end_streams(self) -> None:
        """End all endless streams in good order (shutdown)."""
        if self.replicas is not None:
            self.replicas.end_streams()
        await self.streams.end()

"""Requests of the legacy era (2025-03-26 to 2025-11-25): sessions, GET streams, DELETE, batches of the oldest.

A disconnect is no cancel here (`basic/transports`, 2025-11-25): a call goes on, and its answer is for whoever resumes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import UNSET, Raw

from mcp_sidecar.errors import CallError, Reason, Rejected, SessionLost
from mcp_sidecar.front.answer import Answer, shutting_down
from mcp_sidecar.front.replicas import FORWARDED
from mcp_sidecar.front.sessions import Session
from mcp_sidecar.pipeline.call import Era
from mcp_sidecar.pipeline.upstream import Opening
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.revisions import BATCH_VERSION, INITIALIZE, KNOWN_METHODS, NAME_MEMBER, STREAMABLE_VERSIONS

if TYPE_CHECKING:
    from mcp_sidecar.front.endpoint import Caller, Endpoint
    from mcp_sidecar.protocol.envelope import Message

_CANCELLED = "notifications/cancelled"


async def serve(endpoint: Endpoint, caller: Caller) -> None:
    """Answer one legacy HTTP request."""
    method = caller.request.method
    if method == "POST":
        await _post(endpoint, caller)
    elif method == "GET":
        await _get(endpoint, caller)
    elif method == "DELETE":
        await _delete(endpoint, caller)
    else:
        caller.request.respond(405, headers=((b"allow", b"GET, POST, DELETE"),))


def _session(endpoint: Endpoint, caller: Caller) -> Session | None:
    """The caller's session. Raises SessionLost; EnvelopeError where one is needed and none was named."""
    token = caller.request.headers.get(b"mcp-session-id")
    if token is None:
        if caller.server.upstream.holds_sessions:
            raise envelope.EnvelopeError(envelope.INVALID_REQUEST, "Mcp-Session-Id is missing: send initialize first")
        return None
    return endpoint.sessions.find(token.decode("ascii", "replace"), server=caller.server.name, identity=caller.identity)


async def _answered_elsewhere(endpoint: Endpoint, caller: Caller, id: bytes = b"null") -> bool:
    """Whether another replica holds the caller's session; then it was asked, and the caller has its answer."""
    replicas, request = endpoint.replicas, caller.request
    token = request.headers.get(b"mcp-session-id")
    if replicas is None or token is None or FORWARDED in request.headers:
        return False
    address = endpoint.sessions.elsewhere(
        token.decode("ascii", "replace"), server=caller.server.name, identity=caller.identity
    )
    if address is None:
        return False
    answer = Answer(request, Era.LEGACY)
    try:
        if endpoint.shutting_down or (request.method == "GET" and endpoint.streams.ending):
            raise shutting_down()
        await replicas.forward(request, address)
    except CallError as error:
        answer.fail(id, error)
    return True


def _version(caller: Caller, session: Session | None) -> str:
    header = caller.request.headers.get(b"mcp-protocol-version")
    if header is not None:
        return header.decode("ascii", "replace")
    return session.version if session is not None else BATCH_VERSION


async def _post(endpoint: Endpoint, caller: Caller) -> None:
    request = caller.request
    body = request.body
    batch = envelope.is_batch(body)
    answer = Answer(request, Era.LEGACY, batch=batch)
    if not endpoint.acceptable(caller, answer):
        return
    try:
        if batch:
            if not await _answered_elsewhere(endpoint, caller):
                await _batch(endpoint, caller, answer)
            return
        message = envelope.parse(body)
        if message.method == INITIALIZE and message.id is not UNSET:
            await _initialize(endpoint, caller, answer, message)
            return
        if b"mcp-protocol-version" not in request.headers and _is_modern(message):
            raise envelope.EnvelopeError(
                envelope.HEADER_MISMATCH,
                "header mismatch: MCP-Protocol-Version is missing",
                envelope.legible_id(message),
            )
        if await _answered_elsewhere(endpoint, caller, envelope.legible_id(message)):
            return
        try:
            session = _session(endpoint, caller)
        except envelope.EnvelopeError as error:
            error.id = envelope.legible_id(message)
            raise
        except SessionLost as lost:
            answer.fail(envelope.legible_id(message), lost)
            return
        await _message(endpoint, caller, answer, session, message)
    except envelope.EnvelopeError as error:
        answer.refuse(400, error.code, str(error), error.id)
        if batch:
            answer.finish_batch()


def _is_modern(message: Message) -> bool:
    """A request with a modern envelope under no version header: its sender forgot the header."""
    if not isinstance(message.params, Raw) or b"io.modelcontextprotocol/protocolVersion" not in bytes(message.params):
        return False
    meta = envelope.params_head(message.params).meta
    return isinstance(meta, envelope.Meta) and meta.protocol_version is not UNSET


async def _batch(endpoint: Endpoint, caller: Caller, answer: Answer) -> None:
    bodies = envelope.split_batch(caller.request.body)
    try:
        session = _session(endpoint, caller)
    except SessionLost as lost:
        Answer(caller.request, Era.LEGACY).fail(b"null", lost)
        return
    single = Answer(caller.request, Era.LEGACY)
    if _version(caller, session) != BATCH_VERSION:
        single.refuse(400, envelope.INVALID_REQUEST, f"batches exist in revision {BATCH_VERSION} only")
        return
    if not bodies or len(bodies) > endpoint.max_batch:
        single.refuse(400, envelope.INVALID_REQUEST, f"a batch has 1 to {endpoint.max_batch} messages")
        return
    async with asyncio.TaskGroup() as group:
        for body in bodies:
            try:
                message = envelope.parse(body)
                if message.method == INITIALIZE:
                    raise envelope.EnvelopeError(
                        envelope.INVALID_REQUEST, "initialize must not be in a batch", envelope.legible_id(message)
                    )
            except envelope.EnvelopeError as error:
                answer.refuse(400, error.code, str(error), error.id)
                continue
            group.create_task(_message(endpoint, caller, answer, session, message, batch=True))
    answer.finish_batch()


async def _message(
    endpoint: Endpoint,
    caller: Caller,
    answer: Answer,
    session: Session | None,
    message: Message,
    *,
    batch: bool = False,
) -> None:
    version = _version(caller, session)
    if message.method is UNSET or message.id is UNSET:
        if message.method is UNSET and message.result is UNSET and message.error is UNSET:
            answer.refuse(400, envelope.INVALID_REQUEST, "neither a request, a notification nor a response")
            return
        if message.method in KNOWN_METHODS:
            # passed on, a server might run it: past the allow-list of tools, the limits and the audit
            answer.refuse(400, envelope.INVALID_REQUEST, "a request needs an id")
            return
        if message.method == _CANCELLED:
            _cancel(session, message)
            if not batch:
                answer.accepted()
            return
        await endpoint.forward(caller, answer, session, envelope.without_id(message), version, silent=batch)
        return
    id = b"null"
    try:
        id = envelope.request_id(message)
        if message.method.startswith("notifications/"):
            raise envelope.EnvelopeError(envelope.METHOD_NOT_FOUND, f"method not found: {message.method}")
        params = None if message.params is UNSET else bytes(message.params)
        member = NAME_MEMBER.get(message.method)
        name = None
        if member is not None:
            head = envelope.params_head(params)
            name = head.name if member == "name" else head.uri
    except envelope.EnvelopeError as error:
        answer.refuse(400 if error.code == envelope.INVALID_REQUEST else 200, error.code, str(error), id)
        return
    call = endpoint.call(
        caller,
        answer,
        id=id,
        method=message.method,
        params=params,
        name=None if name is UNSET else name,
        version=version,
        session=session,
    )
    if session is not None and envelope.canonical_id(id) in session.in_flight:
        answer.fail(id, Rejected(Reason.DUPLICATE_ID, "a call with this id is in flight in this session"))
        return
    await endpoint.answer(caller, call, answer, cancel_on_disconnect=False)


def _cancel(session: Session | None, message: Message) -> None:
    """Cancel a call of this session. One that is not in flight here goes no further: the ids that a server knows are
    ours, so the caller's would mean nothing to it, or another caller's call."""
    if session is None or not isinstance(message.params, Raw):
        return
    raw = envelope.members(message.params).get("requestId")
    cancel = session.in_flight.get(envelope.canonical_id(bytes(raw))) if raw is not None else None
    if cancel is not None:
        cancel()


async def _initialize(endpoint: Endpoint, caller: Caller, answer: Answer, message: Message) -> None:
    id = envelope.request_id(message)
    params = None if message.params is UNSET else bytes(message.params)
    try:
        parts = envelope.members(params) if params is not None else {}
    except envelope.EnvelopeError as error:
        answer.refuse(200, error.code, str(error), id)
        return
    try:
        requested = envelope.text(parts["protocolVersion"])
    except (KeyError, ValueError):
        answer.refuse(200, envelope.INVALID_PARAMS, "params.protocolVersion is missing or no string", id)
        return
    opening = Opening(
        version=requested,
        capabilities=bytes(parts.get("capabilities", b"{}")),
        client_info=bytes(parts.get("clientInfo", b"")),
        identity=caller.identity,
    )
    version = requested if requested in STREAMABLE_VERSIONS else STREAMABLE_VERSIONS[0]
    call = endpoint.call(
        caller, answer, id=id, method=INITIALIZE, params=params, name=None, version=version, session=opening
    )
    answer.hold()
    await endpoint.answer(caller, call, answer, cancel_on_disconnect=False)


async def _get(endpoint: Endpoint, caller: Caller) -> None:
    request = caller.request
    answer = Answer(request, Era.LEGACY)
    if not endpoint.accepts_stream(caller):
        answer.refuse(406, envelope.INVALID_REQUEST, "a GET needs Accept: text/event-stream")
        return
    if await _answered_elsewhere(endpoint, caller):
        return
    try:
        session = _session(endpoint, caller)
    except envelope.EnvelopeError as error:
        answer.refuse(400, error.code, str(error))
        return
    except CallError as error:
        answer.fail(b"null", error)
        return
    await endpoint.stream(caller, answer, session, _version(caller, session))


async def _delete(endpoint: Endpoint, caller: Caller) -> None:
    if await _answered_elsewhere(endpoint, caller):
        return
    answer = Answer(caller.request, Era.LEGACY)
    try:
        session = _session(endpoint, caller)
    except envelope.EnvelopeError as error:
        answer.refuse(400, error.code, str(error))
        return
    except CallError as error:
        answer.fail(b"null", error)
        return
    if session is None:
        caller.request.respond(405, headers=((b"allow", b"GET, POST"),))
        return
    for cancel in list(session.in_flight.values()):
        cancel()
    endpoint.sessions.delete(session)
    await endpoint.end_session(caller.server, session)
    answer.accepted(200)

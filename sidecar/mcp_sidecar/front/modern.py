"""Requests of the modern era (2026-07-28): stateless, every one checked against its headers, a disconnect is a cancel.

The order of the checks is the specification's (`basic/transports/streamable-http`, "Server Validation"): the envelope,
the headers, then the version, so that a caller who contradicts itself is told so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from mcp_sidecar.front.answer import Answer
from mcp_sidecar.pipeline.call import Era
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.param_headers import disagreement
from mcp_sidecar.protocol.revisions import KNOWN_METHODS, LISTEN, MODERN_VERSIONS, NAME_MEMBER, decode_header

if TYPE_CHECKING:
    from mcp_sidecar.front.endpoint import Caller, Endpoint
    from mcp_sidecar.protocol.envelope import Message, Params

_ROUTING: Final = frozenset({b"mcp-protocol-version", b"mcp-method", b"mcp-name"})
_REQUIRED: Final = "io.modelcontextprotocol/protocolVersion and io.modelcontextprotocol/clientCapabilities"


async def serve(endpoint: Endpoint, caller: Caller) -> None:
    """Answer one modern HTTP request."""
    request = caller.request
    if request.method != "POST":
        request.respond(405, headers=((b"allow", b"POST"),))
        return
    answer = Answer(request, Era.MODERN)
    if not endpoint.acceptable(caller, answer):
        return
    body = request.body
    if envelope.is_batch(body):
        answer.refuse(400, envelope.INVALID_REQUEST, "one message a request: batches ended with revision 2025-06-18")
        return
    try:
        message = envelope.parse(body)
        if message.method is UNSET:
            raise envelope.EnvelopeError(
                envelope.INVALID_REQUEST, "not a request: callers send no responses", envelope.legible_id(message)
            )
        if message.id is UNSET:
            await _notify(endpoint, caller, answer, message)
            return
        id = envelope.request_id(message)
        if message.method.startswith("notifications/"):
            answer.refuse(404, envelope.METHOD_NOT_FOUND, f"method not found: {message.method}", id)
            return
    except envelope.EnvelopeError as error:
        answer.refuse(400, error.code, str(error), error.id)
        return
    method = message.method
    params = None if message.params is UNSET else bytes(message.params)
    try:
        head = envelope.params_head(params)
    except envelope.EnvelopeError as error:
        answer.refuse(400, error.code, str(error), id)
        return
    if not _conforms(caller, answer, message, head, id):
        return
    member = NAME_MEMBER.get(method)
    name = None if member is None else head.name if member == "name" else head.uri
    call = endpoint.call(
        caller,
        answer,
        id=id,
        method=method,
        params=params,
        name=None if name is UNSET else name,
        version=request.headers[b"mcp-protocol-version"].decode("ascii", "replace"),
    )
    if method == LISTEN:
        await endpoint.listen(caller, call, answer)
    else:
        await endpoint.answer(caller, call, answer, cancel_on_disconnect=True)


async def _notify(endpoint: Endpoint, caller: Caller, answer: Answer, message: Message) -> None:
    """The core protocol has no notification here; what an extension sends goes to an HTTP upstream.

    A cancellation does not: a disconnect is the cancel of this era, and the ids that the server knows are ours.
    """
    server = caller.server
    if message.method in KNOWN_METHODS:
        # passed on, a server might run it: past the allow-list of tools, the limits and the audit
        answer.refuse(400, envelope.INVALID_REQUEST, "a request needs an id")
        return
    if server.upstream.holds_sessions or message.method == "notifications/cancelled":
        answer.accepted()
        return
    version = caller.request.headers[b"mcp-protocol-version"].decode("ascii", "replace")
    await endpoint.forward(caller, answer, None, envelope.without_id(message), version)


def _conforms(caller: Caller, answer: Answer, message: Message, head: Params, id: bytes) -> bool:
    """Whether envelope, headers and version fit together; answers where they do not."""
    request = caller.request
    headers = request.headers
    meta = head.meta
    if not isinstance(meta, envelope.Meta) or meta.protocol_version is UNSET or meta.client_capabilities is UNSET:
        answer.refuse(400, envelope.INVALID_PARAMS, f"params._meta needs {_REQUIRED}", id)
        return False
    mismatch = None
    if request.repeated and not _ROUTING.isdisjoint(request.repeated):
        mismatch = "a routing header appears more than once"
    elif headers.get(b"mcp-protocol-version") != str(meta.protocol_version).encode():
        mismatch = "MCP-Protocol-Version does not match the protocol version in params._meta"
    elif headers.get(b"mcp-method") != str(message.method).encode():
        mismatch = "Mcp-Method is missing or does not match the method of the body"
    else:
        member = NAME_MEMBER.get(str(message.method))
        if member is not None:
            value = head.name if member == "name" else head.uri
            header = headers.get(b"mcp-name")
            if value is not UNSET and (header is None or decode_header(header) != value):
                mismatch = f"Mcp-Name is missing or does not match params.{member} of the body"
        if mismatch is None and message.method == "tools/call":
            mismatch = _unlike_arguments(caller, message, head)
    if mismatch is not None:
        answer.refuse(400, envelope.HEADER_MISMATCH, f"header mismatch: {mismatch}", id)
        return False
    if meta.protocol_version not in MODERN_VERSIONS and caller.server.upstream.holds_sessions:
        # an HTTP upstream answers for itself: its list of versions is the truth
        data = {"supported": list(MODERN_VERSIONS), "requested": meta.protocol_version}
        answer.refuse(400, envelope.UNSUPPORTED_PROTOCOL_VERSION, "unsupported protocol version", id, data)
        return False
    return True


def _unlike_arguments(caller: Caller, message: Message, head: Params) -> str | None:
    """Where `Mcp-Param-*` headers and arguments disagree. A server behind HTTP checks them itself."""
    if not caller.server.upstream.holds_sessions or head.name is UNSET or message.params is UNSET:
        return None
    paths = caller.server.catalogue.mirrored(head.name)
    if not paths:
        return None
    try:
        arguments = msgspec.json.decode(message.params).get("arguments")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "Mcp-Param-* headers cannot be checked: the arguments cannot be read"
    request = caller.request
    return disagreement(paths, request.headers, request.repeated, arguments if isinstance(arguments, dict) else {})

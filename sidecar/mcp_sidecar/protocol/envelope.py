"""The JSON-RPC envelope: as much of a message as a proxy has to know.

`params`, `result` and `error` stay raw bytes: rebuilding them through typed models loses fields (`$defs`, unknown
extensions) and costs a hundred times as much (notes/protocol.md 0 and D). What is sent on is composed from the parts
that were read, so that the two ends cannot see different members where a message repeats one. Knows nothing of eras.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

JSONRPC: Final = "2.0"

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020
MISSING_CLIENT_CAPABILITY: Final = -32021
UNSUPPORTED_PROTOCOL_VERSION: Final = -32022
RESOURCE_NOT_FOUND: Final = -32002
"""Legacy only; 2026-07-28 uses -32602."""


class EnvelopeError(ValueError):
    """Not a JSON-RPC message. `code` is PARSE_ERROR or INVALID_REQUEST, `id` the caller's raw id where legible."""

    def __init__(self, code: int, message: str, id: bytes = b"null", *, too_deep: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.id = id
        self.too_deep = too_deep
        """It is nested more deeply than can be read, which says nothing else about it."""


class Message(msgspec.Struct, gc=False):
    """One JSON-RPC 2.0 message; absent members are UNSET."""

    jsonrpc: str | UnsetType = UNSET
    id: Raw | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _Identified(msgspec.Struct, gc=False):
    id: Raw | UnsetType = UNSET


class Meta(msgspec.Struct, gc=False):
    """The members of `_meta` that steer a proxy (MCP 2026-07-28 `basic/index`)."""

    progress_token: Raw | UnsetType = msgspec.field(default=UNSET, name="progressToken")
    protocol_version: str | UnsetType = msgspec.field(default=UNSET, name="io.modelcontextprotocol/protocolVersion")
    client_capabilities: Raw | UnsetType = msgspec.field(
        default=UNSET, name="io.modelcontextprotocol/clientCapabilities"
    )
    client_info: Raw | UnsetType = msgspec.field(default=UNSET, name="io.modelcontextprotocol/clientInfo")
    log_level: str | UnsetType = msgspec.field(default=UNSET, name="io.modelcontextprotocol/logLevel")
    subscription_id: Raw | UnsetType = msgspec.field(default=UNSET, name="io.modelcontextprotocol/subscriptionId")


class Params(msgspec.Struct, gc=False):
    """The members of request `params` that steer a proxy."""

    name: str | UnsetType = UNSET
    uri: str | UnsetType = UNSET
    request_state: Raw | UnsetType = msgspec.field(default=UNSET, name="requestState")
    input_responses: Raw | UnsetType = msgspec.field(default=UNSET, name="inputResponses")
    meta: Meta | UnsetType = msgspec.field(default=UNSET, name="_meta")


class ResultHead(msgspec.Struct, gc=False):
    """The members of a `result` that steer a proxy."""

    result_type: str = msgspec.field(default="complete", name="resultType")
    is_error: bool = msgspec.field(default=False, name="isError")
    ttl_ms: float | int | None = msgspec.field(default=None, name="ttlMs")
    cache_scope: str | None = msgspec.field(default=None, name="cacheScope")


class ErrorHead(msgspec.Struct, gc=False):
    """The members of an `error`."""

    code: int
    message: str = ""


class _WholeError(msgspec.Struct, gc=False):
    code: int
    message: str


_message: Final = msgspec.json.Decoder(Message)
_identified: Final = msgspec.json.Decoder(_Identified)
_messages: Final = msgspec.json.Decoder(list[Raw])
_params: Final = msgspec.json.Decoder(Params)
_result_head: Final = msgspec.json.Decoder(ResultHead)
_error_head: Final = msgspec.json.Decoder(ErrorHead)
_whole_error: Final = msgspec.json.Decoder(_WholeError)
_object: Final = msgspec.json.Decoder(dict[str, Raw])
_string: Final = msgspec.json.Decoder(str)
_encode: Final = msgspec.json.Encoder().encode


def parse(body: bytes) -> Message:
    """Read one message.

    Raises EnvelopeError: PARSE_ERROR for what is not JSON in UTF-8, INVALID_REQUEST for what is not JSON-RPC 2.0.
    """
    try:
        if not body.isascii():
            body.decode()  # raw members are not looked at, and the JSON parser that gets them next will
        message = _message.decode(body)
    except msgspec.ValidationError as error:
        raise EnvelopeError(INVALID_REQUEST, f"not a JSON-RPC message: {error}", _id_in(body)) from None
    except RecursionError:
        raise EnvelopeError(PARSE_ERROR, "nested too deeply", too_deep=True) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EnvelopeError(PARSE_ERROR, f"not JSON: {error}") from None
    if message.jsonrpc != JSONRPC:
        raise EnvelopeError(INVALID_REQUEST, 'not a JSON-RPC message: "jsonrpc" must be "2.0"', legible_id(message))
    return message


def _id_in(body: bytes) -> bytes:
    """The id of what is JSON and no message."""
    try:
        found = _identified.decode(body).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b"null"
    return bytes(found) if isinstance(found, Raw) and valid_id(bytes(found)) else b"null"


def split_batch(body: bytes) -> list[bytes]:
    """The messages of a JSON array (batches exist in revision 2025-03-26 only). Raises EnvelopeError."""
    try:
        return [bytes(raw) for raw in _messages.decode(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError(PARSE_ERROR, f"not JSON: {error}") from None


def is_batch(body: bytes) -> bool:
    """Whether the body is a JSON array."""
    return body[:1] == b"[" or body.lstrip()[:1] == b"["


def valid_id(raw: bytes) -> bool:
    """Whether raw JSON is a string or an integer, the ids MCP allows."""
    first = raw[:1]
    if first == b'"' or raw.isdigit():
        return True
    return (first.isdigit() or first == b"-") and not any(c in b".eE" for c in raw)


def legible_id(message: Message) -> bytes:
    """The message's id as raw JSON, `null` where it has none that can be answered to."""
    if message.id is UNSET:
        return b"null"
    raw = bytes(message.id)
    return raw if valid_id(raw) else b"null"


def canonical_id(raw: bytes) -> bytes:
    """One spelling for a raw id: two JSON encoders may write one string in two ways."""
    if raw[:1] != b'"' or (b"\\" not in raw and raw.isascii()):
        return raw
    try:
        return _encode(_string.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return raw


def request_id(message: Message) -> bytes:
    """The id of a request as raw JSON. Raises EnvelopeError where it is absent or of a wrong type."""
    if message.id is UNSET:
        raise EnvelopeError(INVALID_REQUEST, "a request needs an id")
    raw = bytes(message.id)
    if not valid_id(raw):
        raise EnvelopeError(INVALID_REQUEST, "an id must be a string or an integer")
    return raw


def params_head(params: bytes | Raw | None) -> Params:
    """What steers a proxy in `params`. Raises EnvelopeError(INVALID_PARAMS) where a member has a wrong type."""
    if params is None:
        return Params()
    try:
        return _params.decode(params)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError(INVALID_PARAMS, f"invalid params: {error}") from None


def result_head(result: bytes) -> ResultHead:
    """What steers a proxy in a `result`; a result that is no object or has odd members counts as a plain one."""
    try:
        return _result_head.decode(result)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ResultHead()


def error_head(error: bytes) -> ErrorHead:
    """Code and message of an `error`; INTERNAL_ERROR where it has none."""
    try:
        return _error_head.decode(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ErrorHead(INTERNAL_ERROR)


def is_error(raw: bytes) -> bool:
    """Whether raw JSON is the `error` of JSON-RPC: an object with an integer `code` and a `message`.

    Clients that read messages into models drop an answer with anything else, and wait for another.
    """
    try:
        _whole_error.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    except RecursionError:
        return True  # too deep to be read twice, and it was read once
    return True


def members(raw: bytes | Raw) -> dict[str, Raw]:
    """The members of a JSON object, each raw. Raises EnvelopeError(INVALID_PARAMS) where it is none."""
    try:
        return _object.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError(INVALID_PARAMS, f"not a JSON object: {error}") from None


def compose(parts: dict[str, Raw | bytes]) -> bytes:
    """A JSON object of raw members, in order."""
    return b"{" + b",".join(_encode(name) + b":" + bytes(raw) for name, raw in parts.items()) + b"}"


def encode(value: object) -> bytes:
    """JSON of plain values."""
    return _encode(value)


def text(raw: bytes | Raw) -> str:
    """A raw JSON string as text. Raises ValueError where it is none."""
    return _string.decode(raw)


_METHODS: dict[str, bytes] = {}
_LONGEST_KEPT: Final = 64


def _method(method: str) -> bytes:
    known = _METHODS.get(method)
    if known is None:
        known = _encode(method)
        if len(_METHODS) < 256 and len(method) <= _LONGEST_KEPT:  # callers choose it: they must not fill memory
            _METHODS[method] = known
    return known


def request(id: bytes, method: str, params: bytes | None) -> bytes:
    """A request of raw parts."""
    if params is None:
        return b'{"jsonrpc":"2.0","id":%b,"method":%b}' % (id, _method(method))
    return b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}' % (id, _method(method), params)


def notification(method: str, params: bytes | None) -> bytes:
    """A notification of raw parts."""
    if params is None:
        return b'{"jsonrpc":"2.0","method":%b}' % _method(method)
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (_method(method), params)


def without_id(message: Message) -> bytes:
    """A notification, or a response, composed of what was read: a member that another parser would take for `id` or
    `method` (Go's matches names in any case) must not turn it into a request that nobody checked."""
    if isinstance(message.method, str):
        return notification(message.method, bytes(message.params) if isinstance(message.params, Raw) else None)
    id = bytes(message.id) if isinstance(message.id, Raw) else b"null"
    if isinstance(message.error, Raw):
        return error_response(id, bytes(message.error))
    return result_response(id, bytes(message.result) if isinstance(message.result, Raw) else b"null")


def result_response(id: bytes, result: bytes) -> bytes:
    """An answer with a result."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, result)


def error_response(id: bytes, error: bytes) -> bytes:
    """An answer with an error."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id, error)


def error_object(code: int, message: str, data: object = None) -> bytes:
    """The JSON of an `error`."""
    if data is None:
        return _encode({"code": code, "message": message})
    return _encode({"code": code, "message": message, "data": data})


def seal_id(counter: int, caller_id: bytes) -> bytes:
    """The id sent to a legacy HTTP upstream: a string of our counter and the caller's raw id.

    A resumed stream (GET with Last-Event-ID) may be answered by another replica or after a restart; the caller's id
    comes back with the answer, so nobody has to remember it.
    """
    return _encode(f"{counter}:{caller_id.decode()}")


def open_id(raw: bytes) -> bytes | None:
    """The caller's raw id out of a sealed one, None where it is not ours."""
    try:
        counter, colon, caller = _string.decode(raw).partition(":")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not colon or not counter.isascii() or not counter.isdigit() or not valid_id(caller.encode()):
        return None
    return caller.encode()

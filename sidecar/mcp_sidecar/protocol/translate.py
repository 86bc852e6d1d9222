"""A message of one era made into one of the other, for channels where the sidecar stands between them.

Only what the eras really differ in is touched; everything else stays the bytes it was. Over HTTP nothing is translated
(design.md, "Eras"). Stateful parts (who is subscribed, who must be asked for input) belong to the upstream.
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw

from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.revisions import CACHEABLE_METHODS, LATEST_MODERN, MODERN_VERSIONS

_META_PREFIX: Final = "io.modelcontextprotocol/"
VERSION_KEY: Final = _META_PREFIX + "protocolVersion"
CAPABILITIES_KEY: Final = _META_PREFIX + "clientCapabilities"
CLIENT_INFO_KEY: Final = _META_PREFIX + "clientInfo"
LOG_LEVEL_KEY: Final = _META_PREFIX + "logLevel"
SERVER_INFO_KEY: Final = _META_PREFIX + "serverInfo"
SUBSCRIPTION_KEY: Final = _META_PREFIX + "subscriptionId"
SIDECAR_INFO: Final = "outrigger-sidecar"


def legacy_params(params: bytes | None) -> bytes | None:
    """Modern request params for a legacy server: `_meta` without the members that identify the request."""
    if params is None or _META_PREFIX.encode() not in params:
        return params
    parts = envelope.members(params)
    meta = parts.get("_meta")
    if meta is None:
        return params
    kept = {name: raw for name, raw in envelope.members(meta).items() if not name.startswith(_META_PREFIX)}
    if kept:
        parts["_meta"] = Raw(envelope.compose(dict(kept)))
    else:
        del parts["_meta"]
    return envelope.compose(dict(parts)) if parts else None


def modern_params(
    params: bytes | None, *, capabilities: bytes, client_info: bytes | None, log_level: str | None = None
) -> bytes:
    """Legacy request params for a modern server: `_meta` with version, capabilities and identity of the caller."""
    parts: dict[str, Raw | bytes] = dict(envelope.members(params)) if params is not None else {}
    meta: dict[str, Raw | bytes] = dict(envelope.members(bytes(parts["_meta"]))) if "_meta" in parts else {}
    meta[VERSION_KEY] = envelope.encode(LATEST_MODERN)
    meta[CAPABILITIES_KEY] = capabilities
    if client_info is not None:
        meta[CLIENT_INFO_KEY] = client_info
    if log_level is not None:
        meta[LOG_LEVEL_KEY] = envelope.encode(log_level)
    parts["_meta"] = envelope.compose(meta)
    return envelope.compose(parts)


def modern_result(method: str, result: bytes) -> bytes:
    """A legacy result for a modern caller: `resultType`, and `ttlMs` and `cacheScope` where the method needs them.

    A legacy server says nothing about freshness, so the answer is 0 and private.
    """
    head = result.lstrip()
    if head[:1] != b"{":
        return result
    present = envelope.members(head) if b"resultType" in head or b"ttlMs" in head or b"cacheScope" in head else {}
    added = b""
    if "resultType" not in present:
        added += b'"resultType":"complete",'
    if method in CACHEABLE_METHODS:
        if "ttlMs" not in present:
            added += b'"ttlMs":0,'
        if "cacheScope" not in present:
            added += b'"cacheScope":"private",'
    if not added:
        return result
    rest = head[1:].lstrip()
    return b"{" + (added[:-1] if rest[:1] == b"}" else added) + rest


def modern_error(error: bytes) -> bytes:
    """A legacy error for a modern caller: -32002 (resource not found) is -32602 since 2026-07-28."""
    if b"-32002" not in error or envelope.error_head(error).code != envelope.RESOURCE_NOT_FOUND:
        return error
    parts: dict[str, Raw | bytes] = dict(envelope.members(error))
    parts["code"] = b"%d" % envelope.INVALID_PARAMS
    return envelope.compose(parts)


def discover_result(initialize_result: bytes) -> bytes:
    """The answer to `server/discover` of a server that knows `initialize` only."""
    parts = envelope.members(initialize_result)
    discovered: dict[str, Raw | bytes] = {
        "resultType": b'"complete"',
        "supportedVersions": envelope.encode(list(MODERN_VERSIONS)),
        "capabilities": parts.get("capabilities", Raw(b"{}")),
    }
    if "instructions" in parts:
        discovered["instructions"] = parts["instructions"]
    if "serverInfo" in parts:
        discovered["_meta"] = envelope.compose({SERVER_INFO_KEY: parts["serverInfo"]})
    discovered["ttlMs"] = b"0"
    discovered["cacheScope"] = b'"private"'
    return envelope.compose(discovered)


def initialize_result(discover: bytes, version: str) -> bytes:
    """The answer to `initialize` of a server that knows `server/discover` only."""
    parts = envelope.members(discover)
    meta = envelope.members(parts["_meta"]) if "_meta" in parts else {}
    result: dict[str, Raw | bytes] = {
        "protocolVersion": envelope.encode(version),
        "capabilities": parts.get("capabilities", Raw(b"{}")),
        "serverInfo": meta.get(SERVER_INFO_KEY, Raw(b'{"name":"unknown","version":"0"}')),
    }
    if "instructions" in parts:
        result["instructions"] = parts["instructions"]
    return envelope.compose(result)


def with_version(initialize_result: bytes, version: str) -> bytes:
    """The server's `initialize` result under the version agreed with the caller."""
    parts: dict[str, Raw | bytes] = dict(envelope.members(initialize_result))
    parts["protocolVersion"] = envelope.encode(version)
    return envelope.compose(parts)


def input_params(params: bytes | None, responses: dict[str, bytes], state: Raw | bytes | None) -> bytes:
    """The params of a repeated request: the original ones with `inputResponses` and `requestState`."""
    parts: dict[str, Raw | bytes] = dict(envelope.members(params)) if params is not None else {}
    parts.pop("inputResponses", None)
    parts.pop("requestState", None)
    if responses:
        parts["inputResponses"] = envelope.compose(dict(responses))
    if state is not None:
        parts["requestState"] = state
    return envelope.compose(parts)


def listen_result(subscription: bytes) -> bytes:
    """What ends a listen stream in good order (2026-07-28 `basic/patterns/subscriptions`, "Graceful Closure")."""
    return b'{"resultType":"complete","_meta":{"%b":%b}}' % (SUBSCRIPTION_KEY.encode(), subscription)


def without_subscription(message: bytes) -> bytes:
    """A frame of a modern listen stream as a legacy notification: its `_meta` names no subscription."""
    parsed = envelope.parse(message)
    if not isinstance(parsed.params, Raw) or not isinstance(parsed.method, str):
        return message
    parts = envelope.members(parsed.params)
    meta = parts.get("_meta")
    if meta is not None:
        kept = {name: raw for name, raw in envelope.members(meta).items() if name != SUBSCRIPTION_KEY}
        if kept:
            parts["_meta"] = Raw(envelope.compose(dict(kept)))
        else:
            del parts["_meta"]
    return envelope.notification(parsed.method, envelope.compose(dict(parts)) if parts else None)


def with_subscription(method: str, params: bytes | None, subscription: bytes) -> bytes:
    """A legacy notification as a frame of a modern listen stream of the caller's raw id `subscription`."""
    parts: dict[str, Raw | bytes] = dict(envelope.members(params)) if params is not None else {}
    meta: dict[str, Raw | bytes] = dict(envelope.members(bytes(parts["_meta"]))) if "_meta" in parts else {}
    meta[SUBSCRIPTION_KEY] = subscription
    parts["_meta"] = envelope.compose(meta)
    return envelope.notification(method, envelope.compose(parts))

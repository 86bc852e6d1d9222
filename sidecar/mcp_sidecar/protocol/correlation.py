"""The members that tie an interim message to the request it belongs to: progress tokens and subscription ids.

Callers choose their progress tokens, usually their request ids, so tokens of two callers collide on one channel; and
a subscription id is the request's id as the server knows it (notes/protocol.md E). Both are replaced on the way up and
put back on the way down. Bytes in, bytes out: which request a number means is the multiplexer's knowledge.
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw

from mcp_sidecar.protocol.envelope import EnvelopeError, compose, members, notification

SUBSCRIPTION_ID: Final = "io.modelcontextprotocol/subscriptionId"
SUBSCRIPTION_BYTES: Final = b"subscriptionId"
"""The part of the name that no encoder writes escaped (some write `\\/` for the slash)."""
PROGRESS_TOKEN_BYTES: Final = b"progressToken"


def number(raw: bytes | None) -> int:
    """The integer that raw JSON stands for, as `7` or `"7"`; -1, which is nobody's number, for anything else."""
    if raw is None:
        return -1
    if raw[:1] == b'"':
        raw = raw[1:-1]
    return int(raw) if raw.isdigit() and len(raw) < 20 else -1


def replace_progress_token(params: bytes, token: bytes) -> tuple[bytes, bytes | None]:
    """Params with `token` for `_meta.progressToken`, and the caller's own; None where there is none.

    Composed anew wherever there is a `_meta`, so that no second one, nor a second token in it, is left for a server
    that reads the first of equal names: a caller could name another's request by it.
    """
    try:
        top = members(params)
    except EnvelopeError:
        return params, None
    if "_meta" not in top:
        return params, None
    own: bytes | None = None
    try:
        meta = members(top["_meta"])
    except EnvelopeError:
        return compose({**top}), None
    if "progressToken" in meta:
        own = bytes(meta["progressToken"])
        meta["progressToken"] = Raw(token)
    return compose({**top, "_meta": compose({**meta})}), own


def progress_of(params: bytes | Raw) -> tuple[int, dict[str, Raw]]:
    """The token of a `notifications/progress`, -1 where it cannot be one of ours, and all its params."""
    try:
        top = members(params)
        return number(bytes(top["progressToken"])), top
    except (KeyError, EnvelopeError):
        return -1, {}


def restore_progress(top: dict[str, Raw], token: bytes) -> bytes:
    """The notification with the caller's token."""
    return notification("notifications/progress", compose({**top, "progressToken": token}))


def subscription_of(params: bytes | Raw) -> int:
    """The subscription that a message's `_meta` names; -1 where it cannot be one of ours."""
    try:
        return number(bytes(members(members(params)["_meta"])[SUBSCRIPTION_ID]))
    except (KeyError, EnvelopeError):
        return -1


def restore_subscription(params: bytes | Raw, caller_id: bytes) -> bytes:
    """Params, or a result, with the caller's request id as subscription id."""
    top = members(params)
    meta: dict[str, Raw | bytes] = {**members(top["_meta"]), SUBSCRIPTION_ID: caller_id}
    return compose({**top, "_meta": compose(meta)})


def cancelled_request(params: bytes | Raw) -> int:
    """The request that a `notifications/cancelled` names; -1 where it cannot be one of ours."""
    try:
        return number(bytes(members(params)["requestId"]))
    except (KeyError, EnvelopeError):
        return -1

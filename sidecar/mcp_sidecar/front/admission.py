"""What every MCP request must pass before it becomes a call: who asks, how, and whether we take anything at all.

Method, media types, credentials and the allow-list of tools; hosts and origins are `hosts`' business, bearer tokens
`tokens`'. The checks of the hot path cost a dictionary look-up: raw header values are few and their verdicts are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from msgspec import Raw

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.protocol import envelope

_MAX_KEPT: Final = 256
_FORWARDED: Final = frozenset({b"traceparent", b"tracestate", b"baggage"})
_PARAM_PREFIX: Final = b"mcp-param-"

_accepts: dict[bytes, tuple[bool, bool]] = {}
_identities: dict[bytes, bytes] = {}


def accepts(accept: bytes | None) -> tuple[bool, bool]:
    """Whether a caller takes JSON, and whether it takes event streams. Without the header it takes anything."""
    if accept is None:
        return True, True
    known = _accepts.get(accept)
    if known is None:
        ranges = [part.split(b";")[0].strip().lower() for part in accept.split(b",")]
        everything = b"*/*" in ranges
        known = (
            everything or b"application/json" in ranges or b"application/*" in ranges,
            everything or b"text/event-stream" in ranges or b"text/*" in ranges,
        )
        if len(_accepts) < _MAX_KEPT:
            _accepts[accept] = known
    return known


def is_json(content_type: bytes | None) -> bool:
    """Whether a body is declared as JSON."""
    return content_type == b"application/json" or (
        content_type is not None and content_type.split(b";")[0].strip().lower() == b"application/json"
    )


def identity_of(authorization: bytes | None) -> bytes:
    """Who asks, as a hash of the `Authorization` header; empty for anonymous (design.md, "Caller identity")."""
    if authorization is None:
        return b""
    known = _identities.get(authorization)
    if known is None:
        known = hashlib.blake2b(authorization, digest_size=16).digest()
        if len(_identities) >= _MAX_KEPT:
            _identities.clear()  # credentials that rotate must not pile up in memory
        _identities[authorization] = known
    return known


def forwarded(headers: dict[bytes, bytes], *, authorization: bool) -> tuple[tuple[bytes, bytes], ...]:
    """The request headers that go to an HTTP upstream: an allow-list, credentials only where the config says so."""
    passed = [item for item in headers.items() if item[0] in _FORWARDED or item[0].startswith(_PARAM_PREFIX)]
    if authorization and b"authorization" in headers:
        passed.append((b"authorization", headers[b"authorization"]))
    return tuple(passed)


ToolFilter = Callable[[str], bool]
"""Whether a tool may be seen and called."""


class ToolPolicy:
    """Which tools a caller may list and call: those that pass every filter given."""

    __slots__ = ("_filters",)

    def __init__(self, *filters: ToolFilter | None) -> None:
        self._filters = [each for each in filters if each is not None]

    def allows(self, tool: str) -> bool:
        """Whether the caller may know of and call a tool."""
        return all(allows(tool) for allows in self._filters)

    def _allows_raw(self, tool: bytes) -> bool:
        try:
            name = envelope.params_head(tool).name
        except envelope.EnvelopeError:
            return False
        return isinstance(name, str) and self.allows(name)

    def narrow(self, result: bytes) -> bytes:
        """A `tools/list` result without the tools that are not allowed. Raises UpstreamError where it is no list."""
        try:
            parts: dict[str, Raw | bytes] = dict(envelope.members(result))
            tools = envelope.split_batch(bytes(parts["tools"])) if "tools" in parts else []
        except envelope.EnvelopeError:
            raise UpstreamError(
                Reason.PROTOCOL_ERROR, "the server's list of tools cannot be read", delivery=Delivery.ANSWERED
            ) from None
        if "tools" not in parts:
            return result
        kept = [raw for raw in tools if self._allows_raw(raw)]
        parts["tools"] = b"[" + b",".join(kept) + b"]"
        return envelope.compose(parts)

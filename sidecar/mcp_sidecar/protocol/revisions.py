"""What each revision of MCP has: versions, methods, headers and statuses.

Tables and pure checks, taken from the specification's pages named beside them. How a message of one era becomes one
of the other is `translate`'s business.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

MODERN_VERSIONS: Final = ("2026-07-28",)
LEGACY_VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Newest first."""
STREAMABLE_VERSIONS: Final = LEGACY_VERSIONS[:3]
"""Legacy versions a caller may use on our endpoint: 2024-11-05 had another transport."""
LATEST_MODERN: Final = MODERN_VERSIONS[0]
LATEST_LEGACY: Final = LEGACY_VERSIONS[0]
BATCH_VERSION: Final = "2025-03-26"
"""The one revision with JSON-RPC batches; also what a request without a version header speaks."""

NAME_MEMBER: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Methods whose `params` member is mirrored in `Mcp-Name` (2026-07-28 `basic/transports/streamable-http`)."""

LISTEN: Final = "subscriptions/listen"
DISCOVER: Final = "server/discover"
INITIALIZE: Final = "initialize"

SAFE_METHODS: Final = frozenset(
    {
        "completion/complete",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "server/discover",
        "tasks/get",
        "tasks/list",
        "tasks/result",
        "tools/list",
    }
)
"""Reads by definition: a second execution changes nothing (notes/resilience.md B.7)."""

IDEMPOTENT_METHODS: Final = frozenset(
    {"logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/cancel"}
)
"""Methods that set a state: a second execution sets the same."""

CACHEABLE_METHODS: Final = frozenset(
    {
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "server/discover",
        "tools/list",
    }
)
"""Results that carry `ttlMs` and `cacheScope` (2026-07-28 `server/utilities/caching`)."""

INPUT_METHODS: Final = frozenset({"prompts/get", "resources/read", "tools/call"})
"""Methods that may answer `input_required` (2026-07-28 `basic/patterns/mrtr`)."""

_CORE: Final = frozenset(
    {
        "completion/complete",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "tools/call",
        "tools/list",
    }
)
MODERN_METHODS: Final = _CORE | {DISCOVER, LISTEN, "tasks/get", "tasks/update", "tasks/cancel"}
LEGACY_METHODS: Final = _CORE | {
    INITIALIZE,
    "logging/setLevel",
    "ping",
    "resources/subscribe",
    "resources/unsubscribe",
}
LEGACY_TASK_METHODS: Final = frozenset({"tasks/cancel", "tasks/get", "tasks/list", "tasks/result"})
"""2025-11-25 only, experimental."""

KNOWN_METHODS: Final = MODERN_METHODS | LEGACY_METHODS | LEGACY_TASK_METHODS

ERROR_STATUS: Final = {
    -32700: 400,
    -32600: 400,
    -32602: 400,
    -32020: 400,
    -32021: 400,
    -32022: 400,
    -32601: 404,
}
"""HTTP status of a JSON-RPC error to a modern caller; every other code goes with 200."""


def legacy_methods(version: str) -> frozenset[str]:
    """The request methods of a legacy version."""
    return LEGACY_METHODS | LEGACY_TASK_METHODS if version >= "2025-11-25" else LEGACY_METHODS


def negotiate(requested: str) -> str:
    """The legacy version to speak with a caller that asks for `requested`: that one if known, else the latest."""
    return requested if requested in STREAMABLE_VERSIONS else LATEST_LEGACY


_PLAIN: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?\Z")
_SENTINEL: Final = re.compile(r"=\?base64\?(.*)\?=\Z")


def encode_header(value: str) -> bytes:
    """A value for `Mcp-Name`: as it is where HTTP can carry it, else in the base64 sentinel form."""
    if _PLAIN.match(value) and not _SENTINEL.match(value):
        return value.encode("ascii")
    return b"=?base64?%b?=" % base64.b64encode(value.encode())


def decode_header(value: bytes) -> str | None:
    """The value behind a header in plain or sentinel form; None where it is malformed."""
    try:
        plain = value.decode("ascii")
    except UnicodeDecodeError:
        return None
    match = _SENTINEL.match(plain)
    if match is None:
        return plain
    try:
        decoded = base64.b64decode(match[1], validate=True)
        # only the canonical form, so that one value has one spelling
        return decoded.decode() if base64.b64encode(decoded).decode() == match[1] else None
    except (binascii.Error, UnicodeDecodeError):
        return None

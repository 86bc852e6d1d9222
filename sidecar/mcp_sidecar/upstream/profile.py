"""Who the server on a channel is: the opening of a conversation, in either era.

A process's era is fixed by its first request (notes/protocol.md 0). `discover` asks whether it is modern; anything but
a recognised modern answer means legacy (2026-07-28 `basic/transports/stdio`, "Backward Compatibility"), where
`initialize` opens the conversation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec

from mcp_sidecar import __version__
from mcp_sidecar.errors import Reason
from mcp_sidecar.pipeline.call import Era, Reply
from mcp_sidecar.protocol import envelope, translate
from mcp_sidecar.protocol.revisions import (
    DISCOVER,
    INITIALIZE,
    LATEST_LEGACY,
    LATEST_MODERN,
    LEGACY_TASK_METHODS,
    LEGACY_VERSIONS,
    MODERN_METHODS,
    legacy_methods,
)
from mcp_sidecar.upstream.channel import StartError
from mcp_sidecar.upstream.multiplexer import Multiplexer

DISCOVER_TIMEOUT: Final = 10.0
"""Seconds a silent server has to answer `server/discover` before it is sent `initialize` (as the SDK's probe)."""

_CLIENT_INFO: Final = envelope.encode({"name": translate.SIDECAR_INFO, "version": __version__})
_MODERN_ERRORS: Final = frozenset(
    {envelope.HEADER_MISMATCH, envelope.MISSING_CLIENT_CAPABILITY, envelope.UNSUPPORTED_PROTOCOL_VERSION}
)


@dataclass(frozen=True)
class Profile:
    """What a server said of itself. `raw` is its `server/discover` or `initialize` result."""

    era: Era
    version: str
    raw: bytes

    @cached_property
    def capabilities(self) -> dict[str, Any]:
        """Its capabilities as plain values; empty where it said nothing legible."""
        try:
            decoded = msgspec.json.decode(envelope.members(self.raw).get("capabilities", b"{}"))
        except (envelope.EnvelopeError, msgspec.DecodeError):
            return {}
        return decoded if isinstance(decoded, dict) else {}

    @cached_property
    def methods(self) -> frozenset[str]:
        """The request methods of its revision. Tasks were experimental: only where it announces them."""
        if self.era is Era.MODERN:
            return MODERN_METHODS
        methods = legacy_methods(self.version)
        return methods if "tasks" in self.capabilities else methods - LEGACY_TASK_METHODS

    @property
    def server_info(self) -> dict[str, Any]:
        """Name and version as the server reports them."""
        try:
            result = self.raw if self.era is Era.LEGACY else translate.initialize_result(self.raw, self.version)
            decoded = msgspec.json.decode(envelope.members(result).get("serverInfo", b"{}"))
        except (envelope.EnvelopeError, msgspec.DecodeError):
            return {}
        return decoded if isinstance(decoded, dict) else {}

    def announces(self, group: str) -> bool:
        """Whether it promised to say when a list (`tools`, `prompts`, `resources`) changes."""
        capability = self.capabilities.get(group)
        return isinstance(capability, dict) and capability.get("listChanged") is True


def modern_meta(params: bytes | None = None) -> bytes:
    """Params of a modern request that the sidecar makes on its own account: it can do nothing for the server."""
    return translate.modern_params(params, capabilities=b"{}", client_info=_CLIENT_INFO)


def initialize_params() -> bytes:
    """Params of the `initialize` of a shared process: no capability, since nobody could be asked."""
    return b'{"protocolVersion":%b,"capabilities":{},"clientInfo":%b}' % (envelope.encode(LATEST_LEGACY), _CLIENT_INFO)


async def discover(multiplexer: Multiplexer) -> Profile | None:
    """The profile of a modern server; None where it is legacy. Raises UpstreamError where the channel died of it."""
    reply = await multiplexer.request(DISCOVER, modern_meta())
    if reply.result is not None:
        try:
            parts = envelope.members(reply.result)
        except envelope.EnvelopeError:
            return None
        return Profile(Era.MODERN, LATEST_MODERN, reply.result) if "supportedVersions" in parts else None
    error = envelope.error_head(reply.error or b"{}")
    if error.code in _MODERN_ERRORS:
        raise StartError(
            "protocol",
            f"the server speaks other revisions than {LATEST_MODERN}: {error.message}",
            reason=Reason.START_FAILED,
        )
    return None


async def initialize(multiplexer: Multiplexer, params: bytes | None = None) -> Profile:
    """Open a legacy conversation for the sidecar itself. Raises StartError where the server refuses."""
    reply = await multiplexer.request(INITIALIZE, params if params is not None else initialize_params())
    profile = profile_of(reply)
    multiplexer.notify("notifications/initialized")
    return profile


def profile_of(reply: Reply) -> Profile:
    """The profile out of an `initialize` answer. Raises StartError where it is an error or unusable."""
    if reply.result is None:
        error = envelope.error_head(reply.error or b"{}")
        raise InitializeRefused(f"the server refused initialize: {error.code} {error.message[:200]}")
    try:
        version = envelope.text(envelope.members(reply.result)["protocolVersion"])
    except (KeyError, ValueError):
        raise StartError(
            "protocol", "the server's answer to initialize has no protocolVersion", reason=Reason.START_FAILED
        ) from None
    if version not in LEGACY_VERSIONS:
        raise StartError(
            "protocol",
            f"the server wants to speak revision {version[:20]!r}, which is unknown",
            reason=Reason.START_FAILED,
        )
    return Profile(Era.LEGACY, version, reply.result)


class InitializeRefused(StartError):
    """The server answered `initialize` with an error: it may be modern only."""

    def __init__(self, message: str) -> None:
        super().__init__("protocol", message, reason=Reason.START_FAILED)

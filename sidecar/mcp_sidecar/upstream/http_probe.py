"""Who the server behind a URL is: modern, legacy, or of the HTTP+SSE transport before them.

Asks as 2026-07-28 `basic/transports/streamable-http`, "Backward Compatibility" says: modern first; what is no
recognised modern answer, silence included, means `initialize`; what does not know that either gets a GET. Only what
says nothing about the era (no connection, no credentials, throttled) is an error.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.call import Call, CallKind, Era, Reply
from mcp_sidecar.pipeline.upstream import LegacySession, Opening
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.revisions import DISCOVER, INITIALIZE, LATEST_LEGACY, LATEST_MODERN, MODERN_VERSIONS
from mcp_sidecar.upstream.profile import Profile, initialize_params, modern_meta, profile_of

_SAYS_NOTHING: Final = frozenset(
    {Reason.SERVER_NOT_READY, Reason.UPSTREAM_UNAUTHORIZED, Reason.UPSTREAM_THROTTLED, Reason.TLS_FAILED}
)
_MODERN_ERRORS: Final = frozenset({envelope.HEADER_MISMATCH, envelope.MISSING_CLIENT_CAPABILITY})


@dataclass(frozen=True)
class Found:
    """`transport`: `http` or `sse`. `versions`: those the server names, newest first as it lists them."""

    transport: str
    profile: Profile | None
    versions: tuple[str, ...] = ()

    @property
    def era(self) -> Era:
        """The newest era it speaks."""
        return self.profile.era if self.profile is not None else Era.LEGACY

    def status(self) -> dict[str, Any]:
        """For `/status`."""
        status: dict[str, Any] = {"era": self.era.value, "versions": list(self.versions)}
        if self.profile is not None and self.profile.server_info:
            status["serverInfo"] = self.profile.server_info
        return status


class Probed(Protocol):
    """What a probe needs of an upstream."""

    async def exchange(self, call: Call) -> Reply:
        """One attempt."""

    async def end_session(self, session: LegacySession) -> None:
        """DELETE."""

    async def opens_event_stream(self) -> bool:
        """GET."""


async def find(upstream: Probed, timeout: float, known: Found | None = None) -> Found:
    """Ask the server who it is, `timeout` seconds for each question. Raises UpstreamError."""
    if known is None or known.era is Era.MODERN:
        found = await _discover(upstream, timeout)
        if found is not None:
            return found
    if known is None or known.transport != "sse":
        found = await _initialize(upstream, timeout)
        if found is not None:
            return found
    return await _get(upstream, timeout)


async def _discover(upstream: Probed, timeout: float) -> Found | None:
    call = _call(DISCOVER, modern_meta(), Era.MODERN, LATEST_MODERN)
    try:
        async with asyncio.timeout(timeout):
            reply = await upstream.exchange(call)
    except TimeoutError:
        return None
    except UpstreamError as error:
        if error.delivery is Delivery.NOT_SENT or error.reason in _SAYS_NOTHING:
            raise
        return None
    if reply.result is not None:
        try:
            versions = _strings(envelope.members(reply.result)["supportedVersions"])
        except (KeyError, envelope.EnvelopeError):
            return None
        return Found("http", Profile(Era.MODERN, LATEST_MODERN, reply.result), versions)
    code = envelope.error_head(reply.error or b"{}").code
    if code == envelope.UNSUPPORTED_PROTOCOL_VERSION:
        supported = _supported(reply.error or b"{}")
        if supported and not any(version < MODERN_VERSIONS[-1] for version in supported):
            return Found("http", Profile(Era.MODERN, supported[0], b"{}"), supported)
        return None
    return Found("http", Profile(Era.MODERN, LATEST_MODERN, b"{}")) if code in _MODERN_ERRORS else None


async def _initialize(upstream: Probed, timeout: float) -> Found | None:
    opening = Opening(version=LATEST_LEGACY, capabilities=b"{}", client_info=b"", identity=b"")
    call = _call(INITIALIZE, initialize_params(), Era.LEGACY, LATEST_LEGACY, opening)
    try:
        async with asyncio.timeout(timeout):
            reply = await upstream.exchange(call)
    except TimeoutError:
        message = f"the server answered neither server/discover nor initialize within {timeout:g} s"
        raise UpstreamError(Reason.ATTEMPT_TIMEOUT, message, delivery=Delivery.MAYBE) from None
    except UpstreamError as error:
        if error.status in (400, 404, 405):
            return None
        raise
    if reply.error is not None and reply.status in (400, 404, 405):
        return None
    profile = profile_of(reply)
    session = next((value for name, value in reply.headers if name == b"mcp-session-id"), None)
    if session is not None:
        opening.upstream_session = session.decode("ascii")
        opening.version = profile.version
        try:
            await upstream.end_session(opening)
        except UpstreamError:
            pass  # it answered; that it keeps a session of ours until it expires is its business
    return Found("http", profile, (profile.version,))


async def _get(upstream: Probed, timeout: float) -> Found:
    try:
        async with asyncio.timeout(timeout):
            if await upstream.opens_event_stream():
                return Found("sse", None, ("2024-11-05",))
    except TimeoutError:
        pass
    message = "what answers at this URL is no MCP server: neither server/discover, initialize nor an event stream"
    raise UpstreamError(Reason.PROTOCOL_ERROR, message, delivery=Delivery.ANSWERED)


def _call(method: str, params: bytes, era: Era, version: str, session: Opening | None = None) -> Call:
    return Call(
        server="", id=b"0", method=method, params=params, era=era, version=version, session=session, kind=CallKind.SAFE
    )


def _strings(raw: bytes | msgspec.Raw) -> tuple[str, ...]:
    try:
        return tuple(msgspec.json.decode(raw, type=list[str]))
    except msgspec.DecodeError:
        return ()


def _supported(error: bytes) -> tuple[str, ...]:
    try:
        return _strings(envelope.members(envelope.members(error)["data"])["supported"])
    except (KeyError, envelope.EnvelopeError):
        return ()

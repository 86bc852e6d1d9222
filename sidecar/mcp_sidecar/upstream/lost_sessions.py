"""Legacy sessions that an HTTP server has lost, begun anew in silence where it keeps nothing in them.

Only with `sessions: Stateless`: elsewhere a fresh session in place of a lost one would give wrong answers (design.md,
"Sessions"). The caller keeps its token; the server's new session id is kept in memory with the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from mcp_sidecar.pipeline.call import Call, CallKind, Era, Reply
from mcp_sidecar.pipeline.upstream import LegacySession, Opening
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.revisions import INITIALIZE
from mcp_sidecar.upstream.http_request import Headers


class Notify(Protocol):
    """Passes a notification on."""

    async def __call__(
        self, session: LegacySession | None, message: bytes, *, version: str, headers: Headers = ()
    ) -> int:
        """See Upstream.notify."""


class LostSessions:
    """`exchange` and `notify` are those of the bare upstream."""

    def __init__(self, exchange: Callable[[Call], Awaitable[Reply]], notify: Notify) -> None:
        self._exchange = exchange
        self._notify = notify
        self._locks: dict[str, asyncio.Lock] = {}
        self.begun_anew = 0

    async def begin_anew(self, session: LegacySession, lost: str, headers: Headers) -> bool:
        """Open a session in place of the one whose id was `lost`. False where the server refuses. Raises CallError."""
        lock = self._locks.setdefault(lost, asyncio.Lock())
        try:
            async with lock:
                if session.upstream_session != lost:
                    return True  # another call was first
                return await self._open(session, headers)
        finally:
            self._locks.pop(lost, None)

    async def _open(self, session: LegacySession, headers: Headers) -> bool:
        params = initialize_params_of(session)
        opening = Opening(
            version=session.version,
            capabilities=session.capabilities,
            client_info=session.client_info,
            identity=session.identity,
        )
        call = Call(
            server="",
            id=b"0",
            method=INITIALIZE,
            params=params,
            era=Era.LEGACY,
            version=session.version,
            session=opening,
            kind=CallKind.SAFE,
            headers=tuple(headers),
        )
        reply = await self._exchange(call)
        if reply.result is None:
            return False
        found = next((value for name, value in reply.headers if name == b"mcp-session-id"), None)
        session.upstream_session = found.decode("latin-1") if found is not None else None
        message = envelope.notification("notifications/initialized", None)
        await self._notify(session, message, version=session.version, headers=headers)
        self.begun_anew += 1
        return True


def initialize_params_of(session: LegacySession) -> bytes:
    """The params of the `initialize` by which a caller opened its session."""
    return envelope.compose(
        {
            "protocolVersion": envelope.encode(session.version),
            "capabilities": session.capabilities,
            "clientInfo": session.client_info or b'{"name":"unknown","version":"0"}',
        }
    )

"""What the front and the pipeline ask of an upstream, whatever speaks behind it.

The front imports this and no transport; the transports import this and no front.
"""

from __future__ import annotations

from typing import Any, Protocol

from mcp_sidecar.pipeline.call import Call, Reply, Sink


class LegacySession(Protocol):
    """What an upstream may know of a caller's legacy session (front/sessions.py has the whole)."""

    upstream_session: str | None
    version: str
    capabilities: bytes
    client_info: bytes
    instance: str
    address: str
    identity: bytes
    state: Any
    log_id: str
    """Short hash for logs."""


class Opening:
    """A legacy session that is being opened: the upstream fills in what the token must seal."""

    __slots__ = (
        "address",
        "capabilities",
        "client_info",
        "identity",
        "instance",
        "log_id",
        "state",
        "upstream_session",
        "version",
    )

    def __init__(self, *, version: str, capabilities: bytes, client_info: bytes, identity: bytes) -> None:
        self.version = version
        self.capabilities = capabilities
        self.client_info = client_info
        self.identity = identity
        self.upstream_session: str | None = None
        self.instance = ""
        self.address = ""
        self.state: Any = None
        self.log_id = ""


class Upstream(Protocol):
    """One MCP server as the sidecar sees it."""

    holds_sessions: bool
    """The sidecar itself holds legacy sessions (channels): a request without one is refused here."""

    async def exchange(self, call: Call) -> Reply:
        """One attempt: lease, send, wait. Raises UpstreamError with the delivery state; `call.session` is an Opening
        for `initialize`."""

    async def listen(self, call: Call) -> Reply:
        """`subscriptions/listen`: frames go to `call.emit`, returns at the graceful end."""

    async def notify(
        self,
        session: LegacySession | None,
        message: bytes,
        *,
        version: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> int:
        """Pass on a notification, or a response to a server's request. Returns an HTTP status for the caller."""

    async def stream(
        self,
        session: LegacySession | None,
        sink: Sink,
        *,
        version: str,
        last_event_id: bytes | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """The legacy GET stream: returns when the upstream ends it. Raises CallError where it cannot be had."""

    def session_opened(self, session: LegacySession) -> None:
        """The session whose Opening was answered has its token now."""

    def rest(self, session: LegacySession) -> bool:
        """A session is not in use. True: it may be forgotten here, and begins anew when it comes back."""

    async def end_session(self, session: LegacySession) -> None:
        """A caller's DELETE, or the end of a session here."""

    async def probe(self) -> None:
        """Ask the server for a sign of life, outside of any call. Raises CallError."""

    def status(self) -> dict[str, Any]:
        """For `/status`: plain JSON values, no secrets."""

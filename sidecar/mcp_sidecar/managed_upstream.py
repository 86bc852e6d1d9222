"""An upstream with the parts of its life that only its unit uses, and what stands in where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from mcp_sidecar.errors import Reason, Rejected
from mcp_sidecar.pipeline.call import Call, Reply
from mcp_sidecar.pipeline.upstream import LegacySession, Upstream

if TYPE_CHECKING:
    from mcp_sidecar import config


class ManagedUpstream(Upstream, Protocol):
    """An upstream with the parts of its life that only its unit uses."""

    async def drain(self, grace: float) -> Any:
        """Let calls finish, then end."""

    async def close(self) -> None:
        """End everything now."""

    def rotate(self) -> bool:
        """Use new secrets. False where they cannot be used: the old ones stay."""

    async def list_tools(self, cursor: str | None) -> bytes | None:
        """A page of `tools/list`, None where it cannot be had."""

    def rest(self, session: LegacySession) -> bool:
        """A session was not used for long: give up what is kept for it. True where it may be forgotten here."""

    def legacy_scope(self, call: Call) -> bytes | None:
        """What a legacy answer depends on, None where it must not be kept."""

    def announces(self, call: Call, method: str) -> bool:
        """Whether the server promised to say when the list of a method changes."""


MakeUpstream = Callable[[], "tuple[ManagedUpstream, Callable[[config.Config], None]]"]
"""An upstream of the config as it is now, and what takes it to other tunables. Raises SecretError or ValueError where
the values of the server cannot be used."""


def not_ready(message: str) -> Rejected:
    """The server's values cannot be used, so there is nothing to ask."""
    return Rejected(Reason.SERVER_NOT_READY, message, retry_after=10.0)


class Nowhere:
    """What the front sees of a server that has no upstream: calls are refused before they get here."""

    def __init__(self, configured: config.Server) -> None:
        self.holds_sessions = configured.kind != "StreamableHTTP"

    async def exchange(self, call: Call) -> Reply:
        raise not_ready("the server is not ready")

    listen = exchange

    async def notify(self, session: Any, message: bytes, *, version: str, headers: Any = ()) -> int:
        raise not_ready("the server is not ready")

    async def stream(
        self, session: Any, sink: Any, *, version: str, last_event_id: bytes | None = None, headers: Any = ()
    ) -> None:
        raise not_ready("the server is not ready")

    def session_opened(self, session: Any) -> None:
        return

    def rest(self, session: Any) -> bool:
        return True

    async def end_session(self, session: Any) -> None:
        return

    async def probe(self) -> None:
        raise not_ready("the server is not ready")

    def status(self) -> dict[str, Any]:
        return {}

"""One configured server as the front sees it: its pipeline, its upstream, and what is known of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_sidecar.catalogue import Catalogue
from mcp_sidecar.errors import Reason, Rejected
from mcp_sidecar.pipeline.call import CallKind, Handler, Reply

if TYPE_CHECKING:
    from mcp_sidecar.pipeline.call import Call
    from mcp_sidecar.pipeline.upstream import Upstream


@dataclass(frozen=True)
class ServerSettings:
    """total_timeout: seconds a call may take in all; forward_authorization: pass the caller's credentials upstream;
    tool_filter: which tools may be listed and called, None for all; forward_headers: pass `mcp-param-*` and trace
    headers on; max_streams: streams of callers (listen, GET) open at once."""

    total_timeout: float = 300.0
    forward_authorization: bool = False
    tool_filter: Callable[[str], bool] | None = None
    forward_headers: bool = True
    max_streams: int = 1000


class Server:
    """Name, settings, pipeline and upstream of one server. The front calls `answer`; the rest is read."""

    def __init__(
        self, name: str, settings: ServerSettings, catalogue: Catalogue, upstream: Upstream, handler: Handler
    ) -> None:
        self.name = name
        self.settings = settings
        self.catalogue = catalogue
        self.upstream = upstream
        self.handler = handler
        self.refusal: str | None = None
        """Why the server takes no calls (a secret that cannot be read or opened), None where it does."""
        self.admit: Callable[[], Awaitable[None]] | None = None
        """Awaited before a tool is called: an audit that must lose nothing holds calls back. None where none does."""

    async def answer(self, call: Call) -> Reply:
        """Pass a call through the pipeline. Raises CallError."""
        if self.refusal is not None:
            raise Rejected(Reason.SERVER_NOT_READY, self.refusal, retry_after=10.0)
        if self.admit is not None and call.method == "tools/call":
            await self.admit()
        reply = await self.handler(call)
        if call.method == "tools/list" and reply.result is not None and call.name is None:
            self.catalogue.learn(reply.result, first_page=call.params is None or b'"cursor"' not in call.params)
        return reply

    def kind(self, method: str, name: str | None) -> CallKind:
        """What a second execution of a call would do."""
        return self.catalogue.kind(method, name)

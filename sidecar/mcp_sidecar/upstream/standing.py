"""What callers asked of a shared server once and for good: a log level, to hear of a resource.

A shared process knows one client, us. It is told the most talkative level and each resource once, whoever asked; a new
process is told all of it again. Which caller then hears what, is `audience`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from mcp_sidecar.errors import CallError
from mcp_sidecar.pipeline.call import Call, Era, Reply, Source
from mcp_sidecar.protocol import envelope
from mcp_sidecar.upstream.audience import LEVELS, Audience, Listener, SharedSession
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.profile import Profile

SET_LEVEL: Final = "logging/setLevel"
SUBSCRIBE: Final = "resources/subscribe"
UNSUBSCRIBE: Final = "resources/unsubscribe"
METHODS: Final = frozenset({SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE})

_QUIET_TIMEOUT: Final = 10.0
"""Seconds for an answer that nobody waits for."""
_DONE: Final = b"{}"


class StandingRequests:
    """`legacy` gives the legacy processes that take calls now; `refresh` has a modern server's feed opened anew."""

    def __init__(
        self, audience: Audience, legacy: Callable[[], list[Multiplexer]], refresh: Callable[[], None]
    ) -> None:
        self._audience = audience
        self._legacy = legacy
        self._refresh = refresh
        self._asides: set[asyncio.Task[None]] = set()

    async def ask(self, call: Call, state: SharedSession, multiplexer: Multiplexer, profile: Profile) -> Reply:
        """Answer a legacy caller's request of one of METHODS. `multiplexer` and `profile`: its process."""
        if call.method == SET_LEVEL:
            return await self._set_level(call, state, multiplexer, profile)
        uri = envelope.params_head(call.params).uri
        if not isinstance(uri, str):
            return Reply(error=envelope.error_object(envelope.INVALID_PARAMS, "params.uri is missing"))
        if call.method == SUBSCRIBE:
            return await self._subscribe(call, state, uri, profile)
        if uri in state.uris:
            state.uris.discard(uri)
            self.unwant([uri])
        return _done()

    async def _set_level(self, call: Call, state: SharedSession, multiplexer: Multiplexer, profile: Profile) -> Reply:
        try:
            level = envelope.text(envelope.members(call.params or _DONE)["level"])
        except (KeyError, ValueError):
            level = ""
        if level not in LEVELS:
            message = f"level must be one of {', '.join(LEVELS)}"
            return Reply(error=envelope.error_object(envelope.INVALID_PARAMS, message))
        if profile.era is Era.LEGACY and "logging" not in profile.capabilities:
            return await multiplexer.request(call.method, call.params, call=call)
        before, own = self._audience.level, state.level
        state.level = level
        merged = self._audience.level
        if profile.era is Era.LEGACY and merged != before:
            try:
                replies = await self._tell_all(SET_LEVEL, {"level": merged}, call)
            except BaseException:
                state.level = own
                raise
            if replies and replies[0].error is not None:
                state.level = own
                return replies[0]
        return _done()

    async def _subscribe(self, call: Call, state: SharedSession, uri: str, profile: Profile) -> Reply:
        if uri in state.uris:
            return _done()
        if self._audience.want(uri) and profile.era is Era.LEGACY:
            try:
                replies = await self._tell_all(SUBSCRIBE, {"uri": uri}, call)
            except BaseException:
                self.unwant([uri])
                raise
            if replies and replies[0].error is not None:
                self._audience.unwant(uri)
                return replies[0]
        if uri in state.uris:  # asked twice at the same time
            self._audience.unwant(uri)
        elif state.over:
            self.unwant([uri])
        else:
            state.uris.add(uri)
        self._refresh()
        return _done()

    async def want(self, listener: Listener) -> None:
        """Subscribe to what a listener wants; what the server refuses leaves its list."""
        for uri in list(listener.uris):
            listener.wanted.append(uri)
            if self._audience.want(uri):
                replies = await self._tell_all(SUBSCRIBE, {"uri": uri}, None)
                if replies and replies[0].error is not None:
                    listener.uris.discard(uri)

    def unwant(self, uris: list[str]) -> None:
        """One caller less wants these."""
        last = [uri for uri in uris if self._audience.unwant(uri)]
        for uri in last:
            for multiplexer in self._legacy():
                task = asyncio.get_running_loop().create_task(self._ask_quietly(multiplexer, uri), name="unsubscribe")
                self._asides.add(task)
                task.add_done_callback(self._asides.discard)
        if last:
            self._refresh()

    async def _ask_quietly(self, multiplexer: Multiplexer, uri: str) -> None:
        try:
            async with asyncio.timeout(_QUIET_TIMEOUT):
                await multiplexer.request(UNSUBSCRIBE, envelope.encode({"uri": uri}))
        except (TimeoutError, CallError):
            return  # what the process then says of it finds no subscriber

    async def _tell_all(self, method: str, params: dict[str, Any], call: Call | None) -> list[Reply]:
        """Ask every legacy process."""
        encoded = envelope.encode(params)
        return [await multiplexer.request(method, encoded, call=call) for multiplexer in self._legacy()]

    async def restore(self, multiplexer: Multiplexer) -> None:
        """Tell a legacy process what the callers had asked of the one before. Raises UpstreamError."""
        level = self._audience.level
        if level is not None:
            await multiplexer.request(SET_LEVEL, envelope.encode({"level": level}))
        for uri in self._audience.uris:
            await multiplexer.request(SUBSCRIBE, envelope.encode({"uri": uri}))

    def close(self) -> None:
        """Wait for nothing any more."""
        for task in list(self._asides):
            task.cancel()


def _done() -> Reply:
    return Reply(_DONE, source=Source.SIDECAR)

"""Tells a legacy server that a call was cancelled: there a closed connection means nothing (2025-11-25
`basic/utilities/cancellation`). Best effort: few at once, bounded in time, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from mcp_sidecar.errors import CallError
from mcp_sidecar.pipeline.call import Call
from mcp_sidecar.protocol import envelope
from mcp_sidecar.upstream.http_request import RequestHeads
from mcp_sidecar.upstream.http_streams import session_of
from mcp_sidecar.upstream.pool import Spawn

_log = logging.getLogger(__name__)

_TIMEOUT: Final = 5.0
_MOST: Final = 64
"""Under way at once; beyond it the server is not told."""


class CancelNotices:
    """`post(head, body)` sends one message to the server."""

    def __init__(self, post: Callable[[bytes, bytes], Awaitable[object]], heads: RequestHeads, spawn: Spawn) -> None:
        self._post = post
        self._heads = heads
        self._spawn = spawn
        self._tasks: set[asyncio.Task[None]] = set()
        self.sent = 0

    def tell(self, call: Call, id: bytes) -> None:
        """The call that was sent under `id` is given up."""
        if len(self._tasks) >= _MOST:
            return
        reason = b"cancelled by the caller" if call.cancelled else b"timed out"
        params = b'{"requestId":%b,"reason":"%b"}' % (id, reason)
        message = envelope.notification("notifications/cancelled", params)
        head = self._heads.message(session_of(call), call.version, len(message), call.headers)
        task = self._spawn(self._send(head, message), "notifications/cancelled")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self, head: bytes, message: bytes) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._post(head, message)
            self.sent += 1
        except (CallError, TimeoutError) as error:
            _log.debug("the server was not told of a cancellation: %s", error)

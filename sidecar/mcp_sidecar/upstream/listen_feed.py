"""The sidecar's own `subscriptions/listen` on a modern process: for its cache, and for legacy callers.

A modern server says what changed only to who listens. One stream per process, for all list changes it announces and
for the resources that legacy sessions subscribed to; opened again when those change or the stream ends.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from msgspec import UNSET

from mcp_sidecar.errors import CallError
from mcp_sidecar.protocol import envelope, translate
from mcp_sidecar.protocol.revisions import LISTEN
from mcp_sidecar.upstream.audience import LIST_CHANGES, Audience
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.profile import Profile, modern_meta

_PAUSE: Final = 1.0
"""Seconds before a stream that the server ended is opened again; doubled each time, at most a minute."""


class ListenFeed:
    """Listens as long as the process lives. Owns one task."""

    def __init__(self, multiplexer: Multiplexer, profile: Profile, audience: Audience) -> None:
        self._multiplexer = multiplexer
        self._profile = profile
        self._audience = audience
        self._changed = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="listen-feed")

    def refresh(self) -> None:
        """The subscriptions changed: open the stream anew."""
        self._changed.set()

    def close(self) -> None:
        """Listen no more."""
        self._task.cancel()

    def _params(self) -> bytes | None:
        wanted: dict[str, Any] = {flag: True for group, flag in LIST_CHANGES.values() if self._profile.announces(group)}
        uris = self._audience.uris
        if uris:
            wanted["resourceSubscriptions"] = uris
        return modern_meta(envelope.encode({"notifications": wanted})) if wanted else None

    async def _run(self) -> None:
        pause = _PAUSE
        while not self._multiplexer.closed:
            self._changed.clear()
            params = self._params()
            if params is None:
                await self._changed.wait()
                continue
            stream = asyncio.get_running_loop().create_task(
                self._multiplexer.request(LISTEN, params, on_event=self._hear), name="listen-feed-stream"
            )
            changed = asyncio.get_running_loop().create_task(self._changed.wait(), name="listen-feed-changed")
            try:
                await asyncio.wait((stream, changed), return_when=asyncio.FIRST_COMPLETED)
                if stream.done():
                    if not stream.cancelled() and stream.exception() is None and stream.result().error is not None:
                        return  # the server does not know listen: nothing to hear
                    async with asyncio.timeout(pause):
                        await changed
                pause = _PAUSE
            except TimeoutError:
                pause = min(pause * 2, 60.0)
            finally:
                for task in (stream, changed):
                    task.cancel()
                await asyncio.gather(stream, changed, return_exceptions=True)

    def _hear(self, frame: bytes) -> None:
        message = envelope.parse(frame)
        if message.method is UNSET or message.method.startswith("notifications/subscriptions/"):
            return
        try:
            self._audience.hear(message.method, translate.without_subscription(frame))
        except CallError:
            return

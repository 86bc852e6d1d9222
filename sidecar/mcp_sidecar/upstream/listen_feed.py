"""The sidecar's own `subscriptions/listen` on a modern process: for its cache, and for legacy callers.

A modern server says what changed only to who listens. One stream per process, for all list changes it announces and
for the resources that legacy sessions subscribed to; opened again when those change or the stream ends.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from msgspec import UNSET

from mcp_sidecar.errors import CallError
from mcp_sidecar.pipeline.call import Reply
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
        self._loop = asyncio.get_running_loop()
        self._stream: asyncio.Task[Reply] | None = None
        self._task = self._loop.create_task(self._run(), name="listen-feed")

    def refresh(self) -> None:
        """The subscriptions changed: open the stream anew."""
        self._changed.set()

    def close(self) -> None:
        """Listen no more."""
        self._task.cancel()
        if self._stream is not None:
            self._stream.cancel()

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
                if self._stream is not None:
                    self._stream.cancel()
                    self._stream = None
                await self._changed.wait()
                continue
            began = self._loop.time()
            refreshed = await self._listen(params)
            if refreshed is None:
                return  # the server does not know listen: nothing to hear
            if refreshed:
                continue
            if self._loop.time() - began > pause:
                pause = _PAUSE
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                pass
            pause = min(pause * 2, 60.0)
            if not self._multiplexer.closed:
                self._audience.changed_everything(self._profile)  # nobody heard what changed meanwhile

    async def _listen(self, params: bytes) -> bool | None:
        """One stream: True when it is to be opened anew, False when it ended, None when the server refused it.

        One that is opened anew runs on for a while beside its successor, so that nothing goes unheard between them.
        """
        previous, stream = (
            self._stream,
            self._loop.create_task(
                self._multiplexer.request(LISTEN, params, on_event=self._hear), name="listen-feed-stream"
            ),
        )
        self._stream = stream
        changed = self._loop.create_task(self._changed.wait(), name="listen-feed-changed")
        try:
            await asyncio.sleep(0)  # the new stream is asked for before the old one is cancelled
            if previous is not None:
                previous.cancel()
                await asyncio.wait((previous,))
            await asyncio.wait((stream, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            if not stream.done() and not self._changed.is_set():
                stream.cancel()
        if not stream.done():
            return True
        self._stream = None
        refused = not stream.cancelled() and stream.exception() is None and stream.result().error is not None
        return None if refused else False

    def _hear(self, frame: bytes) -> None:
        message = envelope.parse(frame)
        if message.method is UNSET or message.method.startswith("notifications/subscriptions/"):
            return
        try:
            self._audience.hear(message.method, translate.without_subscription(frame))
        except CallError:
            return

"""Calls and upstreams for the tests of the HTTP upstream."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mcp_sidecar.errors import CallError
from mcp_sidecar.pipeline.call import Call, Era, Event, Reply
from mcp_sidecar.upstream.dial import DialSettings
from mcp_sidecar.upstream.http_upstream import HttpUpstream, HttpUpstreamSettings
from mcp_sidecar.upstream.pool import PoolSettings

VERSION = {Era.MODERN: "2026-07-28", Era.LEGACY: "2025-11-25"}


class RecordingSink:
    """A caller that remembers its events; `error` is raised instead of taking one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.arrived = asyncio.Event()
        self.error: CallError | None = None
        self.opened = 0
        self.unsent = 0

    def open(self) -> None:
        self.opened += 1

    def emit(self, event: Event) -> None:
        if self.error is not None:
            raise self.error
        self.events.append(event)
        self.arrived.set()

    @property
    def data(self) -> list[bytes]:
        return [event.data for event in self.events]

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.events) < count:
                self.arrived.clear()
                await self.arrived.wait()


class HeldSession:
    """As much of a legacy session as an upstream looks at."""

    def __init__(self, upstream_session: str | None, version: str = "2025-11-25") -> None:
        self.upstream_session = upstream_session
        self.version = version
        self.capabilities = b"{}"
        self.client_info = b""
        self.instance = ""
        self.state: object | None = None
        self.identity = b""
        self.label = "test"


def make_call(
    method: str = "tools/call",
    params: bytes | None = b'{"name":"echo"}',
    *,
    era: Era = Era.MODERN,
    id: bytes = b'"mine"',
    **fields: Any,
) -> Call:
    fields.setdefault("name", "echo" if method == "tools/call" else None)
    fields.setdefault("version", VERSION[era])
    return Call(server="s", id=id, method=method, params=params, era=era, **fields)


@asynccontextmanager
async def http_upstream(
    url: str,
    *,
    pool: PoolSettings | None = None,
    headers: Callable[[], Any] = tuple,
    environ: dict[str, str] | None = None,
    dial: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[HttpUpstream]:
    counter = itertools.count(1)
    upstream = HttpUpstream(
        HttpUpstreamSettings(
            "s", DialSettings(url, **(dial or {})), pool or PoolSettings(min_size=0, idle_timeout=60), **settings
        ),
        ids=lambda: next(counter),
        headers=headers,
        environ=environ or {},
    )
    try:
        yield upstream
        # whatever a test did: nothing is left in use, and a stream's end was waited for
        async with asyncio.timeout(5):
            while upstream.pool.in_use:
                await asyncio.sleep(0.01)
    finally:
        await upstream.close()
        assert upstream.pool.size == 0


async def bounded(awaitable: Any, seconds: float = 10) -> Any:
    async with asyncio.timeout(seconds):
        return await awaitable


async def exchanged(upstream: HttpUpstream, call: Call | None = None) -> Reply:
    reply = await bounded(upstream.exchange(call if call is not None else make_call()))
    assert isinstance(reply, Reply)
    return reply

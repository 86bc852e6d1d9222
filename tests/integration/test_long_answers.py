"""An answer that is long in coming: its caller gets an event stream that is kept alive, on a real listener."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from front_client import Caller, Front
from mcp_sidecar.catalogue import Catalogue, KindSettings
from mcp_sidecar.errors import Reason, Rejected
from mcp_sidecar.front.endpoint import Endpoint
from mcp_sidecar.front.sessions import Sessions, SessionSettings
from mcp_sidecar.pipeline.call import Call, Reply
from mcp_sidecar.server import Server, ServerSettings
from raw_mcp import META, MODERN

AFTER = 0.2


class Slow:
    """An upstream that answers when told, and remembers the calls."""

    holds_sessions = False

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.arrived = asyncio.Event()
        self.release = asyncio.Event()
        self.outcome: Callable[[], Reply] = lambda: Reply(b'{"resultType":"complete"}')

    async def handle(self, call: Call) -> Reply:
        self.calls.append(call)
        self.arrived.set()
        await self.release.wait()
        return self.outcome()


class Open:
    """Everybody may in."""

    def refusal(self, request: Any) -> None:
        return None

    def principal(self, request: Any) -> tuple[str, None]:
        return "", None


class Silent:
    """Records nothing."""

    def finished(self, *arguments: Any) -> None:
        return

    def tools_listed(self, *arguments: Any) -> None:
        return


@asynccontextmanager
async def slow_server() -> AsyncIterator[tuple[Slow, Caller]]:
    upstream = Slow()
    server = Server("s", ServerSettings(), Catalogue(KindSettings()), upstream, upstream.handle)  # type: ignore[arg-type]
    sessions = Sessions(os.urandom(32), SessionSettings())
    endpoint = Endpoint({"s": server}, Open(), sessions, Silent(), stream_after=AFTER)
    async with Front(endpoint, stream_comment_interval=0.1) as front, await front.caller() as caller:
        yield upstream, caller


def request(version: str = MODERN) -> bytes:
    params = {"name": "x", "_meta": META} if version == MODERN else {"name": "x"}
    body = json.dumps({"jsonrpc": "2.0", "id": "mine", "method": "tools/call", "params": params}).encode()
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: */*\r\n"
        f"MCP-Protocol-Version: {version}\r\nMcp-Method: tools/call\r\nMcp-Name: x\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def head_of(caller: Caller) -> bytes:
    async with asyncio.timeout(5):
        return await caller.reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize("version", [MODERN, "2025-06-18"])
async def test_a_silent_call_becomes_a_stream_with_signs_of_life(version: str) -> None:
    async with slow_server() as (upstream, caller):
        caller.send(request(version))
        head = await head_of(caller)
        assert head.startswith(b"HTTP/1.1 200")
        assert b"text/event-stream" in head
        async with asyncio.timeout(5):
            for _ in range(3):
                assert await caller.reader.readuntil(b":\n\n\r\n")
            upstream.release.set()
            rest = await caller.reader.readuntil(b"0\r\n\r\n")
        (data,) = [line for line in rest.splitlines() if line.startswith(b"data: ")]
        assert json.loads(data[6:]) == {"jsonrpc": "2.0", "id": "mine", "result": {"resultType": "complete"}}
        # the connection is good for the next request
        caller.send(request(version))
        assert b"application/json" in await head_of(caller)


async def test_a_quick_answer_stays_plain() -> None:
    async with slow_server() as (upstream, caller):
        upstream.release.set()
        for _ in range(3):
            caller.send(request())
            answer = await caller.answer()
            assert (answer.status, answer.headers["content-type"]) == (200, "application/json")


async def test_a_late_error_comes_on_the_stream() -> None:
    async with slow_server() as (upstream, caller):

        def fail() -> Reply:
            raise Rejected(Reason.QUEUE_TIMEOUT, "too late", retry_after=1.0)

        upstream.outcome = fail
        caller.send(request())
        await head_of(caller)
        upstream.release.set()
        async with asyncio.timeout(5):
            rest = await caller.reader.readuntil(b"0\r\n\r\n")
        assert b'"reason":"queue_timeout"' in rest


async def test_who_leaves_during_the_silence_cancels() -> None:
    async with slow_server() as (upstream, caller):
        caller.send(request())
        await head_of(caller)
        caller.writer.close()
        async with asyncio.timeout(5):
            while not upstream.calls[0].cancelled:
                await asyncio.sleep(0.01)

"""The channel of the HTTP+SSE transport: endpoint, order, and every way it can end."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fault_server import STREAM_HEAD, FaultServer, SeenRequest, Wire, answer, chunk, event, result
from http_upstreams import bounded
from mcp_sidecar.errors import Delivery, Reason, SecretError, UpstreamError
from mcp_sidecar.upstream.channel import Channel
from mcp_sidecar.upstream.dial import DialSettings
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.sse_channel import SseChannel, SseSettings

LOOPS = ("asyncio", "uvloop")
HEAD = STREAM_HEAD + b"\r\n"


class OldServer:
    """A server of the old transport. `on_post` may be replaced; `say` sends an event on the newest stream."""

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.endpoint = b"/messages?session=7"
        self.posts: list[Any] = []
        self.hung_up = asyncio.Event()
        self.on_post: Callable[[SeenRequest, Wire], Awaitable[None]] = self.accept

    async def __call__(self, request: SeenRequest, wire: Wire) -> None:
        if request.method == "GET":
            self.wire = wire
            await wire.write(HEAD + chunk(b"event: endpoint\ndata: " + self.endpoint + b"\n\n"))
            await wire.gone()
            self.hung_up.set()
        else:
            self.posts.append(request.json)
            await self.on_post(request, wire)

    async def accept(self, request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(b"Accepted", 202, "text/plain"))
        if b'"id"' in request.body and b'"method"' in request.body:
            await self.say(result(request.id, {"echo": request.json.get("params")}))

    async def say(self, data: bytes) -> None:
        assert self.wire is not None
        await self.wire.write(event(data, name=b"message"))


class Ends:
    """What a channel told its owner."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.errors: list[UpstreamError] = []
        self.changed = asyncio.Event()

    def message(self, data: bytes) -> None:
        self.messages.append(data)
        self.changed.set()

    def closed(self, error: UpstreamError) -> None:
        self.errors.append(error)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def opened(
    handler: Callable[[SeenRequest, Wire], Awaitable[None]], **settings: Any
) -> AsyncIterator[tuple[SseChannel, Ends, FaultServer]]:
    async with FaultServer(handler) as server:
        ends = Ends()
        channel = SseChannel(SseSettings(DialSettings(server.url), **settings), environ={})
        channel.on_message = ends.message
        channel.on_closed = ends.closed
        try:
            await bounded(channel.open())
            yield channel, ends, server
        finally:
            await bounded(channel.close("test over"))


def is_channel(channel: SseChannel) -> Channel:
    """A check for mypy."""
    return channel


async def test_messages_go_up_by_post_and_come_down_the_stream() -> None:
    old = OldServer()
    async with opened(old) as (channel, ends, server):
        sent = channel.send(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1}}')
        await ends.until(lambda: bool(ends.messages))
        assert json.loads(ends.messages[0]) == {"jsonrpc": "2.0", "id": 1, "result": {"echo": {"a": 1}}}
        assert sent.delivered
        assert not sent.withdraw()
        get, post = server.requests
        assert (get.target, get.headers["accept"]) == ("/mcp", "text/event-stream")
        assert (post.target, post.headers["content-type"]) == ("/messages?session=7", "application/json")
        await channel.close("done")
        await bounded(old.hung_up.wait())
        assert len(ends.errors) == 1


async def test_a_multiplexer_works_on_it() -> None:
    class Nobody:
        def on_notification(self, method: str, message: bytes) -> None: ...
        def on_request(self, id_raw: bytes, method: str, params: bytes | None, message: bytes) -> None: ...
        def on_closed(self, error: UpstreamError) -> None: ...

    async with opened(OldServer()) as (channel, _, _server):
        counter = itertools.count(1)
        loop = asyncio.get_running_loop()
        multiplexer = Multiplexer(channel, ids=lambda: next(counter), clock=loop.time, peer=Nobody())
        replies = await bounded(
            asyncio.gather(*(multiplexer.request("tools/call", b'{"n":%d}' % i) for i in range(50)))
        )
        assert [json.loads(r.result or b"") for r in replies] == [{"echo": {"n": i}} for i in range(50)]


@pytest.mark.parametrize("endpoint", [b"/messages", b"messages", b"?session=7", b"{origin}/messages"])
async def test_the_endpoint_may_be_relative(endpoint: bytes) -> None:
    old = OldServer()

    async def script(request: SeenRequest, wire: Wire) -> None:
        old.endpoint = endpoint.replace(b"{origin}", f"http://127.0.0.1:{server.port}".encode())
        await old(request, wire)

    async with FaultServer(script) as server:
        channel = SseChannel(SseSettings(DialSettings(server.url)), environ={})
        await bounded(channel.open())
        await bounded(channel.close("done"))


@pytest.mark.parametrize("endpoint", [b"http://other.test/m", b"//other.test/m", b"https://127.0.0.1/m", b"ftp:x"])
async def test_an_endpoint_elsewhere_is_refused(endpoint: bytes) -> None:
    old = OldServer()
    old.endpoint = endpoint
    with pytest.raises(UpstreamError) as caught:
        async with opened(old):
            pass
    assert (caught.value.reason, caught.value.delivery) == (Reason.PROTOCOL_ERROR, Delivery.NOT_SENT)
    assert old.posts == []


async def test_what_is_no_event_stream_cannot_be_opened() -> None:
    for reply, reason in (
        (answer(b"nope", 404), Reason.UPSTREAM_STATUS),
        (answer(b"", 401), Reason.UPSTREAM_UNAUTHORIZED),
        (answer(b"{}"), Reason.PROTOCOL_ERROR),
        (b"", Reason.CONNECTION_LOST),
    ):

        async def script(request: SeenRequest, wire: Wire, reply: bytes = reply) -> None:
            await wire.write(reply)
            wire.close()

        with pytest.raises(UpstreamError) as caught:
            async with opened(script):
                pass
        assert (caught.value.reason, caught.value.delivery) == (reason, Delivery.NOT_SENT)


async def test_a_stream_without_an_endpoint_is_given_up() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(HEAD)
        await wire.gone()

    with pytest.raises(UpstreamError, match=r"within 0\.1 s"):
        async with opened(script, open_timeout=0.1):
            pass


async def test_opening_can_be_cancelled() -> None:
    gone = asyncio.Event()

    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(HEAD)
        await wire.gone()
        gone.set()

    async with FaultServer(script) as server:
        channel = SseChannel(SseSettings(DialSettings(server.url)), environ={})
        task = asyncio.create_task(channel.open())
        async with asyncio.timeout(5):
            while not server.requests:
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await bounded(gone.wait())


@pytest.mark.parametrize("how", ["fin", "reset", "end"])
async def test_the_end_of_the_stream_is_the_end_of_the_channel(how: str) -> None:
    old = OldServer()
    async with opened(old) as (channel, ends, _):
        assert old.wire is not None
        if how == "end":
            await old.wire.write(b"0\r\n\r\n")
        elif how == "fin":
            old.wire.close()
        else:
            old.wire.reset()
        await ends.until(lambda: bool(ends.errors))
        assert ends.errors[0].reason is Reason.CONNECTION_LOST
        with pytest.raises(UpstreamError) as caught:
            channel.send(b"{}")
        assert caught.value.delivery is Delivery.NOT_SENT
        with pytest.raises(UpstreamError):
            await channel.drain()


async def test_a_request_that_is_refused_gets_its_error_on_the_spot() -> None:
    old = OldServer()

    async def refuse(request: SeenRequest, wire: Wire) -> None:
        if request.json["id"] == 1:
            await wire.write(answer(b"<html>bad</html>", 400, "text/html"))
        else:
            await old.accept(request, wire)

    old.on_post = refuse
    async with opened(old) as (channel, ends, _):
        channel.send(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
        channel.send(b'{"jsonrpc":"2.0","id":2,"method":"ping"}')
        await ends.until(lambda: len(ends.messages) == 2)
        answers = {m["id"]: m for m in map(json.loads, ends.messages)}
        assert answers[1]["error"]["code"] == Reason.UPSTREAM_STATUS.code
        assert answers[1]["error"]["data"] == {"reason": "upstream_status", "maybeExecuted": False}
        assert "result" in answers[2]
        assert ends.errors == []


async def test_a_session_that_the_server_lost_ends_the_channel() -> None:
    old = OldServer()

    async def gone(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(b"no such session", 404, "text/plain"))

    old.on_post = gone
    async with opened(old) as (channel, ends, _):
        channel.send(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
        await ends.until(lambda: bool(ends.errors))
        assert ends.errors[0].reason is Reason.CONNECTION_LOST


async def test_a_notification_is_accepted_before_the_next_message_goes_out() -> None:
    old = OldServer()
    order: list[str] = []

    async def slow(request: SeenRequest, wire: Wire) -> None:
        order.append("begin " + request.json["method"])
        if "id" not in request.json:
            await asyncio.sleep(0.05)
        order.append("end " + request.json["method"])
        await old.accept(request, wire)

    old.on_post = slow
    async with opened(old) as (channel, ends, _):
        channel.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        channel.send(b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}')
        await ends.until(lambda: bool(ends.messages))
        assert order[:3] == ["begin notifications/initialized", "end notifications/initialized", "begin tools/list"]


async def test_a_server_that_answers_a_post_late_does_not_hold_up_the_next() -> None:
    old = OldServer()
    second = asyncio.Event()

    async def waits(request: SeenRequest, wire: Wire) -> None:
        if request.json["id"] == 1:
            await second.wait()
        else:
            second.set()
        await old.accept(request, wire)

    old.on_post = waits
    async with opened(old) as (channel, ends, _):
        channel.send(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
        channel.send(b'{"jsonrpc":"2.0","id":2,"method":"ping"}')
        await ends.until(lambda: len(ends.messages) == 2)


async def test_what_is_queued_can_be_taken_back_and_is_bounded() -> None:
    old = OldServer()
    go = asyncio.Event()

    async def stuck(request: SeenRequest, wire: Wire) -> None:
        await go.wait()
        await old.accept(request, wire)

    old.on_post = stuck
    async with opened(old, high_water=100) as (channel, ends, _):
        first = channel.send(b'{"jsonrpc":"2.0","method":"a"}')
        async with asyncio.timeout(5):
            while not first.delivered:
                await asyncio.sleep(0.001)
        queued = [channel.send(b'{"jsonrpc":"2.0","id":%d,"method":"ping"}' % i) for i in range(9)]
        assert channel.congested
        draining = asyncio.create_task(channel.drain())
        assert queued[3].withdraw()
        assert not queued[3].withdraw()
        assert not queued[3].delivered
        while channel._queued <= 1_048_576:
            channel.send(b'{"x":"%b"}' % (b"x" * 100_000))
        with pytest.raises(UpstreamError) as caught:
            channel.send(b"{}")
        assert caught.value.delivery is Delivery.NOT_SENT
        old.on_post = old.accept
        go.set()
        await bounded(draining)
        await ends.until(lambda: len(ends.messages) == 8)
        assert [json.loads(m)["id"] for m in ends.messages] == [0, 1, 2, 4, 5, 6, 7, 8]


async def test_an_event_that_is_too_long_ends_the_channel() -> None:
    old = OldServer()
    async with opened(old, event_limit=1000) as (_channel, ends, _):
        await old.say(b"x" * 2000)
        await ends.until(lambda: bool(ends.errors))
        assert ends.errors[0].reason is Reason.RESULT_TOO_LARGE


async def test_own_headers_go_with_both_and_a_missing_secret_stops_it() -> None:
    old = OldServer()
    async with FaultServer(old) as server:
        settings = SseSettings(DialSettings(server.url))
        channel = SseChannel(settings, headers=lambda: [(b"Authorization", b"Bearer s")], environ={})
        await bounded(channel.open())
        channel.send(b'{"jsonrpc":"2.0","method":"a"}')
        async with asyncio.timeout(5):
            while len(server.requests) < 2:
                await asyncio.sleep(0.001)
        assert [r.headers["authorization"] for r in server.requests] == ["Bearer s", "Bearer s"]
        await bounded(channel.close("done"))

        def missing() -> list[tuple[bytes, bytes]]:
            raise SecretError("no key")

        with pytest.raises(UpstreamError) as caught:
            await bounded(SseChannel(settings, headers=missing, environ={}).open())
        assert caught.value.reason is Reason.SERVER_NOT_READY
        assert len(server.requests) == 2

"""Callers that are slow, on purpose or not; and streams, which are slow by nature.

Time-outs are tens of milliseconds here; tests wait for what must happen, never for time to pass.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest

from front_client import Front, get, on_both_loops, post, until
from mcp_sidecar.errors import CallError, Reason
from mcp_sidecar.front.request import Request

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


@on_both_loops
async def test_slow_head_gets_408() -> None:
    async with Front(header_timeout=0.1) as front:
        for start in (b"P", HEAD, HEAD + b"Content-Length: 5\r\n", b"\r\nGET"):
            answer = await front.ask(start)
            assert (answer.status, answer.reason) == (408, "request_timeout")
        assert front.executed == []
        assert front.listener.refusals == {"request_timeout": 4}


@on_both_loops
async def test_dripping_does_not_extend_the_head() -> None:
    async with Front(header_timeout=0.1) as front, await front.caller() as caller:
        caller.send(HEAD)
        answer = asyncio.create_task(caller.answer())
        started = time.monotonic()
        while not answer.done() and time.monotonic() - started < 5:
            caller.send(b"X: y\r\n")
            await asyncio.sleep(0.005)
        assert (await answer).status == 408


@on_both_loops
async def test_slow_second_head_gets_408() -> None:
    async with Front(header_timeout=0.1) as front:
        for first in (get() + b"GET", get() + b"GET / HTTP/1.1\r\nX"):
            async with await front.caller() as caller:
                caller.send(first)
                assert (await caller.answer()).status == 200
                assert (await caller.only_answer()).status == 408


@on_both_loops
async def test_slow_body_gets_408() -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    async with Front(body_timeout=0.1) as front:
        for start in (HEAD + b"Content-Length: 5\r\n\r\nhell", chunked, chunked + b"5\r\nhell", chunked + b"0\r\n"):
            answer = await front.ask(start)
            assert (answer.status, answer.reason) == (408, "request_timeout")
        assert front.executed == []


@on_both_loops
async def test_dripping_does_not_extend_the_body() -> None:
    async with Front(body_timeout=0.1) as front, await front.caller() as caller:
        caller.send(HEAD + b"Content-Length: 1000000\r\n\r\n")
        answer = asyncio.create_task(caller.answer())
        started = time.monotonic()
        while not answer.done() and time.monotonic() - started < 5:
            caller.send(b"x")
            await asyncio.sleep(0.005)
        assert (await answer).status == 408


@on_both_loops
async def test_a_silent_connection_is_closed_without_a_word() -> None:
    async with Front(header_timeout=0.05) as front, await front.caller() as caller:
        assert await caller.rest() == b""
        assert not front.listener.refusals


@on_both_loops
async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with Front(idle_timeout=0.05) as front, await front.caller() as caller:
        caller.send(get())
        assert (await caller.answer()).status == 200
        assert await caller.rest() == b""
        assert not front.listener.refusals


@on_both_loops
async def test_a_slow_handler_is_not_the_callers_fault() -> None:
    async def handler(request: Request) -> None:
        await until(lambda: front.listener.refusals["request_timeout"] > 0)
        request.respond(200, b"late")

    limits = {"header_timeout": 0.05, "body_timeout": 0.05, "idle_timeout": 0.05}
    async with Front(handler, **limits) as front, await front.caller() as caller:
        caller.send(get())
        await front.ask(b"G")  # another connection's time-out passes meanwhile
        assert (await caller.answer()).body == b"late"


@on_both_loops
async def test_a_stalled_loop_times_nobody_out() -> None:
    """What was sent in time but could not be read while the loop stood still is no time-out."""
    body = b"x" * 3_000_000
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
    async with Front(body_timeout=0.2) as front, await front.caller() as caller:
        caller.send(head)
        await until(lambda: any(c.stage.name == "BODY" for c in front.listener._connections))
        sock = caller.writer.get_extra_info("socket")
        with socket.socket(fileno=os.dup(sock.fileno())) as twin:
            sent = twin.send(body)  # as much as the kernel takes
        assert sent > 1_000_000
        time.sleep(0.5)
        caller.send(body[sent:])
        assert (await caller.answer()).status == 200


@on_both_loops
async def test_open_streams_get_comments() -> None:
    async def handler(request: Request) -> None:
        request.start_stream()
        await may_end.wait()

    may_end = asyncio.Event()
    async with Front(handler, stream_comment_interval=0.03) as front, await front.caller() as caller:
        caller.send(get())
        await caller.head()
        for _ in range(3):
            assert await caller.chunk() == b":\n\n"
        may_end.set()
        while (chunk := await caller.chunk()) != b"":
            assert chunk == b":\n\n"


@on_both_loops
async def test_a_caller_that_does_not_read_its_answer_is_dropped() -> None:
    async def handler(request: Request) -> None:
        request.respond(200, b"x" * 30_000_000)

    async with Front(handler, write_timeout=0.1) as front, await front.caller(limit=1000) as caller:
        caller.send(get())
        await until(lambda: front.listener.slow_callers == 1)
        await until(lambda: front.listener.open_connections == 0)


@on_both_loops
async def test_a_caller_that_reads_slowly_is_served() -> None:
    """Only standstill counts; neither the write time-out nor lingering cuts an answer that is being read."""

    async def handler(request: Request) -> None:
        request.respond(200, b"x" * 20_000_000)

    async with Front(handler, write_timeout=0.3, linger_timeout=0.02) as front, await front.caller() as caller:
        caller.send(get("/", "Connection: close"))
        _, headers = await caller.head()
        left = int(headers["content-length"])
        while left:
            left -= len(await caller.exactly(min(left, 1_000_000)))
            await asyncio.sleep(0.02)
        assert front.listener.slow_callers == 0


@on_both_loops
async def test_a_stream_that_is_not_read_is_dropped() -> None:
    outcome: asyncio.Queue[object] = asyncio.Queue()

    async def handler(request: Request) -> None:
        request.on_disconnect(lambda: outcome.put_nowait("disconnected"))
        request.start_stream()
        try:
            while True:
                request.send_event(b"x" * 100_000)
                await asyncio.sleep(0)
        except CallError as error:
            outcome.put_nowait(error.reason)
        request.send_event(b"a no-op now")
        request.end_stream()

    async with Front(handler, max_unsent_bytes=1_000_000) as front, await front.caller(limit=1000) as caller:
        caller.send(get())
        assert await outcome.get() is Reason.SLOW_CALLER
        assert await outcome.get() == "disconnected"
        assert front.listener.slow_callers == 1
        assert not front.failures


@on_both_loops
async def test_answers_that_are_not_read_hold_up_the_next_request() -> None:
    async def handler(request: Request) -> None:
        request.respond(200, b"x" * 1_000_000)

    requests = 40
    async with Front(handler) as front, await front.caller(limit=1000) as caller:
        caller.send(get() * requests)
        await until(lambda: any(c.stage.name == "UNSENT" for c in front.listener._connections))
        executed = len(front.executed)
        assert executed < requests
        for _ in range(requests):
            assert len((await caller.answer()).body) == 1_000_000
        caller.send(post(b""))
        assert (await caller.answer()).status == 200


@pytest.mark.parametrize("data", [b"GET", get() + b"GET", b""])
@on_both_loops
async def test_lingering_ends(data: bytes) -> None:
    """A caller that neither reads on nor closes does not keep its connection open."""
    async with Front(header_timeout=0.05, idle_timeout=0.05, linger_timeout=0.05) as front:
        caller = await front.caller()
        caller.send(data)
        await until(lambda: front.listener.accepted == 1)
        await until(lambda: front.listener.open_connections == 0)
        caller.writer.close()

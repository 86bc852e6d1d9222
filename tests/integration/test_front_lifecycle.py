"""Connections that begin and end: disconnects, half-closed callers, full houses, shutdown, exhaustion."""

from __future__ import annotations

import asyncio
import os
import resource
import socket

import pytest

from front_client import Front, get, on_both_loops, post, until, within
from mcp_sidecar.front.limits import ListenerSettings
from mcp_sidecar.front.request import Request


@pytest.mark.parametrize("how", ["close", "reset", "close with more to read"])
@on_both_loops
async def test_a_disconnect_is_noticed_while_the_handler_runs(how: str) -> None:
    gone = asyncio.Event()

    async def handler(request: Request) -> None:
        calls.append(1)
        request.on_disconnect(gone.set)
        request.on_disconnect(lambda: calls.append(2))
        await gone.wait()
        request.on_disconnect(lambda: calls.append(3))  # at once: it is gone already
        assert request.disconnected
        request.respond(200, b"to nobody")

    calls: list[int] = []
    async with Front(handler) as front:
        caller = await front.caller()
        caller.send(get() + (get("/never") if "more" in how else b""))
        await until(lambda: calls == [1])
        if how == "reset":
            caller.writer.transport.abort()
        else:
            caller.writer.close()
        await within(gone.wait())
        await until(lambda: front.listener.open_requests == 0)
        assert calls == [1, 2, 3]
        assert front.executed == ["/"]
        await until(lambda: front.listener.open_connections == 0)


@on_both_loops
async def test_a_disconnect_after_the_answer_is_nobodys_business() -> None:
    async def handler(request: Request) -> None:
        request.on_disconnect(lambda: calls.append(1))
        request.respond(200)

    calls: list[int] = []
    async with Front(handler) as front:
        async with await front.caller() as caller:
            caller.send(get())
            await caller.answer()
        await until(lambda: front.listener.open_connections == 0)
        assert calls == []


@on_both_loops
async def test_a_disconnected_stream_stops() -> None:
    gone = asyncio.Event()

    async def handler(request: Request) -> None:
        request.on_disconnect(gone.set)
        request.start_stream()
        request.send_event(b"{}")
        await gone.wait()
        request.send_event(b"{}")

    async with Front(handler) as front:
        async with await front.caller() as caller:
            caller.send(get())
            await caller.head()
            await caller.chunk()
        await within(gone.wait())
        await until(lambda: front.listener.open_connections == 0)
        assert not front.failures


@on_both_loops
async def test_a_handler_may_cancel_itself_on_disconnect() -> None:
    """As a modern call does: disconnect is cancel."""

    async def handler(request: Request) -> None:
        task = asyncio.current_task()
        assert task is not None
        request.on_disconnect(task.cancel)
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    started, cancelled = asyncio.Event(), asyncio.Event()
    async with Front(handler) as front:
        async with await front.caller() as caller:
            caller.send(get())
            await within(started.wait())
        await within(cancelled.wait())
        await until(lambda: front.listener.open_requests == 0)
        assert not front.failures


@on_both_loops
async def test_a_half_closed_caller_still_gets_an_answer() -> None:
    """`nc -N`: the handler is told of a disconnect, and whoever answers nevertheless is heard."""
    told = asyncio.Event()

    async def handler(request: Request) -> None:
        request.on_disconnect(told.set)
        await told.wait()
        request.respond(200, b"answer")

    async with Front(handler) as front, await front.caller() as caller:
        caller.send(get() + get("/dropped"))
        caller.writer.write_eof()
        assert (await caller.only_answer()).body == b"answer"
        assert front.executed == ["/"]


@on_both_loops
async def test_input_that_ends_in_the_middle_gets_400() -> None:
    async with Front() as front:
        for data in (b"GET", get()[:-1], post(b"abc")[:-1]):
            async with await front.caller() as caller:
                caller.send(data)
                caller.writer.write_eof()
                assert (await caller.only_answer()).status == 400
        async with await front.caller() as caller:
            caller.writer.write_eof()
            assert await caller.rest() == b""


@on_both_loops
async def test_a_full_house_says_so() -> None:
    async with Front(max_connections=2) as front:
        first, second = await front.caller(), await front.caller()
        for caller in (first, second):
            caller.send(get())
            await caller.answer()
        third = await front.ask(get())
        assert (third.status, third.reason) == (503, "too_many_connections")
        assert third.headers["retry-after"] == "1"
        first.writer.close()
        await until(lambda: front.listener.open_connections == 1)
        async with await front.caller() as fourth:
            fourth.send(get())
            assert (await fourth.answer()).status == 200
        second.writer.close()
        assert front.listener.refusals == {"too_many_connections": 1}


@on_both_loops
async def test_past_the_full_house_callers_wait() -> None:
    async with Front(max_connections=0, accept_pause=0.02, linger_timeout=5.0) as front:
        callers = [await front.caller() for _ in range(80)]
        await until(lambda: front.listener.accept_pauses > 0)
        assert front.listener.open_connections <= 64
        for caller in callers:
            answer = await caller.answer()
            assert answer.status == 503
            caller.writer.close()


@on_both_loops
async def test_running_out_of_descriptors_pauses_accepting() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with Front(accept_pause=0.02) as front, await front.caller() as kept:
        kept.send(get())
        await kept.answer()
        with socket.socket() as late:
            late.setblocking(False)
            highest = os.dup(0)
            os.close(highest)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
                await asyncio.get_running_loop().sock_connect(late, ("127.0.0.1", front.port))
                await until(lambda: front.listener.accept_pauses >= 3)
                kept.send(get())
                assert (await kept.answer()).status == 200
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await asyncio.get_running_loop().sock_sendall(late, get("/", "Connection: close"))
            assert (await within(asyncio.get_running_loop().sock_recv(late, 100))).startswith(b"HTTP/1.1 200")
        assert front.listener.accept_pauses < 100


@on_both_loops
async def test_drain_closes_the_idle_and_waits_for_the_busy() -> None:
    async def handler(request: Request) -> None:
        if request.path == "/stream":
            request.start_stream()
            await may_answer.wait()
        elif request.path == "/busy":
            await may_answer.wait()
            request.respond(200, b"done")
        else:
            request.respond(200)

    may_answer = asyncio.Event()
    async with Front(handler) as front:
        idle, busy, stream = await front.caller(), await front.caller(), await front.caller()
        idle.send(get())
        await idle.answer()
        busy.send(get("/busy"))
        stream.send(get("/stream"))
        await stream.head()
        await until(lambda: front.listener.open_requests == 2)
        drained = asyncio.create_task(front.listener.drain(10))
        assert await idle.rest() == b""
        idle.writer.close()
        with pytest.raises(OSError):
            await front.caller()
        assert not drained.done()
        may_answer.set()
        answer = await busy.only_answer()
        assert (answer.body, answer.headers["connection"]) == (b"done", "close")
        assert await stream.chunk() == b""
        assert await stream.rest() == b""
        for caller in (busy, stream):
            caller.writer.close()
        assert await within(drained) is True
        assert await front.listener.drain(0) is True


@on_both_loops
async def test_drain_gives_up_in_time_and_close_ends_all() -> None:
    async def handler(request: Request) -> None:
        if request.path == "/stream":
            request.start_stream()
        await asyncio.Event().wait()

    async with Front(handler) as front:
        busy, stream, begun = await front.caller(), await front.caller(), await front.caller()
        busy.send(get())
        stream.send(get("/stream"))
        begun.send(b"GET /")
        await stream.head()
        await until(lambda: front.listener.open_requests == 2 and front.listener.open_connections == 3)
        assert await front.listener.drain(0.01) is False
        await within(front.listener.close())
        answer = await busy.answer()
        assert (answer.status, answer.reason) == (503, "shutting_down")
        with pytest.raises((OSError, ValueError)):
            await stream.chunk()
        for caller in (busy, stream, begun):
            caller.writer.close()
        assert front.listener.open_requests == 0


@on_both_loops
async def test_requests_during_a_drain_are_the_last_of_their_connection() -> None:
    async with Front() as front, await front.caller() as caller:
        caller.send(b"GET / HT")
        await until(lambda: any(c.stage.name == "HEAD" for c in front.listener._connections))
        drained = asyncio.create_task(front.listener.drain(10))
        await asyncio.sleep(0)
        caller.send(get()[8:] + get("/never"))
        answer = await caller.only_answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        caller.writer.close()
        assert await within(drained) is True
        assert front.executed == ["/"]


@on_both_loops
async def test_limits_change_for_open_connections() -> None:
    async with Front(max_body_bytes=10) as front, await front.caller() as caller:
        caller.send(post(b"x" * 10))
        assert (await caller.answer()).status == 200
        front.listener.reconfigure(ListenerSettings(max_body_bytes=5))
        caller.send(post(b"x" * 6))
        assert (await caller.only_answer()).status == 413


@on_both_loops
async def test_what_a_connection_learned_stays_with_it() -> None:
    async def handler(request: Request) -> None:
        seen = request.connection.state.setdefault("seen", [])
        seen.append(request.path)
        request.respond(200, " ".join(seen).encode())

    async with Front(handler) as front, await front.caller() as one, await front.caller() as other:
        one.send(get("/a"))
        await one.answer()
        one.send(get("/b"))
        assert (await one.answer()).body == b"/a /b"
        other.send(get("/c"))
        assert (await other.answer()).body == b"/c"


@on_both_loops
async def test_listens_on_ipv6_and_ipv4_at_once() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    async with Front() as front:
        try:
            _, port = await front.listener.start("::", 0)
        except OSError:
            pytest.skip("no IPv6 here")
        for host in ("127.0.0.1", "::1"):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(get("/", "Connection: close"))
            assert (await within(reader.read())).startswith(b"HTTP/1.1 200")
            writer.close()


@on_both_loops
async def test_a_port_in_use_is_an_error_and_leaves_nothing() -> None:
    async with Front() as front:
        other = Front(port=front.port)
        with pytest.raises(OSError):
            await other.__aenter__()
        assert not other.listener._sockets

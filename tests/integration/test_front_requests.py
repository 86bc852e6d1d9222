"""What callers get for requests: right ones, odd ones and wrong ones."""

from __future__ import annotations

import asyncio

import pytest

from front_client import Front, get, on_both_loops, post, until
from mcp_sidecar.front.request import Request

HOST = b"Host: localhost\r\n"


@on_both_loops
async def test_answers_on_a_kept_connection() -> None:
    async with Front() as front, await front.caller() as caller:
        for body in (b"one", b"two", b"", b"x" * 300_000):
            caller.send(post(body, "/mcp"))
            answer = await caller.answer()
            assert (answer.status, answer.body) == (200, body)
            assert "connection" not in answer.headers
            assert "server" not in answer.headers
        assert front.executed == ["/mcp"] * 4
        assert front.listener.accepted == 1


@on_both_loops
async def test_request_shows_what_was_sent() -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> None:
        seen.append(request)
        request.respond(202)

    async with Front(handler) as front, await front.caller() as caller:
        caller.send(post(b"{}", "/servers/a%20b/mcp?x=1&y=%20", "X-Two: a ", "X-Two: b", "Empty:", "X-High: \xe4"))
        answer = await caller.answer()
    (request,) = seen
    assert answer.status == 202
    assert answer.headers["content-length"] == "0"
    assert "content-type" not in answer.headers
    assert (request.method, request.path, request.query) == ("POST", "/servers/a b/mcp", "x=1&y=%20")
    assert request.headers[b"x-two"] == b"a"
    assert request.repeated == {b"x-two"}
    assert request.headers[b"empty"] == b""
    assert request.headers[b"x-high"] == "\xe4".encode()
    assert request.peer.startswith("127.0.0.1:")
    with pytest.raises(RuntimeError):
        request.respond(200)


@on_both_loops
async def test_answers_pipelined_requests_in_order() -> None:
    async def handler(request: Request) -> None:
        if request.path == "/slow":
            await first_may_end.wait()
        request.respond(200, request.path.encode())

    first_may_end = asyncio.Event()
    async with Front(handler) as front, await front.caller() as caller:
        caller.send(get("/slow") + get("/a") + post(b"abc", "/b")[:-1])
        await until(lambda: bool(front.executed))
        caller.send(b"c" + get("/c"))
        await until(lambda: front.listener.requests == 1)
        assert front.executed == ["/slow"]
        first_may_end.set()
        assert [(await caller.answer()).body for _ in range(4)] == [b"/slow", b"/a", b"/b", b"/c"]


@on_both_loops
async def test_pipelining_is_bounded_and_all_is_answered() -> None:
    requests = 2000
    body = b"x" * 10_000

    async def handler(request: Request) -> None:
        await may_answer.wait()
        request.respond(200, request.body)

    may_answer = asyncio.Event()
    async with Front(handler, max_pipelined_bytes=4096) as front, await front.caller() as caller:
        caller.send(post(body) * requests)
        await until(lambda: front.listener.requests == 1)
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert caller.writer.transport.get_write_buffer_size() > 0  # the listener stopped reading
        may_answer.set()
        for _ in range(requests):
            assert (await caller.answer()).body == body
        caller.send(get())
        assert (await caller.answer()).status == 200


@on_both_loops
async def test_bytes_may_come_one_by_one() -> None:
    async with Front() as front, await front.caller() as caller:
        for chunked in (b"", b"chunked"):
            if chunked:
                data = (
                    b"POST /x HTTP/1.1\r\n"
                    + HOST
                    + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
                )
            else:
                data = post(b"hello", "/x")
            for i in range(len(data)):
                caller.send(data[i : i + 1])
                await asyncio.sleep(0)
            assert (await caller.answer()).body == b"hello"


@on_both_loops
async def test_expect_continue() -> None:
    async with Front(max_body_bytes=10) as front:
        async with await front.caller() as caller:
            caller.send(b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            assert await caller.line() == b"HTTP/1.1 100 Continue\r\n"
            assert await caller.line() == b"\r\n"
            caller.send(b"ok")
            assert (await caller.answer()).body == b"ok"
            caller.send(post(b"at once", "/", "Expect: 100-continue"))
            assert (await caller.answer()).body == b"at once"
        refused = await front.ask(b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 11\r\n\r\n")
        assert refused.status == 413
        odd = await front.ask(post(b"", "/", "Expect: 200-maybe"))
        assert (odd.status, odd.reason) == (417, "expectation_failed")


@on_both_loops
async def test_continue_waits_for_its_turn() -> None:
    async def handler(request: Request) -> None:
        if request.path == "/first":
            await may_answer.wait()
        request.respond(200, request.body)

    may_answer = asyncio.Event()
    async with Front(handler) as front, await front.caller() as caller:
        head = b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        caller.send(get("/first") + head)
        await until(lambda: bool(front.executed))
        may_answer.set()
        assert (await caller.answer()).status == 200
        assert await caller.line() == b"HTTP/1.1 100 Continue\r\n"
        assert await caller.line() == b"\r\n"
        caller.send(b"ok")
        assert (await caller.answer()).body == b"ok"


@on_both_loops
async def test_http_1_0_gets_one_answer() -> None:
    async with Front() as front:
        answer = await front.ask(b"GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert answer.status == 200
        assert answer.headers["connection"] == "close"


@on_both_loops
async def test_connection_close_is_honoured() -> None:
    async with Front() as front:
        answer = await front.ask(get("/", "Connection: close"))
        assert answer.headers["connection"] == "close"


@on_both_loops
async def test_an_offered_upgrade_is_ignored() -> None:
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA")
    async with Front() as front, await front.caller() as caller:
        whole = post(b"java", "/mcp", *upgrade)
        for cut in (len(whole), len(whole) - 2, 30):
            caller.send(whole[:cut])
            await asyncio.sleep(0.001)
            caller.send(whole[cut:])
            answer = await caller.answer()
            assert (answer.status, answer.body) == (200, b"java")
        head = b"POST /c HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n"
        caller.send(head + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
        assert (await caller.only_answer()).body == b"a"
        assert front.executed == ["/mcp"] * 3 + ["/c"]


@on_both_loops
async def test_many_upgrades_at_once_are_ignored() -> None:
    one = post(b"java", "/mcp", "Connection: Upgrade", "Upgrade: h2c")
    async with Front() as front, await front.caller() as caller:
        caller.send(one * 2000 + get().replace(b"Host", b"Ghost"))
        for _ in range(2000):
            assert (await caller.answer()).body == b"java"
        assert (await caller.only_answer()).status == 400


@on_both_loops
async def test_absolute_form_must_agree_with_host() -> None:
    async with Front() as front, await front.caller() as caller:
        caller.send(b"GET http://LOCALHOST/mcp?q HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await caller.answer()).status == 200
        caller.send(b"GET http://evil.example/mcp HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await caller.only_answer()).status == 400
        assert front.executed == ["/mcp"]


@on_both_loops
async def test_head_gets_no_body() -> None:
    async def handler(request: Request) -> None:
        request.respond(200, b"body")

    async with Front(handler) as front, await front.caller() as caller:
        caller.send(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n" + get())
        head = await caller.answer(head_only=True)
        assert head.headers["content-length"] == "4"
        assert (await caller.answer()).body == b"body"


@on_both_loops
async def test_answers_without_body_have_no_length() -> None:
    async def handler(request: Request) -> None:
        request.respond(204, headers=((b"X-A", b"b"),))

    async with Front(handler) as front, await front.caller() as caller:
        caller.send(get())
        status, headers = await caller.head()
        assert (status, headers) == (204, {"x-a": "b"})


@on_both_loops
async def test_limits_are_refused_with_their_status() -> None:
    limits = {"max_header_bytes": 2000, "max_headers": 10, "max_target_bytes": 100, "max_body_bytes": 50}
    chunked = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    cases = [
        (get("/" + "a" * 99), 200, ""),
        (get("/" + "a" * 100), 414, "target_too_long"),
        (get("/", "X: " + "a" * 1900), 200, ""),
        (get("/", "X: " + "a" * 2000), 431, "headers_too_large"),
        (get("/", "X: " + "a" * 1000, "X: " + "a" * 1000), 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 5000, 431, "headers_too_large"),
        (b"\r\n" * 3000, 431, "headers_too_large"),
        (get("/", *(f"X-{i}: a" for i in range(9))), 200, ""),
        (get("/", *(f"X-{i}: a" for i in range(10))), 431, "headers_too_large"),
        (get("/", *(["X: a"] * 10)), 431, "headers_too_large"),
        (post(b"a" * 50), 200, ""),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 51\r\n\r\n", 413, "request_too_large"),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9999999999\r\n\r\n", 413, "request_too_large"),
        (chunked + b"32\r\n" + b"a" * 50 + b"\r\n0\r\n\r\n", 200, ""),
        (chunked + b"33\r\n" + b"a" * 51, 413, "request_too_large"),
        (chunked + b"1\r\na\r\n" * 51, 413, "request_too_large"),
        (chunked + b"1;" + b"e" * 20_000, 400, "malformed_http"),
        (chunked + b"0\r\nTrailer: " + b"t" * 20_000, 400, "malformed_http"),
        (chunked + b"0\r\n" + b"Trailer: t\r\n" * 2000, 400, "malformed_http"),
    ]
    async with Front(**limits) as front:
        for data, status, reason in cases:
            async with await front.caller() as caller:
                for start in range(0, len(data), 700):  # a large head in one read is the next test's business
                    caller.send(data[start : start + 700])
                    await asyncio.sleep(0)
                answer = await caller.answer()
                assert (answer.status, data[:60]) == (status, data[:60])
                if reason:
                    assert answer.reason == reason
                    assert answer.headers["connection"] == "close"
                    assert await caller.rest() == b""


@on_both_loops
async def test_a_large_head_in_one_read_is_refused() -> None:
    async with Front(max_header_bytes=2000) as front:
        for data in (get("/", "X: " + "a" * 2500), get("/", *(["X: " + "a" * 500] * 6))):
            assert (await front.ask(data)).status == 431


@on_both_loops
async def test_a_large_body_does_not_count_as_head() -> None:
    async with Front(max_header_bytes=1000) as front, await front.caller() as caller:
        caller.send(post(b"a" * 100_000) + get("/next")[:20])
        assert len((await caller.answer()).body) == 100_000
        caller.send(get("/next")[20:])
        assert (await caller.answer()).status == 200


@on_both_loops
async def test_the_answer_arrives_although_more_is_sent() -> None:
    """Without lingering the unread rest would reset the connection, and the caller would read no 413."""
    async with Front(max_body_bytes=1000) as front, await front.caller() as caller:
        caller.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5000000\r\n\r\n" + b"a" * 5_000_000)
        assert (await caller.only_answer()).status == 413


@on_both_loops
async def test_streams_events() -> None:
    async def handler(request: Request) -> None:
        request.start_stream(headers=((b"Mcp-Session-Id", b"s1"),))
        assert request.streaming
        request.send_event(b"", id=b"0", retry=b"500")
        request.send_event(b'{"a":\r\n1}', id=b"1")
        request.send_event(b"{}", id=b"bad\nid", retry=b"x")
        request.end_stream()
        request.end_stream()

    async with Front(handler) as front, await front.caller() as caller:
        for _ in range(2):
            caller.send(get())
            status, headers = await caller.head()
            assert status == 200
            assert headers == {
                "content-type": "text/event-stream",
                "cache-control": "no-store",
                "x-accel-buffering": "no",
                "transfer-encoding": "chunked",
                "mcp-session-id": "s1",
            }
            assert await caller.chunk() == b"id: 0\nretry: 500\ndata: \n\n"
            assert await caller.chunk() == b'id: 1\ndata: {"a":\ndata: 1}\n\n'
            assert await caller.chunk() == b"data: {}\n\n"
            assert await caller.chunk() == b""
        assert not front.failures


@on_both_loops
async def test_streams_to_http_1_0_end_with_the_connection() -> None:
    async def handler(request: Request) -> None:
        request.start_stream()
        request.send_event(b"{}")

    async with Front(handler) as front, await front.caller() as caller:
        caller.send(b"GET / HTTP/1.0\r\n\r\n")
        _, headers = await caller.head()
        assert headers["connection"] == "close"
        assert "transfer-encoding" not in headers
        assert await caller.rest() == b"data: {}\n\n"


@on_both_loops
async def test_handlers_that_fail_are_answered_for() -> None:
    async def handler(request: Request) -> None:
        if request.path == "/raise":
            raise ValueError("secret")
        if request.path == "/late":
            request.respond(200, b"fine")
            raise ValueError
        if request.path == "/header":
            request.respond(200, headers=((b"X", b"a\r\nInjected: 1"),))
        if request.path == "/broken":
            request.start_stream()
            request.send_event(b"{}")
            raise ValueError

    async with Front(handler) as front, await front.caller() as caller:
        for path in ("/raise", "/silent", "/header"):
            caller.send(get(path))
            answer = await caller.answer()
            assert (answer.status, answer.reason) == (500, "internal")
            assert b"secret" not in answer.body
        caller.send(get("/late"))
        assert (await caller.answer()).body == b"fine"
        caller.send(get("/broken"))
        await caller.head()
        with pytest.raises((ConnectionError, ValueError)):  # cut off, not ended: the caller can tell
            await caller.last_chunk()
        assert [type(failure) for failure in front.failures] == [
            ValueError,
            type(None),
            ValueError,
            ValueError,
            ValueError,
        ]

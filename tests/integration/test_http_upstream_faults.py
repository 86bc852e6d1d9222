"""What an HTTP upstream may do wrong, and what follows: reason, delivery, and that the connection is not reused."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable

import pytest

from fault_server import (
    LAST_CHUNK,
    STREAM_HEAD,
    FaultServer,
    SeenRequest,
    Wire,
    answer,
    answer_ok,
    chunk,
    echo,
    event,
    result,
    rpc_error,
)
from http_upstreams import HeldSession, RecordingSink, bounded, exchanged, http_upstream, make_call
from mcp_sidecar.errors import CallError, Delivery, Reason, SessionLost, UpstreamError
from mcp_sidecar.pipeline.call import Era
from mcp_sidecar.upstream.pool import PoolSettings

LOOPS = ("asyncio", "uvloop")
"""Both: they tell differently what was written."""
Handler = Callable[[SeenRequest, Wire], Awaitable[None]]
FAULTS: dict[str, tuple[Handler, Reason, Delivery]] = {}


def fault(reason: Reason, delivery: Delivery = Delivery.MAYBE) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        FAULTS[handler.__name__] = (handler, reason, delivery)
        return handler

    return register


@fault(Reason.CONNECTION_LOST)
async def reset_after_the_request(request: SeenRequest, wire: Wire) -> None:
    wire.reset()


@fault(Reason.CONNECTION_LOST)
async def fin_without_an_answer(request: SeenRequest, wire: Wire) -> None:
    wire.close()


@fault(Reason.CONNECTION_LOST)
async def half_close_without_an_answer(request: SeenRequest, wire: Wire) -> None:
    wire.writer.write_eof()
    await wire.gone()


@fault(Reason.CONNECTION_LOST)
async def reset_in_the_head(request: SeenRequest, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
    wire.reset()


@fault(Reason.CONNECTION_LOST)
async def fin_in_the_body(request: SeenRequest, wire: Wire) -> None:
    await wire.write(answer(echo(request))[:-5])
    wire.close()


@fault(Reason.CONNECTION_LOST)
async def length_too_long_then_fin(request: SeenRequest, wire: Wire) -> None:
    body = echo(request)
    await wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body) + 10, body))
    wire.close()


@fault(Reason.PROTOCOL_ERROR)
async def length_too_short(request: SeenRequest, wire: Wire) -> None:
    body = echo(request)
    await wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body) - 10, body))


@fault(Reason.CONNECTION_LOST)
async def fin_between_chunks(request: SeenRequest, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(echo(request)))
    wire.close()


@fault(Reason.PROTOCOL_ERROR)
async def bad_chunk_size(request: SeenRequest, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")


@fault(Reason.PROTOCOL_ERROR)
async def both_lengths(request: SeenRequest, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST_CHUNK)


@fault(Reason.PROTOCOL_ERROR)
async def garbage(request: SeenRequest, wire: Wire) -> None:
    await wire.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")


@fault(Reason.PROTOCOL_ERROR)
async def endless_head(request: SeenRequest, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 200 OK\r\n")
    try:
        for i in range(10_000):
            await wire.write(b"X-Filler-%d: %b\r\n" % (i, b"x" * 100))
    except ConnectionError:
        pass


@fault(Reason.PROTOCOL_ERROR)
async def endless_interim_answers(request: SeenRequest, wire: Wire) -> None:
    for _ in range(10_000):
        await wire.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")


@fault(Reason.PROTOCOL_ERROR)
async def switching_protocols(request: SeenRequest, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")


@fault(Reason.PROTOCOL_ERROR)
async def another_id(request: SeenRequest, wire: Wire) -> None:
    await wire.write(answer(result(b"999999", {"secret": "of another caller"})))


@fault(Reason.PROTOCOL_ERROR)
async def another_type_of_id(request: SeenRequest, wire: Wire) -> None:
    await wire.write(answer(result(b'"%b"' % request.id)))


@fault(Reason.PROTOCOL_ERROR)
async def no_id(request: SeenRequest, wire: Wire) -> None:
    await wire.write(answer(b'{"jsonrpc":"2.0","result":{}}'))


@fault(Reason.PROTOCOL_ERROR)
async def neither_result_nor_error(request: SeenRequest, wire: Wire) -> None:
    await wire.write(answer(b'{"jsonrpc":"2.0","id":%b}' % request.id))


@fault(Reason.PROTOCOL_ERROR)
async def a_request_for_an_answer(request: SeenRequest, wire: Wire) -> None:
    await wire.write(answer(b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % request.id))


@fault(Reason.PROTOCOL_ERROR)
async def html_with_200(request: SeenRequest, wire: Wire) -> None:
    await wire.write(answer(b"<html>login</html>", 200, "text/html"))


@fault(Reason.PROTOCOL_ERROR)
async def nothing_with_200(request: SeenRequest, wire: Wire) -> None:
    await wire.write(answer(b""))


@fault(Reason.PROTOCOL_ERROR)
async def accepted_instead_of_answered(request: SeenRequest, wire: Wire) -> None:
    await wire.write(answer(b"", 202, ""))


@fault(Reason.PROTOCOL_ERROR)
async def no_content_instead_of_answered(request: SeenRequest, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 204 No Content\r\n\r\n")


@fault(Reason.RESULT_TOO_LARGE)
async def declares_too_much(request: SeenRequest, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n")
    await wire.gone()


@fault(Reason.RESULT_TOO_LARGE)
async def sends_too_much(request: SeenRequest, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        for _ in range(1000):
            await wire.write(chunk(b"x" * 1000))
    except ConnectionError:
        pass


@fault(Reason.RESULT_TOO_LARGE)
async def sends_too_large_an_event(request: SeenRequest, wire: Wire) -> None:
    await wire.write(STREAM_HEAD + b"\r\n" + chunk(b"data: "))
    try:
        for _ in range(1000):
            await wire.write(chunk(b"x" * 1000))
    except ConnectionError:
        pass


@fault(Reason.PROTOCOL_ERROR)
async def an_unknown_content_encoding(request: SeenRequest, wire: Wire) -> None:
    await wire.write(answer(echo(request), extra="Content-Encoding: br\r\n"))


@fault(Reason.PROTOCOL_ERROR)
async def a_broken_content_encoding(request: SeenRequest, wire: Wire) -> None:
    await wire.write(answer(echo(request), extra="Content-Encoding: gzip\r\n"))


@fault(Reason.CONNECTION_LOST)
async def stream_without_an_answer(request: SeenRequest, wire: Wire) -> None:
    await wire.write(STREAM_HEAD + b"\r\n" + event(b'{"jsonrpc":"2.0","method":"notifications/message"}') + LAST_CHUNK)


@fault(Reason.CONNECTION_LOST)
async def stream_cut_in_an_event(request: SeenRequest, wire: Wire) -> None:
    await wire.write(STREAM_HEAD + b"\r\n" + chunk(b"data: " + echo(request)[:20]))
    wire.reset()


@fault(Reason.PROTOCOL_ERROR)
async def stream_of_garbage(request: SeenRequest, wire: Wire) -> None:
    await wire.write(STREAM_HEAD + b"\r\n" + event(b"not json"))


@fault(Reason.PROTOCOL_ERROR)
async def stream_with_another_id(request: SeenRequest, wire: Wire) -> None:
    await wire.write(STREAM_HEAD + b"\r\n" + event(result(b"999999")))


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_fails_its_call_alone_and_the_connection_is_not_used_again(name: str) -> None:
    handler, reason, delivery = FAULTS[name]
    faulty = True

    async def script(request: SeenRequest, wire: Wire) -> None:
        await (handler if faulty else answer_ok)(request, wire)

    async with FaultServer(script) as server, http_upstream(server.url, result_limit=10_000) as upstream:
        call = make_call()
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream, call)
        assert (caught.value.reason, caught.value.delivery) == (reason, delivery)
        assert call.written is True
        for secret in ("secret", "login", "<html"):
            assert secret not in caught.value.message
        faulty = False
        # whatever the first one left behind, the next call gets its own answer
        reply = await exchanged(upstream, make_call(params=b'{"name":"second"}'))
        assert json.loads(reply.result or b"") == {"echo": {"name": "second"}}
        sent = [request.connection for request in server.requests]
        if name not in ("stream_without_an_answer",):  # that one ended in step
            assert sent[0] != sent[1]


STATUSES = {
    "301": (Reason.UPSTREAM_STATUS, Delivery.ANSWERED, False),
    "307": (Reason.UPSTREAM_STATUS, Delivery.ANSWERED, False),
    "400": (Reason.UPSTREAM_STATUS, Delivery.ANSWERED, False),
    "401": (Reason.UPSTREAM_UNAUTHORIZED, Delivery.ANSWERED, False),
    "403": (Reason.UPSTREAM_UNAUTHORIZED, Delivery.ANSWERED, False),
    "404": (Reason.UPSTREAM_STATUS, Delivery.ANSWERED, False),
    "405": (Reason.UPSTREAM_STATUS, Delivery.ANSWERED, False),
    "408": (Reason.UPSTREAM_STATUS, Delivery.MAYBE, True),
    "413": (Reason.UPSTREAM_STATUS, Delivery.ANSWERED, False),
    "425": (Reason.UPSTREAM_STATUS, Delivery.MAYBE, True),
    "429": (Reason.UPSTREAM_THROTTLED, Delivery.REFUSED, False),
    "500": (Reason.UPSTREAM_STATUS, Delivery.MAYBE, True),
    "502": (Reason.UPSTREAM_STATUS, Delivery.MAYBE, True),
    "503": (Reason.UPSTREAM_STATUS, Delivery.MAYBE, True),
    "504": (Reason.UPSTREAM_STATUS, Delivery.MAYBE, True),
}


@pytest.mark.parametrize("body", ["html", "large", "none"])
@pytest.mark.parametrize("status", STATUSES)
async def test_a_status_without_a_json_rpc_body_is_an_error_of_ours(status: str, body: str) -> None:
    reason, delivery, counted = STATUSES[status]
    page = {"html": b"<html>inner secrets</html>", "large": b"<p>secrets</p>" * 50_000, "none": b""}[body]

    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(page, int(status), "text/html", "Location: http://127.0.0.1:1/elsewhere\r\n"))

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream)
        error = caught.value
        assert (error.reason, error.delivery, error.counted, error.status) == (reason, delivery, counted, int(status))
        assert "secrets" not in error.message
        with pytest.raises(UpstreamError):
            await exchanged(upstream)
        # the answer was in step, so the connection is good; a large page is not read to its end
        assert server.connections == (2 if body == "large" else 1)


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_5xx_is_a_failure_even_with_a_json_rpc_body(status: int) -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(rpc_error(request.id, -32603), status))

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream)
        assert caught.value.counted


@pytest.mark.parametrize("id", ["own", "null", '"server-error"'])
@pytest.mark.parametrize(("status", "code"), [(400, -32020), (404, -32601), (422, -32602)])
async def test_4xx_with_a_json_rpc_body_is_an_answer(status: int, code: int, id: str) -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(rpc_error(request.id if id == "own" else id.encode(), code), status))

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        reply = await exchanged(upstream)
        assert (reply.status, reply.result) == (status, None)
        assert json.loads(reply.error or b"")["code"] == code
        await exchanged(upstream)
        assert server.connections == 1


async def test_4xx_that_answers_another_request_is_not_passed_on() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(rpc_error(b"77", -32602, "about another caller"), 400))

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream)
        assert caught.value.reason is Reason.PROTOCOL_ERROR
        assert "another caller" not in caught.value.message


async def test_200_with_a_json_rpc_error_is_an_answer() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(rpc_error(request.id, -32603)))

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        reply = await exchanged(upstream)
        assert (reply.status, reply.result) == (200, None)
        assert json.loads(reply.error or b"")["code"] == -32603


@pytest.mark.parametrize("era", list(Era))
async def test_404_of_a_held_legacy_session_is_a_lost_session(era: Era) -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(rpc_error(b'"server-error"', -32600, "Session not found"), 404))

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        if era is Era.LEGACY:
            with pytest.raises(SessionLost) as caught:
                await exchanged(upstream, make_call(era=era, session=HeldSession("abc")))
            assert caught.value.delivery is Delivery.REFUSED
            assert not caught.value.counted
        reply = await exchanged(upstream, make_call(era=era))  # no session was held: an answer like any other
        assert reply.status == 404


async def test_a_connection_that_cannot_be_had_was_not_sent() -> None:
    async with FaultServer(answer_ok) as server:
        url = server.url
    async with http_upstream(url) as upstream:
        call = make_call()
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream, call)
        assert (caught.value.reason, caught.value.delivery) == (Reason.CONNECT_FAILED, Delivery.NOT_SENT)
        assert call.written is False


async def test_a_request_that_was_not_written_to_its_last_byte_was_not_sent() -> None:
    """The server reads nothing and resets: the kernel took a part of the body only."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        Wire(reader, writer).reset()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    async with http_upstream(f"http://127.0.0.1:{port}/mcp") as upstream:
        call = make_call(params=b'{"name":"x","arguments":"%b"}' % (b"x" * 30_000_000))
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream, call)
        assert (caught.value.reason, caught.value.delivery) == (Reason.CONNECTION_LOST, Delivery.NOT_SENT)
        assert call.written is False
    server.close()


async def test_a_large_request_that_was_written_late_is_known_as_written() -> None:
    received = asyncio.Event()

    async def script(request: SeenRequest, wire: Wire) -> None:
        received.set()
        await wire.gone()

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        call = make_call(params=b'{"name":"x","arguments":"%b"}' % (b"x" * 20_000_000))
        task = asyncio.create_task(upstream.exchange(call))
        await asyncio.sleep(0)
        assert not call.written
        await bounded(received.wait())
        assert call.written is True
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_keep_alive_race_a_reused_connection_closed_without_a_byte_may_have_executed() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        if request.number == 0:
            await answer_ok(request, wire)
        else:
            wire.close()

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        await exchanged(upstream)
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream)
        assert (caught.value.reason, caught.value.delivery) == (Reason.CONNECTION_LOST, Delivery.MAYBE)
        assert server.connections == 1
        await exchanged(upstream)
        assert server.connections == 2


async def test_a_connection_closed_while_idle_is_not_used() -> None:
    wires: list[Wire] = []

    async def script(request: SeenRequest, wire: Wire) -> None:
        wires.append(wire)
        await answer_ok(request, wire)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        await exchanged(upstream)
        wires[0].close()
        async with asyncio.timeout(5):
            while upstream.pool.size:
                await asyncio.sleep(0.001)
        await exchanged(upstream)
        assert server.connections == 2
        assert upstream.pool.closes["closed by the upstream"] == 1


@pytest.mark.parametrize("unasked", [b"\r\n", b"x", answer(result(b"2")), b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_bytes_on_an_idle_connection_poison_it(unasked: bytes) -> None:
    wires: list[Wire] = []

    async def script(request: SeenRequest, wire: Wire) -> None:
        wires.append(wire)
        await answer_ok(request, wire)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        await exchanged(upstream)
        await wires[0].write(unasked)
        async with asyncio.timeout(5):
            while upstream.pool.size:
                await asyncio.sleep(0.001)
        assert upstream.pool.closes["unasked bytes"] == 1
        assert json.loads((await exchanged(upstream)).result or b"") == {"echo": {"name": "echo"}}
        assert server.connections == 2


@pytest.mark.parametrize("extra", [answer(result(b"2")), b"HTTP/1.1 200 OK\r\nMcp-Session-Id: x\r\n", b"junk"])
async def test_bytes_after_a_complete_answer_poison_the_connection_and_not_the_answer(extra: bytes) -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(echo(request)) + extra)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        for i in range(3):
            reply = await exchanged(upstream, make_call(params=b'{"name":"%d"}' % i))
            assert json.loads(reply.result or b"") == {"echo": {"name": str(i)}}
            assert reply.headers == ()
        assert server.connections == 3


async def test_a_greeting_before_any_request_poisons_the_connection() -> None:
    async with FaultServer(answer_ok) as server, http_upstream(server.url) as upstream:
        server.greet = answer(result(b"77", "not yours"))
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream)
        # before the request was sent, or in place of its answer
        assert caught.value.reason in (Reason.CONNECT_FAILED, Reason.CONNECTION_LOST, Reason.PROTOCOL_ERROR)


async def test_unasked_answers_of_2000_calls_never_reach_another_caller() -> None:
    """notes/peers.md 4.5: a pass-through that trusted its connections delivered 20 of 2 000 to the wrong caller."""
    done = 0

    async def script(request: SeenRequest, wire: Wire) -> None:
        nonlocal done
        done += 1
        own = answer(echo(request))
        other = answer(result(b"%d" % (int(request.id) + 1), {"echo": "of another"}))
        kind = done % 20
        if kind == 0:
            await wire.write(own + other)
        elif kind == 5:
            await wire.write(own)
            await wire.write(own)
        elif kind == 10:
            await wire.write(other + own)
        elif kind == 15:
            body = echo(request)
            await wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body) - 3, body))
        elif kind == 17:
            await wire.write(own)
            asyncio.get_running_loop().call_later(0.002, wire.writer.write, other)
        else:
            await wire.write(own)

    wrong = []
    reasons: set[Reason] = set()
    good = bad = 0

    async def caller(number: int) -> None:
        nonlocal good, bad
        for i in range(125):
            mark = f"{number}-{i}"
            call = make_call(params=b'{"name":"echo","arguments":"%b"}' % mark.encode(), id=b"7")
            try:
                reply = await bounded(up.exchange(call))
            except UpstreamError as error:
                reasons.add(error.reason)
                bad += 1
                continue
            good += 1
            if json.loads(reply.result or b"") != {"echo": {"name": "echo", "arguments": mark}}:
                wrong.append((mark, reply.result))

    async with FaultServer(script) as server, http_upstream(server.url) as up:
        await asyncio.gather(*(caller(n) for n in range(16)))
    assert wrong == []
    assert reasons <= {Reason.PROTOCOL_ERROR, Reason.CONNECTION_LOST}
    assert good + bad == 2000
    assert good > 1600
    assert bad > 50


async def test_a_cancelled_call_closes_its_connection_at_once() -> None:
    closed = asyncio.Event()
    began = asyncio.Event()

    async def script(request: SeenRequest, wire: Wire) -> None:
        began.set()
        await wire.gone()
        closed.set()

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        task = asyncio.create_task(upstream.exchange(make_call()))
        await bounded(began.wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await bounded(closed.wait(), 2)
        assert len(server.requests) == 1  # a modern server needs no message


async def test_a_slow_drip_is_one_call_in_flight_until_it_is_cancelled() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        for byte in answer(echo(request)):
            await wire.write(bytes([byte]))
            await asyncio.sleep(0.05)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        with pytest.raises(TimeoutError):
            await bounded(upstream.exchange(make_call()), 0.3)
        assert upstream.pool.in_use == 0


async def test_an_answer_in_single_bytes_is_an_answer() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + answer(echo(request)):
            await wire.write(bytes([byte]))
            await asyncio.sleep(0)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        assert (await exchanged(upstream)).result is not None


async def test_an_answer_that_ends_with_its_connection() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + echo(request))
        wire.close()

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        for _ in range(2):
            assert (await exchanged(upstream)).result is not None
        assert server.connections == 2


async def test_connection_close_is_obeyed() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(echo(request), extra="Connection: close\r\n"))

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        for _ in range(2):
            await exchanged(upstream)
        assert server.connections == 2


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate", "bomb"])
async def test_a_compressed_answer_is_read_although_nobody_asked(encoding: str) -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        body = echo(request)
        if encoding == "bomb":
            await wire.write(answer(gzip.compress(b" " * 50_000_000), extra="Content-Encoding: gzip\r\n"))
        elif encoding == "gzip":
            await wire.write(answer(gzip.compress(body), extra="Content-Encoding: gzip\r\n"))
        elif encoding == "deflate":
            await wire.write(answer(zlib.compress(body), extra="Content-Encoding: deflate\r\n"))
        else:
            packed = zlib.compressobj(wbits=-15)
            await wire.write(answer(packed.compress(body) + packed.flush(), extra="Content-Encoding: deflate\r\n"))

    async with FaultServer(script) as server, http_upstream(server.url, result_limit=1_000_000) as upstream:
        if encoding == "bomb":
            with pytest.raises(UpstreamError) as caught:
                await exchanged(upstream)
            assert caught.value.reason is Reason.RESULT_TOO_LARGE
        else:
            assert (await exchanged(upstream)).result == b'{"echo": {"name": "echo"}}'
            assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_a_burst_beyond_the_pool_is_served_in_turn() -> None:
    async with (
        FaultServer(answer_ok) as server,
        http_upstream(server.url, pool=PoolSettings(max_size=4, min_size=0)) as upstream,
    ):
        replies = await asyncio.gather(*(exchanged(upstream) for _ in range(200)))
        assert len(replies) == 200
        assert server.connections <= 4


async def test_closing_the_upstream_fails_the_calls_under_way() -> None:
    began = asyncio.Event()

    async def script(request: SeenRequest, wire: Wire) -> None:
        began.set()
        await wire.gone()

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        task = asyncio.create_task(upstream.exchange(make_call()))
        await bounded(began.wait())
        await bounded(upstream.close())
        with pytest.raises(UpstreamError) as caught:
            await bounded(task)
        assert (caught.value.reason, caught.value.delivery) == (Reason.CONNECTION_LOST, Delivery.MAYBE)


async def test_a_slow_caller_ends_its_own_stream() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(STREAM_HEAD + b"\r\n" + event(b'{"jsonrpc":"2.0","method":"notifications/message"}'))
        await wire.gone()

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        sink = RecordingSink()
        sink.error = CallError(Reason.SLOW_CALLER, "too slow", delivery=Delivery.MAYBE)
        with pytest.raises(CallError) as caught:
            await exchanged(upstream, make_call(sink=sink))
        assert caught.value.reason is Reason.SLOW_CALLER

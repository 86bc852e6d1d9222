"""Event streams of both eras, sessions, notifications, and who is told of a cancellation."""

from __future__ import annotations

import asyncio
import json

import pytest

from fault_server import LAST_CHUNK, STREAM_HEAD, FaultServer, SeenRequest, Wire, answer, answer_ok, echo, event, result
from http_upstreams import HeldSession, RecordingSink, bounded, exchanged, http_upstream, make_call
from mcp_sidecar.errors import CallError, Delivery, Reason, Rejected, SecretError, SessionLost, UpstreamError
from mcp_sidecar.pipeline.call import Era
from mcp_sidecar.upstream.pool import PoolSettings

LOOPS = ("asyncio", "uvloop")
PROGRESS = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}'
LOG = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}'
ASK = b'{"jsonrpc":"2.0","id":"srv-1","method":"elicitation/create","params":{}}'
HEAD = STREAM_HEAD + b"\r\n"


async def test_interim_messages_pass_as_they_are_and_the_answer_ends_the_call() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(HEAD + event(PROGRESS) + event(LOG) + event(echo(request)) + LAST_CHUNK)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        for _ in range(3):
            sink = RecordingSink()
            call = make_call(sink=sink)
            reply = await exchanged(upstream, call)
            assert sink.data == [PROGRESS, LOG]
            assert json.loads(reply.result or b"") == {"echo": {"name": "echo"}}
            assert call.last_progress > 0
            assert call.committed
        assert server.connections == 1  # a stream that ended in step leaves its connection usable


async def test_the_answer_does_not_wait_for_the_end_of_its_stream() -> None:
    answered = asyncio.Event()

    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(HEAD + event(echo(request)))
        await bounded(answered.wait())
        await wire.write(event(LOG) + LAST_CHUNK)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        sink = RecordingSink()
        await exchanged(upstream, make_call(sink=sink))
        answered.set()
        async with asyncio.timeout(5):
            while upstream.pool.in_use:
                await asyncio.sleep(0.001)
        await exchanged(upstream)
        assert server.connections == 1
        assert sink.data == []  # what comes after the answer is nobody's


async def test_a_stream_that_goes_on_after_the_answer_costs_its_connection() -> None:
    closed = asyncio.Event()

    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(HEAD + event(echo(request)))
        await wire.gone()
        closed.set()

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        await exchanged(upstream)
        await bounded(closed.wait(), 5)
        assert upstream.pool.closes["stream not ended"] == 1


async def test_a_stream_takes_no_place_in_the_pool() -> None:
    release = asyncio.Event()

    async def script(request: SeenRequest, wire: Wire) -> None:
        if b"slow" in request.body:
            await wire.write(HEAD + event(PROGRESS))
            await release.wait()
            await wire.write(event(echo(request)) + LAST_CHUNK)
        else:
            await answer_ok(request, wire)

    pool = PoolSettings(max_size=1, min_size=0)
    async with FaultServer(script) as server, http_upstream(server.url, pool=pool) as upstream:
        sink = RecordingSink()
        slow = asyncio.create_task(upstream.exchange(make_call(params=b'{"name":"slow"}', sink=sink)))
        await sink.wait(1)
        await exchanged(upstream)
        assert upstream.pool.counts()["stream"] == 1
        release.set()
        await bounded(slow)


async def test_a_modern_server_may_not_ask_its_caller() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(HEAD + event(ASK) + event(echo(request)) + LAST_CHUNK)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        sink = RecordingSink()
        await exchanged(upstream, make_call(sink=sink))
        assert sink.data == []
        assert upstream.unasked_requests == 1


async def test_a_question_of_a_legacy_server_stops_the_clock_until_it_is_answered() -> None:
    answered = asyncio.Event()

    async def script(request: SeenRequest, wire: Wire) -> None:
        if b'"srv-1"' in request.body:
            await wire.write(answer(b"", 202, ""))
            answered.set()
            return
        await wire.write(HEAD + event(ASK))
        await answered.wait()
        await wire.write(event(echo(request)) + LAST_CHUNK)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        session = HeldSession("abc")
        sink = RecordingSink()
        call = make_call(era=Era.LEGACY, session=session, sink=sink)
        task = asyncio.create_task(upstream.exchange(call))
        await sink.wait(1)
        assert sink.data == [ASK]
        assert call.paused_since is not None
        response = b'{"jsonrpc":"2.0","id":"srv-1","result":{"action":"accept"}}'
        other = HeldSession("another")
        assert await bounded(upstream.notify(other, response, version="2025-11-25")) == 202
        assert call.paused_since is not None  # another session's answer is not this one's
        assert await bounded(upstream.notify(session, response, version="2025-11-25")) == 202
        assert call.paused_since is None
        assert call.paused_for > 0
        await bounded(task)
        assert server.requests[2].headers["mcp-session-id"] == "abc"
        assert server.requests[2].body == response


async def test_event_ids_and_priming_events_pass_for_a_legacy_caller() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(
            HEAD
            + event(b"", id=b"s/0", retry=b"500")
            + event(LOG, id=b"s/1")
            + event(echo(request), id=b"s/2")
            + LAST_CHUNK
        )

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        sink = RecordingSink()
        reply = await exchanged(upstream, make_call(era=Era.LEGACY, sink=sink))
        assert [(e.data, e.id, e.retry) for e in sink.events] == [(b"", b"s/0", b"500"), (LOG, b"s/1", None)]
        assert reply.event_id == b"s/2"
        modern = RecordingSink()
        await exchanged(upstream, make_call(sink=modern))
        assert [(e.data, e.id, e.retry) for e in modern.events] == [(LOG, None, None)]


@pytest.mark.parametrize("how", ["fin", "reset", "end of stream"])
async def test_a_legacy_stream_cut_after_an_id_can_be_resumed_by_its_caller(how: str) -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(HEAD + event(b"", id=b"s/0"))
        await asyncio.sleep(0.02)
        if how == "reset":
            wire.reset()
        elif how == "fin":
            wire.close()
        else:
            await wire.write(LAST_CHUNK)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        reply = await exchanged(upstream, make_call(era=Era.LEGACY, sink=RecordingSink()))
        assert (reply.detached, reply.event_id) == (True, b"s/0")
        with pytest.raises(UpstreamError) as caught:  # a modern caller cannot resume
            await exchanged(upstream, make_call(sink=RecordingSink()))
        assert (caught.value.reason, caught.value.delivery) == (Reason.CONNECTION_LOST, Delivery.MAYBE)
        with pytest.raises(UpstreamError):  # and nobody else was told the id
            await exchanged(upstream, make_call(era=Era.LEGACY))


async def test_a_legacy_stream_cut_before_an_id_is_lost() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(HEAD + event(LOG))
        wire.reset()

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream, make_call(era=Era.LEGACY, sink=RecordingSink()))
        assert (caught.value.reason, caught.value.delivery) == (Reason.CONNECTION_LOST, Delivery.MAYBE)


async def test_a_resumed_stream_brings_the_answer_under_the_callers_id() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        if request.method == "GET":
            assert request.headers["last-event-id"] == "s/0"
            sealed = server.requests[0].id
            await wire.write(HEAD + event(LOG) + event(result(b"5")) + event(result(sealed, "late"), id=b"s/1"))
            await wire.write(LAST_CHUNK)
        else:
            await wire.write(HEAD + event(b"", id=b"s/0") + LAST_CHUNK)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        session = HeldSession("abc")
        await exchanged(upstream, make_call(era=Era.LEGACY, session=session, sink=RecordingSink(), id=b'"mine"'))
        sink = RecordingSink()
        await bounded(upstream.stream(session, sink, version="2025-11-25", last_event_id=b"s/0"))
        assert sink.opened == 1
        assert sink.data == [LOG, b'{"jsonrpc":"2.0","id":"mine","result":"late"}']
        assert sink.events[1].id == b"s/1"
        get = server.requests[1]
        assert (get.headers["mcp-session-id"], get.headers["accept"]) == ("abc", "text/event-stream")
        assert get.headers["mcp-protocol-version"] == "2025-11-25"


@pytest.mark.parametrize("status", [404, 405, 409, 502])
async def test_a_stream_that_is_refused_says_with_which_status(status: int) -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(b"", status))

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        sink = RecordingSink()
        with pytest.raises(UpstreamError) as caught:
            await bounded(upstream.stream(HeldSession("abc"), sink, version="2025-11-25"))
        if status == 404:
            assert isinstance(caught.value, SessionLost)
        else:
            assert caught.value.status == status
        assert sink.opened == 0


async def test_a_stream_may_end_by_a_lost_connection() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(HEAD + event(LOG))
        await asyncio.sleep(0.02)
        wire.reset()

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        sink = RecordingSink()
        await bounded(upstream.stream(None, sink, version="2025-11-25"))
        assert sink.data == [LOG]


async def test_listen_frames_carry_the_callers_id_and_end_gracefully() -> None:
    def frame(id: bytes) -> bytes:
        return (
            b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed",'
            b'"params":{"_meta":{"io.modelcontextprotocol/subscriptionId":%b}}}' % id
        )

    async def script(request: SeenRequest, wire: Wire) -> None:
        end = b'{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":%b}}' % request.id
        await wire.write(HEAD + event(frame(request.id)))
        await wire.write(event(b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (request.id, end)) + LAST_CHUNK)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        sink = RecordingSink()
        call = make_call("subscriptions/listen", b'{"notifications":{"toolsListChanged":true}}', sink=sink, id=b'"L"')
        reply = await bounded(upstream.listen(call))
        assert [json.loads(d)["params"]["_meta"] for d in sink.data] == [
            {"io.modelcontextprotocol/subscriptionId": "L"}
        ]
        assert json.loads(reply.result)["_meta"] == {"io.modelcontextprotocol/subscriptionId": "L"}
        assert json.loads(reply.result)["resultType"] == "complete"


async def test_a_listen_frame_of_another_subscription_is_not_delivered() -> None:
    frame = (
        b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed",'
        b'"params":{"_meta":{"io.modelcontextprotocol/subscriptionId":999}}}'
    )

    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(HEAD + event(frame))
        await wire.gone()

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        sink = RecordingSink()
        with pytest.raises(UpstreamError) as caught:
            await bounded(upstream.listen(make_call("subscriptions/listen", b"{}", sink=sink)))
        assert caught.value.reason is Reason.PROTOCOL_ERROR
        assert sink.data == []


async def test_listen_streams_are_bounded_and_take_no_place() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        if b"listen" in request.body:
            await wire.write(HEAD)
            await wire.gone()
        else:
            await answer_ok(request, wire)

    pool = PoolSettings(max_size=1, min_size=0, max_streams=2)
    async with FaultServer(script) as server, http_upstream(server.url, pool=pool) as upstream:
        tasks = [asyncio.create_task(upstream.listen(make_call("subscriptions/listen", b"{}"))) for _ in range(2)]
        async with asyncio.timeout(5):
            while len(server.requests) < 2:
                await asyncio.sleep(0.001)
        await exchanged(upstream)
        with pytest.raises(Rejected) as caught:
            await bounded(upstream.listen(make_call("subscriptions/listen", b"{}")))
        assert caught.value.reason is Reason.TOO_MANY_STREAMS
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_session_id_of_initialize_comes_back_and_is_sent_from_then_on() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        if b"initialize" in request.body:
            await wire.write(answer(result(request.id), extra="Mcp-Session-Id: abc-1\r\n"))
        else:
            await answer_ok(request, wire)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        params = b'{"protocolVersion":"2025-11-25","capabilities":{}}'
        reply = await exchanged(upstream, make_call("initialize", params, era=Era.LEGACY))
        assert reply.headers == ((b"mcp-session-id", b"abc-1"),)
        for name in ("mcp-session-id", "mcp-protocol-version", "mcp-method"):
            assert name not in server.requests[0].headers
        session = HeldSession("abc-1")
        reply = await exchanged(upstream, make_call(era=Era.LEGACY, session=session))
        assert reply.headers == ()
        sent = server.requests[1]
        assert sent.headers["mcp-session-id"] == "abc-1"
        assert sent.headers["mcp-protocol-version"] == "2025-11-25"
        assert "mcp-method" not in sent.headers
        assert sent.json["id"].endswith(':"mine"')
        await bounded(upstream.end_session(session))
        assert (server.requests[2].method, server.requests[2].headers["mcp-session-id"]) == ("DELETE", "abc-1")


async def test_a_session_id_that_no_header_may_carry_is_refused() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(result(request.id), extra="Mcp-Session-Id: a b\r\n"))

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream, make_call("initialize", b"{}", era=Era.LEGACY))
        assert caught.value.reason is Reason.PROTOCOL_ERROR


async def test_the_headers_of_a_modern_call() -> None:
    async with (
        FaultServer(answer_ok) as server,
        http_upstream(server.url + "?tenant=a%20b", headers=lambda: [(b"Authorization", b"Bearer own")]) as upstream,
    ):
        call = make_call(
            name="wetter für Köln",
            headers=(
                (b"mcp-param-region", b"us-west1"),
                (b"traceparent", b"00-1-2-01"),
                (b"authorization", b"Bearer the-callers"),
                (b"host", b"evil"),
                (b"content-length", b"7"),
                (b"mcp-session-id", b"stolen"),
            ),
        )
        await exchanged(upstream, call)
        sent = server.requests[0]
        assert sent.target == "/mcp?tenant=a%20b"
        headers = sent.headers
        assert headers["host"] == f"127.0.0.1:{server.port}"
        assert headers["accept"] == "application/json, text/event-stream"
        assert headers["content-type"] == "application/json"
        assert headers["mcp-protocol-version"] == "2026-07-28"
        assert headers["mcp-method"] == "tools/call"
        assert headers["mcp-name"] == "=?base64?d2V0dGVyIGbDvHIgS8O2bG4=?="
        assert headers["mcp-param-region"] == "us-west1"
        assert headers["traceparent"] == "00-1-2-01"
        assert headers["authorization"] == "Bearer own"
        assert "mcp-session-id" not in headers
        assert isinstance(sent.json["id"], int)


async def test_a_callers_header_cannot_add_a_line() -> None:
    async with FaultServer(answer_ok) as server, http_upstream(server.url) as upstream:
        with pytest.raises(CallError):
            await exchanged(upstream, make_call(headers=((b"mcp-param-x", b"1\r\nX-Evil: 1"),)))
        await exchanged(upstream)
        assert len(server.requests) == 1


async def test_own_headers_follow_a_rotation_and_a_broken_one_keeps_the_old() -> None:
    value: list[bytes | None] = [b"one"]

    def headers() -> list[tuple[bytes, bytes]]:
        if value[0] is None:
            raise SecretError("the file is empty")
        return [(b"X-Key", value[0])]

    async with FaultServer(answer_ok) as server, http_upstream(server.url, headers=headers) as upstream:
        await exchanged(upstream)
        value[0] = b"two"
        await exchanged(upstream)
        assert upstream.rotate()
        await exchanged(upstream)
        value[0] = None
        assert not upstream.rotate()
        await exchanged(upstream)
        assert [r.headers["x-key"] for r in server.requests] == ["one", "one", "two", "two"]
        assert [r.connection for r in server.requests] == [1, 1, 2, 2]
        assert upstream.status()["problem"] == "the file is empty"


async def test_without_its_credentials_a_server_is_not_ready_and_never_asked_anonymously() -> None:
    good = False

    def headers() -> list[tuple[bytes, bytes]]:
        if not good:
            raise SecretError("no key")
        return [(b"X-Key", b"k")]

    async with FaultServer(answer_ok) as server, http_upstream(server.url, headers=headers) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream)
        assert (caught.value.reason, caught.value.delivery) == (Reason.SERVER_NOT_READY, Delivery.NOT_SENT)
        assert server.requests == []
        good = True
        await exchanged(upstream)
        assert server.requests[0].headers["x-key"] == "k"


async def test_401_after_a_rotation_may_be_tried_again_with_the_new_credential() -> None:
    key = [b"old"]

    async def script(request: SeenRequest, wire: Wire) -> None:
        if request.headers["x-key"] == "old":
            await wire.write(answer(b"", 401))
        else:
            await answer_ok(request, wire)

    async with (
        FaultServer(script) as server,
        http_upstream(server.url, headers=lambda: [(b"X-Key", key[0])]) as upstream,
    ):
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream)
        assert caught.value.delivery is Delivery.ANSWERED  # nothing newer is known
        key[0] = b"new"
        with pytest.raises(UpstreamError) as caught:
            await exchanged(upstream)
        assert caught.value.delivery is Delivery.REFUSED
        await exchanged(upstream)


@pytest.mark.parametrize("by_caller", [True, False])
async def test_a_legacy_server_is_told_of_a_cancellation(by_caller: bool) -> None:
    began, told = asyncio.Event(), asyncio.Event()

    async def script(request: SeenRequest, wire: Wire) -> None:
        if b"notifications/cancelled" in request.body:
            await wire.write(answer(b"", 202, ""))
            told.set()
        else:
            began.set()
            await wire.gone()

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        call = make_call(era=Era.LEGACY, session=HeldSession("abc"))
        task = asyncio.create_task(upstream.exchange(call))
        await bounded(began.wait())
        call.cancelled = by_caller
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await bounded(told.wait())
        message = server.requests[1]
        assert message.json["params"]["requestId"] == server.requests[0].json["id"]
        assert message.json["params"]["reason"] == ("cancelled by the caller" if by_caller else "timed out")
        assert message.headers["mcp-session-id"] == "abc"


async def test_a_cancelled_initialize_is_not_cancelled_by_message() -> None:
    began = asyncio.Event()

    async def script(request: SeenRequest, wire: Wire) -> None:
        began.set()
        await wire.gone()

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        task = asyncio.create_task(upstream.exchange(make_call("initialize", b"{}", era=Era.LEGACY)))
        await bounded(began.wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.05)
        assert len(server.requests) == 1


async def test_a_notification_is_passed_on_and_its_status_comes_back() -> None:
    status = 202

    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(b"", status, ""))

    message = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        assert await bounded(upstream.notify(HeldSession("abc"), message, version="2025-11-25")) == 202
        assert server.requests[0].body == message
        status = 400
        assert await bounded(upstream.notify(None, message, version="2025-11-25")) == 400
        status = 404
        with pytest.raises(SessionLost):
            await bounded(upstream.notify(HeldSession("abc"), message, version="2025-11-25"))
        status = 503
        with pytest.raises(UpstreamError):
            await bounded(upstream.notify(None, message, version="2025-11-25"))
        modern = b'{"jsonrpc":"2.0","method":"x/y"}'
        status = 202
        await bounded(upstream.notify(None, modern, version="2026-07-28"))
        assert server.requests[-1].headers["mcp-method"] == "x/y"


async def test_a_notification_that_is_never_answered_is_given_up() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.gone()

    async with FaultServer(script) as server, http_upstream(server.url, notify_timeout=0.05) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await bounded(upstream.notify(None, b'{"jsonrpc":"2.0","method":"x"}', version="2025-11-25"))
        assert (caught.value.reason, caught.value.delivery) == (Reason.ATTEMPT_TIMEOUT, Delivery.MAYBE)


async def test_an_upstream_is_read_no_faster_than_its_caller_reads() -> None:
    sent = 0

    async def script(request: SeenRequest, wire: Wire) -> None:
        nonlocal sent
        big = LOG.replace(b'"x"', b'"%b"' % (b"x" * 60_000))
        await wire.write(HEAD)
        for _ in range(500):
            await wire.write(event(big))
            sent += 1
        await wire.write(event(echo(request)) + LAST_CHUNK)

    class SlowSink(RecordingSink):
        def emit(self, event: object) -> None:
            super().emit(event)  # type: ignore[arg-type]
            self.unsent += 60_000

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        sink = SlowSink()
        task = asyncio.create_task(upstream.exchange(make_call(sink=sink)))
        await sink.wait(1)
        async with asyncio.timeout(10):
            before = -1
            while before != len(sink.events):
                before = len(sink.events)
                await asyncio.sleep(0.2)
        assert len(sink.events) < 100
        assert sent < 499
        assert not task.done()

        async def read_on() -> None:
            while not task.done():
                sink.unsent = 0
                await asyncio.sleep(0.001)

        await bounded(asyncio.gather(task, read_on()))
        assert len(sink.events) == 500


async def test_drain_waits_for_calls_and_refuses_new_ones() -> None:
    began, release = asyncio.Event(), asyncio.Event()

    async def script(request: SeenRequest, wire: Wire) -> None:
        began.set()
        await release.wait()
        await answer_ok(request, wire)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        call = asyncio.create_task(upstream.exchange(make_call()))
        await bounded(began.wait())
        assert not await upstream.drain(0.05)
        with pytest.raises(Rejected) as caught:
            await exchanged(upstream)
        assert caught.value.reason is Reason.SHUTTING_DOWN
        release.set()
        assert await upstream.drain(5)
        await call

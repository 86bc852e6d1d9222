"""upstream/multiplexer.py on a fake channel: every answer to its own request, and nothing to anybody else."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mcp_sidecar.errors import CallError, Delivery, Reason, Rejected, UpstreamError
from mcp_sidecar.pipeline.call import Call, Era, Event, Reply
from mcp_sidecar.protocol.lines import Oversized
from mcp_sidecar.upstream.multiplexer import Multiplexer
from virtual_clock import on_virtual_loop


class FakeSent:
    """Delivered unless the test says otherwise."""

    def __init__(self, channel: FakeChannel, message: bytes) -> None:
        self.channel = channel
        self.message = message
        self.delivered = not channel.stuck

    def withdraw(self) -> bool:
        if self.delivered:
            return False
        self.channel.sent.remove(json.loads(self.message))
        return True


class FakeChannel:
    """Records what is sent; the test plays the server."""

    def __init__(self) -> None:
        self.on_message: Callable[[bytes], None] = lambda message: None
        self.on_oversized: Callable[[Oversized], None] = lambda line: None
        self.on_closed: Callable[[UpstreamError], None] = lambda error: None
        self.sent: list[dict[str, Any]] = []
        self.stuck = False
        self.congested = False
        self.room = asyncio.Event()

    async def open(self) -> None: ...

    async def close(self, reason: str) -> None: ...

    def send(self, message: bytes) -> FakeSent:
        assert b"\n" not in message
        assert b"\r" not in message
        self.sent.append(json.loads(message))
        return FakeSent(self, message)

    async def drain(self) -> None:
        await self.room.wait()

    def say(self, **message: Any) -> None:
        """One message of the server."""
        self.on_message(json.dumps({"jsonrpc": "2.0", **message}).encode())


class RecordingPeer:
    def __init__(self) -> None:
        self.notifications: list[tuple[str, Any]] = []
        self.requests: list[tuple[bytes, str, bytes | None]] = []
        self.closed: list[UpstreamError] = []

    def on_notification(self, method: str, message: bytes) -> None:
        self.notifications.append((method, json.loads(message)))

    def on_request(self, id_raw: bytes, method: str, params: bytes | None, message: bytes) -> None:
        self.requests.append((id_raw, method, params))

    def on_closed(self, error: UpstreamError) -> None:
        self.closed.append(error)


class Sink:
    def __init__(self, error: CallError | None = None) -> None:
        self.events: list[Any] = []
        self.error = error

    def emit(self, event: Event) -> None:
        if self.error is not None:
            raise self.error
        self.events.append(json.loads(event.data))


class Bench:
    """A multiplexer and its surroundings."""

    def __init__(self) -> None:
        self.channel = FakeChannel()
        self.peer = RecordingPeer()
        self.samples: list[tuple[str, bytes]] = []
        self.mux = Multiplexer(
            self.channel,
            ids=itertools.count(1).__next__,
            clock=asyncio.get_running_loop().time,
            peer=self.peer,
            report=lambda kind, sample: self.samples.append((kind, sample)),
        )

    def start(self, method: str = "tools/call", params: bytes | None = b"{}", **options: Any) -> asyncio.Task[Reply]:
        return asyncio.ensure_future(self.mux.request(method, params, **options))


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


def call(id: bytes, sink: Sink | None = None, params: bytes = b"{}") -> Call:
    return Call(server="s", id=id, method="tools/call", params=params, era=Era.MODERN, version="2026-07-28", sink=sink)


def bench_test(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run on a virtual loop with a fresh bench."""

    async def run() -> None:
        await test(Bench())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return on_virtual_loop(run)


@bench_test
async def test_answers_find_their_requests_in_any_order(b: Bench) -> None:
    tasks = [b.start() for _ in range(3)]
    await settle()
    ids = [m["id"] for m in b.channel.sent]
    assert len(set(ids)) == 3
    for id in reversed(ids):
        b.channel.say(id=id, result={"n": id})
    assert [json.loads((await t).result or b"")["n"] for t in tasks] == ids
    assert b.mux.in_flight == 0


@bench_test
async def test_string_form_of_our_id_is_accepted(b: Bench) -> None:
    task = b.start()
    await settle()
    b.channel.say(id="1", result={})
    assert (await task).result == b"{}"


@bench_test
async def test_error_of_the_server_is_an_answer(b: Bench) -> None:
    task = b.start()
    await settle()
    b.channel.say(id=1, error={"code": -32602, "message": "no"}, result=None)
    assert json.loads((await task).error or b"")["code"] == -32602


@bench_test
async def test_newlines_of_the_caller_do_not_break_the_framing(b: Bench) -> None:
    b.start(params=b'{\r\n "a": [1,\n 2]\n}')
    b.mux.notify("notifications/x", b'{\n"a":1}')
    await settle()
    assert b.channel.sent[1]["params"] == {"a": [1, 2]}
    assert b.channel.sent[0]["params"] == {"a": 1}


@pytest.mark.parametrize("stray", [{"id": 99, "result": {}}, {"id": "x", "result": {}}, {"id": 1.5, "result": {}}])
def test_unknown_ids_are_counted_and_dropped(stray: dict[str, Any]) -> None:
    @on_virtual_loop
    async def run() -> None:
        b = Bench()
        task = b.start()
        await settle()
        b.channel.say(**stray)
        await settle()
        assert not task.done()
        assert b.mux.unknown_ids == 1
        b.channel.say(id=1, result={"ok": 1})
        assert json.loads((await task).result or b"") == {"ok": 1}

    run()


@bench_test
async def test_second_answer_is_dropped(b: Bench) -> None:
    task = b.start()
    await settle()
    b.channel.say(id=1, result={"first": 1})
    b.channel.say(id=1, result={"second": 1})
    assert json.loads((await task).result or b"") == {"first": 1}
    assert b.mux.unknown_ids == 1


@bench_test
async def test_cancelled_request_tells_the_server_and_its_late_answer_is_dropped(b: Bench) -> None:
    c = call(b"7")
    task = b.start(call=c)
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert b.channel.sent[-1]["method"] == "notifications/cancelled"
    assert b.channel.sent[-1]["params"]["requestId"] == 1
    assert c.written is True
    b.channel.say(id=1, result={})
    assert (b.mux.late_answers, b.mux.unknown_ids, b.mux.in_flight) == (1, 0, 0)


@pytest.mark.parametrize("method", ["initialize", "server/discover"])
def test_negotiation_is_not_cancelled_by_message(method: str) -> None:
    @on_virtual_loop
    async def run() -> None:
        b = Bench()
        task = b.start(method)
        await settle()
        task.cancel()
        await asyncio.wait([task])
        assert [m["method"] for m in b.channel.sent] == [method]

    run()


@bench_test
async def test_request_that_was_not_written_is_taken_back(b: Bench) -> None:
    b.channel.stuck = True
    c = call(b"7")
    task = b.start(call=c)
    await settle()
    task.cancel()
    await asyncio.wait([task])
    assert b.channel.sent == []
    assert c.written is False
    assert b.mux.abandoned == 0


@bench_test
async def test_answer_wins_over_a_cancellation_that_came_later(b: Bench) -> None:
    task = b.start()
    await settle()
    b.channel.say(id=1, result={})
    task.cancel()
    await asyncio.wait([task])
    assert [m["method"] for m in b.channel.sent] == ["tools/call"]


@bench_test
async def test_answer_in_the_same_turn_as_the_cancellation_sends_no_message(b: Bench) -> None:
    task = b.start()
    await settle()
    task.cancel()
    b.channel.say(id=1, result={})
    await asyncio.wait([task])
    assert [m["method"] for m in b.channel.sent] == ["tools/call"]
    assert b.mux.late_answers == 1


@bench_test
async def test_progress_tokens_of_two_callers_do_not_collide(b: Bench) -> None:
    params = b'{"name":"x","_meta":{"progressToken":1,"keep":"me"},"arguments":{"progressToken":"mine"}}'
    sinks = Sink(), Sink()
    calls = [call(b"1", sink) for sink in sinks]
    tasks = [b.start(params=params, call=c) for c in calls]
    await settle()
    tokens = [m["params"]["_meta"]["progressToken"] for m in b.channel.sent]
    assert len(set(tokens)) == 2
    assert b.channel.sent[0]["params"]["_meta"]["keep"] == "me"
    assert b.channel.sent[0]["params"]["arguments"] == {"progressToken": "mine"}
    await asyncio.sleep(5)
    b.channel.say(method="notifications/progress", params={"progressToken": tokens[1], "progress": 0.5, "x": [1]})
    assert sinks[0].events == []
    assert sinks[1].events[0]["params"] == {"progressToken": 1, "progress": 0.5, "x": [1]}
    assert calls[1].last_progress == asyncio.get_running_loop().time()
    assert calls[0].last_progress == 0
    b.channel.say(id=b.channel.sent[1]["id"], result={})
    await tasks[1]
    b.channel.say(method="notifications/progress", params={"progressToken": tokens[1], "progress": 1})
    assert len(sinks[1].events) == 1
    assert b.mux.late_events == 1


@bench_test
async def test_progress_nobody_asked_for_is_dropped(b: Bench) -> None:
    sink = Sink()
    b.start(call=call(b"1", sink))
    await settle()
    for token in (1, "1", 9, None, {}):
        b.channel.say(method="notifications/progress", params={"progressToken": token, "progress": 1})
    assert sink.events == []
    assert b.peer.notifications == []
    assert b.mux.late_events == 5


@bench_test
async def test_slow_caller_ends_its_own_call_only(b: Bench) -> None:
    slow = call(b"1", Sink(Rejected(Reason.SLOW_CALLER, "too much unread")))
    params = b'{"_meta":{"progressToken":"t"}}'
    task, other = b.start(params=params, call=slow), b.start()
    await settle()
    b.channel.say(method="notifications/progress", params={"progressToken": 1, "progress": 1})
    with pytest.raises(CallError) as caught:
        await task
    assert caught.value.reason is Reason.SLOW_CALLER
    assert b.channel.sent[-1]["params"]["requestId"] == 1
    b.channel.say(id=2, result={})
    await other


@bench_test
async def test_subscription_ids_are_the_callers_own(b: Bench) -> None:
    key = "io.modelcontextprotocol/subscriptionId"
    sinks = Sink(), Sink()
    tasks = [b.start("subscriptions/listen", call=call(b'"a"', sink)) for sink in sinks]
    await settle()
    assert (b.mux.streams, b.mux.in_flight) == (2, 0)
    b.channel.say(method="notifications/resources/updated", params={"_meta": {key: 2, "k": 1}, "uri": "file:///x"})
    assert sinks[0].events == []
    assert sinks[1].events[0]["params"] == {"_meta": {key: "a", "k": 1}, "uri": "file:///x"}
    b.channel.say(id=2, result={"resultType": "complete", "_meta": {key: 2}})
    assert json.loads((await tasks[1]).result or b"")["_meta"] == {key: "a"}
    b.channel.say(method="notifications/resources/updated", params={"_meta": {key: 2}, "uri": "file:///x"})
    assert len(sinks[1].events) == 1
    assert b.mux.late_events == 1
    b.channel.say(method="notifications/cancelled", params={"requestId": 1})
    assert json.loads((await tasks[0]).result or b"") == {"resultType": "complete", "_meta": {key: "a"}}
    assert b.mux.streams == 0
    assert b.peer.notifications == []


@bench_test
async def test_subscription_id_of_a_plain_call_is_not_a_stream(b: Bench) -> None:
    sink = Sink()
    b.start(call=call(b"1", sink))
    await settle()
    params = {"_meta": {"io.modelcontextprotocol/subscriptionId": 1}}
    b.channel.say(method="notifications/tools/list_changed", params=params)
    b.channel.say(method="notifications/cancelled", params={"requestId": 1})
    assert sink.events == []
    assert b.mux.in_flight == 1


@bench_test
async def test_what_names_nobody_goes_to_the_peer(b: Bench) -> None:
    b.channel.say(method="notifications/tools/list_changed")
    b.channel.say(method="notifications/message", params={"level": "info", "data": "x"})
    b.channel.say(id="srv-1", method="sampling/createMessage", params={"a": 1})
    assert [method for method, _ in b.peer.notifications] == [
        "notifications/tools/list_changed",
        "notifications/message",
    ]
    assert b.peer.requests == [(b'"srv-1"', "sampling/createMessage", b'{"a": 1}')]
    b.mux.respond(b'"srv-1"', result=b'{"ok":1}')
    b.mux.respond(b"5", error=b'{"code":-32601,"message":"no"}')
    assert b.channel.sent == [
        {"jsonrpc": "2.0", "id": "srv-1", "result": {"ok": 1}},
        {"jsonrpc": "2.0", "id": 5, "error": {"code": -32601, "message": "no"}},
    ]


@bench_test
async def test_request_of_the_server_with_our_number_does_not_answer_us(b: Bench) -> None:
    task = b.start()
    await settle()
    b.channel.say(id=1, method="roots/list")
    await settle()
    assert not task.done()
    assert b.peer.requests == [(b"1", "roots/list", None)]


@bench_test
async def test_batch_is_split(b: Bench) -> None:
    tasks = [b.start(), b.start()]
    await settle()
    answers = [{"jsonrpc": "2.0", "id": id, "result": {"n": id}} for id in (2, 1)]
    b.channel.on_message(json.dumps([*answers, {"jsonrpc": "2.0", "method": "notifications/x"}]).encode())
    assert [json.loads((await t).result or b"")["n"] for t in tasks] == [1, 2]
    assert len(b.peer.notifications) == 1
    assert b.mux.garbage_lines == 0


NOISE = [
    b"Server listening...",
    b"\xff\xfe\x00",
    b"{}",
    b"[",
    b"[]]",
    b"null",
    b"123",
    b'{"level":"info"}',
    b"[" * 5000,
]


@pytest.mark.parametrize("noise", NOISE)
def test_noise_is_counted_and_harms_nobody(noise: bytes) -> None:
    @on_virtual_loop
    async def run() -> None:
        b = Bench()
        task = b.start()
        await settle()
        b.channel.on_message(noise)
        await settle()
        assert not task.done()
        assert b.mux.garbage_lines == 1
        assert b.samples == [("garbage", noise[:200])]
        b.channel.say(id=1, result={})
        await task

    run()


@bench_test
async def test_log_of_noise_is_bounded(b: Bench) -> None:
    for _ in range(100):
        b.channel.on_message(b"x" * 1000)
    await asyncio.sleep(1.5)
    b.channel.on_message(b"y")
    assert b.samples == [("garbage", b"x" * 200), ("garbage", b"y")]
    assert b.mux.garbage_lines == 101


BROKEN = [
    b'{"jsonrpc":"2.0","id":2,"result":{"a":nope}}',
    b'{"jsonrpc":"2.0","id":2,"result":{"a":"\xff"}}',
    b'{"jsonrpc":"2.0","id":2}',
    b'{"jsonrpc":"2.0","id":2,"result":{},"error":{"code":1,"message":""}}',
    b'{"jsonrpc":"1.0","id":2,"result":{}}',
]


@pytest.mark.parametrize("line", BROKEN)
def test_unusable_answer_fails_its_call_at_once_and_no_other(line: bytes) -> None:
    @on_virtual_loop
    async def run() -> None:
        b = Bench()
        first, second = b.start(), b.start()
        await settle()
        b.channel.on_message(line)
        with pytest.raises(UpstreamError) as caught:
            await second
        assert caught.value.reason is Reason.PROTOCOL_ERROR
        assert caught.value.delivery is Delivery.MAYBE
        assert not first.done()

    run()


@bench_test
async def test_broken_message_fails_the_only_call_that_it_can_be(b: Bench) -> None:
    task = b.start()
    await settle()
    b.channel.on_message(b'{"jsonrpc":"2.0","resul')
    with pytest.raises(UpstreamError) as caught:
        await task
    assert caught.value.reason is Reason.PROTOCOL_ERROR


@bench_test
async def test_broken_request_of_the_server_fails_no_call(b: Bench) -> None:
    task = b.start()
    await settle()
    b.channel.on_message(b'{"jsonrpc":"2.0","method":"sampling/createMessage","params":{')
    await settle()
    assert not task.done()
    assert b.mux.garbage_lines == 1


@bench_test
async def test_broken_message_with_two_calls_in_flight_is_only_counted(b: Bench) -> None:
    tasks = b.start(), b.start()
    await settle()
    b.channel.on_message(b'{"jsonrpc":"2.0","resul')
    await settle()
    assert not any(t.done() for t in tasks)
    assert b.mux.garbage_lines == 1


@bench_test
async def test_oversized_answer_fails_its_call(b: Bench) -> None:
    first, second = b.start(), b.start()
    await settle()
    b.channel.on_oversized(Oversized(b'{"jsonrpc":"2.0","id":2,"result":{"', b"", 99_999))
    with pytest.raises(UpstreamError) as caught:
        await second
    assert caught.value.reason is Reason.RESULT_TOO_LARGE
    assert not first.done()
    b.channel.on_oversized(Oversized(b'{"method":"sampling/createMessage"', b"", 99_999))
    await settle()
    assert not first.done()
    b.channel.on_oversized(Oversized(b"{", b"", 99_999))
    with pytest.raises(UpstreamError):
        await first


@bench_test
async def test_error_without_id_answers_the_only_call_that_was_just_sent(b: Bench) -> None:
    task = b.start()
    await settle()
    b.channel.say(id=None, error={"code": -32700, "message": "Parse error"})
    assert json.loads((await task).error or b"")["code"] == -32700
    b.channel.say(id=None, error={"code": -32700, "message": "Parse error"})
    assert b.mux.unknown_ids == 1


@bench_test
async def test_error_without_id_is_nobodys_when_a_notification_was_sent_last(b: Bench) -> None:
    task = b.start()
    await settle()
    b.mux.notify("notifications/roots/list_changed")
    b.channel.say(id=None, error={"code": -32700, "message": "Parse error"})
    await settle()
    assert not task.done()


@bench_test
async def test_close_fails_all_with_their_delivery(b: Bench) -> None:
    written = b.start()
    await settle()
    b.channel.stuck = True
    unwritten = b.start()
    await settle()
    error = UpstreamError(Reason.CHILD_EXITED, "the server's process exited", delivery=Delivery.MAYBE)
    b.channel.on_closed(error)
    results = await asyncio.gather(written, unwritten, return_exceptions=True)
    assert [r.delivery for r in results if isinstance(r, UpstreamError)] == [Delivery.MAYBE, Delivery.NOT_SENT]
    assert b.peer.closed == [error]
    with pytest.raises(UpstreamError) as caught:
        await b.mux.request("tools/list", None)
    assert caught.value.delivery is Delivery.NOT_SENT
    assert not b.mux.notify("notifications/x")
    assert b.mux.in_flight == 0


@bench_test
async def test_requests_wait_for_room(b: Bench) -> None:
    b.channel.congested = True
    task = b.start()
    await settle()
    assert b.channel.sent == []
    assert b.mux.in_flight == 1
    b.channel.congested = False
    b.channel.room.set()
    await settle()
    assert len(b.channel.sent) == 1
    b.channel.say(id=1, result={})
    await task


@bench_test
async def test_three_given_up_in_a_row_make_it_suspect(b: Bench) -> None:
    told: list[bool] = []
    b.mux.suspicion.on_suspect = lambda: told.append(True)
    for _ in range(2):
        task = b.start()
        await settle()
        task.cancel()
        await asyncio.wait([task])
    assert not b.mux.suspect
    alive = b.start()
    await settle()
    b.channel.say(id=3, result={})
    await alive
    for _ in range(3):
        assert not b.mux.suspect
        task = b.start()
        await settle()
        task.cancel()
        await asyncio.wait([task])
    assert b.mux.suspect
    assert told == [True]
    b.mux.absolve()
    assert not b.mux.suspect


@bench_test
async def test_much_noise_makes_it_suspect(b: Bench) -> None:
    for _ in range(1000):
        b.channel.on_message(b"la la la")
    assert b.mux.suspect


@bench_test
async def test_given_up_requests_take_bounded_memory(b: Bench) -> None:
    for _ in range(1500):
        task = b.start()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert b.mux.abandoned == 1500
    b.channel.say(id=1, result={})
    assert (b.mux.late_answers, b.mux.unknown_ids) == (0, 1)
    b.channel.say(id=1500, result={})
    assert (b.mux.late_answers, b.mux.unknown_ids) == (1, 1)


@bench_test
async def test_idle_is_reported_when_the_last_call_ends(b: Bench) -> None:
    idle: list[int] = []
    b.mux.on_idle = lambda: idle.append(b.mux.in_flight)
    tasks = [b.start(), b.start()]
    await settle()
    b.channel.say(id=1, result={})
    await settle()
    assert idle == []
    b.channel.say(id=2, result={})
    await asyncio.gather(*tasks)
    assert idle == [0]

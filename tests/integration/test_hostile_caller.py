"""What a hostile caller can do: to other callers, to the server behind, to the sidecar's memory. Nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import echo_server
from fault_server import FaultServer, SeenRequest, Wire, answer, echo, result
from front_client import Front
from front_client import until as turn_until
from hostile import INITIALIZE, ask, attacked, begin, files, in_flight, messages, modern, post, receive, rss, until
from mcp_sidecar.front.request import Request

ECHO = {"command": str(echo_server.build()), "args": ["stdio"]}
DEEPEST = 1000
"""Nesting that the sidecar's parser no longer reads."""


async def legacy_http(request: SeenRequest, wire: Wire) -> None:
    """A server with sessions that repeats what it was sent, one level deeper."""
    if request.method != "POST":
        await wire.write(answer(b"", 405, ""))
    elif b'"initialize"' in request.body:
        info = {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "u", "version": "1"},
        }
        await wire.write(answer(result(request.id, info), extra="Mcp-Session-Id: upstream-1\r\n"))
    elif b'"deep"' in request.body:
        id = json.dumps(json.loads(request.body.split(b',"method"')[0] + b"}")["id"]).encode()
        deep = request.body[request.body.index(b"[") : request.body.rindex(b"]") + 1]
        await wire.write(answer(b'{"jsonrpc":"2.0","id":%b,"result":{"a":{"b":{"c":%b}}}}' % (id, deep)))
    elif b'"id"' in request.body:
        await wire.write(answer(echo(request)))
    else:
        await wire.write(answer(b"", 202, ""))


@asynccontextmanager
async def recorded() -> AsyncIterator[FaultServer]:
    async with FaultServer(legacy_http) as server:
        yield server


async def test_no_message_speaks_for_another() -> None:
    smuggled = [
        b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"x"}}',
        b'{"jsonrpc":"2.0","ID":7,"method":"tools/call","params":{"name":"x"}}',
        b'{"jsonrpc":"2.0","method":"notifications/x","Method":"tools/call","Id":7,"params":{"name":"x"}}',
        b'{"jsonrpc":"2.0","id":7,"result":{},"METHOD":"tools/call","params":{"name":"x"}}',
        b'{"jsonrpc":"2.0","id":8,"method":"notifications/cancelled","params":{"requestId":1}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"1:1"}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled"}',
    ]
    async with recorded() as upstream, attacked({"u": {"url": upstream.url}}) as sidecar:
        session = await begin(sidecar)
        before = len(upstream.requests)
        for body in smuggled:
            await ask(sidecar, session.post(body))
            await ask(sidecar, modern(json.loads(body).get("method", "x"), body=body))
        seen = [request.body for request in upstream.requests[before:] if request.body]
        assert not [body for body in seen if b"tools/call" in body or b"cancelled" in body]
        # what may pass has the members that were read, and no other
        passed = [json.loads(body) for body in seen if b"notifications/x" in body or b'"result"' in body]
        assert [set(message) for message in passed] == [{"jsonrpc", "method", "params"}] * 2 + [
            {"jsonrpc", "id", "result"}
        ]


async def test_errors_carry_the_callers_id() -> None:
    bad = [
        (b'{"jsonrpc":"2.0","id":1,"method":5}', 1),
        (b'{"jsonrpc":"2.0","id":"a","method":"tools/call","params":"x"}', "a"),
        (b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","_meta":5}}', 2),
        (b'{"jsonrpc":"2.0","id":3,"method":"initialize","params":[1]}', 3),
        (b'{"jsonrpc":"2.0","id":4,"method":"initialize","params":{"protocolVersion":5}}', 4),
        (b'{"jsonrpc":"2.0","id":5,"method":"resources/subscribe","params":{"uri":5}}', 5),
        (b'{"jsonrpc":"2.0","id":6,"method":"logging/setLevel","params":[5]}', 6),
        (b'{"jsonrpc":"2.0","id":1,"id":7,"method":"x","method":"nothing/known"}', 7),
        (b'{"jsonrpc":"2.0","id":1e400,"method":"tools/list"}', None),
        (b'{"jsonrpc":"2.0","id":{"a":1},"method":"tools/list"}', None),
        (b'{"jsonrpc":"2.0","id":"\xff","method":"tools/list"}', None),
        (b'{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"\xff"}}', None),
        (b'{"jsonrpc":"2.0","id":9,"method":"x","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    ]
    async with attacked({"s": ECHO}) as sidecar:
        session = await begin(sidecar)
        for body, id in bad:
            status, headers, told = await ask(sidecar, session.post(body))
            assert status in (200, 400), (body[:100], told)
            [message] = messages(headers, told)
            assert message["id"] == id, (body[:100], told)
            assert message["error"]["code"] in (-32700, -32600, -32601, -32602), (body[:100], told)


async def test_the_tool_list_holds_for_names_in_another_case() -> None:
    async with recorded() as upstream, attacked({"u": {"url": upstream.url, "allowedTools": ["mild"]}}) as sidecar:
        session = await begin(sidecar)
        params = b'{"name":"mild","Name":"wild","NAME":"wild","arguments":{"Name":"kept"}}'
        body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%b}' % params
        status, _, told = await ask(sidecar, session.post(body))
        assert status == 200
        assert json.loads(told)["result"]["echo"] == {"name": "mild", "arguments": {"Name": "kept"}}


async def test_another_identity_finds_no_session() -> None:
    async with attacked({"s": ECHO}) as sidecar:
        session = await begin(sidecar)
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        stolen = post(ping, (*session.headers, ("Authorization", "Bearer other")))
        assert (await ask(sidecar, stolen))[0] == 404
        deletion = post(b"", (*session.headers, ("Authorization", "Bearer other")), verb="DELETE")
        assert (await ask(sidecar, deletion))[0] == 404
        for token in ("", "a" * 4096, session.token + "=", session.token[:-1], session.token.swapcase()):
            assert (await ask(sidecar, post(ping, (("Mcp-Session-Id", token),))))[0] == 404
        assert (await ask(sidecar, session.post(ping)))[0] == 200


async def test_no_header_reaches_the_server_as_two() -> None:
    async with recorded() as upstream, attacked({"u": {"url": upstream.url}}) as sidecar:
        session = await begin(sidecar)
        for value in ("a\rX-Evil: 1", "a\nX-Evil: 1", "a\x00b", "a\x01b", "a\x7fb", "a\r\n X-Evil: 1"):
            for name in ("traceparent", "mcp-param-x", "last-event-id"):
                body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
                status, _, _ = await ask(sidecar, post(body, (*session.headers, (name, value))))
                assert status == 400
        name = "e\r\nX-Evil: 1"
        encoded = "=?base64?ZQ0KWC1FdmlsOiAx?="
        meta = json.loads(modern("tools/call", {"name": "x"}).split(b"\r\n\r\n", 1)[1])["params"]["_meta"]
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "_meta": meta}}
        headers = (("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", encoded))
        await ask(sidecar, post(body, headers))
        assert upstream.requests[-1].headers["mcp-name"] == encoded
        assert not [request for request in upstream.requests if "x-evil" in request.headers]


async def test_depth_does_not_open_the_breaker_for_others() -> None:
    async with recorded() as upstream, attacked({"u": {"url": upstream.url}}) as sidecar:
        session = await begin(sidecar)
        told = b""
        refused = 0
        for depth in range(DEEPEST - 60, DEEPEST):
            deep = b"[" * depth + b"]" * depth
            body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"deep","arguments":%b}}' % deep
            _, _, told = await ask(sidecar, session.post(body))
            refused += b"nested too deeply" in told and b"protocol_error" in told
            assert b"breaker_open" not in told
        assert refused, "no answer was too deep to be read"
        assert json.loads((await ask(sidecar, session.call("fine", {})))[2])["result"]


@pytest.mark.slow
async def test_long_methods_and_large_bodies_stay_in_no_memory() -> None:
    async with recorded() as upstream, attacked({"u": {"url": upstream.url}, "s": ECHO}) as sidecar:
        session = await begin(sidecar, "/servers/u/mcp")
        stdio = await begin(sidecar, "/servers/s/mcp")
        before = rss(sidecar)
        for number in range(12):
            method = f"m{number}" + "x" * 3_900_000
            await ask(sidecar, session.post({"jsonrpc": "2.0", "id": 1, "method": method}))
        text = {"text": "x" * 3_900_000}
        answers = await asyncio.gather(*(ask(sidecar, stdio.call("echo", text, id=n)) for n in range(24)))
        assert [(status, body[:300]) for status, _, body in answers if len(body) < 3_900_000] == []
        members = b",".join(b'"%x":1' % number for number in range(300_000))
        body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","_meta":{"progressToken":1},%b}}'
        assert (await ask(sidecar, stdio.post(body % members)))[0] == 200
        assert (await ask(sidecar, stdio.post(b"[" + b"1," * 1_900_000 + b"1]")))[0] == 400
        # each of them kept would be 4 MiB; what Python's allocator keeps of many small objects is 30
        await until(lambda: rss(sidecar) < before + 60, "the memory given back")


async def test_one_callers_sessions_do_not_shut_others_out() -> None:
    async with attacked({"s": ECHO}, front={"maxSessions": 20}) as sidecar:
        early = await begin(sidecar)
        streaming = await begin(sidecar)
        reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
        writer.write(streaming.get())
        assert b" 200 " in await reader.readline()
        for _ in range(100):
            await begin(sidecar)
        assert sidecar.status()["front"]["sessions"] <= 20
        # who was put away comes back with the same token, who has a stream was not
        assert (await ask(sidecar, early.call("echo", {"text": "a"})))[0] == 200
        assert not reader.at_eof()
        writer.close()


async def test_streams_leave_connections_for_calls() -> None:
    async with attacked({"s": {**ECHO, "pool": {"maxStreams": 4}}}) as sidecar:
        session = await begin(sidecar)
        connections = [await asyncio.open_connection("127.0.0.1", sidecar.port) for _ in range(7)]
        heads = []
        for reader, writer in connections:
            writer.write(session.get())
            heads.append(await reader.readuntil(b"\r\n\r\n"))
        assert sum(b"event-stream" in head for head in heads) == 4
        assert (await ask(sidecar, session.call("echo", {"text": "a"})))[0] == 200
        for _, writer in connections:
            writer.close()
        await until(lambda: sidecar.status()["front"]["streams"] == 0, "the streams ended")
        reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
        writer.write(session.get())
        assert b" 200 " in await reader.readline()
        writer.close()


async def test_unread_answers_of_all_callers_are_bounded() -> None:
    async def respond(request: Request) -> None:
        request.respond(200, b"x" * 8_000_000)

    sockets = [socket.socket() for _ in range(12)]
    async with Front(respond, max_held_bytes=16_000_000) as front:
        listener = front.listener
        for number, sock in enumerate(sockets, 1):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", front.port))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await turn_until(lambda: len(front.executed) == number and not listener.open_requests)  # noqa: B023
            assert sum(each.unsent() for each in listener.backlogged) <= 16_000_000
        assert listener.slow_callers > 0
        async with await front.caller(limit=1 << 24) as caller:
            caller.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert len((await caller.answer()).body) == 8_000_000
        for sock in sockets:
            sock.close()


async def test_long_bodies_of_all_callers_are_bounded() -> None:
    async with Front(max_held_bytes=1_000_000) as front:
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400001\r\n\r\n"
        stalled = [await front.caller() for _ in range(2)]
        for caller in stalled:
            caller.send(head + b"x" * 400_000)
        await turn_until(lambda: front.listener.held_bodies == 800_000)
        async with await front.caller() as third:
            third.send(head + b"x" * 400_001)
            refusal = await third.answer()
            assert refusal.status == 503
            assert refusal.reason == "too_many_bytes"
            assert refusal.headers["retry-after"] == "1"
        async with await front.caller() as short:
            short.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nok")
            assert (await short.answer()).body == b"ok"
        stalled[0].send(b"x")
        assert len((await stalled[0].answer()).body) == 400_001
        for caller in stalled:
            caller.writer.close()
        await turn_until(lambda: front.listener.held_bodies == 0)


@pytest.mark.slow
async def test_storms_leave_nothing() -> None:
    async with attacked({"s": ECHO}, log={"calls": False}, audit={"enabled": False}) as sidecar:
        session = await begin(sidecar)
        before, memory = files(sidecar), rss(sidecar)
        for _ in range(2):  # callers that leave: 100 calls run, 100 wait, the rest was refused
            writers = []
            for number in range(300):
                _, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
                arguments = {"ms": 30_000, "text": "x"}
                writer.write(modern("tools/call", {"name": "sleep", "arguments": arguments}, id=number))
                writers.append(writer)
            await until(lambda: in_flight(sidecar) == 200, "a full house")
            for writer in writers:
                writer.transport.abort()
            await until(lambda: in_flight(sidecar) == 0, "every permit back")
        # callers that cancel: each call gets one answer, its own
        calls = [asyncio.create_task(ask(sidecar, session.call("sleep", {"ms": 30_000}, id=n))) for n in range(250)]
        await until(lambda: in_flight(sidecar) == 200, "a full house")
        for number in range(250):
            cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
            assert (await ask(sidecar, session.post(cancel)))[0] == 202
        for number, (_, headers, body) in enumerate(await asyncio.gather(*calls)):
            [message] = messages(headers, body)
            assert message["id"] == number
            assert message["error"]["data"]["reason"] in ("cancelled", "queue_full")
        # a caller that does not wait for answers gets them in order
        reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
        for number in range(500):
            writer.write(modern("tools/call", {"name": "echo", "arguments": {"text": f"t{number}"}}, id=number))
        for number in range(500):
            _, headers, body = await receive(reader)
            [message] = messages(headers, body)
            assert message["id"] == number
            assert message["result"]["content"][0]["text"] == f"t{number}"
        writer.close()
        await until(lambda: files(sidecar) <= before + 4, "descriptors closed")
        assert len(sidecar.children()) <= 2
        assert rss(sidecar) < memory + 40
        assert (await ask(sidecar, post(INITIALIZE)))[0] == 200

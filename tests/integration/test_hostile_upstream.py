"""What a hostile server can do to its callers and to the sidecar: fail its own calls, each with one clear answer."""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fault_server import LAST_CHUNK, STREAM_HEAD, FaultServer, SeenRequest, Wire, answer, chunk, event, result
from hostile import LegacySession, ask, attacked, begin, files, messages, modern, rss

CHILD = str(Path(__file__).parent.parent / "children" / "hostile.py")
SECRET = b"hunter2-hunter2-hunter2"
PLAIN: dict[str, Any] = {
    "timeout": "1500ms",
    "circuitBreaker": {"enabled": False},
    "retry": {"maxRetries": 0},
    "restart": {"backoffBase": "10ms", "backoffMax": "10ms"},
}
Fault = Callable[[SeenRequest, Wire], Awaitable[None]]
NOTICE = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"%b"}}'
PROGRESS = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%b,"progress":1}}'


def whole(*parts: bytes) -> Fault:
    """Writes these bytes; `%ID` is the id that was asked with."""

    async def fault(request: SeenRequest, wire: Wire) -> None:
        await wire.write(b"".join(parts).replace(b"%ID", request.id))

    return fault


def body(data: bytes, status: int = 200, kind: str = "application/json", extra: str = "") -> Fault:
    """Answers with a body of the right length."""

    async def fault(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(data.replace(b"%ID", request.id), status, kind, extra))

    return fault


def forever(head: bytes, piece: bytes, times: int) -> Fault:
    """Writes a head and then the same piece again and again."""

    async def fault(request: SeenRequest, wire: Wire) -> None:
        await wire.write(head.replace(b"%ID", request.id))
        for _ in range(times):
            await wire.write(piece)
        await wire.gone()

    return fault


def stream(*events: bytes, end: bytes = LAST_CHUNK) -> Fault:
    """Answers with an event stream."""

    async def fault(request: SeenRequest, wire: Wire) -> None:
        await wire.write(STREAM_HEAD + b"\r\n" + b"".join(event(e.replace(b"%ID", request.id)) for e in events) + end)

    return fault


async def reset(request: SeenRequest, wire: Wire) -> None:
    wire.reset()


async def hang(request: SeenRequest, wire: Wire) -> None:
    await wire.gone()


async def drip(request: SeenRequest, wire: Wire) -> None:
    for byte in answer(result(request.id, {"slow": 1})):
        await wire.write(bytes([byte]))
        await asyncio.sleep(0.05)


GOOD = result(b"%ID", {"good": 1})
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
HTTP_FAULTS: dict[str, tuple[Fault, str]] = {
    "an id of nobody": (body(result(b"999999", {})), "protocol_error"),
    "the id as a string": (body(result(b'"%ID"', {})), "protocol_error"),
    "a null id": (body(result(b"null", {})), "protocol_error"),
    "an error that is a string": (body(b'{"jsonrpc":"2.0","id":%ID,"error":"boom"}'), "protocol_error"),
    "an error without code": (body(b'{"jsonrpc":"2.0","id":%ID,"error":{}}'), "protocol_error"),
    "result and error": (body(b'{"jsonrpc":"2.0","id":%ID,"result":{},"error":{"code":1}}'), "protocol_error"),
    "a batch": (body(b"[" + GOOD + b"]"), "protocol_error"),
    "bad UTF-8": (body(b'{"jsonrpc":"2.0","id":%ID,"result":{"x":"\xff"}}'), "protocol_error"),
    "UTF-16": (body('{"jsonrpc":"2.0","id":1,"result":{}}'.encode("utf-16")), "protocol_error"),
    "depth": (body(b'{"jsonrpc":"2.0","id":%ID,"result":' + b"[" * 10**5 + b"]" * 10**5 + b"}"), "protocol_error"),
    "an answer twice": (whole(answer(result(b"1", {})).replace(b'"id":1', b'"id":%ID')), "protocol_error"),
    "two lengths": (whole(HEAD, b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345"), "protocol_error"),
    "a negative length": (whole(HEAD, b"Content-Length: -5\r\n\r\n{}"), "protocol_error"),
    "a length beyond all numbers": (
        whole(HEAD, b"Content-Length: 99999999999999999999999\r\n\r\n{}"),
        "protocol_error",
    ),
    "a length too long": (whole(HEAD, b"Content-Length: 9999\r\n\r\n{}"), "attempt_timeout"),
    "odd chunks": (whole(STREAM_HEAD, b"\r\nzz\r\nhello\r\n"), "protocol_error"),
    "endless headers": (forever(HEAD, b"X: " + b"y" * 1000 + b"\r\n", 200), "protocol_error"),
    "endless 1xx": (forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 100), "protocol_error"),
    "an upgrade": (whole(b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\nxxx"), "protocol_error"),
    "HTTP/0.9": (whole(b"<html>", SECRET, b"</html>"), "protocol_error"),
    "a control character in a session id": (whole(HEAD, b"Mcp-Session-Id: a\x01b\r\n\r\n"), "protocol_error"),
    "a redirect to link-local": (body(b"", 307, extra="Location: http://169.254.169.254/\r\n"), "upstream_status"),
    "a redirect elsewhere": (body(b"", 302, extra="Location: http://127.0.0.1:1/\r\n"), "upstream_status"),
    "a page of HTML": (body(b"<html>" + SECRET, kind="text/html"), "protocol_error"),
    "a page of HTML with 500": (body(b"<html>" + SECRET, 500, "text/html"), "upstream_status"),
    "a page of HTML with 404": (body(b"<html>" + SECRET, 404, "text/html"), "upstream_status"),
    "no content": (whole(b"HTTP/1.1 204 X\r\n\r\n"), "protocol_error"),
    "status 999": (body(GOOD, 999), "upstream_status"),
    "a gzip bomb": (body(gzip.compress(b" " * 10**8), extra="Content-Encoding: gzip\r\n"), "result_too_large"),
    "gzip in gzip": (body(gzip.compress(GOOD), extra="Content-Encoding: gzip, gzip\r\n"), "protocol_error"),
    "a body without end": (
        forever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk(b"a" * 10**6), 60),
        "result_too_large",
    ),
    "an event without end": (forever(STREAM_HEAD + b"\r\n", chunk(b"data: " + b"x" * 10**6), 60), "result_too_large"),
    "comments without end": (forever(STREAM_HEAD + b"\r\n", chunk(b": x\n\n" * 1000), 100), "attempt_timeout"),
    "a stream without an answer": (stream(), "connection_lost"),
    "another's answer in the stream": (stream(result(b"1", {}), GOOD), "protocol_error"),
    "garbage in the stream": (stream(b"<html>" + SECRET, GOOD), "protocol_error"),
    "bad UTF-8 in the stream": (stream(NOTICE % b"\xff", GOOD), "protocol_error"),
    "an empty batch in the stream": (stream(b"[]", GOOD), "protocol_error"),
    "two answers in the stream": (stream(GOOD, result(b"%ID", {"second": 1})), "ok"),
    "a request in the stream": (stream(b'{"jsonrpc":"2.0","id":5,"method":"sampling/createMessage"}', GOOD), "ok"),
    "odd progress": (stream(*(PROGRESS % token for token in (b'"tok"', b"{}", b"null", b"1e400")), GOOD), "ok"),
    "large notices": (stream(*[NOTICE % (b"x" * 5_000_000)] * 6, GOOD), "ok"),
    "headers for the caller": (body(GOOD, extra="Set-Cookie: a=b\r\nMcp-Session-Id: evil\r\nX-Evil: 1\r\n"), "ok"),
    "no such length but an end": (whole(b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n"), "attempt_timeout"),
    "a slow drip": (drip, "attempt_timeout"),
    "silence": (hang, "attempt_timeout"),
    "a reset": (reset, "connection_lost"),
}
TWICE = "an answer twice"


async def test_http() -> None:
    told: dict[str, str] = {}
    current: list[Fault | None] = [None]

    async def handler(request: SeenRequest, wire: Wire) -> None:
        if b'"tools/call"' not in request.body:  # the sidecar's own questions
            await wire.write(answer(b"", 404, ""))
            return
        fault, current[0] = current[0], None
        if fault is not None:
            await fault(request, wire)
        else:
            await wire.write(answer(result(request.id, request.json["params"]["arguments"])))

    async def twice(request: SeenRequest, wire: Wire) -> None:
        await wire.write(
            answer(result(request.id, {"good": 1})) + answer(result(b"%d" % (int(request.id) + 1), {"no": 1}))
        )

    faults = {**HTTP_FAULTS, TWICE: (twice, "ok")}
    async with FaultServer(handler) as server:
        upstream = {"url": server.url, "headers": {"Authorization": f"Bearer {SECRET.decode()}"}, **PLAIN}
        async with attacked({"u": upstream}) as sidecar:
            memory, before = rss(sidecar), files(sidecar)
            for name, (fault, _) in faults.items():
                current[0] = fault
                call = modern("tools/call", {"name": "t", "_meta": {"progressToken": "tok"}}, id=name)
                status, headers, data = await ask(sidecar, call)
                *notices, last = messages(headers, data)
                assert last["id"] == name
                assert all("id" not in notice for notice in notices)
                told[name] = "ok" if "result" in last else last["error"]["data"]["reason"]
                assert told[name] == "ok" or status >= 429 or notices, name
                assert not {"set-cookie", "x-evil", "mcp-session-id", "location"} & set(headers), name
                assert SECRET not in data, name
                # the next call is none the worse for it
                _, _, data = await ask(sidecar, modern("tools/call", {"name": "t", "arguments": {"n": name}}))
                assert data == result(b"1", {"n": name}), (name, data)
            assert told == {name: expected for name, (_, expected) in faults.items()}
            assert not any(SECRET in line for line in [*sidecar.stderr, *sidecar.stdout])
            assert SECRET not in sidecar.admin("/status")[1]
            assert files(sidecar) <= before + 4
            assert rss(sidecar) < memory + 60


STDIO_FAULTS = {
    "error-text": "protocol_error",
    "error-empty": "protocol_error",
    "error-odd": "protocol_error",
    "error-deep": -32002,
    "both": "protocol_error",
    "neither": "protocol_error",
    "deep": "protocol_error",
    "utf8": "protocol_error",
    "giant": "result_too_large",
    "silent": "attempt_timeout",
    "wrong-ids": "ok",
    "noise": "ok",
    "odd-notices": "ok",
    "others-progress": "ok",
    "change-flood": "ok",
    "large-notices": "ok",
    "requests": "ok",
    "giant-line": "ok",
    "stderr": "ok",
    "exit": "child_exited",
}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("server_era", ["legacy", "modern"])
async def test_stdio(server_era: str) -> None:
    arguments = ["-S", "-E", CHILD, *(["--modern"] if server_era == "modern" else [])]
    server = {"command": sys.executable, "args": arguments, **PLAIN, "timeout": "5s"}
    async with attacked({"u": server}, audit={"enabled": False}) as sidecar:
        session = await begin(sidecar)
        await begin(sidecar)  # a session without a stream: what is said to it waits
        await ask(sidecar, request("modern", session, {"key": "warm"}, 0))
        memory, before = rss(sidecar), files(sidecar)
        for era in ("legacy", "modern"):
            for do, expected in STDIO_FAULTS.items():
                neighbour = asyncio.create_task(ask(sidecar, request(era, session, {"key": f"beside {do}"}, 2)))
                _, headers, data = await ask(sidecar, request(era, session, {"do": do, "key": do}, 1))
                if do == "error-deep":  # too deep for the parser here as well
                    assert data.startswith(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32'), (era, data[:200])
                    data = data[: data.index(b',"data"')] + b"}}"
                *notices, last = messages(headers, data)
                assert last["id"] == 1, (era, do)
                if "result" in last:
                    assert expected == "ok", (era, do, last)
                    assert last["result"]["content"][0]["text"] == do
                elif isinstance(expected, int):
                    assert last["error"]["code"] in (expected, -32602), (era, do)
                else:
                    assert last["error"]["data"]["reason"] == expected, (era, do, last)
                _, headers, data = await neighbour
                *others, last = messages(headers, data)
                assert last["id"] == 2
                assert "result" not in last or last["result"]["content"][0]["text"] == f"beside {do}"
                if do != "others-progress":  # of each other's numbers it knows only what it guesses
                    assert not notices, (era, do)
                    assert not others, (era, do)
                message: dict[str, Any] = {}
                for _ in range(1 if do != "exit" else 40):  # a new process takes a moment
                    _, headers, data = await ask(sidecar, request(era, session, {"key": f"after {do}"}, 3))
                    [message] = messages(headers, data)
                    if "result" in message:
                        break
                    await asyncio.sleep(0.05)
                assert "result" in message, (era, do, message)
                assert message["result"]["content"][0]["text"] == f"after {do}", (era, do)
        assert files(sidecar) <= before + 4
        assert rss(sidecar) < memory + 60
        assert sum(map(len, sidecar.stderr)) < 1_000_000  # of 2 MB that the server wrote to its own


def request(era: str, session: LegacySession, arguments: dict[str, Any], id: int) -> bytes:
    """A tools/call in either era."""
    if era == "legacy":
        return session.call("t", arguments, id=id)
    return modern("tools/call", {"name": "t", "arguments": arguments, "_meta": {"progressToken": "mine"}}, id=id)

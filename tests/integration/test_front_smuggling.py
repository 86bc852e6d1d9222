"""Requests that two parsers may cut differently: each gets one refusal and the end, and what follows is never executed.

Every case ends with `SMUGGLED`, a request that a lenient parser would find behind the odd one.
"""

from __future__ import annotations

import pytest

from front_client import Front, on_both_loops
from mcp_sidecar.front.request import Request

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
_H = b"Host: localhost\r\n"
_CL = b"Content-Length: 5\r\n"
_TE = b"Transfer-Encoding: chunked\r\n"


def _post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"POST /odd HTTP/1.1\r\n" + b"".join(lines) + b"\r\n" + body


def _chunked(body: bytes) -> bytes:
    return _post(_H, _TE, body=body)


REFUSED = {
    # two lengths
    "cl and te": _post(_H, _CL, _TE, body=b"0\r\n\r\n"),
    "te and cl": _post(_H, _TE, _CL, body=b"0\r\n\r\n"),
    "cl and te in disguise": _post(_H, _CL, b"transfer-ENCODING:chunked\r\n", body=b"0\r\n\r\n"),
    "two equal cl": _post(_H, _CL, _CL, body=b"hello"),
    "two different cl": _post(_H, _CL, b"Content-Length: 6\r\n", body=b"hello"),
    "two te": _post(_H, _TE, _TE, body=b"0\r\n\r\n"),
    "te chunked and identity": _post(_H, _TE, b"Transfer-Encoding: identity\r\n", body=b"0\r\n\r\n"),
    "te identity and chunked": _post(_H, b"Transfer-Encoding: identity\r\n", _TE, body=b"0\r\n\r\n"),
    # odd content lengths
    "cl +5": _post(_H, b"Content-Length: +5\r\n", body=b"hello"),
    "cl -5": _post(_H, b"Content-Length: -5\r\n", body=b"hello"),
    "cl list": _post(_H, b"Content-Length: 5, 5\r\n", body=b"hello"),
    "cl 0x5": _post(_H, b"Content-Length: 0x5\r\n", body=b"hello"),
    "cl 5_0": _post(_H, b"Content-Length: 5_0\r\n", body=b"hello"),
    "cl 5.0": _post(_H, b"Content-Length: 5.0\r\n", body=b"hello"),
    "cl 5 5": _post(_H, b"Content-Length: 5 5\r\n", body=b"hello"),
    "cl empty": _post(_H, b"Content-Length:\r\n", body=b"hello"),
    "cl huge": _post(_H, b"Content-Length: 18446744073709551621\r\n", body=b"hello"),
    "cl arabic digits": _post(_H, "Content-Length: ٥\r\n".encode(), body=b"hello"),
    "cl with vertical tab": _post(_H, b"Content-Length: \x0b5\r\n", body=b"hello"),
    # odd transfer encodings
    "te identity": _post(_H, b"Transfer-Encoding: identity\r\n"),
    "te gzip, chunked": _post(_H, b"Transfer-Encoding: gzip, chunked\r\n", body=b"0\r\n\r\n"),
    "te chunked, chunked": _post(_H, b"Transfer-Encoding: chunked, chunked\r\n", body=b"0\r\n\r\n"),
    "te chunked, identity": _post(_H, b"Transfer-Encoding: chunked, identity\r\n", body=b"0\r\n\r\n"),
    "te xchunked": _post(_H, b"Transfer-Encoding: xchunked\r\n", body=b"0\r\n\r\n"),
    "te quoted": _post(_H, b'Transfer-Encoding: "chunked"\r\n', body=b"0\r\n\r\n"),
    "te with parameter": _post(_H, b"Transfer-Encoding: chunked;q=1\r\n", body=b"0\r\n\r\n"),
    "te comma": _post(_H, b"Transfer-Encoding: ,chunked\r\n", body=b"0\r\n\r\n"),
    "te empty": _post(_H, b"Transfer-Encoding:\r\n", body=b"0\r\n\r\n"),
    "te with NUL": _post(_H, b"Transfer-Encoding: chunked\0\r\n", body=b"0\r\n\r\n"),
    "te in http/1.0": b"POST /odd HTTP/1.0\r\n" + _H + _TE + b"\r\n0\r\n\r\n",
    # header syntax
    "obs-fold": _post(_H, b"X: a\r\n b\r\n"),
    "obs-fold tab": _post(_H, b"X: a\r\n\tb\r\n"),
    "obs-fold te": _post(_H, b"Transfer-Encoding:\r\n chunked\r\n", body=b"0\r\n\r\n"),
    "blank before colon": _post(_H, b"Content-Length : 5\r\n", body=b"hello"),
    "tab before colon": _post(_H, b"Transfer-Encoding\t: chunked\r\n", body=b"0\r\n\r\n"),
    "blank before name": _post(_H, b" Content-Length: 5\r\n", body=b"hello"),
    "no colon": _post(_H, b"Content-Length 5\r\n", body=b"hello"),
    "no name": _post(_H, b": 5\r\n"),
    "bare LF after header": _post(_H, b"X: a\n", _CL, body=b"hello"),
    "bare CR in value": _post(_H, b"X: a\rContent-Length: 5\r\n", body=b"hello"),
    "bare LF after request line": b"POST /odd HTTP/1.1\n" + _H + b"\r\n",
    "bare LF as end of head": b"POST /odd HTTP/1.1\r\n" + _H + b"\n",
    "NUL in name": _post(_H, b"Content\0Length: 5\r\n"),
    "NUL in value": _post(_H, b"X: a\0b\r\n"),
    "non-ASCII name": _post(_H, "Ü: 5\r\n".encode()),
    "name with bracket": _post(_H, b"Content-Length[: 5\r\n"),
    "DEL in value": _post(_H, b"X: \x7f\r\n"),
    # request line
    "http/0.9": b"GET /odd\r\n\r\n",
    "http/1.2": b"GET /odd HTTP/1.2\r\n" + _H + b"\r\n",
    "http/2.0": b"GET /odd HTTP/2.0\r\n" + _H + b"\r\n",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "http/1.10": b"GET /odd HTTP/1.10\r\n" + _H + b"\r\n",
    "lower-case http": b"GET /odd http/1.1\r\n" + _H + b"\r\n",
    "blank in target": b"GET /odd x HTTP/1.1\r\n" + _H + b"\r\n",
    "tab in request line": b"GET\t/odd HTTP/1.1\r\n" + _H + b"\r\n",
    "NUL in target": b"GET /odd\0 HTTP/1.1\r\n" + _H + b"\r\n",
    "encoded NUL in target": b"GET /odd%00 HTTP/1.1\r\n" + _H + b"\r\n",
    "target not UTF-8": b"GET /odd%ff HTTP/1.1\r\n" + _H + b"\r\n",
    "raw high byte in target": b"GET /odd\xff HTTP/1.1\r\n" + _H + b"\r\n",
    "fragment": b"GET /odd#x HTTP/1.1\r\n" + _H + b"\r\n",
    "no target": b"GET HTTP/1.1\r\n" + _H + b"\r\n",
    "target without slash": b"GET odd HTTP/1.1\r\n" + _H + b"\r\n",
    "other scheme": b"GET ftp://localhost/odd HTTP/1.1\r\n" + _H + b"\r\n",
    "other authority": b"GET http://other/odd HTTP/1.1\r\n" + _H + b"\r\n",
    "unknown method": b"SMUGGLE /odd HTTP/1.1\r\n" + _H + b"\r\n",
    "lower-case method": b"post /odd HTTP/1.1\r\n" + _H + b"\r\n",
    "connect": b"CONNECT localhost:80 HTTP/1.1\r\n" + _H + b"\r\n",
    "tls hello": bytes.fromhex("160301020001000001fc0303") + b"\x11" * 64,
    # Host
    "no host": _post(),
    "two hosts": _post(_H, _H),
    "two different hosts": _post(_H, b"hOST: evil.example\r\n"),
    # chunks
    "chunk 0x5": _chunked(b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk +5": _chunked(b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk -5": _chunked(b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk with blank": _chunked(b"5 \r\nhello\r\n0\r\n\r\n"),
    "chunk with blank before": _chunked(b" 5\r\nhello\r\n0\r\n\r\n"),
    "chunk size not hex": _chunked(b"g\r\nhello\r\n0\r\n\r\n"),
    "chunk size overflow": _chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "chunk without size": _chunked(b"\r\nhello\r\n0\r\n\r\n"),
    "chunk longer than its size": _chunked(b"4\r\nhello\r\n0\r\n\r\n"),
    "chunk shorter than its size": _chunked(b"6\r\nhello\r\n0\r\n\r\n"),
    "chunk with bare LF": _chunked(b"5\nhello\r\n0\r\n\r\n"),
    "chunk data with bare LF": _chunked(b"5\r\nhello\n0\r\n\r\n"),
    "chunk extension with bare LF": _chunked(b"5;a\nhello\r\n0\r\n\r\n"),
    "chunk extension with bare CR": _chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    "chunk extension with NUL": _chunked(b"5;a\0\r\nhello\r\n0\r\n\r\n"),
    "last chunk with bare LF": _chunked(b"0\n\n"),
    "trailer folded": _chunked(b"0\r\nX: a\r\n b\r\n\r\n"),
    "trailer with bad name": _chunked(b"0\r\nX y: a\r\n\r\n"),
}

ENDS = {
    # right requests after which the connection is over: what follows belongs to nobody
    "close": (b"GET /right HTTP/1.1\r\nConnection: close\r\n" + _H + b"\r\n", b""),
    "http/1.0": (b"GET /right HTTP/1.0\r\n" + _H + b"\r\n", b""),
    "http/1.0 keep-alive": (b"GET /right HTTP/1.0\r\nConnection: keep-alive\r\n" + _H + b"\r\n", b""),
    "http/1.0 with a body": (b"POST /right HTTP/1.0\r\n" + _CL + _H + b"\r\nhello", b"hello"),
}


def test_the_corpus_is_large_enough() -> None:
    assert len(REFUSED) >= 40


@pytest.mark.parametrize("split", [0, 1, 3], ids=["whole", "bytewise", "in threes"])
@on_both_loops
async def test_refuses_once_and_executes_nothing(split: int) -> None:
    async with Front() as front:
        for name, data in REFUSED.items():
            async with await front.caller() as caller:
                whole = data + SMUGGLED
                for start in range(0, len(whole), split or len(whole)):
                    caller.send(whole[start : start + (split or len(whole))])
                answer = await caller.only_answer()
                assert (answer.status in (400, 405, 505), name) == (True, name)
                assert answer.headers["connection"] == "close"
                assert answer.reason in ("malformed_http", "method_not_allowed", "version_not_supported")
        assert front.executed == []
        async with await front.caller() as caller:
            caller.send(SMUGGLED)
            assert (await caller.answer()).status == 200


@on_both_loops
async def test_refuses_in_order_behind_a_right_request() -> None:
    async with Front() as front:
        for name, data in REFUSED.items():
            front.executed.clear()
            async with await front.caller() as caller:
                caller.send(b"GET /right HTTP/1.1\r\n" + _H + b"\r\n" + data + SMUGGLED)
                assert (await caller.answer()).status == 200
                answer = await caller.only_answer()
                assert (answer.status >= 400, name) == (True, name)
                assert front.executed == ["/right"]


@on_both_loops
async def test_nothing_after_a_last_request_is_executed() -> None:
    async with Front() as front:
        for data, body in ENDS.values():
            answer = await front.ask(data + SMUGGLED)
            assert (answer.status, answer.body) == (200, body)
        assert front.executed == ["/right"] * len(ENDS)


@on_both_loops
async def test_trailers_do_not_become_headers() -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> None:
        seen.append(request)
        request.respond(200, request.body)

    async with Front(handler) as front:
        async with await front.caller() as caller:
            caller.send(_chunked(b"1;x=y\r\na\r\n0\r\nHost: evil\r\nAuthorization: x\r\n\r\n") + SMUGGLED)
            assert (await caller.answer()).body == b"a"
            assert (await caller.answer()).status == 200
        assert front.executed == ["/odd", "/smuggled"]
        assert seen[0].headers == {b"host": b"localhost", b"transfer-encoding": b"chunked"}
        for trailer in (b"Content-Length: 40\r\n", b"Transfer-Encoding: gzip\r\n"):
            refused = await front.ask(_chunked(b"0\r\n" + trailer + b"\r\n") + SMUGGLED)
            assert refused.status == 400
        assert front.executed == ["/odd", "/smuggled"]

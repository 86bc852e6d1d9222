"""Random bytes and damaged requests: whatever is sent, the listener lives, answers or closes, and hurts nobody else.

One listener runs in a thread, on each loop in turn; a second connection to it must be served after every example.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from front_client import LOOPS, get, post, until
from mcp_sidecar.front.limits import ListenerSettings
from mcp_sidecar.front.listener import Listener
from mcp_sidecar.front.request import Request

LIMITS = ListenerSettings(
    header_timeout=5, body_timeout=5, max_header_bytes=2000, max_target_bytes=200, max_body_bytes=5000, max_headers=20
)


class Target:
    """A listener in a thread of its own, and a connection that must always be served."""

    def __init__(self, loop_name: str) -> None:
        self.complaints: list[Any] = []
        self.paths: set[str] = set()
        self._loop = LOOPS[loop_name]()
        self._loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.listener = Listener(self._handle, LIMITS, handler_failed=lambda _, error: self.complaints.append(error))
        _, self.port = self._call(self.listener.start("127.0.0.1", 0))
        self.bystander = self.connect()

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def quiet(self) -> None:
        """Wait until only the bystander's connection is left, and no request."""
        self._call(until(lambda: self.listener.open_requests == 0 and self.listener.open_connections == 1))

    def close(self) -> None:
        """End listener, loop and thread."""
        self.bystander.close()
        self._call(self.listener.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _handle(self, request: Request) -> None:
        self.paths.add(request.path)
        if request.path == "/stream":
            request.start_stream()
            request.send_event(request.body)
        else:
            request.respond(200, request.body)


@pytest.fixture(scope="module", params=list(LOOPS))
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    running = Target(request.param)
    yield running
    running.close()


def _exchange(target: Target, pieces: list[bytes]) -> bytes:
    """All that comes back for bytes sent in pieces, up to the end of the connection."""
    received = b""
    with target.connect() as sock:
        try:
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused early: what it said is still there to read
        while data := sock.recv(65536):
            received += data
    return received


def _check_answers(received: bytes) -> None:
    """Nothing but whole HTTP answers."""
    while received:
        head, separator, rest = received.partition(b"\r\n\r\n")
        assert separator
        lines = head.split(b"\r\n")
        version, status, *_ = lines[0].split(b" ")
        assert version == b"HTTP/1.1"
        assert status.isdigit()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        assert len(headers) == len(lines) - 1
        if headers.get(b"transfer-encoding") == b"chunked":
            end = rest.find(b"0\r\n\r\n")
            assert end >= 0
            received = rest[end + 5 :]
        elif status == b"100":
            received = rest
        elif b"content-length" in headers:
            length = int(headers[b"content-length"])
            body, received = rest[:length], rest[length:]
            if int(status) >= 400:
                assert json.loads(body)["error"]["data"]["reason"]
                assert headers[b"connection"] == b"close"
                assert received == b""
        else:
            assert headers[b"connection"] == b"close"
            return


def _check_bystander(target: Target) -> None:
    target.bystander.sendall(post(b"still here", "/bystander"))
    received = b""
    while not received.endswith(b"still here"):
        data = target.bystander.recv(65536)
        assert data
        received += data
    assert not target.complaints


_NAMES = ("Content-Length", "Transfer-Encoding", "Connection", "Expect", "Upgrade", "Host", "X", "Content-Type", "")
_VALUES = ("0", "5", "-1", "chunked", "close", "keep-alive", "upgrade", "100-continue", "h2c", "localhost", "", "a,b")
_header = st.tuples(st.sampled_from(_NAMES), st.sampled_from(_VALUES) | st.text(max_size=20)).map(": ".join)
_requests = st.builds(
    lambda method, path, headers, body, chunks: (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode()
        + "".join(f"{header}\r\n" for header in headers).encode("utf-8", "replace")
        + (
            b"Transfer-Encoding: chunked\r\n\r\n" + chunks
            if chunks
            else b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
    ),
    st.sampled_from(["GET", "POST", "DELETE", "CONNECT", "OPTIONS", "PUT"]),
    st.sampled_from(["/", "/stream", "/a%20b", "*", "http://localhost/x", "//x", "/%ff"]),
    st.lists(_header, max_size=4),
    st.binary(max_size=100),
    st.lists(st.binary(max_size=30)).map(
        lambda parts: b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*filter(None, parts), b""])
    )
    | st.just(b""),
)
_ODD_BYTES = st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"\r\n\r\n", b"\xff", b"0", b";", b","])


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """Some right requests with bytes taken out, put in, doubled or exchanged."""
    data = bytearray(b"".join(draw(st.lists(_requests, min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                del data[at : at + draw(st.integers(1, 10))]
            case 1:
                data[at:at] = draw(_ODD_BYTES | st.binary(max_size=5))
            case 2:
                data[at : at + 1] = draw(_ODD_BYTES)
            case _:
                data[at:at] = data[at : at + draw(st.integers(1, 50))]
    return bytes(data)


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if end > start]


_fuzz = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@_fuzz
@given(data=st.binary(max_size=3000))
def test_random_bytes(target: Target, data: bytes) -> None:
    received = _exchange(target, [data])
    _check_answers(received)
    if data.strip(b"\r\n"):
        assert received
    _check_bystander(target)


@_fuzz
@given(data=_damaged(), cuts=st.lists(st.integers(0, 5000), max_size=4))
def test_damaged_requests(target: Target, data: bytes, cuts: list[int]) -> None:
    received = _exchange(target, _cut(data, cuts))
    _check_answers(received)
    assert received
    _check_bystander(target)


@_fuzz
@given(requests=st.lists(_requests, min_size=1, max_size=5), cuts=st.lists(st.integers(0, 5000), max_size=4))
def test_odd_headers(target: Target, requests: list[bytes], cuts: list[int]) -> None:
    received = _exchange(target, _cut(b"".join(requests), cuts))
    _check_answers(received)
    _check_bystander(target)


@_fuzz
@given(data=_damaged(), cut=st.integers(0, 5000))
def test_callers_that_vanish(target: Target, data: bytes, cut: int) -> None:
    with target.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close resets
        sock.sendall(data[: cut % (len(data) + 1)])
    _check_bystander(target)


def test_nothing_is_left(target: Target) -> None:
    for data in (get("/"), post(b"x", "/stream")):
        _check_answers(_exchange(target, [data]))
    with target.connect() as sock:
        sock.sendall(get("/last", "Connection: close"))
        while sock.recv(65536):
            pass
    for _ in range(2):
        _check_bystander(target)
    assert {"/", "/stream", "/bystander"} <= target.paths
    target.quiet()

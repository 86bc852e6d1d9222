"""One HTTP/1.1 connection to another replica. An answer goes on in pieces, as it comes, to whoever takes it.

Not the upstreams' client: that one reads what an MCP server says, here it is only passed on. One exchange at a time. A
byte that nobody asked for, or the end of the other side's output, ends the connection. Which replica, and what an end
means to the caller, is `replicas`' business.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from typing import Any, Final, Protocol, cast

import httptools

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of the head of an answer."""
_ONE_WRITE: Final = 32 * 1024
_KEEPALIVE: Final = (
    (socket.TCP_KEEPIDLE, 15),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 30_000),
)
"""A pod whose node is gone says nothing more: half a minute, then its connections are lost."""
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
Headers = list[tuple[bytes, bytes]]


class ReplicaLost(Exception):
    """The connection ended before the answer did. `begun`: a part of the answer had come."""

    def __init__(self, why: str, *, begun: bool = False) -> None:
        super().__init__(why)
        self.begun = begun


class Taker(Protocol):
    """Takes one answer."""

    def take(self, status: int, headers: Headers, length: int | None, pieces: list[bytes], *, complete: bool) -> None:
        """What has come with one read: pieces of the body, `complete` when it was the last. Called with the head first,
        never after the end. `length` is the whole body's, None where it is not known before its end; hop-by-hop
        headers are left out."""


class ReplicaConnection(asyncio.Protocol):
    """Made by `connect`. Every method runs on the loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._taker: Taker | None = None
        self._over: asyncio.Future[None] | None = None
        self._head_bytes = 0
        self._headers: Headers = []
        self._length: int | None = None
        self._status = 0
        self._pieces: list[bytes] = []
        self._complete = False
        self._taken = False
        self._last = False
        self._kept_alive = False
        self.usable = False
        """Another exchange may begin."""
        self.certificate = b""
        """SHA-256 of the certificate that the other side shows; empty without TLS."""
        self.idle_since = 0.0
        """For who keeps it."""

    @classmethod
    async def connect(cls, address: str, port: int, tls: ssl.SSLContext | None) -> ReplicaConnection:
        """Connect to an IP address. Whose certificate is shown is for the caller to judge. Raises OSError."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            await loop.sock_connect(sock, (address, port))
            name = address if tls is not None else None
            _, connection = await loop.create_connection(cls, sock=sock, ssl=tls, server_hostname=name)
        except BaseException:
            sock.close()
            raise
        return connection

    def exchange(self, head: bytes, body: bytes, taker: Taker) -> asyncio.Future[None]:
        """Send a request; the future is done when the whole answer was taken. It fails with ReplicaLost, or with what
        the taker raised. Who cancels it must `abort`."""
        transport = self._transport
        assert self._taker is None, "one exchange at a time"
        self._over = over = self._loop.create_future()
        if transport is None or not self.usable:
            over.set_exception(ReplicaLost("the connection was closed"))
            return over
        self._taker = taker
        self.usable = self._taken = self._complete = False
        self._head_bytes = 0
        self._headers = []
        self._length = None
        if len(body) <= _ONE_WRITE:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        return over

    def half_close(self) -> None:
        """The caller sends no more, and the other side is to know; its answer may still come where that is possible."""
        transport = self._transport
        if transport is None:
            return
        self._last = True
        self.usable = False
        if transport.can_write_eof():
            try:
                transport.write_eof()
                return
            except OSError:
                pass
        self.abort("the caller is gone")

    def pause(self) -> None:
        """Read no more until `resume`: the caller is slower than the replica."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def abort(self, why: str = "closed") -> None:
        """Close at once."""
        self._end(ReplicaLost(why, begun=self._taken))

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass of it
        self.usable = True
        channel = transport.get_extra_info("ssl_object")
        if channel is not None:
            self.certificate = hashlib.sha256(channel.getpeercert(binary_form=True) or b"").digest()

    def data_received(self, data: bytes) -> None:
        if self._taker is None:
            self.abort("bytes that nobody asked for")
            return
        if not self._taken:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort("its answer is not HTTP")
            return
        if not self._status:
            if self._head_bytes > HEAD_LIMIT:
                self.abort("the head of its answer is too long")
            return
        self._hand_over()

    def _hand_over(self) -> None:
        taker, over = self._taker, self._over
        assert taker is not None and over is not None  # noqa: PT018
        pieces, self._pieces = self._pieces, []
        self._taken = True
        if self._complete:
            self._taker = self._over = None
            self.usable = self._kept_alive and not self._last and self._transport is not None
        try:
            taker.take(self._status, self._headers, self._length, pieces, complete=self._complete)
        except Exception as error:  # noqa: BLE001 - told to who waits for the exchange
            if not over.done():
                over.set_exception(error)
            self.abort("the answer was not taken")
            return
        if self._complete:
            self._status = 0
            if not over.done():
                over.set_result(None)

    def eof_received(self) -> bool:
        self.abort("closed by the replica")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(ReplicaLost("the connection was lost", begun=self._taken))

    def _end(self, error: ReplicaLost) -> None:
        self.usable = False
        over, self._over, self._taker = self._over, None, None
        if over is not None and not over.done():
            over.set_exception(error)
        transport, self._transport = self._transport, None
        self._parser = None  # it holds this object in a cycle
        if transport is not None:
            transport.abort()

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-length":
            self._length = int(value)
        if name not in _HOP_BY_HOP:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # interim
            self._headers = []
            self._length = None
            return
        if self._complete:
            raise ValueError("a second answer")
        self._status = status

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._status:
            self._complete = True
            self._kept_alive = bool(self._parser.should_keep_alive())

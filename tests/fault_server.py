"""An HTTP/1.1 server for tests that does to its caller what the test says: right answers, wrong ones, and none.

    async with FaultServer(answer_ok) as server:
        server.url …; server.requests …; server.connections …

A handler is `async def handler(request, wire)`; it writes raw bytes with `wire.write`. It is called once for each
request of a connection until it closes the wire.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from sidecar_process import free_ports


@dataclass
class SeenRequest:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int
    number: int
    """Its place among the requests of its connection, from 0."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> bytes:
        """The raw id of the JSON-RPC request."""
        return json.dumps(self.json["id"]).encode()


class Wire:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()

    async def gone(self) -> None:
        """Wait until the other side has closed."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


Handler = Callable[[SeenRequest, Wire], Awaitable[None]]


class FaultServer:
    """See the module."""

    def __init__(self, handler: Handler, *, ssl: ssl.SSLContext | None = None) -> None:
        self.handler = handler
        self._ssl = ssl
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.requests: list[SeenRequest] = []
        self.connections = 0
        self.open = 0
        self.port = 0
        self.greet: bytes = b""
        """Sent on every new connection before any request."""

    @property
    def url(self) -> str:
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}/mcp"

    async def __aenter__(self) -> FaultServer:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def listen(self) -> None:
        if not self.port:
            # not one of the kernel's choice: while this does not listen, the kernel may give that to a connection
            [self.port] = free_ports(1)
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._ssl, limit=1 << 26)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            await self._serve(Wire(reader, writer), self.connections)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, wire: Wire, connection: int) -> None:
        if self.greet:
            await wire.write(self.greet)
        number = 0
        while not wire.writer.is_closing():
            head = await wire.reader.readuntil(b"\r\n\r\n")
            line, *rest = head.decode("latin-1").split("\r\n")
            headers = {}
            for item in rest:
                if item:
                    name, _, value = item.partition(":")
                    headers[name.lower()] = value.strip()
            body = await wire.reader.readexactly(int(headers.get("content-length", "0")))
            method, target, _ = line.split(" ")
            request = SeenRequest(method, target, headers, body, connection, number)
            self.requests.append(request)
            number += 1
            await self.handler(request, wire)


def answer(body: bytes, status: int = 200, content_type: str = "application/json", extra: str = "") -> bytes:
    """A whole answer with the right length."""
    type_line = f"Content-Type: {content_type}\r\n" if content_type else ""
    return f"HTTP/1.1 {status} X\r\n{type_line}{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


def result(id: bytes, value: object = None) -> bytes:
    """A JSON-RPC result."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, json.dumps({} if value is None else value).encode())


def rpc_error(id: bytes, code: int, message: str = "no") -> bytes:
    """A JSON-RPC error."""
    return b'{"jsonrpc":"2.0","id":%b,"error":{"code":%d,"message":"%b"}}' % (id, code, message.encode())


def echo(request: SeenRequest) -> bytes:
    """The result of a good server: what the params were."""
    return result(request.id, {"echo": request.json.get("params")})


async def answer_ok(request: SeenRequest, wire: Wire) -> None:
    """A good server: requests are echoed, notifications accepted."""
    if b'"id"' in request.body:
        await wire.write(answer(echo(request)))
    else:
        await wire.write(answer(b"", 202, ""))


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: bytes, id: bytes | None = None, retry: bytes | None = None, name: bytes | None = None) -> bytes:
    """One event, as a chunk."""
    text = b""
    if name is not None:
        text += b"event: " + name + b"\n"
    if id is not None:
        text += b"id: " + id + b"\n"
    if retry is not None:
        text += b"retry: " + retry + b"\n"
    return chunk(text + b"data: " + data + b"\n\n")

"""What one exchange over a warm connection costs the sidecar: CPU of this process per call, against an echo server.

The server is another process and so cheap that it never is the limit. Run: `python bench/http_client.py [CALLS]`.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection
from typing import cast

import uvloop

from mcp_sidecar.pipeline.call import Call, Era
from mcp_sidecar.upstream.dial import DialSettings
from mcp_sidecar.upstream.http_upstream import HttpUpstream, HttpUpstreamSettings

_PARAMS = (
    b'{"name":"echo","arguments":{"text":"hello"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    b'"io.modelcontextprotocol/clientCapabilities":{}}}'
)
_RESULT = b'{"content":[{"type":"text","text":"hello"}],"resultType":"complete","isError":false}'
_ROUNDS = 5


class EchoProtocol(asyncio.Protocol):
    """Answers any POST that comes in one chunk, to `/sse` as an event stream. The id is cut out by position."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        start = data.index(b'"id":') + 5
        id = data[start : data.index(b",", start)]
        body = b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, _RESULT)
        if data.startswith(b"POST /sse"):
            event = b"event: message\r\ndata: %b\r\n\r\n" % body
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            self.transport.write(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event))
        else:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: echo\r\nContent-Length: %d\r\n\r\n"
            self.transport.write(head % len(body) + body)


def serve(pipe: Connection) -> None:
    """The other process."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(EchoProtocol, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


async def measure(port: int, calls: int, callers: int, path: str) -> float:
    """CPU microseconds a call with `callers` at once."""
    ids = itertools.count(1)
    settings = HttpUpstreamSettings("bench", DialSettings(f"http://127.0.0.1:{port}/{path}"))
    upstream = HttpUpstream(settings, ids=lambda: next(ids), environ={})

    async def caller(count: int) -> None:
        for _ in range(count):
            call = Call(
                server="bench",
                id=b"1",
                method="tools/call",
                params=_PARAMS,
                era=Era.MODERN,
                version="2026-07-28",
                name="echo",
            )
            reply = await upstream.exchange(call)
            assert reply.result == _RESULT

    async def all_callers(count: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller(count // callers))

    await all_callers(2000)
    figures = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        await all_callers(calls)
        figures.append((time.process_time() - began) / calls * 1e6)
    await upstream.close()
    return statistics.median(figures)


def main() -> None:
    """Print one line for each number of callers."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    port = here.recv()
    print(f"exchange over a warm connection, {len(_PARAMS)} bytes of params, {os.cpu_count()} CPUs, uvloop")
    for path, form in (("mcp", "JSON"), ("sse", "event stream")):
        for callers in (1, 8):
            cost = uvloop.run(measure(port, calls, callers, path))
            print(f"  answered as {form}, {callers} at once: {cost:.1f} µs CPU a call")
    server.terminate()
    server.join()


if __name__ == "__main__":
    main()

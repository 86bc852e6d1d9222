"""A sidecar under attack: raw requests of either era, and what it must look like afterwards.

Used by the hostile tests. Nothing here parses more than it must, so that a test sees the bytes that were sent.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from raw_mcp import META, MODERN
from sidecar_process import SidecarProcess

PATIENCE = 20.0
LIMIT = 1 << 26
NEVER_LOGGED = (b"Traceback", b"was not handled", b"not answered", b"never retrieved", b"Exception ignored")
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
}
Headers = tuple[tuple[str, str], ...]


def encode(message: object) -> bytes:
    """JSON; bytes as they are."""
    return message if isinstance(message, bytes) else json.dumps(message).encode()


def post(body: object, headers: Headers = (), path: str = "/mcp", verb: str = "POST") -> bytes:
    """A whole HTTP request."""
    raw = encode(body)
    head = [f"{verb} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    head += ["Accept: application/json, text/event-stream", f"Content-Length: {len(raw)}"]
    head += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + raw


def modern(
    method: str, params: dict[str, Any] | None = None, *, id: object = 1, path: str = "/mcp", body: object = None
) -> bytes:
    """A modern request; `body` replaces what would be sent under its headers."""
    whole = {"_meta": META, **(params or {})}
    whole["_meta"] = {**META, **whole["_meta"]}
    headers: Headers = (("MCP-Protocol-Version", MODERN), ("Mcp-Method", method))
    if "name" in whole:
        headers += (("Mcp-Name", whole["name"]),)
    sent = {"jsonrpc": "2.0", "id": id, "method": method, "params": whole} if body is None else body
    return post(sent, headers, path)


async def receive(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One HTTP answer."""
    async with asyncio.timeout(PATIENCE):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if headers.get("transfer-encoding") != "chunked":
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        else:
            chunks = []
            while size := int(await reader.readline(), 16):
                chunks.append(await reader.readexactly(size))
                await reader.readline()
            await reader.readline()
            body = b"".join(chunks)
        return int(lines[0].split()[1]), headers, body


async def ask(sidecar: SidecarProcess, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes on a connection of their own; the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port, limit=LIMIT)
    try:
        writer.write(data)
        return await receive(reader)
    finally:
        writer.close()


def messages(headers: dict[str, str], body: bytes) -> list[dict[str, Any]]:
    """The JSON-RPC messages of an answer, as strict UTF-8 JSON."""
    if headers.get("content-type") == "text/event-stream":
        events = (event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event.startswith(b"data: "))
        return [json.loads(event.decode()) for event in events]
    return [json.loads(body.decode())]


class LegacySession:
    """Requests under one session id."""

    def __init__(self, token: str, path: str) -> None:
        self.token = token
        self.path = path
        self.headers: Headers = (("Mcp-Session-Id", token), ("MCP-Protocol-Version", "2025-06-18"))

    def post(self, body: object) -> bytes:
        """A POST of any body."""
        return post(body, self.headers, self.path)

    def call(self, tool: str, arguments: dict[str, Any], id: object = 1) -> bytes:
        """A tools/call."""
        params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": "mine"}}
        return self.post({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})

    def get(self) -> bytes:
        """The GET of a stream."""
        head = [f"GET {self.path} HTTP/1.1", "Host: localhost", "Accept: text/event-stream"]
        return "\r\n".join([*head, *(f"{n}: {v}" for n, v in self.headers), "", ""]).encode()


async def begin(sidecar: SidecarProcess, path: str = "/mcp", headers: Headers = ()) -> LegacySession:
    """`initialize`."""
    status, told, body = await ask(sidecar, post(INITIALIZE, headers, path))
    assert status == 200, body
    assert "mcp-session-id" in told, body
    return LegacySession(told["mcp-session-id"], path)


def rss(sidecar: SidecarProcess) -> float:
    """MiB of memory."""
    return int(Path(f"/proc/{sidecar.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def files(sidecar: SidecarProcess) -> int:
    """Open file descriptors."""
    return len(os.listdir(f"/proc/{sidecar.pid}/fd"))


def in_flight(sidecar: SidecarProcess) -> float:
    """Calls that hold or wait for a permit."""
    names = ("outrigger_bulkhead_in_flight", "outrigger_queue_length")
    return sum(value for name, value in sidecar.metrics().items() if name.startswith(names))


async def until(condition: Any, what: str, patience: float = PATIENCE) -> None:
    """Look until something is so."""
    end = asyncio.get_running_loop().time() + patience
    while not await asyncio.to_thread(condition):
        assert asyncio.get_running_loop().time() < end, f"not within {patience:g} s: {what}"
        await asyncio.sleep(0.05)


def complaints(lines: Iterable[bytes]) -> list[bytes]:
    """Log lines that tell of an exception nobody expected."""
    return [line[:2000] for line in lines if any(mark in line for mark in NEVER_LOGGED)]


@asynccontextmanager
async def attacked(servers: dict[str, Any], **config: Any) -> AsyncIterator[SidecarProcess]:
    """A running sidecar; afterwards no permit is held and stderr tells of nothing that was not handled."""
    sidecar = SidecarProcess({"servers": servers, **config})
    await asyncio.to_thread(sidecar.start)
    try:
        yield sidecar
        await until(lambda: in_flight(sidecar) == 0, "every permit back")
        assert sidecar.process.poll() is None
        lines = list(sidecar.stderr)
        assert complaints(lines) == []
    except BaseException:
        await asyncio.to_thread(sidecar.kill)
        raise
    await asyncio.to_thread(sidecar.stop)

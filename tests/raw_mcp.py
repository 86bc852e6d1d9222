"""MCP clients that do nothing by themselves: they send what they are told and give back the bytes.

For comparing what passes the sidecar with what the server says itself; the SDK's client parses, checks and completes.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import queue
import select
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Envelope(msgspec.Struct):
    """An answer whose result is not decoded."""

    result: dict[str, msgspec.Raw] = {}


def raw_result(message: bytes, name: str) -> bytes:
    """The bytes of one member of an answer's result, as they were sent; empty where it has none."""
    return bytes(msgspec.json.decode(message, type=Envelope).result.get(name, msgspec.Raw(b"")))


class StdioClient:
    """Speaks to a server's own stdin and stdout. A context manager."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None, cwd: str | None = None) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
        self.last = b""
        """The line of the newest answer."""
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._ids = itertools.count(1)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            self._lines.put(line)
        self._lines.put(b"")

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()

    def request(self, method: str, params: Mapping[str, Any] | None = None, timeout: float = 60) -> dict[str, Any]:
        """Send a request; the whole answer. Other messages are passed over. Raises queue.Empty, EOFError."""
        number = next(self._ids)
        self._send({"id": number, "method": method, **({} if params is None else {"params": params})})
        while True:
            line = self._lines.get(timeout=timeout)
            if not line:
                raise EOFError(f"the server ended: {self.process.wait(5)}")
            with contextlib.suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict) and answer.get("id") == number and "method" not in answer:
                    self.last = line
                    return answer

    def initialize(self, version: str = "2025-06-18") -> dict[str, Any]:
        """The handshake; the answer to `initialize`."""
        client = {"name": "raw", "version": "1"}
        answer = self.request("initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": client})
        self._send({"method": "notifications/initialized"})
        return answer

    def __enter__(self) -> StdioClient:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self._reader.join(5)
        self.process.stdout.close()


class HttpAnswer:
    """What came back for one POST: the status, the headers, the JSON-RPC answer and the messages before it."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body
        self.parts: list[bytes] = []
        """The messages as they were sent."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            data = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
            self.parts = [part for part in data if part]
        elif body:
            self.parts = [body]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages, interim ones first."""
        return [json.loads(part) for part in self.parts]

    @property
    def answer(self) -> dict[str, Any]:
        """The answer proper."""
        return self.messages[-1]

    @property
    def result(self) -> dict[str, Any]:
        """The result; fails on an error."""
        assert "result" in self.answer, f"{self.status} {self.answer}"
        found: dict[str, Any] = self.answer["result"]
        return found


class HttpClient:
    """Speaks Streamable HTTP to one endpoint, one request at a time, in either era."""

    def __init__(self, url: str, *, modern: bool, timeout: float = 90) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.modern = modern
        self._path = parts.path
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        self._ids = itertools.count(1)
        self.session: str | None = None
        self.version = "2025-06-18"

    def post(self, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> HttpAnswer:
        """POST any message."""
        sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **(headers or {})}
        self._connection.request("POST", self._path, json.dumps(body), sent)
        response = self._connection.getresponse()
        return HttpAnswer(response.status, dict(response.getheaders()), response.read())

    def request(self, method: str, params: Mapping[str, Any] | None = None) -> HttpAnswer:
        """Send a request as a client of this era does."""
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": next(self._ids), "method": method}
        headers: dict[str, str] = {}
        if self.modern:
            body["params"] = {**(params or {}), "_meta": META}
            headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
            name = (params or {}).get("uri" if method == "resources/read" else "name")
            if isinstance(name, str):
                headers["Mcp-Name"] = name
        else:
            if params is not None:
                body["params"] = params
            if self.session is not None:
                headers = {"MCP-Protocol-Version": self.version, "Mcp-Session-Id": self.session}
        return self.post(body, headers)

    def open(self) -> HttpAnswer:
        """The handshake of the legacy era, or `server/discover`."""
        if self.modern:
            return self.request("server/discover")
        client = {"name": "raw", "version": "1"}
        answer = self.request("initialize", {"protocolVersion": self.version, "capabilities": {}, "clientInfo": client})
        self.session = answer.headers.get("mcp-session-id")
        self.version = answer.result["protocolVersion"]
        headers = {"MCP-Protocol-Version": self.version, **({"Mcp-Session-Id": self.session} if self.session else {})}
        assert self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, headers).status == 202
        return answer

    def call(self, tool: str, arguments: Mapping[str, Any]) -> HttpAnswer:
        """`tools/call`."""
        return self.request("tools/call", {"name": tool, "arguments": arguments})

    def connected(self, timeout: float) -> None:
        """Have a connection: another one where the other side has closed that which was kept, as HTTP clients do.

        Raises OSError where there is none within `timeout` seconds.
        """
        connection = self._connection
        if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
            connection.close()
        if connection.sock is None:
            connection.timeout, patience = timeout, connection.timeout
            try:
                connection.connect()
            finally:
                connection.timeout = patience
            connection.sock.settimeout(patience)

    def close(self) -> None:
        """Close the connection; a session is left to the server."""
        self._connection.close()

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""A modern MCP server over HTTP, in threads of the test's process: it counts what reaches it and fails as it is told.

It answers `server/discover`, `tools/list` (one tool, `work`) and `tools/call` (the text `done N`, N counting from 1)
until its attributes say otherwise. For tests of a sidecar in another process; the faults of single bytes are
`fault_server`'s.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

RETRY_SOON = {"Retry-After": "1"}


class ScriptedUpstream:
    """A context manager; the attributes may be changed while it runs."""

    def __init__(self, port: int = 0) -> None:
        self.failing: Callable[[str, int], int] = lambda method, number: 0
        """The HTTP status to answer instead of a result, by method and by the how-many-eth of its kind; 0: a result."""
        self.failure_headers: dict[str, str] = {}
        self.ttl_ms = 0
        """Of `tools/list`."""
        self.gate = threading.Event()
        """Tool calls wait for it."""
        self.gate.set()
        self.seen: list[tuple[str, dict[str, str]]] = []
        """Method and headers (lower-case names) of every request."""
        self.open = 0
        self.most_open = 0
        """Connections at the same time."""
        self.connections = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/mcp"

    def count(self, method: str = "tools/call") -> int:
        """How many requests of a method came."""
        return sum(seen == method for seen, _ in list(self.seen))

    def __enter__(self) -> ScriptedUpstream:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def connected(self, change: int) -> None:
        """A connection came or went."""
        with self._lock:
            self.open += change
            self.most_open = max(self.most_open, self.open)
            self.connections += change > 0

    def answer(self, request: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for one request."""
        method = str(request["method"])
        with self._lock:
            self.seen.append((method, headers))
            number = self.count(method)
        if "id" not in request:
            return 202, {}, b""
        if status := self.failing(method, number):
            return status, self.failure_headers, b"no"
        if method == "tools/call":
            self.gate.wait(20)
        result = {
            "server/discover": {
                "resultType": "complete",
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}},
                "ttlMs": 0,
                "cacheScope": "public",
            },
            "tools/list": {
                "resultType": "complete",
                "tools": [{"name": "work", "inputSchema": {"type": "object"}}],
                "ttlMs": self.ttl_ms,
                "cacheScope": "public",
            },
            "tools/call": {"resultType": "complete", "content": [{"type": "text", "text": f"done {number}"}]},
        }.get(method)
        outcome: dict[str, Any] = {"result": result}
        if result is None:
            outcome = {"error": {"code": -32601, "message": "Method not found"}}
        return 200, {}, json.dumps({"jsonrpc": "2.0", "id": request["id"], **outcome}).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], script: ScriptedUpstream) -> None:
        self.script = script
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.script.connected(1)

    def finish(self) -> None:
        self.server.script.connected(-1)
        super().finish()

    def do_POST(self) -> None:
        """Answer one request."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, extra, body = self.server.script.answer(request, headers)
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """No stream."""
        self.send_response(405)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

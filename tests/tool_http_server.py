"""An HTTP MCP server in a thread of the test: answers, counts, holds and fails as the test says.

    with ToolHttpServer() as server:
        server.url …; server.requests …; server.connections …

Tools: `echo` (its arguments), `headers` (what came), `wait` (until `server.gate` is set), `big` (so many bytes); any
other name echoes. Calls of tools are answered by `server.behave(request)` first, where that is set.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sidecar_process import free_ports


@dataclass
class Seen:
    """One request as it came."""

    method: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: tuple[str, int]

    @property
    def tool(self) -> str | None:
        """The tool it calls."""
        if self.body.get("method") != "tools/call":
            return None
        name: str = self.body["params"]["name"]
        return name


@dataclass
class Answer:
    """An HTTP answer: `result` or `error` of JSON-RPC with status and headers; `drop` closes without one."""

    result: dict[str, Any] | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False


class ToolHttpServer:
    """See the module. Legacy with sessions unless `modern`. `host` is its name in URLs, `bind` the address it has."""

    def __init__(
        self,
        *,
        modern: bool = True,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        bind: str = "127.0.0.1",
    ) -> None:
        self.modern = modern
        self.tools: list[dict[str, Any]] = [{"name": name} for name in ("echo", "headers", "wait", "big")]
        self.list_ttl_ms = 0
        self.list_changed = False
        self.requests: list[Seen] = []
        self.gate = threading.Event()
        self.behave: Callable[[Seen], Answer | None] | None = None
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.most_at_once = 0
        self.at_once = 0
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self._tls = tls
        self._host, self._bind = host, bind
        self._server: ThreadingHTTPServer | None = None
        self._sockets: set[socket.socket] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}/mcp"

    def __enter__(self) -> ToolHttpServer:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def listen(self) -> None:
        """Serve, on the port of the last time."""
        outer = self

        class Handler(_Handler):
            server_of_test = outer

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def get_request(self) -> tuple[socket.socket, Any]:
                sock, address = super().get_request()
                if outer._tls is not None:
                    sock.settimeout(5)
                    sock = outer._tls.wrap_socket(sock, server_side=True)
                    sock.settimeout(None)
                return sock, address

            def handle_error(self, request: Any, client_address: Any) -> None:
                return

        if not self.port:
            # not one of the kernel's choice: while this does not listen, the kernel may give that to a connection
            [self.port] = free_ports(1)
        self._server = Server((self._bind, self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop serving and close every connection."""
        self.gate.set()
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            with self.lock:
                for sock in self._sockets:
                    try:
                        sock.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        continue

    def calls(self, tool: str | None = None) -> list[Seen]:
        """The tool calls that came."""
        with self.lock:
            return [seen for seen in self.requests if seen.tool is not None and tool in (None, seen.tool)]

    def methods(self, method: str) -> int:
        """How many requests of a method came."""
        with self.lock:
            return sum(seen.body.get("method") == method for seen in self.requests)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait for something that a request or a connection makes true. Call without the lock."""
        with self.changed:
            assert self.changed.wait_for(lambda: _unlocked(self.lock, condition), seconds)


def _unlocked(lock: threading.Lock, condition: Callable[[], bool]) -> bool:
    lock.release()
    try:
        return condition()
    finally:
        lock.acquire()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server_of_test: ToolHttpServer

    def log_message(self, format: str, *args: Any) -> None:
        return

    def setup(self) -> None:
        super().setup()
        server = self.server_of_test
        with server.changed:
            server.connections += 1
            server.open += 1
            server.most_open = max(server.most_open, server.open)
            server._sockets.add(self.connection)
            server.changed.notify_all()

    def finish(self) -> None:
        server = self.server_of_test
        with server.changed:
            server.open -= 1
            server._sockets.discard(self.connection)
            server.changed.notify_all()
        super().finish()

    def _seen(self, body: dict[str, Any]) -> Seen:
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, headers, body, self.client_address)
        server = self.server_of_test
        with server.changed:
            server.requests.append(seen)
            server.changed.notify_all()
        return seen

    def _send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if body:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_GET(self) -> None:
        self._seen({})
        self._send(405, headers={"Allow": "POST"})

    def do_DELETE(self) -> None:
        self._seen({})
        self._send(200)

    def do_POST(self) -> None:
        server = self.server_of_test
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seen = self._seen(body)
        if "id" not in body or "method" not in body:
            self._send(202)
            return
        answer = None
        if server.behave is not None:
            answer = server.behave(seen)
        if answer is None:
            answer = self._answer(seen)
        if answer.drop:
            self.close_connection = True
            self.connection.close()
            return
        payload = b""
        if answer.result is not None:
            payload = json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": answer.result}).encode()
        elif answer.status < 300:
            error = {"code": -32601, "message": "no such method"}
            payload = json.dumps({"jsonrpc": "2.0", "id": body["id"], "error": error}).encode()
        self._send(answer.status, payload, answer.headers)

    def _answer(self, seen: Seen) -> Answer:
        server = self.server_of_test
        method, params = seen.body["method"], seen.body.get("params") or {}
        info = {"name": "tool-http-server", "version": "1"}
        capabilities = {"tools": {"listChanged": server.list_changed}}
        extra: dict[str, Any] = {"resultType": "complete"} if server.modern else {}
        if method == "server/discover" and server.modern:
            kept = {"ttlMs": 0, "cacheScope": "private"}
            meta = {"io.modelcontextprotocol/serverInfo": info}
            named = {"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "_meta": meta}
            return Answer({**named, **extra, **kept})
        if method == "initialize" and not server.modern:
            named = {"protocolVersion": params["protocolVersion"], "capabilities": capabilities, "serverInfo": info}
            return Answer(named, headers={"Mcp-Session-Id": f"session-{len(server.requests)}"})
        if method == "tools/list":
            tools = [{"inputSchema": {"type": "object"}, **tool} for tool in server.tools]
            kept = {"ttlMs": server.list_ttl_ms, "cacheScope": "public"} if server.modern else {}
            return Answer({"tools": tools, **extra, **kept})
        if method == "tools/call":
            return Answer({"content": [{"type": "text", "text": self._call(seen)}], **extra})
        if method == "ping":
            return Answer({})
        return Answer(status=200)

    def _call(self, seen: Seen) -> str:
        server = self.server_of_test
        params = seen.body["params"]
        arguments = params.get("arguments") or {}
        with server.changed:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            server.changed.notify_all()
        try:
            if params["name"] == "headers":
                return json.dumps(seen.headers)
            if params["name"] == "big":
                return "x" * int(arguments["bytes"])
            if params["name"] == "wait":
                server.gate.wait(30)
            return json.dumps(arguments)
        finally:
            with server.changed:
                server.at_once -= 1
                server.changed.notify_all()

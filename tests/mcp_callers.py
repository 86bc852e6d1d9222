"""Callers of a sidecar that speak raw Streamable HTTP, several requests at a time, and see every byte of the answers.

Each request has a thread and a connection of its own. A `Caller` is a modern one, or holds a legacy session; an
`Exchange` is one request: its messages as they come, its status and its end. Waiting is bounded by `PATIENCE`.
"""

from __future__ import annotations

import http.client
import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raw_mcp import META, MODERN
from sidecar_process import free_ports

PATIENCE = 20.0
CHILDREN = Path(__file__).parent / "children"
PREFIX = "io.modelcontextprotocol/"


def legacy_server(*arguments: str, **settings: Any) -> dict[str, Any]:
    """An entry of `servers`: the legacy server of tests/children."""
    return _child("legacy_mcp.py", *arguments, **settings)


def modern_server(**settings: Any) -> dict[str, Any]:
    """An entry of `servers`: the modern server of tests/children."""
    return _child("modern_mcp.py", **settings)


def _child(script: str, *arguments: str, **settings: Any) -> dict[str, Any]:
    return {
        "command": sys.executable,
        "args": ["-S", "-E", str(CHILDREN / script), *arguments],
        "restart": {"backoffBase": "10ms"},
        **settings,
    }


class Exchange:
    """One request and what came back."""

    def __init__(self, url: str, method: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)
        self._connection.connect()
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._head = threading.Event()
        self._over = threading.Event()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        """The bytes of a plain answer, or all of a stream."""
        self.event_ids: list[str] = []
        self.failed: BaseException | None = None
        self._connection.request(method, parts.path, body, dict(headers))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            response = self._connection.getresponse()
            self.status = response.status
            self.headers = {name.lower(): value for name, value in response.getheaders()}
            self._head.set()
            if self.streams:
                while line := response.readline():
                    self.body += line
                    if line.startswith(b"data: ") and line.strip() != b"data:":
                        self._messages.put(json.loads(line[6:]))
                    elif line.startswith(b"id: "):
                        self.event_ids.append(line[4:].strip().decode())
            else:
                self.body = response.read()
                if self.body:
                    found = json.loads(self.body)
                    for message in found if isinstance(found, list) else [found]:
                        self._messages.put(message)
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            self.failed = error
        finally:
            self._head.set()
            self._over.set()
            self._messages.put(None)

    @property
    def streams(self) -> bool:
        """The answer is an event stream."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return self._over.is_set()

    def head(self) -> Exchange:
        """Wait for the head of the answer."""
        assert self._head.wait(PATIENCE), "no answer"
        return self

    def next(self) -> dict[str, Any]:
        """The next message; fails at the end of the answer."""
        message = self._taken()
        assert isinstance(message, dict), f"ended with {self.status} {self.body!r} {self.failed!r}"
        return message

    def until(self, method: str) -> dict[str, Any]:
        """The next message of a method, others passed over."""
        while True:
            message = self.next()
            if message.get("method") == method:
                return message

    def answer(self) -> dict[str, Any]:
        """The answer proper."""
        while True:
            message = self.next()
            if "method" not in message:
                return message

    def rest(self) -> list[dict[str, Any]]:
        """Everything that was not taken yet, when it is over."""
        found = []
        while (message := self._taken()) is not None:
            found.append(message)
        return found

    def _taken(self) -> Any:
        try:
            return self._messages.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"nothing came for {PATIENCE:g} s: {self.status} {self.body[-300:]!r}") from None

    def nothing(self) -> bool:
        """Whether no message waits to be taken."""
        return self._messages.empty()

    def wait(self) -> Exchange:
        """Until it is over."""
        assert self._over.wait(PATIENCE), "it did not end"
        return self

    def disconnect(self) -> None:
        """Go away in the middle."""
        sock = self._connection.sock
        if sock is not None:
            sock.shutdown(2)
        self._thread.join(PATIENCE)


class Caller:
    """A modern caller, or (`version` given, `open` called) one with a legacy session."""

    def __init__(self, url: str, *, version: str | None = None, token: str | None = None) -> None:
        self.url = url
        self.version = version
        self.session: str | None = None
        self._token = token
        self._ids = itertools.count(1)

    def headers(self, **more: str) -> dict[str, str]:
        """What goes with every request."""
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if self.version is None:
            headers["MCP-Protocol-Version"] = MODERN
        elif self.session is not None:
            headers |= {"MCP-Protocol-Version": self.version, "Mcp-Session-Id": self.session}
        return headers | more

    def post(self, body: Any, headers: Mapping[str, str] | None = None) -> Exchange:
        """POST any JSON, or bytes."""
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Exchange(self.url, "POST", encoded, self.headers() if headers is None else headers)

    def send(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        id: Any = None,
        meta: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Exchange:
        """Send a request as a client of this era does."""
        number = next(self._ids) if id is None else id
        sent = dict(params or {})
        more: dict[str, str] = {}
        if self.version is None:
            sent["_meta"] = {**META, **(meta or {})}
            more = {"Mcp-Method": method}
            name = sent.get("uri" if method == "resources/read" else "name")
            if isinstance(name, str):
                more["Mcp-Name"] = name
        elif meta is not None:
            sent["_meta"] = dict(meta)
        body = {"jsonrpc": "2.0", "id": number, "method": method, **({"params": sent} if sent else {})}
        return self.post(body, self.headers(**more, **(headers or {})))

    def call(self, tool: str, *, id: Any = None, meta: Any = None, **arguments: Any) -> Exchange:
        """`tools/call`."""
        return self.send("tools/call", {"name": tool, "arguments": arguments}, id=id, meta=meta)

    def result(self, method: str, params: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """The result of a request; fails on an error."""
        answer = self.send(method, params, **options).answer()
        assert "result" in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def error(self, method: str, params: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """The error of a request, with the HTTP status as `status`; fails on a result."""
        exchange = self.send(method, params, **options)
        answer = exchange.answer()
        assert "error" in answer, answer
        return {**answer["error"], "status": exchange.status}

    def text(self, tool: str, **arguments: Any) -> str:
        """What a tool answers."""
        return str(self.result("tools/call", {"name": tool, "arguments": arguments})["content"][0]["text"])

    def told(self) -> list[dict[str, Any]]:
        """Everything the process was sent."""
        found: list[dict[str, Any]] = json.loads(self.text("told"))
        return found

    def open(self, capabilities: Mapping[str, Any] | None = None) -> Caller:
        """`initialize` and `notifications/initialized`."""
        self.initialized(capabilities)
        return self

    def initialized(self, capabilities: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Open the session; the result of `initialize`."""
        self.session = None
        params = {
            "protocolVersion": self.version,
            "capabilities": dict(capabilities or {}),
            "clientInfo": {"name": "raw", "version": "1"},
        }
        exchange = self.send("initialize", params)
        answer = exchange.answer()
        assert "result" in answer, answer
        self.session = exchange.headers.get("mcp-session-id")
        self.version = answer["result"]["protocolVersion"]
        assert self.notify("notifications/initialized").status == 202
        result: dict[str, Any] = answer["result"]
        return result

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> Exchange:
        """Send a notification; waits for its answer."""
        body = {"jsonrpc": "2.0", "method": method, **({"params": params} if params is not None else {})}
        more = {"Mcp-Method": method} if self.version is None else {}
        return self.post(body, self.headers(**more)).wait()

    def respond(self, id: Any, **outcome: Any) -> Exchange:
        """Answer a request of the server."""
        return self.post({"jsonrpc": "2.0", "id": id, **outcome}).wait()

    def stream(self, **headers: str) -> Exchange:
        """The GET stream; waits for its head."""
        return Exchange(self.url, "GET", None, self.headers(**headers)).head()

    def delete(self) -> Exchange:
        """DELETE the session."""
        return Exchange(self.url, "DELETE", None, self.headers()).wait()

    def listen(self, **notifications: Any) -> Exchange:
        """`subscriptions/listen`."""
        return self.send("subscriptions/listen", {"notifications": notifications})


class HttpServerProcess:
    """The HTTP server of tests/children in a process of its own; a context manager."""

    def __init__(self, era: str, port: int | None = None) -> None:
        self.era = era
        self.port = free_ports(1)[0] if port is None else port

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    def __enter__(self) -> HttpServerProcess:
        command = [sys.executable, "-S", "-E", str(CHILDREN / "http_mcp.py"), str(self.port), self.era]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def forget(self) -> None:
        """Have it lose all sessions."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("POST", "/forget")
        assert connection.getresponse().status == 200
        connection.close()

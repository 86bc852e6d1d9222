"""Replicas of one sidecar on addresses of loopback, and a front that spreads requests over them in turn.

A `Replica` is a sidecar as in a pod: an IP address of its own, the port and the key of sessions shared with the others.
`Spread` stands for a Service: each request goes to the next replica that takes connections, whoever holds its session.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import socketserver
import ssl
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sidecar_process import SidecarProcess, free_ports

KEY = "ab" * 32


class Replica(SidecarProcess):
    """A sidecar that listens on `address` and tells it the others."""

    def __init__(
        self, config: Mapping[str, Any], address: str, port: int, key: str = KEY, env: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(config, host=address, port=port, env={"OUTRIGGER__SESSIONS__ADDRESS": address, **(env or {})})
        key_file = self.directory / "session.key"
        key_file.write_text(key)
        self.config_path.write_text(
            json.dumps({**config, "sessions": {**config.get("sessions", {}), "keyFile": "session.key"}})
        )

    def forwarded(self, outcome: str = "answered") -> float:
        """Requests that it passed on."""
        return self.metrics().get(f'outrigger_forwarded_requests_total{{outcome="{outcome}"}}', 0.0)


@contextlib.contextmanager
def replicas(config: Mapping[str, Any], count: int = 2, **options: Any) -> Iterator[list[Replica]]:
    """So many replicas, ready, on 127.0.0.2 and up."""
    port = free_ports(1)[0]
    with contextlib.ExitStack() as stack:
        found = [Replica(config, f"127.0.0.{number + 2}", port, **options) for number in range(count)]
        for replica in found:
            stack.enter_context(replica)
        for replica in found:
            replica.wait_for("/readyz")
        yield found


class Spread:
    """A listener on 127.0.0.1 whose requests go to one replica after the other. A context manager."""

    def __init__(
        self,
        targets: Sequence[Replica],
        tls: ssl.SSLContext | None = None,
        *,
        address: tuple[str, int] = ("127.0.0.1", 0),
        own: ssl.SSLContext | None = None,
    ) -> None:
        """`tls` to the targets, `own` towards callers."""
        self.targets = list(targets)
        self.seen: Counter[str] = Counter()
        """Requests by the address they went to."""
        self._turn = itertools.count()
        self._tls = tls
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    outer._relay(own.wrap_socket(self.request, server_side=True) if own else self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 128

        self._server = Server(address, Handler)

    @property
    def url(self) -> str:
        """Where callers go."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/mcp"

    def __enter__(self) -> Spread:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _relay(self, caller: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = caller.recv(65536)
            if not piece:
                return
            head += piece
        lines, _, rest = head.partition(b"\r\n\r\n")
        kept = [line for line in lines.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        target = self._connect()
        if target is None:
            return
        with target:
            target.sendall(b"\r\n".join([*kept, b"Connection: close"]) + b"\r\n\r\n" + rest)
            threading.Thread(target=_pump, args=(caller, target), daemon=True).start()
            _pump(target, caller)

    def _connect(self) -> socket.socket | None:
        for _ in self.targets:
            replica = self.targets[next(self._turn) % len(self.targets)]
            try:
                target = socket.create_connection((replica.host, replica.port), 5)
            except OSError:
                continue
            target.settimeout(None)
            self.seen[replica.host] += 1
            return self._tls.wrap_socket(target) if self._tls is not None else target
        return None


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def sockets(pid: int) -> int:
    """Sockets that a process has open."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(link.readlink()).startswith("socket:")
    return count

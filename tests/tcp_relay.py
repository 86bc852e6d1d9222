"""A port of this machine that leads to another address: for programs that insist on a server on 127.0.0.1."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from types import TracebackType


class TcpRelay(socketserver.ThreadingTCPServer):
    """Passes on bytes both ways, and the end of each. A context manager."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self._thread = threading.Thread(target=self.serve_forever, name="relay", daemon=True)

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> TcpRelay:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """One connection, until both sides have ended."""
        assert isinstance(request, socket.socket)
        with socket.create_connection(self._target, timeout=30) as target:
            target.settimeout(None)
            back = threading.Thread(target=_pass_on, args=(target, request), daemon=True)
            back.start()
            _pass_on(request, target)
            back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)

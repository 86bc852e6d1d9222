"""A stdio server in another container of the pod: the same lines over the Unix socket of the bridge.

Every connection is a process of its own over there; the bridge starts it when we connect and ends it, stdin first, when
we hang up. Where that process fails to start the connection just ends.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.protocol.lines import DEFAULT_LIMIT, Oversized
from mcp_sidecar.upstream.channel import StartError
from mcp_sidecar.upstream.line_stream import LineStream, Outgoing

_KINDS: Final = {
    errno.ENOENT: "not_found",
    errno.ECONNREFUSED: "refused",
    errno.EACCES: "not_permitted",
    errno.EMFILE: "no_files",
    errno.ENFILE: "no_files",
    errno.EAGAIN: "backlog_full",
}


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """Where the bridge listens. Times in seconds."""

    path: str
    line_limit: int = DEFAULT_LIMIT
    end_grace: float = 5.0
    """How long the bridge has to end the process after we have hung up our half."""
    stdin_buffer: int = 262_144
    """Bytes queued for a server that does not read before senders wait."""


class SocketChannel:
    """A `Channel` over one connection to a Unix socket."""

    def __init__(self, settings: SocketSettings) -> None:
        self.settings = settings
        self.on_message: Callable[[bytes], None] = _ignore
        self.on_oversized: Callable[[Oversized], None] = _ignore
        self.on_closed: Callable[[UpstreamError], None] = _ignore
        self._stream: LineStream | None = None
        self._socket: socket.socket | None = None
        self._error: UpstreamError | None = None
        self._gone: asyncio.Future[None] | None = None
        self._closing = False

    @property
    def congested(self) -> bool:
        """See Channel."""
        return self._stream is not None and self._stream.congested

    async def open(self) -> None:
        """Connect. Raises StartError."""
        loop = asyncio.get_running_loop()
        path = self.settings.path
        connection: socket.socket | None = None
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)
            await loop.sock_connect(connection, path)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if not isinstance(error, OSError):
                raise
            kind = _KINDS.get(error.errno or 0, "other")
            why = os.strerror(error.errno) if error.errno else str(error)
            message = f"the socket {path!r} of the server's container cannot be reached: {why}"
            raise StartError(kind, message, reason=Reason.CONNECT_FAILED) from None
        self._socket = connection
        self._gone = loop.create_future()
        # The stream owns its descriptor, the socket object another one of the same connection, for `shutdown`.
        fd = os.dup(connection.fileno())
        self._stream = LineStream(
            fd,
            fd,
            on_message=self.on_message,
            on_oversized=self.on_oversized,
            on_eof=self._on_eof,
            limit=self.settings.line_limit,
            high_water=self.settings.stdin_buffer,
        )

    def send(self, message: bytes) -> Outgoing:
        """See Channel."""
        if self._stream is None:
            raise UpstreamError(Reason.CONNECTION_LOST, "the server is not connected", delivery=Delivery.NOT_SENT)
        return self._stream.send(message)

    async def drain(self) -> None:
        """See Channel."""
        if self._stream is not None:
            await self._stream.drain()

    async def close(self, reason: str) -> None:
        """Hang up our half, give the server time to end, hang up."""
        if self._stream is None or self._gone is None or self._gone.done():
            return
        if self._closing:
            await asyncio.wait([self._gone])
            return
        self._closing = True
        self._fail(UpstreamError(Reason.CONNECTION_LOST, f"the server is stopped: {reason}", delivery=Delivery.MAYBE))
        try:
            if self._stream.writable:
                flushed = asyncio.ensure_future(self._stream.flush())
                grace = self.settings.end_grace
                await asyncio.wait([flushed, self._gone], timeout=grace, return_when=asyncio.FIRST_COMPLETED)
                flushed.cancel()
                if not self._gone.done():
                    self._shutdown()
                    await asyncio.wait([self._gone], timeout=grace)
        finally:
            self._finish()

    def _shutdown(self) -> None:
        try:
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _on_eof(self, error: OSError | None) -> None:
        why = "" if error is None or not error.errno else f": {os.strerror(error.errno)}"
        self._fail(UpstreamError(Reason.CHILD_EXITED, f"the server's process hung up{why}", delivery=Delivery.MAYBE))
        self._finish()

    def _fail(self, error: UpstreamError) -> None:
        if self._error is None:
            self._error = error
            if self._stream is not None:
                self._stream.failure = error
            self.on_closed(error)

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._socket is not None:
            self._socket.close()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)


def _ignore(_: object) -> None:
    """Before the multiplexer sets its callbacks."""

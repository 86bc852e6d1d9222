"""Accepts callers and owns what serves them: connections, handler tasks, one sweeper for every time-out.

It accepts by itself rather than through `loop.create_server`, for three reasons: uvloop closes its server when
accepting fails for want of file descriptors (here accepting pauses and resumes), a full house is answered with 503, and
each new connection takes the TLS context of the moment, so a rotated certificate needs no restart. HTTP is the
connection's.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mcp_sidecar.front.connection import Connection
from mcp_sidecar.front.limits import ListenerSettings
from mcp_sidecar.front.refusal import Fault, Refusal
from mcp_sidecar.front.request import Request

if TYPE_CHECKING:
    import ssl

    TlsContext = Callable[[], ssl.SSLContext]

RequestHandler = Callable[[Request], Awaitable[None]]
HandlerFailed = Callable[[Request, BaseException | None], None]

_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_ACCEPT_BATCH = 64
_LAST_WORDS = 5.0
"""Seconds that cancelled handlers have to end."""
_REFUSED_AT_ONCE = 64
"""Connections over the limit that are open only to be told so; past them accepting pauses."""
_HANDLER_FAILED = Refusal(Fault.INTERNAL, "internal error")
_HANDLER_SILENT = Refusal(Fault.INTERNAL, "the request was not answered")
_STOPPED = Refusal(Fault.SHUTTING_DOWN, "shutting down", ((b"Retry-After", b"1"),))
_FULL = Refusal(Fault.TOO_MANY_CONNECTIONS, "too many connections", ((b"Retry-After", b"1"),))


class Listener:
    """An HTTP/1.1 server for one handler.

    `handler_failed(request, exception)` hears of handlers that raise, or return without an answer (then None); it is
    the place to log. Counters are plain attributes, read at scrape time.
    """

    def __init__(
        self,
        handler: RequestHandler,
        settings: ListenerSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        handler_failed: HandlerFailed | None = None,
    ) -> None:
        self._handler = handler
        self.settings = settings or ListenerSettings()
        self.now = clock
        self._handler_failed = handler_failed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: dict[socket.socket, TlsContext | None] = {}
        self._connections: set[Connection] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._tasks: dict[Request, asyncio.Task[None]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self.backlogged: dict[Connection, None] = {}
        """Callers with unread answers, the longest first."""
        self.held_bodies = 0
        self._sweep_due = 0.0
        self._sweep_skipped = False
        self._resume: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Event | None = None
        self._idle: asyncio.Event | None = None
        self.draining = False
        """Answers carry `Connection: close`."""
        self.statuses = [0] * 10
        """Answers by status class: 2 counts 2xx."""
        self.accepted = 0
        self.requests = 0
        self.refusals: Counter[str] = Counter()
        """Refusals by reason."""
        self.slow_callers = 0
        """Connections dropped because the caller did not read."""
        self.accept_pauses = 0
        """Times that accepting rested for want of descriptors, memory or room."""
        self.failed_handshakes = 0

    @property
    def open_connections(self) -> int:
        """Connections open now, those being closed included."""
        return len(self._connections)

    @property
    def open_requests(self) -> int:
        """Handlers running now."""
        return len(self._tasks)

    async def start(self, host: str, port: int, tls: TlsContext | None = None) -> tuple[str, int]:
        """Listen on every address of `host`; returns the first address and its port. Raises OSError, which names them.

        `tls` gives the context for each new connection. Port 0 takes a free one. `::` listens on IPv4 too.
        """
        loop = self._loop = asyncio.get_running_loop()
        bound: list[socket.socket] = []
        try:
            found = await loop.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
            )
            for family, kind, protocol, _, address in dict.fromkeys(found):
                if bound and port == 0:
                    address = (address[0], bound[0].getsockname()[1], *address[2:])
                sock = socket.socket(family, kind, protocol)
                bound.append(sock)
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
                sock.bind(address)
                sock.listen(self.settings.backlog)
        except OSError as error:
            for sock in bound:
                sock.close()
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            raise OSError(error.errno, f"{where}: {(error.strerror or str(error)).lower()}") from None
        for sock in bound:
            self._sockets[sock] = tls
            loop.add_reader(sock, self._accept, sock)
        if self._sweeper is None:
            self._schedule_sweep()
        name = bound[0].getsockname()
        return str(name[0]), int(name[1])

    def reconfigure(self, settings: ListenerSettings) -> None:
        """New limits: for new connections at once, for open ones from the next request on."""
        self.settings = settings
        for connection in self._connections:
            connection.reconfigure(settings)

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        for sock in self._sockets:
            if self._loop is not None:
                self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()

    async def farewell(self, seconds: float) -> None:
        """Serve on for so long, or until nobody is connected: each answer is the last of its connection.

        An HTTP client keeps its connection and may use it at any moment; closed under it, the request would be lost.
        Who has been silent for that time is not waited for.
        """
        self.draining = True
        for connection in tuple(self._connections):
            connection.close_if_idle(seconds)
        await self._until_empty(seconds)

    async def drain(self, timeout: float) -> bool:
        """Close idle connections, let open requests finish. True when all did within `timeout` seconds."""
        self.stop_accepting()
        self.draining = True
        for connection in tuple(self._connections):
            connection.close_if_idle()
        return await self._until_empty(timeout)

    async def _until_empty(self, timeout: float) -> bool:
        if self._empty:
            return True
        self._emptied = asyncio.Event()
        try:
            async with asyncio.timeout(timeout):
                await self._emptied.wait()
        except TimeoutError:
            return False
        return True

    async def finish(self, timeout: float) -> bool:
        """Let open requests finish, and go on answering: who comes meanwhile is to be told by the handler to go
        elsewhere, with `Connection: close`. Then `drain`. True when all did within `timeout` seconds."""
        until = self.now() + timeout
        self.draining = True
        while self._tasks:
            self._idle = asyncio.Event()
            try:
                async with asyncio.timeout(max(0.0, until - self.now())):
                    await self._idle.wait()
            except TimeoutError:
                break
        return await self.drain(max(0.0, until - self.now()))

    async def close(self) -> None:
        """End everything now: tasks are cancelled, callers without an answer get 503."""
        self.stop_accepting()
        self.draining = True
        tasks = [*self._tasks.values(), *self._handshakes]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_WORDS)
        for request in tuple(self._tasks):  # cancelled before they began: they had no chance to answer
            self._fail(request, _STOPPED)
        self._tasks.clear()
        for connection in tuple(self._connections):
            connection.close()
        await asyncio.sleep(0)  # one turn for the loop to hand what was written to the kernel
        for connection in tuple(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    # For the connections.

    def opened(self, connection: Connection) -> Refusal | None:
        """A new connection; the refusal to answer with when there are too many."""
        self._connections.add(connection)
        return _FULL if len(self._connections) > self.settings.max_connections else None

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        self._connections.discard(connection)
        self._check_empty()

    def refused(self, refusal: Refusal) -> None:
        """Count a refusal."""
        self.refusals[refusal.fault.label] += 1
        self.statuses[refusal.status // 100] += 1

    def dropped_slow(self) -> None:
        """Count a caller that did not read."""
        self.slow_callers += 1

    def check_backlog(self) -> None:
        """Drop those who have not read for longest while all unread answers together are too many bytes."""
        unsent = sum(connection.unsent() for connection in self.backlogged)
        while unsent > self.settings.max_held_bytes and self.backlogged:
            slowest = next(iter(self.backlogged))
            unsent -= slowest.unsent()
            del self.backlogged[slowest]
            self.dropped_slow()
            slowest.abort()

    def serve(self, request: Request) -> None:
        """Run the handler as a task of ours."""
        assert self._loop is not None
        self.requests += 1
        self._tasks[request] = self._loop.create_task(self._serve(request))

    async def _serve(self, request: Request) -> None:
        try:
            await self._handler(request)
        except asyncio.CancelledError:
            self._fail(request, _STOPPED)
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: whatever a handler does, the caller gets an answer
            if self._handler_failed is not None:
                self._handler_failed(request, error)
            self._fail(request, _HANDLER_FAILED)
        else:
            if request.streaming:
                request.end_stream()
            elif not request.responded:
                if self._handler_failed is not None and not request.disconnected:
                    self._handler_failed(request, None)
                self._fail(request, _HANDLER_SILENT)
        finally:
            self._tasks.pop(request, None)
            if self._idle is not None and not self._tasks:
                self._idle.set()
            if self._emptied is not None:
                self._check_empty()

    def _fail(self, request: Request, refusal: Refusal) -> None:
        if isinstance(request.connection, Connection):
            request.connection.fail_request(request, refusal)

    # Accepting.

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPT_BATCH):
            if len(self._connections) + len(self._handshakes) >= self.settings.max_connections + _REFUSED_AT_ONCE:
                self._pause_accepting()
                return
            try:
                accepted, _ = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause_accepting()
                    return
                continue  # that caller is gone already (ECONNABORTED, EPROTO, …)
            self.accepted += 1
            self._adopt(accepted, self._sockets[sock])

    def _adopt(self, accepted: socket.socket, tls: TlsContext | None) -> None:
        assert self._loop is not None
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._connect(accepted, tls))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _connect(self, accepted: socket.socket, tls: TlsContext | None) -> None:
        assert self._loop is not None
        try:
            if tls is None:
                await self._loop.connect_accepted_socket(lambda: Connection(self), accepted)
            else:
                await self._loop.connect_accepted_socket(
                    lambda: Connection(self),
                    accepted,
                    ssl=tls(),
                    ssl_handshake_timeout=self.settings.header_timeout,
                    ssl_shutdown_timeout=self.settings.linger_timeout,
                )
        except asyncio.CancelledError:
            accepted.close()
            raise
        except OSError:  # ssl.SSLError and time-outs are OSErrors: a caller that speaks no TLS, or gave up
            self.failed_handshakes += 1
            accepted.close()

    def _pause_accepting(self) -> None:
        assert self._loop is not None
        if self._resume is None:
            self.accept_pauses += 1
            for sock in self._sockets:
                self._loop.remove_reader(sock)
            self._resume = self._loop.call_later(self.settings.accept_pause, self._resume_accepting)

    def _resume_accepting(self) -> None:
        assert self._loop is not None
        self._resume = None
        for sock in self._sockets:
            self._loop.add_reader(sock, self._accept, sock)

    # Time.

    def _schedule_sweep(self) -> None:
        assert self._loop is not None
        interval = self.settings.sweep_interval
        self._sweep_due = self.now() + interval
        self._sweeper = self._loop.call_later(interval, self._sweep)

    def _sweep(self) -> None:
        assert self._loop is not None
        now = self.now()
        late = now - self._sweep_due > self.settings.sweep_interval
        if late and not self._sweep_skipped:
            # The loop stood still: what callers sent meanwhile may be unread and would look like a time-out. Read it
            # first; but a loop that is late every time must not spare slow callers for ever.
            self._sweep_skipped = True
        else:
            self._sweep_skipped = False
            for connection in tuple(self._connections):
                connection.sweep(now)
            if self.backlogged:
                self.check_backlog()
        self._schedule_sweep()

    @property
    def _empty(self) -> bool:
        return not self._connections and not self._tasks and not self._handshakes

    def _check_empty(self) -> None:
        if self._emptied is not None and self._empty:
            self._emptied.set()

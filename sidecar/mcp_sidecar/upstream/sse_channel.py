"""A legacy server of the HTTP+SSE transport (2024-11-05) as a channel: messages down one stream, up by POST.

The stream's first event names where to POST; it must be of the stream's own origin. When the stream ends the channel is
closed, as a process is dead when its stdout ends. Requests are posted in order and answered on the stream; what is no
request must be accepted before the next message goes out, since servers refuse what overtakes `initialized`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urljoin

from msgspec import UNSET

from mcp_sidecar.errors import CallError, Delivery, Reason, SecretError, UpstreamError
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.lines import Oversized
from mcp_sidecar.protocol.sse import ServerEvent
from mcp_sidecar.upstream.dial import Dialer, DialSettings
from mcp_sidecar.upstream.http_answer import protocol_error, refusal
from mcp_sidecar.upstream.http_connection import DEFAULT_BODY_LIMIT, HttpConnection
from mcp_sidecar.upstream.http_request import Headers, HeaderSource, RequestHeads, not_ready
from mcp_sidecar.upstream.lease import Lease
from mcp_sidecar.upstream.pool import Pool, PoolSettings
from mcp_sidecar.upstream.route import parse_origin

_POSTS: Final = 100
"""POSTs under way at once: some servers answer one only when the tool is done."""
_SLACK: Final = 1_048_576
_GONE: Final = frozenset({404, 410})


@dataclass(frozen=True)
class SseSettings:
    """Times in seconds. `event_limit`: bytes of one message of the server."""

    dial: DialSettings
    event_limit: int = DEFAULT_BODY_LIMIT
    open_timeout: float = 10.0
    """For the `endpoint` event, after the connection is there."""
    post_timeout: float = 30.0
    high_water: int = 262_144
    """Bytes waiting to be posted before senders wait."""


class Posted:
    """One queued message (see channel.Sent)."""

    __slots__ = ("_channel", "_message", "_written", "size")

    def __init__(self, channel: SseChannel, message: bytes) -> None:
        self._channel = channel
        self._message = message
        self._written = False
        self.size = len(message)

    @property
    def delivered(self) -> bool:
        """Whether the kernel has its last byte."""
        return self._written

    def withdraw(self) -> bool:
        """Take it back while no byte of it can have left."""
        if not self._message:
            return False
        self._message = b""
        self._channel.unqueued(self.size)
        return True

    def begin(self) -> bytes:
        """The message, which from here on cannot be taken back; empty when withdrawn."""
        message, self._message = self._message, b""
        if message:
            self._channel.unqueued(self.size)
        return message

    def mark_written(self) -> None:
        """Its last byte left."""
        self._written = True


class SseChannel:
    """A `Channel`. One task owns the stream's connection, one posts; both end with the channel."""

    def __init__(
        self,
        settings: SseSettings,
        *,
        headers: HeaderSource = tuple,
        clock: Callable[[], float] = time.monotonic,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`headers`: the server's own, read at `open`. Raises ValueError for a URL or proxy that cannot be used."""
        self.settings = settings
        self.on_message: Callable[[bytes], None] = _ignore
        self.on_oversized: Callable[[Oversized], None] = _ignore
        self.on_closed: Callable[[UpstreamError], None] = _ignore
        self._source = headers
        self._dialer = Dialer(settings.dial, environ=environ)
        self._pool: Pool[HttpConnection] = Pool(
            self._dial, PoolSettings(max_size=_POSTS, min_size=0), name="sse posts", clock=clock
        )
        self._heads: RequestHeads | None = None
        self._endpoint: asyncio.Future[None] | None = None
        self._over: asyncio.Future[UpstreamError] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue: deque[Posted] = deque()
        self._queued = 0
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._error: UpstreamError | None = None

    # Channel

    @property
    def congested(self) -> bool:
        """See Channel."""
        return self._queued > self.settings.high_water

    async def open(self) -> None:
        """Connect and wait for the server's endpoint. Raises UpstreamError(NOT_SENT)."""
        loop = asyncio.get_running_loop()
        self._endpoint = loop.create_future()
        self._over = loop.create_future()
        owner = self._task(self._own(self._endpoint, self._over), "sse stream")
        try:
            await asyncio.shield(self._endpoint)
        except BaseException:
            owner.cancel()
            await asyncio.gather(owner, return_exceptions=True)
            raise
        self._task(self._post_all(), "sse posts")

    def send(self, message: bytes) -> Posted:
        """See Channel."""
        if self._error is not None or self._heads is None:
            raise UpstreamError(Reason.CONNECTION_LOST, "the server's stream is closed", delivery=Delivery.NOT_SENT)
        if self._queued > self.settings.high_water + _SLACK:
            raise UpstreamError(Reason.CONNECTION_LOST, "the server takes no messages", delivery=Delivery.NOT_SENT)
        posted = Posted(self, message)
        self._queue.append(posted)
        self._queued += posted.size
        self._more.set()
        return posted

    async def drain(self) -> None:
        """See Channel."""
        while self.congested and self._error is None:
            self._room.clear()
            await self._room.wait()
        if self._error is not None:
            raise UpstreamError(self._error.reason, self._error.message, delivery=Delivery.NOT_SENT)

    async def close(self, reason: str) -> None:
        """Hang up: for such a server that is the end of the session."""
        self._end(UpstreamError(Reason.CONNECTION_LOST, f"the channel was closed: {reason}", delivery=Delivery.MAYBE))
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    # the stream

    def on_stream(self) -> None:
        """The head came; the endpoint is the first event."""

    def on_event(self, event: ServerEvent) -> None:
        """One event of the stream."""
        if event.name == b"endpoint":
            if self._heads is None:
                self._heads = self._post_heads(event.data)
                if self._endpoint is not None and not self._endpoint.done():
                    self._endpoint.set_result(None)
        elif event.is_message and event.data:
            self.on_message(event.data)

    async def _own(self, endpoint: asyncio.Future[None], over: asyncio.Future[UpstreamError]) -> None:
        """The life of the stream's connection."""
        connection: HttpConnection | None = None
        try:
            connection = await self._dial()
            head = RequestHeads(self._dialer.route, self._own_headers()).stream(None, "", None)
            answer = connection.send(head, b"", self, self.settings.event_limit)
            answer.add_done_callback(lambda _: self._ended(connection, answer))
            async with asyncio.timeout(self.settings.open_timeout):
                await asyncio.wait((endpoint, over), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.shield(over)
        except TimeoutError:
            message = f"the server named no endpoint within {self.settings.open_timeout:g} s"
            self._end(UpstreamError(Reason.CONNECT_FAILED, message, delivery=Delivery.NOT_SENT))
        except CallError as error:
            self._end(error if isinstance(error, UpstreamError) else not_ready(error.message))
        finally:
            if connection is not None:
                await connection.close()
            await self._pool.close()

    def _ended(self, connection: HttpConnection | None, answer: asyncio.Future[bytes]) -> None:
        """The server ended the stream, or never began one."""
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, UpstreamError):
            self._end(error)
        elif connection is not None and connection.status != 200:
            self._end(refusal(connection.status, connection.headers))
        elif self._heads is None:
            self._end(protocol_error("an event stream was asked for", 200))
        else:
            self._end(UpstreamError(Reason.CONNECTION_LOST, "the server ended its stream", delivery=Delivery.MAYBE))

    def _end(self, error: UpstreamError) -> None:
        """The channel is closed, once."""
        if self._error is not None:
            return
        self._error = error
        for task in list(self._tasks):
            if task.get_name() != "sse stream":
                task.cancel()
        self._queue.clear()
        self._room.set()
        if self._over is not None and not self._over.done():
            self._over.set_result(error)
        if self._endpoint is not None and not self._endpoint.done():
            error.delivery = Delivery.NOT_SENT
            self._endpoint.set_exception(error)
        elif self._heads is not None:
            self.on_closed(error)

    def _post_heads(self, endpoint: bytes) -> RequestHeads:
        """Heads of the POSTs. Raises UpstreamError for an endpoint elsewhere: credentials must not go there."""
        route = self._dialer.route
        try:
            named = urljoin(
                f"{route.origin.scheme}://{route.origin.authority}{route.target}", endpoint.decode().strip()
            )
            origin, target = parse_origin(named)
        except ValueError:
            raise protocol_error("its endpoint is no URL", 200) from None
        if origin != route.origin:
            raise protocol_error("its endpoint is of another origin", 200)
        return RequestHeads(replace(route, target=target), self._own_headers())

    def _own_headers(self) -> Headers:
        try:
            return tuple(self._source())
        except (SecretError, ValueError) as error:
            raise not_ready(str(error)) from None

    async def _dial(self) -> HttpConnection:
        loop = asyncio.get_running_loop()
        return await self._dialer.open(lambda: HttpConnection(loop))

    # the posts

    def unqueued(self, size: int) -> None:
        """Bytes left the queue."""
        self._queued -= size
        if not self.congested:
            self._room.set()

    async def _post_all(self) -> None:
        while True:
            while not self._queue:
                self._more.clear()
                await self._more.wait()
            posted = self._queue.popleft()
            message = posted.begin()
            if not message:
                continue
            request_id = _request_id(message)
            try:
                lease = await self._pool.acquire()
            except CallError as error:
                self._end(UpstreamError(error.reason, error.message, delivery=Delivery.NOT_SENT))
                return
            waiter = self._write(lease, posted, message)
            if request_id is None:
                await self._posted(lease, waiter, None)
            else:
                self._task(self._posted(lease, waiter, request_id), "sse post")

    def _write(self, lease: Lease[HttpConnection], posted: Posted, message: bytes) -> asyncio.Future[bytes]:
        assert self._heads is not None
        connection = lease.connection
        waiter = connection.send(self._heads.message(None, "", len(message)), message)
        if connection.written:
            posted.mark_written()
        else:
            connection.on_written = posted.mark_written
        return waiter

    async def _posted(self, lease: Lease[HttpConnection], waiter: asyncio.Future[bytes], id: bytes | None) -> None:
        """Wait for the acceptance of one message, whose request has `id`."""
        end = "unfinished"
        try:
            async with asyncio.timeout(self.settings.post_timeout):
                await waiter
            end = ""
            status = lease.connection.status
            if status in _GONE:
                self._end(UpstreamError(Reason.CONNECTION_LOST, "the server lost the session", delivery=Delivery.MAYBE))
            elif not 200 <= status < 300 and id is not None:
                # its answer will never come on the stream
                error = refusal(status, lease.connection.headers)
                data = {"reason": error.reason.label, "maybeExecuted": error.delivery is Delivery.MAYBE}
                self.on_message(
                    envelope.error_response(id, envelope.error_object(error.reason.code, error.message, data))
                )
        except TimeoutError:
            pass  # the answer may come on the stream all the same
        except UpstreamError as error:
            self._end(error)
        finally:
            self._pool.release(lease, end)

    def _task(self, coroutine: object, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine, name=name)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _request_id(message: bytes) -> bytes | None:
    try:
        parsed = envelope.parse(message)
    except envelope.EnvelopeError:
        return None
    return bytes(parsed.id) if parsed.method is not UNSET and parsed.id is not UNSET else None


def _ignore(_: object) -> None:
    """Before the multiplexer set its callbacks."""

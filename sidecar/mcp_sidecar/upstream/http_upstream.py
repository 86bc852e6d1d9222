"""A server behind Streamable HTTP: one attempt of a call is one POST on one leased connection.

Any call may use any connection; a legacy session is only a header. The id that is sent comes from one counter, so an
answer that is not ours is always seen, whatever the connection carried before (notes/peers.md 4.5). An answer out of
step ends its connection, never its neighbours. Retries, time-outs and the breaker are the pipeline's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from msgspec import UNSET

from mcp_sidecar.errors import Delivery, Reason, SessionLost, UpstreamError
from mcp_sidecar.pipeline.call import Call, Era, Reply, Sink
from mcp_sidecar.pipeline.upstream import LegacySession
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.revisions import INITIALIZE, MODERN_VERSIONS
from mcp_sidecar.upstream.cancel_notices import CancelNotices
from mcp_sidecar.upstream.dial import Dialer, DialSettings
from mcp_sidecar.upstream.http_answer import protocol_error, read_answer, refusal, session_header
from mcp_sidecar.upstream.http_connection import DEFAULT_BODY_LIMIT, HttpConnection
from mcp_sidecar.upstream.http_probe import Found, find
from mcp_sidecar.upstream.http_request import Headers, HeaderSource, RequestHeads
from mcp_sidecar.upstream.http_streams import CallStream, FirstEvent, Questions, RelayedStream
from mcp_sidecar.upstream.lease import Lease
from mcp_sidecar.upstream.own_headers import OwnHeaders
from mcp_sidecar.upstream.pool import Pool, PoolSettings, Spawn, spawn_task

_LATE: Final = 0.5
"""Seconds a stream may go on after the answer before its connection is given up."""
_BAD_ANSWER: Final = "bad answer"


@dataclass(frozen=True)
class HttpUpstreamSettings:
    """`result_limit`: bytes of one answer or event. `notify_timeout`: seconds for whatever is not a call."""

    name: str
    dial: DialSettings
    pool: PoolSettings = field(default_factory=PoolSettings)
    result_limit: int = DEFAULT_BODY_LIMIT
    notify_timeout: float = 30.0
    probe_timeout: float = 10.0
    """Seconds for each question of a probe; a server silent for longer to `server/discover` counts as legacy."""
    stateless: bool = False
    """The server keeps nothing in a legacy session: one that it lost is begun anew in silence."""


class HttpUpstream:
    """See the module. An `Upstream` (pipeline/upstream.py)."""

    holds_sessions = False

    def __init__(
        self,
        settings: HttpUpstreamSettings,
        *,
        ids: Callable[[], int],
        headers: HeaderSource = tuple,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: Callable[[], float] = random.random,
        spawn: Spawn | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Raises ValueError for a URL or a proxy in `environ` that cannot be used.

        `headers`: the server's own, read at the start and again at each `rotate`; where it raises SecretError at the
        start nothing is sent (SERVER_NOT_READY), later the old ones stay in use.
        """
        self.settings = settings
        self.clock = clock
        self._wall_clock = wall_clock
        self._ids = ids
        self._dialer = Dialer(settings.dial, environ=environ)
        self._heads = RequestHeads(self._dialer.route)
        self._own = OwnHeaders(headers, self._heads, settings.name)
        self._pool: Pool[HttpConnection] = Pool(
            self._open, settings.pool, name=settings.name, clock=clock, rng=rng, spawn=spawn
        )
        self._tls_generation = 0
        self._cancels = CancelNotices(self._simple, self._heads, spawn or spawn_task)
        self.found: Found | None = None
        """What the last successful probe found; forgotten when a connection cannot be had: when the server comes back
        it may be another."""
        self._finding: asyncio.Task[Found] | None = None
        self._questions = Questions()
        self.unasked_requests = 0
        """Requests that a modern server sent although it must not."""
        self.bad_answers = 0
        """Answers that were not ours, or not JSON-RPC."""

    @property
    def pool(self) -> Pool[HttpConnection]:
        """The connections, for metrics."""
        return self._pool

    # Upstream

    async def exchange(self, call: Call) -> Reply:
        """One attempt. Raises UpstreamError, Rejected of the pool, SessionLost."""
        call.written = False
        lease = self._pool.try_acquire()
        if lease is None:
            lease = await self._pool.acquire()
        return await self._attempt(call, lease)

    async def listen(self, call: Call) -> Reply:
        """`subscriptions/listen`: as `exchange`, on a connection outside of the pool's size."""
        call.written = False
        return await self._attempt(call, await self._pool.acquire_stream())

    async def notify(
        self, session: LegacySession | None, message: bytes, *, version: str, headers: Headers = ()
    ) -> int:
        """POST a notification, or a response to a request of the server. Returns its HTTP status, below 500."""
        parsed = envelope.parse(message)
        if parsed.method is UNSET and parsed.id is not UNSET:
            self._questions.answered(session, bytes(parsed.id), self.clock())
        modern = version in MODERN_VERSIONS
        method = parsed.method if modern and parsed.method is not UNSET else None
        held = session.upstream_session if session is not None else None
        head = self._own.heads().message(held, version, len(message), headers, method)
        status, answer = await self._simple(head, message)
        if status == 404 and held is not None:
            raise SessionLost("the server does not know the session any more")
        if status >= 500 or status in (401, 403, 429) or 300 <= status < 400:
            raise refusal(status, answer, self._wall_clock)
        return status

    async def stream(
        self,
        session: LegacySession | None,
        sink: Sink,
        *,
        version: str,
        last_event_id: bytes | None = None,
        headers: Headers = (),
    ) -> None:
        """The legacy GET stream until the server ends it. Raises UpstreamError, with the status where it refuses."""
        held = session.upstream_session if session is not None else None
        lease = await self._pool.acquire_stream()
        connection = lease.connection
        end = "stream ended"
        relay = RelayedStream(connection, sink)
        try:
            head = self._own.heads().stream(held, version, last_event_id, headers)
            await connection.send(head, b"", relay, self.settings.result_limit)
            if connection.usable:
                end = ""
            if relay.opened:
                return
            status = connection.status
            if status == 404 and held is not None:
                raise SessionLost("the server does not know the session any more")
            if status == 200:
                raise protocol_error("a stream was asked for", status)
            raise refusal(status, connection.headers, self._wall_clock)
        except UpstreamError as error:
            if relay.opened and error.reason is Reason.CONNECTION_LOST:
                return  # it may end at any time; the caller resumes
            raise
        finally:
            relay.end()
            self._pool.release(lease, end)

    async def end_session(self, session: LegacySession) -> None:
        """DELETE the server's session. A server that does not allow it (405) or has lost it (404) is no error."""
        if session.upstream_session is None:
            return
        head = self._own.heads().delete(session.upstream_session, session.version)
        status, answer = await self._simple(head, b"")
        if status >= 500:
            raise refusal(status, answer, self._wall_clock)

    async def probe(self) -> None:
        """Ask the server for a sign of life, and so who it is. Raises UpstreamError."""
        if self._finding is None:
            self._finding = asyncio.get_running_loop().create_task(
                find(self, self.settings.probe_timeout, self.found), name=f"{self.settings.name} probe"
            )
            self._finding.add_done_callback(self._probed)
        await asyncio.shield(self._finding)

    async def discover(self) -> Found:
        """Who the server is: what is known, else by a probe. Raises UpstreamError."""
        if self.found is None:
            await self.probe()
        assert self.found is not None
        return self.found

    def _probed(self, task: asyncio.Task[Found]) -> None:
        self._finding = None
        if not task.cancelled() and task.exception() is None:
            self.found = task.result()

    # life

    def start(self) -> None:
        """Nothing to do: connections are opened by traffic."""

    def rotate(self) -> bool:
        """Read the own headers again and use new connections. False when they are bad: the old ones stay in use."""
        if not self._own.renew():
            return False
        self._pool.rotate()
        return True

    def reconfigure(self, settings: HttpUpstreamSettings) -> None:
        """Take new sizes, times and limits. Where it leads to does not change: that takes a new upstream."""
        self.settings = replace(settings, dial=self.settings.dial)
        self._dialer.reconfigure(settings.dial)
        self._pool.reconfigure(settings.pool)

    async def drain(self, timeout: float) -> bool:
        """Refuse new attempts and wait for those under way. False when some were not over within `timeout` seconds."""
        return await self._pool.drain(timeout)

    async def close(self) -> None:
        """End everything now."""
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.gather(self._finding, return_exceptions=True)
        await self._cancels.close()
        await self._pool.close()

    def status(self) -> dict[str, Any]:
        """For `/status`."""
        pool = self._pool
        status: dict[str, Any] = {
            "transport": self.found.transport if self.found is not None else "http",
            **(self.found.status() if self.found is not None else {}),
            "address": self._dialer.route.origin.address,
            "proxy": self._dialer.route.proxy is not None,
            "pool": {
                **pool.counts(),
                "waiting": pool.waiting,
                "opened": pool.opened,
                "openFailures": pool.open_failures,
                "leaks": pool.leaks,
                "closes": dict(pool.closes),
            },
            "badAnswers": self.bad_answers,
        }
        problem = self._own.problem or self._dialer.tls_broken
        if problem is not None:
            status["problem"] = problem
        return status

    # one attempt

    async def _attempt(self, call: Call, lease: Lease[HttpConnection]) -> Reply:
        connection = lease.connection
        end = "unfinished"
        stream: CallStream | None = None
        own = self._own.value
        try:
            number = self._ids()
            id = b"%d" % number if call.era is Era.MODERN else envelope.seal_id(number, call.id)
            body = envelope.request(id, call.method, call.params)
            stream = CallStream(self, call, id, connection, lease)
            head = (self._heads if own is not None else self._own.heads()).call(call, len(body))
            limit = self.settings.result_limit
            waiter = connection.send(head, body, stream, limit)
            if connection.written:
                call.written = True
            else:
                connection.on_written = stream.written
            answer = await waiter
            end = ""
            reply = stream.reply
            if reply is None:
                if stream.streaming:
                    return self._cut_short(stream)
                reply = read_answer(
                    call, id, connection.status, connection.headers, answer, limit=limit, wall_clock=self._wall_clock
                )
            elif b"mcp-session-id" in connection.headers:
                reply.headers = session_header(call, connection.headers)
            return reply
        except asyncio.CancelledError:
            if call.era is Era.LEGACY and connection.written and call.method != INITIALIZE and stream is not None:
                self._cancels.tell(call, stream.id)
            raise
        except UpstreamError as error:
            if error.reason is Reason.PROTOCOL_ERROR:
                self.bad_answers += 1
                end = end or _BAD_ANSWER
            elif error.reason is Reason.UPSTREAM_UNAUTHORIZED:
                self._refreshed(error, own)
            elif error.reason is Reason.CONNECTION_LOST and stream is not None and stream.streaming and end != "":
                return self._cut_short(stream, error)
            raise
        finally:
            if stream is not None and stream.streaming:
                self._questions.leave(stream)
                stream.end()
            if connection.busy and not end:
                self._finish_later(lease)
            else:
                self._pool.release(lease, end)

    def _cut_short(self, stream: CallStream, error: UpstreamError | None = None) -> Reply:
        """The stream ended before the answer: a legacy caller may resume it where it has an event id."""
        call = stream.call
        if call.era is Era.LEGACY and stream.last_id is not None and call.sink is not None:
            return Reply(detached=True, event_id=stream.last_id)
        if error is not None:
            raise error
        raise UpstreamError(
            Reason.CONNECTION_LOST, "the server ended its stream without an answer", delivery=Delivery.MAYBE, status=200
        )

    def _finish_later(self, lease: Lease[HttpConnection]) -> None:
        """The answer is there and the end of its stream is not: wait a little, then the connection is of use again."""
        connection, pool = lease.connection, self._pool

        def complete() -> None:
            timer.cancel()
            pool.release(lease)

        def overdue() -> None:
            connection.on_complete = None
            pool.release(lease, "stream not ended")

        timer = asyncio.get_running_loop().call_later(_LATE, overdue)
        connection.on_complete = complete

    # streams.Home

    def streaming(self, stream: CallStream) -> None:
        """An answer became a stream: it takes no place in the pool's size, as long as there are not too many."""
        lease = stream.lease
        assert isinstance(lease, Lease)
        self._pool.as_stream(lease)

    def asked(self, stream: CallStream, id: bytes) -> None:
        """A server's request went to its caller: the answer to it will pass by `notify`."""
        self._questions.asked(stream, id)

    async def opens_event_stream(self) -> bool:
        """Whether a GET yields the `endpoint` event of the HTTP+SSE transport (2024-11-05)."""
        lease = await self._pool.acquire_stream()
        first = FirstEvent()
        try:
            head = self._own.heads().stream(None, "", None)
            lease.connection.send(head, b"", first, self.settings.result_limit).add_done_callback(first.ended)
            return await first.name == b"endpoint"
        finally:
            self._pool.release(lease, "probe over")

    # what goes beside the calls

    async def _simple(self, head: bytes, body: bytes) -> tuple[int, Mapping[bytes, bytes]]:
        """A request whose answer has no body that matters. Returns status and headers."""
        timeout = self.settings.notify_timeout
        lease = await self._pool.acquire()
        connection = lease.connection
        end = "unfinished"
        try:
            async with asyncio.timeout(timeout):
                await connection.send(head, body)
            end = ""
            return connection.status, connection.headers
        except TimeoutError:
            raise UpstreamError(
                Reason.ATTEMPT_TIMEOUT, f"no answer within {timeout:g} s", delivery=connection.delivery
            ) from None
        finally:
            self._pool.release(lease, end)

    async def _open(self) -> HttpConnection:
        loop = asyncio.get_running_loop()
        try:
            connection = await self._dialer.open(lambda: HttpConnection(loop))
        except UpstreamError:
            self.found = None
            raise
        generation = self._dialer.tls_generation
        if generation != self._tls_generation:
            if self._tls_generation:
                self._pool.rotate()
            self._tls_generation = generation
        return connection

    def _refreshed(self, error: UpstreamError, used: Headers | None) -> None:
        """The server refused the credentials: where newer ones are there, the call may be tried again with them."""
        before = self._own.value
        self._own.renew()
        if self._own.value != before:
            self._pool.rotate()
        if self._own.value != used:
            error.delivery = Delivery.REFUSED

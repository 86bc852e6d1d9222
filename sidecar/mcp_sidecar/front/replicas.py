"""Requests of sessions that another replica holds: passed to it as they are, and its answer back as it comes.

Where the server lives in the pod, a session's token seals the pod's address (design.md, "Sessions"), and the replica
that a caller happens to reach may be another one. It asks the holder, once: what was passed on is never passed on
again. The holder checks everything anew, as for any caller. A holder that is gone took the session with it: the caller
gets 404 and begins anew. A call that was lost on the way is answered with an error, since it may have been executed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from mcp_sidecar.errors import Delivery, Reason, SessionLost, UpstreamError
from mcp_sidecar.front.replica_connection import Headers, ReplicaConnection, ReplicaLost
from mcp_sidecar.front.replica_proof import CHALLENGE, PATH, ReplicaProof
from mcp_sidecar.protocol.hop_headers import HOP_HEADERS

if TYPE_CHECKING:
    from mcp_sidecar.front.request import Request
    from mcp_sidecar.front.tls import ServerTls

FORWARDED: Final = b"outrigger-forwarded"
"""On a request that a replica passed on. Who forges it is merely not helped."""
CONNECT_TIMEOUT: Final = 2.0
"""Seconds for TCP, TLS and proof together."""
KEPT_IDLE: Final = 20.0
"""Seconds for which a connection is kept."""
_MAX_IDLE: Final = 8
"""Connections kept for each replica."""
_PROOF_LIMIT: Final = 1024
_HIGH_WATER: Final = 256 * 1024
_LOW_WATER: Final = 64 * 1024
_LOOK: Final = 0.02
_DROPPED: Final = HOP_HEADERS | {FORWARDED}
_GONE: Final = "the replica that held the session is gone: begin a new one"


class Forwarding(NamedTuple):
    """One request that was passed on, when it is over. outcome: answered, gone, lost or cancelled; detail: why, where
    it was not answered."""

    method: str
    address: str
    outcome: str
    seconds: float
    detail: str = ""


class Replicas:
    """The other replicas, as this one sees them."""

    def __init__(
        self,
        address: str,
        session_key: bytes,
        *,
        port: Callable[[], int],
        tls: ServerTls | None = None,
        on_done: Callable[[Forwarding], None],
        idle_timeout: float = KEPT_IDLE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`address`: our own; `port`: the MCP port, the same everywhere; `idle_timeout`: seconds for which a connection
        is kept, less than the others keep theirs."""
        self.address = address
        self.idle_timeout = idle_timeout
        self._proof = ReplicaProof(session_key)
        self._port = port
        self._tls = tls
        self._on_done = on_done
        self._clock = clock
        self._idle: dict[str, list[ReplicaConnection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._relays: set[_Relay] = set()
        self._closed = False

    def __len__(self) -> int:
        """Requests that are being passed on."""
        return len(self._relays)

    @property
    def idle(self) -> int:
        """Connections that are kept."""
        return sum(map(len, self._idle.values()))

    def prove(self, request: Request) -> None:
        """Answer the challenge of another replica."""
        certificate = self._tls.certificate if self._tls is not None else b""
        proof = self._proof.prove(request.headers.get(CHALLENGE, b""), self.address, certificate)
        if proof is None:
            request.respond(400)
        else:
            request.respond(200, proof, b"text/plain")

    async def forward(self, request: Request, address: str) -> None:
        """Have the replica at `address` answer a request. Raises SessionLost where it is not there, UpstreamError where
        it went in the middle; then the request may still be answered."""
        began = self._clock()
        outcome, detail = "cancelled", ""
        try:
            await self._forward(request, address)
            outcome = "cancelled" if request.disconnected else "answered"
        except SessionLost as lost:
            outcome, detail = "gone", str(lost.__cause__ or "")
            raise
        except UpstreamError as error:
            outcome, detail = "lost", str(error.__cause__ or "")
            raise
        finally:
            self._on_done(Forwarding(request.method, address, outcome, self._clock() - began, detail))

    async def _forward(self, request: Request, address: str) -> None:
        connection = self._kept(address)
        reused = connection is not None
        while True:
            if connection is None:
                connection = await self._open(address)
            relay = _Relay(request, connection)
            self._relays.add(relay)
            try:
                await relay.run(_head(request, self._authority(address)))
            except ReplicaLost as lost:
                if reused and not lost.begun and request.method != "POST" and not request.disconnected:
                    connection, reused = None, False  # it was closed as we wrote; nothing changes by asking twice
                    continue
                relay.lost(lost)
            finally:
                self._relays.discard(relay)
                relay.release()
            self._keep(address, connection)
            return

    def _authority(self, address: str) -> bytes:
        host = f"[{address}]" if ":" in address else address
        return f"{host}:{self._port()}".encode()

    # --- connections

    async def _open(self, address: str) -> ReplicaConnection:
        """A connection to a replica that has shown itself to be one. Raises SessionLost."""
        try:
            ipaddress.ip_address(address)  # sealed by a replica; but a name would be looked up
        except ValueError:
            raise SessionLost(_GONE) from ReplicaLost("no IP address")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                tls = self._tls.client_context() if self._tls is not None else None
                connection = await ReplicaConnection.connect(address, self._port(), tls)
                try:
                    await self._check(connection, address)
                except BaseException:
                    connection.abort()
                    raise
        except TimeoutError as error:
            why = error.strerror or f"no answer within {CONNECT_TIMEOUT:g} s"
            raise SessionLost(_GONE) from ReplicaLost(why)
        except OSError as error:
            raise SessionLost(_GONE) from ReplicaLost(error.strerror or type(error).__name__)
        except ReplicaLost as error:
            raise SessionLost(_GONE) from error
        return connection

    async def _check(self, connection: ReplicaConnection, address: str) -> None:
        challenge = self._proof.challenge()
        head = b"GET %b HTTP/1.1\r\nHost: %b\r\n%b: %b\r\n\r\n" % (
            PATH.encode(),
            self._authority(address),
            CHALLENGE,
            challenge,
        )
        answer = _Collected()
        await connection.exchange(head, b"", answer)
        if answer.status != 200 or not self._proof.holds(answer.body, challenge, address, connection.certificate):
            raise ReplicaLost("what answers there is no replica of ours")
        if not connection.usable:
            raise ReplicaLost("it is shutting down")

    def _kept(self, address: str) -> ReplicaConnection | None:
        kept = self._idle.get(address, [])
        horizon = self._clock() - self.idle_timeout
        while kept:
            connection = kept.pop()
            if connection.usable and connection.idle_since > horizon:
                return connection
            connection.abort()
        return None

    def _keep(self, address: str, connection: ReplicaConnection) -> None:
        kept = self._idle.setdefault(address, [])
        if not connection.usable or len(kept) >= _MAX_IDLE or self._closed:
            connection.abort()
            return
        connection.idle_since = self._clock()
        kept.append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self.idle_timeout, self._sweep)

    def _sweep(self) -> None:
        """Close what was kept for long; replicas come and go, so their addresses go too."""
        self._sweeper = None
        horizon = self._clock() - self.idle_timeout
        for address, kept in list(self._idle.items()):
            for connection in [each for each in kept if not each.usable or each.idle_since <= horizon]:
                kept.remove(connection)
                connection.abort()
            if not kept:
                del self._idle[address]
        if self._idle:
            self._sweeper = asyncio.get_running_loop().call_later(self.idle_timeout, self._sweep)

    # --- the end

    def end_streams(self) -> None:
        """End the GET streams that are passed on: they do not end by themselves."""
        for relay in list(self._relays):
            if relay.endless:
                relay.connection.abort("shutting down")

    def close(self) -> None:
        """Keep no connection any more."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for kept in self._idle.values():
            for connection in kept:
                connection.abort()
        self._idle.clear()


class _Collected:
    """A short answer, whole."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""

    def take(self, status: int, headers: Headers, length: int | None, pieces: list[bytes], *, complete: bool) -> None:
        self.status = status
        self.body += b"".join(pieces)
        if len(self.body) > _PROOF_LIMIT:
            raise ReplicaLost("what answers there is no replica of ours")


class _Relay:
    """One answer on its way from a replica to the caller."""

    def __init__(self, request: Request, connection: ReplicaConnection) -> None:
        self.connection = connection
        self._request = request
        self._begun = False
        self._tail = b"\n\n"
        self._timer: asyncio.TimerHandle | None = None

    @property
    def endless(self) -> bool:
        """It ends only when somebody ends it."""
        return self._request.method == "GET"

    async def run(self, head: bytes) -> None:
        """Ask, and pass the answer on until its end. Raises ReplicaLost."""
        request, connection = self._request, self.connection
        over = connection.exchange(head, request.body, self)
        request.on_disconnect(connection.half_close)
        try:
            await over
        except asyncio.CancelledError:
            connection.abort()
            raise

    def take(self, status: int, headers: Headers, length: int | None, pieces: list[bytes], *, complete: bool) -> None:
        request = self._request
        if not self._begun:
            self._begun = True
            kind = next((value for name, value in headers if name == b"content-type"), b"")
            others = [header for header in headers if header[0] != b"content-type"]
            if complete:
                request.respond(status, b"".join(pieces), kind, others)
                return
            request.start_body(status, kind, others, length)
        for piece in pieces:
            request.send_piece(piece)
            self._tail = (self._tail + piece[-2:])[-2:]
        if complete:
            request.end_stream()
        elif self._timer is None and request.unsent > _HIGH_WATER:
            self.connection.pause()
            self._wait()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _look(self) -> None:
        if self._request.unsent > _LOW_WATER:
            self._wait()
        else:
            self._timer = None
            self.connection.resume()

    def release(self) -> None:
        """It is over, however."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def lost(self, lost: ReplicaLost) -> None:
        """The replica went in the middle. Raises UpstreamError where the caller can still be told in words."""
        request = self._request
        if request.disconnected:
            return
        whole = not request.streaming or (request.chunked and self._tail == b"\n\n")
        if not whole:
            request.break_off()
        elif self.endless and request.streaming:
            request.end_stream()
        else:
            message = "the replica that holds the session went away in the middle of the call"
            raise UpstreamError(Reason.CONNECTION_LOST, message, delivery=Delivery.MAYBE) from lost


def _head(request: Request, authority: bytes) -> bytes:
    """The request's head, as it came but for what is of one connection only."""
    headers = request.headers
    named = {name.strip().lower() for name in headers.get(b"connection", b"").split(b",")}
    target = quote(request.path, safe="/").encode()
    if request.query:
        target += b"?" + request.query.encode("latin-1")
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), target), b"Host: " + authority, FORWARDED + b": 1"]
    lines += [b"%b: %b" % header for header in headers.items() if header[0] not in _DROPPED and header[0] not in named]
    if request.body or request.method == "POST":
        lines.append(b"Content-Length: %d" % len(request.body))
    return b"\r\n".join(lines) + b"\r\n\r\n"

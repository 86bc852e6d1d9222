"""Opens connections to an HTTP upstream: names, TCP, proxies, TLS.

Everything that goes wrong here is an UpstreamError with Delivery.NOT_SENT: a request was not sent, so any call may be
tried again. Messages name the address and the cause, never a credential. What is spoken on the connection belongs to
`http_connection`, how many there are to `pool`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.upstream.route import Route, find_route, is_link_local

_log = logging.getLogger(__name__)

P = TypeVar("P", bound=asyncio.Protocol)
_Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]

ATTEMPT_DELAY: Final = 0.25
"""Seconds before the next address is tried beside the last (RFC 8305 5)."""
_MAX_ADDRESSES: Final = 8
_PROXY_HEAD_LIMIT: Final = 16 * 1024


@dataclass(frozen=True)
class TlsSettings:
    """Files of the client side of TLS. Below TLS 1.2 nothing is spoken."""

    ca_file: Path | None = None
    """Trusted instead of the system's authorities."""
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None
    """Name sent and verified, where it is not the URL's host."""
    verify: bool = True
    """False lets anybody on the way read and change everything."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All that a change of which needs a new context."""
        return tuple(path for path in (self.ca_file, self.cert_file, self.key_file) if path is not None)


@dataclass(frozen=True)
class DialSettings:
    """connect_timeout: seconds for name, TCP, proxy and TLS together."""

    url: str
    tls: TlsSettings = TlsSettings()
    connect_timeout: float = 5.0
    allow_link_local: bool = False


class TlsContext:
    """The SSL context of one upstream, built anew when its files change; a broken file leaves the old one in use."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._context: ssl.SSLContext | None = None
        self._seen: tuple[tuple[int, int, int], ...] = ()
        self.generation = 0
        """Grows with every context built."""
        self.broken: str | None = None
        """Why the files as they are now cannot be used."""

    def get(self) -> ssl.SSLContext:
        """The context to use now. Raises UpstreamError(TLS_FAILED) when there never was a usable one."""
        try:
            seen = tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in map(os.stat, self._settings.files))
            if self._context is not None and seen == self._seen:
                return self._context
            self._context = self._build()
            self._seen = seen
            self.generation += 1
            self.broken = None
        except (OSError, ssl.SSLError) as error:
            problem = f"the TLS files cannot be used: {_describe(error)}"
            if self._context is None:
                raise UpstreamError(Reason.TLS_FAILED, problem, delivery=Delivery.NOT_SENT) from None
            if problem != self.broken:
                _log.error("%s; the ones read before stay in use", problem)
            self.broken = problem
        return self._context

    def _build(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.create_default_context(cafile=settings.ca_file)
        if not settings.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if settings.cert_file is not None:
            context.load_cert_chain(settings.cert_file, settings.key_file, password=_no_password)
        return context


def _no_password() -> str:
    # without this OpenSSL would ask on the terminal
    raise ssl.SSLError("the key is encrypted with a password")


class Dialer:
    """Opens connections for one URL."""

    def __init__(self, settings: DialSettings, *, environ: Mapping[str, str] | None = None) -> None:
        """Raises ValueError for a URL, or a proxy in the environment, that cannot be used."""
        self._settings = settings
        self.route: Route = find_route(settings.url, os.environ if environ is None else environ)
        self._tls = TlsContext(settings.tls) if self.route.secure else None
        self._lookup: asyncio.Task[list[_Address]] | None = None

    def reconfigure(self, settings: DialSettings) -> None:
        """Take new times. Where it leads to does not change."""
        self._settings = replace(self._settings, connect_timeout=settings.connect_timeout)

    @property
    def tls_generation(self) -> int:
        """Changes when the TLS files did: connections opened before use the old ones."""
        return self._tls.generation if self._tls is not None else 0

    @property
    def tls_broken(self) -> str | None:
        """Why the TLS files as they are now cannot be used, None where they can."""
        return self._tls.broken if self._tls is not None else None

    async def open(self, factory: Callable[[], P]) -> P:
        """Connect and return the protocol of `factory`. Raises UpstreamError with Delivery.NOT_SENT."""
        route = self.route
        context = self._tls.get() if self._tls is not None else None
        stage = "connect to"
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                sock = await self._connect()
                try:
                    if context is None:
                        return (await _wrap(factory, sock))[1]
                    if route.proxy is not None:
                        stage = "open a tunnel to"
                        await self._tunnel(sock)
                    stage = "agree on TLS with"
                    name = self._settings.tls.server_name or route.origin.host
                    return (await _wrap(factory, sock, context, name))[1]
                except BaseException:
                    sock.close()
                    raise
        except TimeoutError as error:
            # ETIMEDOUT of the kernel is a TimeoutError too
            within = (
                f"no answer within {self._settings.connect_timeout:g} s" if error.errno is None else _describe(error)
            )
            raise self._failed(stage, within) from None
        except (OSError, ssl.SSLError, ssl.CertificateError, UnicodeError) as error:
            raise self._failed(stage, _describe(error)) from None

    def _failed(self, stage: str, cause: str) -> UpstreamError:
        reason = Reason.TLS_FAILED if "TLS" in stage else Reason.CONNECT_FAILED
        via = f" through the proxy {self.route.proxy.host}:{self.route.proxy.port}" if self.route.proxy else ""
        message = f"cannot {stage} {self.route.origin.address}{via}: {cause}"
        return UpstreamError(reason, message, delivery=Delivery.NOT_SENT)

    async def _connect(self) -> socket.socket:
        addresses = await self._resolve()
        if len(addresses) == 1:
            return await _connect_one(addresses[0])
        return await _race(addresses)

    async def _resolve(self) -> list[_Address]:
        # one look-up at a time: a slow resolver must not take all threads that do such work
        if self._lookup is None:
            proxy = self.route.proxy
            host, port = (proxy.host, proxy.port) if proxy else (self.route.origin.host, self.route.origin.port)
            self._lookup = asyncio.get_running_loop().create_task(_lookup(host, port), name="resolve upstream")
            self._lookup.add_done_callback(self._looked_up)
        found = await asyncio.shield(self._lookup)
        if self._settings.allow_link_local:
            return found
        if self.route.proxy is not None and is_link_local(self.route.origin.host):
            raise OSError(errno.EACCES, "link-local addresses are not allowed")
        allowed = [item for item in found if not is_link_local(item[1][0])]
        if not allowed:
            raise OSError(errno.EACCES, "link-local addresses are not allowed")
        return allowed

    def _looked_up(self, task: asyncio.Task[list[_Address]]) -> None:
        self._lookup = None
        if not task.cancelled():
            task.exception()  # every waiter may have given up: seen, so that asyncio does not complain

    async def _tunnel(self, sock: socket.socket) -> None:
        """Ask the proxy for a connection (RFC 9110 9.3.6). Raises OSError."""
        loop = asyncio.get_running_loop()
        proxy, address = self.route.proxy, self.route.origin.address.encode("ascii")
        head = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n" % (address, address)
        if proxy is not None and proxy.authorization is not None:
            head += b"Proxy-Authorization: " + proxy.authorization + b"\r\n"
        await loop.sock_sendall(sock, head + b"\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = await loop.sock_recv(sock, 4096)
            if not piece:
                raise OSError(errno.ECONNRESET, "the proxy closed the connection")
            answer += piece
            if len(answer) > _PROXY_HEAD_LIMIT:
                raise OSError(errno.EPROTO, "the proxy's answer is too long")
        status = answer.split(b" ", 2)[1:2]
        if not answer.startswith(b"HTTP/1.") or not status or not status[0][:3].isdigit():
            raise OSError(errno.EPROTO, "the proxy's answer is not HTTP")
        if status[0][:1] != b"2":
            raise OSError(errno.EACCES, f"the proxy answered {int(status[0][:3])}")
        if not answer.endswith(b"\r\n\r\n"):
            raise OSError(errno.EPROTO, "the proxy sent more than its answer")


async def _wrap(
    factory: Callable[[], P], sock: socket.socket, context: ssl.SSLContext | None = None, name: str | None = None
) -> tuple[asyncio.BaseTransport, P]:
    loop = asyncio.get_running_loop()
    return await loop.create_connection(factory, sock=sock, ssl=context, server_hostname=name)


async def _lookup(host: str, port: int) -> list[_Address]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # families in turn, so that a family without a route costs one delay only (RFC 8305 4)
    first = [(family, address) for family, _, _, _, address in found if family == found[0][0]]
    other = [(family, address) for family, _, _, _, address in found if family != found[0][0]]
    mixed: list[_Address] = []
    for i in range(max(len(first), len(other))):
        mixed += [*first[i : i + 1], *other[i : i + 1]]  # type: ignore[list-item]
    if not mixed:
        raise OSError(errno.EHOSTUNREACH, "the name has no address")
    return mixed[:_MAX_ADDRESSES]


async def _connect_one(address: _Address) -> socket.socket:
    sock = socket.socket(address[0], socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address[1])
    except BaseException:
        sock.close()
        raise
    return sock


async def _race(addresses: list[_Address]) -> socket.socket:
    """The first connection of several addresses, each begun ATTEMPT_DELAY after the last, or when that failed."""
    loop = asyncio.get_running_loop()
    waiting = list(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    errors: list[OSError] = []
    try:
        while waiting or running:
            if waiting:
                running.add(loop.create_task(_connect_one(waiting.pop(0)), name="connect upstream"))
            delay = ATTEMPT_DELAY if waiting else None
            done, _ = await asyncio.wait(running, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    running.discard(task)
                    return task.result()
                running.discard(task)
                if not isinstance(error, OSError):
                    raise error
                errors.append(error)
        raise errors[0]
    finally:
        for task in running:
            task.cancel()
        for result in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(result, socket.socket):
                result.close()


def _describe(error: Exception) -> str:
    """The cause in words, without the addresses and numbers that the exception repeats."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, socket.gaierror):
        return f"name not resolved: {error.strerror}"
    if isinstance(error, OSError) and error.errno is not None:
        path = f" ({error.filename})" if error.filename else ""
        known = error.errno in errno.errorcode and error.errno not in (errno.EACCES, errno.EPROTO)
        return (os.strerror(error.errno) if known else error.strerror or type(error).__name__) + path
    return str(error) or type(error).__name__

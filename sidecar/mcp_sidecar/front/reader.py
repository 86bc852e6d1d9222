"""Reads requests from bytes: llhttp (through httptools) does the grammar, this module the limits and what llhttp allows
but two parsers might read differently.

Strict llhttp refuses both lengths, odd or repeated `Content-Length`, obs-fold, bare CR or LF, blanks before colons, NUL
and invalid names, odd chunk sizes. Added here: `Transfer-Encoding` other than exactly `chunked`, `Host` missing or
twice, HTTP versions, sizes and counts, unbounded trailers and chunk extensions. Answers and timing belong to the
connection.
"""

from __future__ import annotations

import enum
from typing import Any, Protocol

import httptools

from mcp_sidecar.front.limits import ListenerSettings
from mcp_sidecar.front.refusal import Fault, Refusal
from mcp_sidecar.front.request import CallerConnection, Request
from mcp_sidecar.front.skipped_body import SkippedBody, answerable
from mcp_sidecar.front.target import BadTarget, split_target


class Phase(enum.IntEnum):
    """How far the next request has come."""

    NONE = 0
    HEAD = 1
    BODY = 2


_NONE, _HEAD, _BODY = Phase  # an enum's attributes are slow on Python 3.11


class RequestOwner(CallerConnection, Protocol):
    """Takes what was read, in order."""

    def request_read(self, request: Request) -> None:
        """One whole request. Called from within `RequestReader.feed`."""


class _Stop(Exception):  # control flow through the C parser, never seen outside this module
    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


_NOTHING_REPEATED: frozenset[bytes] = frozenset()
_METHODS = {m.encode(): m for m in ("POST", "GET", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")}
# Bytes a chunked body may spend on sizes, extensions and trailers beside its content: 1-byte chunks take 5 each.
_CHUNK_OVERHEAD = 8
_MAX_SKIPPED = 64 << 20
"""Bytes of an oversized body that are read past for its id; the body time-out applies as well."""


class RequestReader:
    """One connection's parser. `feed` bytes; whole requests go to the owner, the first fault comes back."""

    __slots__ = (
        "_body",
        "_body_size",
        "_fed",
        "_head_read",
        "_headers",
        "_keep_alive",
        "_method",
        "_owner",
        "_parser",
        "_path",
        "_pieces",
        "_query",
        "_repeated",
        "_repeated_size",
        "_replaying",
        "_settings",
        "_skipped",
        "_target",
        "_upgrading",
        "_version_11",
        "expects_continue",
        "finished",
        "phase",
    )

    def __init__(self, owner: RequestOwner, settings: ListenerSettings) -> None:
        self._owner = owner
        self._settings = settings
        self._parser: Any = httptools.HttpRequestParser(self)
        self._fed = 0
        self._head_read = False
        self._replaying = False
        self._upgrading = False
        self._headers: dict[bytes, bytes] = {}
        self._repeated: list[bytes] | None = None
        self._repeated_size = 0
        self._target = b""
        self._path = self._query = ""
        self._body = b""
        self._pieces: list[bytes] | None = None
        self._body_size = 0
        self._skipped: SkippedBody | None = None
        self._keep_alive = True
        self._version_11 = True
        self._method = b""
        self.phase: Phase = _NONE
        self.expects_continue = False
        """The caller waits for `100 Continue` before it sends the body."""
        self.finished = False
        """A request said `Connection: close`: nothing after it is read."""

    def feed(self, data: bytes | memoryview) -> Refusal | None:
        """Parse `data`. Returns what is wrong, once; nothing may be fed after that."""
        self._fed += len(data)
        outcome = self._parse(data)
        while isinstance(outcome, int):
            data = memoryview(data)[outcome:]
            outcome = self._parse(self._head_without_upgrade())
            self._fed = len(data)
            if outcome is None:
                outcome = self._parse(data)
        if outcome is None and self._fed:
            return self._check_progress()
        return outcome

    @property
    def body_size(self) -> int:
        """Bytes held of a body whose end has not come."""
        return self._body_size if self._skipped is None else 0

    def close(self) -> None:
        """Let go of the parser, which holds this object in a cycle."""
        self._parser = None
        self._body, self._pieces = b"", None
        self.finished = True

    def reconfigure(self, settings: ListenerSettings) -> None:
        """New limits, from the next request on."""
        self._settings = settings

    def _check_progress(self) -> Refusal | None:
        settings = self._settings
        if self.phase is not _BODY:  # empty lines before a request count as its head
            if self._fed > settings.max_header_bytes + settings.max_target_bytes:
                return self._head_too_large()
        elif self._fed - self._body_size > settings.max_header_bytes + _CHUNK_OVERHEAD * self._body_size:
            return Refusal(Fault.MALFORMED_HTTP, "chunk sizes, extensions or trailers outweigh the body")
        return None

    def _head_too_large(self) -> Refusal:
        return Refusal(Fault.HEADERS_TOO_LARGE, f"request head exceeds {self._settings.max_header_bytes} bytes")

    def _parse(self, data: bytes | memoryview) -> Refusal | int | None:
        """What is wrong; or, where an upgrade is offered and llhttp stops, how many bytes it took up to there."""
        if self.finished:
            return None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return int(upgrade.args[0])
        except httptools.HttpParserCallbackError as error:
            stop = error.__context__
            if isinstance(stop, _Stop):
                return stop.refusal
            raise
        except httptools.HttpParserError as error:
            if self.finished:  # llhttp complains about bytes after a last request; they are simply not read
                return None
            return Refusal(Fault.MALFORMED_HTTP, f"malformed HTTP: {error}")
        return None

    def _head_without_upgrade(self) -> bytes:
        """A head with the framing of the one just read, for a new parser: so an offered upgrade is ignored.

        RFC 9110 7.8 allows that, and Java's HttpClient offers h2c on every first request. llhttp would skip the body.
        """
        head = self._method + b" / HTTP/1.1\r\nHost: x\r\n"
        for name in (b"content-length", b"transfer-encoding"):
            if name in self._headers:
                head += name + b": " + self._headers[name] + b"\r\n"
        if not self._keep_alive:
            head += b"Connection: close\r\n"
        self._upgrading = False
        self._replaying = True
        self._parser = httptools.HttpRequestParser(self)
        return head + b"\r\n"

    # Callbacks of llhttp, in order.

    def on_message_begin(self) -> None:
        self.phase = _HEAD
        if not self._replaying:
            self._head_read = False
            self._headers = {}
            self._repeated = None
            self._repeated_size = 0
            self._target = b""

    def on_url(self, url: bytes) -> None:
        if self._replaying:
            return
        self._target = self._target + url if self._target else url
        if len(self._target) > self._settings.max_target_bytes:
            limit = self._settings.max_target_bytes
            raise _Stop(Refusal(Fault.TARGET_TOO_LONG, f"request target exceeds {limit} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_read:
            return  # a trailer, which nothing here may act upon; or seen before
        name = name.lower()
        headers = self._headers
        if value and value[-1] < 33:
            value = value.rstrip(b" \t")
        if name in headers:
            if self._repeated is None:
                self._repeated = []
            self._repeated.append(name)
            self._repeated_size += len(name) + len(value) + 4
        else:
            headers[name] = value

    def on_headers_complete(self) -> None:
        self.phase = _BODY
        if self._replaying:
            self._replaying = False
            return
        self._head_read = True
        parser, headers, settings = self._parser, self._headers, self._settings
        if self._fed > settings.max_header_bytes:
            size = sum(map(len, headers)) + sum(map(len, headers.values())) + 4 * len(headers)
            if size + self._repeated_size > settings.max_header_bytes:
                raise _Stop(self._head_too_large())
        self._fed = 0
        self._method = method = parser.get_method()
        version = parser.get_http_version()
        self._version_11 = version == "1.1"
        self._keep_alive = self._version_11
        if self._repeated is not None or not self._version_11:
            self._check_oddities(version)
        elif b"host" not in headers:
            raise _Stop(Refusal(Fault.MALFORMED_HTTP, "Host header missing"))
        if len(headers) > settings.max_headers:
            raise _Stop(Refusal(Fault.HEADERS_TOO_LARGE, f"more than {settings.max_headers} headers"))
        if b"connection" in headers:
            self._keep_alive = self._version_11 and parser.should_keep_alive()
        if b"upgrade" in headers:
            self._upgrading = parser.should_upgrade()
        if method == b"CONNECT":
            allow = ((b"Allow", b"POST, GET, DELETE"),)
            raise _Stop(Refusal(Fault.METHOD_NOT_ALLOWED, "CONNECT is not served", allow))
        try:
            self._path, self._query = split_target(self._target, headers.get(b"host", b""))
        except BadTarget as error:
            raise _Stop(Refusal(Fault.MALFORMED_HTTP, str(error))) from None
        self._check_body(headers)

    def on_body(self, data: bytes) -> None:
        size = self._body_size + len(data)
        if self._skipped is not None or size > self._settings.max_body_bytes:
            self._skip(data, size)
            return
        if self._body_size == 0:
            self._body = data
        elif self._pieces is None:
            self._pieces = [self._body, data]
        else:
            self._pieces.append(data)
        self._body_size = size

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        if self._skipped is not None:
            raise _Stop(self._body_too_large(self._skipped.request_id()))
        request = Request(
            self._owner,
            _METHODS.get(self._method) or self._method.decode("latin-1"),
            self._path,
            self._query,
            self._headers,
            _NOTHING_REPEATED if self._repeated is None else frozenset(self._repeated),
            self._body if self._pieces is None else b"".join(self._pieces),
            self._keep_alive,
            self._version_11,
        )
        self.finished = not self._keep_alive
        self.phase = _NONE
        self.expects_continue = False
        self._fed = 0
        self._body = b""
        self._pieces = None
        self._body_size = 0
        self._owner.request_read(request)

    # What llhttp lets through.

    def _check_oddities(self, version: str) -> None:
        headers, repeated = self._headers, self._repeated or ()
        if version not in ("1.0", "1.1"):
            raise _Stop(Refusal(Fault.VERSION_NOT_SUPPORTED, "only HTTP/1.1 and HTTP/1.0 are served"))
        if len(headers) + len(repeated) > self._settings.max_headers:
            raise _Stop(Refusal(Fault.HEADERS_TOO_LARGE, f"more than {self._settings.max_headers} headers"))
        for name in (b"host", b"content-length", b"transfer-encoding"):
            if name in repeated:
                raise _Stop(Refusal(Fault.MALFORMED_HTTP, f"{name.decode()} header repeated"))
        if version == "1.0" and b"transfer-encoding" in headers:
            raise _Stop(Refusal(Fault.MALFORMED_HTTP, "Transfer-Encoding in HTTP/1.0"))
        if version == "1.1" and b"host" not in headers:
            raise _Stop(Refusal(Fault.MALFORMED_HTTP, "Host header missing"))

    def _check_body(self, headers: dict[bytes, bytes]) -> None:
        length = headers.get(b"content-length")
        if length is not None:
            size = int(length)
            if size > self._settings.max_body_bytes:
                if size > _MAX_SKIPPED or not answerable(self._method, headers):
                    raise _Stop(self._body_too_large())
                self._skipped = SkippedBody(b"")
        else:
            encoding = headers.get(b"transfer-encoding")
            if encoding is not None and encoding.lower() != b"chunked":
                raise _Stop(Refusal(Fault.MALFORMED_HTTP, "Transfer-Encoding other than chunked"))
        expect = headers.get(b"expect")
        if expect is not None:
            if expect.lower() != b"100-continue":
                raise _Stop(Refusal(Fault.EXPECTATION_FAILED, "only Expect: 100-continue is served"))
            self.expects_continue = self._version_11

    def _skip(self, data: bytes, size: int) -> None:
        """Read past what is too large, where its sender must get an answer; raises where not."""
        self._body_size = size
        if self._skipped is None:
            if not answerable(self._method, self._headers):
                raise _Stop(self._body_too_large())
            self._skipped = SkippedBody(self._body if self._pieces is None else b"".join(self._pieces))
            self._body = b""
            self._pieces = None
        if size > _MAX_SKIPPED:
            raise _Stop(self._body_too_large())
        self._skipped.pass_by(data)

    def _body_too_large(self, id: bytes | None = None) -> Refusal:
        message = f"request body exceeds {self._settings.max_body_bytes} bytes"
        return Refusal(Fault.REQUEST_TOO_LARGE, message, answers=id)

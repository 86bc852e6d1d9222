"""Heads of the requests to one HTTP upstream, as bytes: what does not change from call to call is encoded once.

Which headers a revision wants is the specification's (2026-07-28 and 2025-11-25, `basic/transports`); the server's own
credentials come from a provider and are encoded once per rotation. A caller's header never replaces one of ours, and no
value can add a line. Writes nothing and knows no connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from mcp_sidecar import __version__
from mcp_sidecar.errors import Delivery, Reason, Rejected, UpstreamError
from mcp_sidecar.pipeline.call import Call, Era
from mcp_sidecar.protocol.hop_headers import HOP_HEADERS
from mcp_sidecar.protocol.revisions import INITIALIZE, NAME_MEMBER, encode_header
from mcp_sidecar.upstream.route import Route

Headers = Sequence[tuple[bytes, bytes]]
HeaderSource = Callable[[], Headers]
"""The server's own headers, as they are now. Raises SecretError where a value cannot be had."""

_MANAGED: Final = HOP_HEADERS | {
    b"accept",
    b"accept-encoding",
    b"content-encoding",
    b"content-type",
    b"last-event-id",
    b"mcp-method",
    b"mcp-name",
    b"mcp-protocol-version",
    b"mcp-session-id",
}
"""Ours to set: they belong to the message or to the connection."""
_MAX_BLOCKS: Final = 256
_MAX_NAMES: Final = 1024


class RequestHeads:
    """Makes heads for one route. `own`: the server's own headers, replaced by `renew`."""

    def __init__(self, route: Route, own: Headers = ()) -> None:
        self._route = route
        self._names: dict[str, bytes] = {}
        self.renew(own)

    def renew(self, own: Headers) -> None:
        """Use these own headers from now on. Raises ValueError for one that HTTP cannot carry."""
        fixed = [
            (b"Host", self._route.origin.authority.encode("ascii")),
            (b"User-Agent", b"outrigger-sidecar/" + __version__.encode("ascii")),
            (b"Accept-Encoding", b"identity"),
            *self._route.proxy_headers(),
        ]
        kept = [(name, value) for name, value in own if name.lower() not in _MANAGED]
        target = self._route.request_target()
        common = b" %b HTTP/1.1\r\n%b" % (target, _lines((*fixed, *kept)))
        self._blocked = _MANAGED | {name.lower() for name, _ in kept}
        self._post = (
            b"POST" + common + b"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        )
        self._get = b"GET" + common + b"Accept: text/event-stream\r\n"
        self._delete = b"DELETE" + common
        self._blocks: dict[tuple[str, str], bytes] = {}

    def call(self, call: Call, length: int) -> bytes:
        """The head of the POST of a call whose body has `length` bytes. Raises CallError."""
        if call.era is Era.MODERN:
            key = (call.version, call.method)
            block = self._blocks.get(key)
            if block is None:
                block = self._modern_block(key)
            if call.name is not None and call.method in NAME_MEMBER:
                block += self._names.get(call.name) or self._name_line(call.name)
        elif call.method == INITIALIZE:
            block = self._post
        else:
            block = self._post + self._session_lines(getattr(call.session, "upstream_session", None), call.version)
        if call.headers:
            block += self._passed_on(call.headers)
        return b"%bContent-Length: %d\r\n\r\n" % (block, length)

    def message(
        self, session: str | None, version: str, length: int, headers: Headers = (), method: str | None = None
    ) -> bytes:
        """The head of the POST of a notification or a response; `method` for modern callers only.

        `version` is empty where none is agreed (HTTP+SSE).
        """
        block = self._post + (self._session_lines(session, version) if version else b"")
        if method is not None:
            block += b"Mcp-Method: " + encode_header(method) + b"\r\n"
        return b"%b%bContent-Length: %d\r\n\r\n" % (block, self._passed_on(headers), length)

    def stream(self, session: str | None, version: str, last_event_id: bytes | None, headers: Headers = ()) -> bytes:
        """The head of the GET that opens or resumes a legacy stream; `version` is empty where none is agreed."""
        block = self._get + (self._session_lines(session, version) if version else b"")
        if last_event_id is not None:
            block += _lines(((b"Last-Event-ID", last_event_id),))
        return block + self._passed_on(headers) + b"\r\n"

    def delete(self, session: str, version: str) -> bytes:
        """The head of the DELETE that ends a legacy session."""
        return self._delete + self._session_lines(session, version) + b"\r\n"

    def _modern_block(self, key: tuple[str, str]) -> bytes:
        version, method = key
        block = b"%bMCP-Protocol-Version: %b\r\nMcp-Method: %b\r\n" % (
            self._post,
            encode_header(version),
            encode_header(method),
        )
        if len(self._blocks) < _MAX_BLOCKS:
            self._blocks[key] = block
        return block

    def _name_line(self, name: str) -> bytes:
        line = b"Mcp-Name: " + encode_header(name) + b"\r\n"
        if len(self._names) >= _MAX_NAMES:
            self._names.clear()
        if len(line) < 512:
            self._names[name] = line
        return line

    def _session_lines(self, session: str | None, version: str) -> bytes:
        lines = b"MCP-Protocol-Version: " + encode_header(version) + b"\r\n"
        if session is not None:
            lines += _lines(((b"Mcp-Session-Id", session.encode("latin-1", "replace")),))
        return lines

    def _passed_on(self, headers: Headers) -> bytes:
        blocked = self._blocked
        try:
            return _lines([item for item in headers if item[0] not in blocked])
        except ValueError as error:
            raise Rejected(Reason.INTERNAL, str(error)) from None


def _lines(headers: Headers) -> bytes:
    """Header lines. Raises ValueError where a name or value could end its line."""
    block = b"".join([b"%b: %b\r\n" % item for item in headers])
    if block.count(b"\n") != len(headers) or block.count(b"\r") != len(headers) or b"\0" in block:
        raise ValueError("a header holds a control character")
    return block


def not_ready(problem: str) -> UpstreamError:
    """The server's own credentials cannot be had: nothing may be sent without them."""
    return UpstreamError(Reason.SERVER_NOT_READY, problem, delivery=Delivery.NOT_SENT, counted=False)

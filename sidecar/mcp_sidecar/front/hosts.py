"""Which names this listener answers to, and which web pages may call it.

A browser that was led to this address by DNS rebinding still sends the attacker's name as `Host` and the page's as
`Origin` (MCP 2026-07-28 `basic/transports/streamable-http`, security warning). The sidecar rewrites `Host`, so the
server behind it can no longer tell; the check is here. Callers that are no browsers send no `Origin` and are not
concerned.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

from mcp_sidecar.front.refusal import Fault, Refusal
from mcp_sidecar.front.request import Request

LOCALHOST = ("localhost", "127.0.0.1", "[::1]")
"""Allowed by default."""

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252}))(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30})://(.+)")


class _Name(NamedTuple):
    host: str
    port: str
    """Empty where none was given."""


def _parse(authority: str) -> _Name | None:
    """Host in lower case, one form an address, and port; None for anything that is not exactly that."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    host, port = match[1].lower().removesuffix("."), match[2] or ""
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    return _Name(host, port.lstrip("0") or port)


class _Pattern:
    """One entry of a list: an exact name or `*.suffix`, of any port unless one is given."""

    __slots__ = ("_host", "_port", "_suffix")

    def __init__(self, entry: str) -> None:
        bare = entry.count(":") > 1 and not entry.startswith("[")
        name = _parse(f"[{entry}]" if bare else entry)
        if name is None:
            raise ValueError(f"{entry!r} is no host name, address or `*.suffix`, with or without a port")
        self._host, self._port = name
        self._suffix = name.host[1:] if name.host.startswith("*.") else ""

    def matches(self, name: _Name) -> bool:
        if self._port and self._port != name.port:
            return False
        return name.host.endswith(self._suffix) if self._suffix else name.host == self._host


class _OriginPattern:
    """One allowed origin: `https://app.example`, `https://*.example`, or a name for any scheme."""

    __slots__ = ("_name", "_scheme")

    def __init__(self, entry: str) -> None:
        match = _ORIGIN.fullmatch(entry.removesuffix("/"))
        self._scheme = match[1].lower() if match else ""
        self._name = _Pattern(match[2] if match else entry)

    def matches(self, scheme: str, name: _Name) -> bool:
        return self._scheme in ("", scheme) and self._name.matches(name)


class HostPolicy:
    """Allow-lists for `Host` and `Origin`. `*` allows all; `null` is an origin like others, allowed only if listed.

    Pages on a localhost name may call where that name is an allowed host: they come from the same machine. Raises
    ValueError for an entry that is none. Verdicts are kept per connection, by the raw values: a proxy's connection may
    carry many.
    """

    def __init__(self, hosts: Iterable[str] = LOCALHOST, origins: Iterable[str] = ()) -> None:
        hosts, origins = tuple(hosts), tuple(origins)
        self._any_host = "*" in hosts
        self._any_origin = "*" in origins
        self._null_origin = "null" in origins
        self._hosts = [_Pattern(entry) for entry in hosts if entry != "*"]
        self._origins = [_OriginPattern(entry) for entry in origins if entry not in ("*", "null")]
        self._local_pages = [_Pattern(name) for name in LOCALHOST if self.allows_host(name.encode())]

    def refusal(self, request: Request) -> Refusal | None:
        """None where the request may pass. 400 for a repeated `Origin`, 421 for the host, 403 for the origin."""
        headers, state = request.headers, request.connection.state
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        if state.get(self) == (host, origin) and not request.repeated:
            return None
        if b"origin" in request.repeated:
            return Refusal(Fault.MALFORMED_HTTP, "Origin header repeated")
        if not self.allows_host(host):
            return Refusal(Fault.HOST_NOT_ALLOWED, "this Host is not served here; see allowedHosts")
        if origin is not None and not self.allows_origin(origin):
            return Refusal(Fault.ORIGIN_NOT_ALLOWED, "this Origin may not call; see allowedOrigins")
        state[self] = (host, origin)
        return None

    def allows_host(self, host: bytes) -> bool:
        """Whether the raw value of a `Host` header names this listener."""
        if self._any_host:
            return True
        name = _parse(host.decode("latin-1"))
        return name is not None and not name.host.startswith("*") and any(each.matches(name) for each in self._hosts)

    def allows_origin(self, origin: bytes) -> bool:
        """Whether the raw value of an `Origin` header may call."""
        if self._any_origin:
            return True
        text = origin.decode("latin-1")
        if text == "null":
            return self._null_origin
        match = _ORIGIN.fullmatch(text)
        name = _parse(match[2]) if match else None
        if match is None or name is None or name.host.startswith("*"):
            return False
        scheme = match[1].lower()
        if any(each.matches(scheme, name) for each in self._origins):
            return True
        return scheme in ("http", "https") and any(each.matches(name) for each in self._local_pages)

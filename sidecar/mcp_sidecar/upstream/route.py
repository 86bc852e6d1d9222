"""Where a URL leads: origin, request target, and the HTTP proxy that the environment puts in between.

Pure: reads a URL and a mapping of environment variables, opens nothing. `dial` walks the route.
The variables are those of curl and Go: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, lower case first.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Origin:
    """Scheme, host (no brackets) and port."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """As in the `Host` header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> str:
        """`host:port`, always with the port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class HttpProxy:
    """A forward proxy. `authorization` is a secret: the value of `Proxy-Authorization`, None where it wants none."""

    host: str
    port: int
    authorization: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Route:
    """How requests for one URL travel."""

    origin: Origin
    target: str
    """Path and query."""
    proxy: HttpProxy | None = None

    @property
    def secure(self) -> bool:
        """Whether it ends in TLS."""
        return self.origin.scheme == "https"

    def request_target(self, target: str | None = None) -> bytes:
        """What stands in the request line: absolute where a proxy forwards plain requests (RFC 9112 3.2.2)."""
        path = self.target if target is None else target
        if self.proxy is not None and not self.secure:
            return f"http://{self.origin.authority}{path}".encode("ascii")
        return path.encode("ascii")

    def proxy_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers for the proxy on each request; over CONNECT the tunnel's opening carries them instead."""
        if self.proxy is None or self.secure or self.proxy.authorization is None:
            return []
        return [(b"Proxy-Authorization", self.proxy.authorization)]


def parse_origin(url: str) -> tuple[Origin, str]:
    """Origin and request target of an http or https URL. Raises ValueError, without the URL's credentials in it."""
    parts = _split(url)
    if parts.scheme not in _PORTS:
        raise ValueError("the URL must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("the URL holds credentials: give them as a header from a Secret")
    host = _host(parts)
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return Origin(parts.scheme, host, parts.port or _PORTS[parts.scheme]), target


def find_route(url: str, environ: Mapping[str, str]) -> Route:
    """The route to `url`. Raises ValueError for a URL or a proxy URL that cannot be used."""
    origin, target = parse_origin(url)
    setting = _proxy_url(origin, environ)
    return Route(origin, target, _parse_proxy(setting) if setting else None)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("not a valid URL") from None
    return parts


def _host(parts: SplitResult) -> str:
    host = parts.hostname
    if not host:
        raise ValueError("the URL names no host")
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("the URL's host is no valid name") from None


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name.lower()) or environ.get(name) or ""


def _proxy_url(origin: Origin, environ: Mapping[str, str]) -> str:
    setting = _variable(environ, "HTTPS_PROXY" if origin.scheme == "https" else "HTTP_PROXY")
    setting = setting or _variable(environ, "ALL_PROXY")
    if not setting or bypasses(origin, _variable(environ, "NO_PROXY")):
        return ""
    return setting


def bypasses(origin: Origin, no_proxy: str) -> bool:
    """Whether `origin` is reached directly; loopback always is, as in Go. Entries: names, suffixes, IP networks."""
    host = origin.host.rstrip(".").lower()
    address = _address(host)
    if _is_loopback(host):
        return True
    for item in no_proxy.split(","):
        entry = item.strip().lower()
        if not entry:
            continue
        if entry == "*":
            return True
        if address is not None and _within(address, entry):
            return True
        name, colon, port = entry.rpartition(":")
        if colon and port.isdigit() and ":" not in name:
            if int(port) != origin.port:
                continue
            entry = name
        entry = entry.strip("[]").removeprefix("*").rstrip(".")
        suffix = entry if entry.startswith(".") else "." + entry
        if host == entry.removeprefix(".") or host.endswith(suffix):
            return True
    return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine, or this pod. Raises ValueError."""
    return _is_loopback(parse_origin(url)[0].host)


def _is_loopback(host: str) -> bool:
    name, address = host.rstrip(".").lower(), _address(host)
    return name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback)


def _within(address: ipaddress.IPv4Address | ipaddress.IPv6Address, entry: str) -> bool:
    try:
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False
    return address.version == network.version and address in network


def _parse_proxy(setting: str) -> HttpProxy:
    parts = _split(setting if "://" in setting else "http://" + setting)
    if parts.scheme != "http":
        raise ValueError(f"the proxy of the environment is of kind {parts.scheme}: only http:// proxies can be used")
    authorization = None
    if parts.username is not None:
        pair = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
        authorization = b"Basic " + base64.b64encode(pair)
    return HttpProxy(_host(parts), parts.port or 80, authorization)


def is_link_local(address: str) -> bool:
    """Whether an IP address reaches link-local services such as a cloud's metadata, by whatever spelling."""
    parsed = _address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if inner is None and parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_link_local
    return parsed is not None and parsed.is_link_local


_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

"""What a server's URL, an allowed host and an allowed origin may look like."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]{1,253})(:[0-9]{1,5})?")


def url_problem(url: str) -> str | None:
    """What is wrong with a server's URL, or None. Never echoes it: it may hold a password."""
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        return "must not hold spaces, control or non-ASCII characters; quote them with %"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https"):
        return "must begin with http:// or https://"
    if not parts.hostname or port == 0:
        return "has no host" if not parts.hostname else "has no port"
    if "@" in parts.netloc:
        return "must not hold a user or password; use headers"
    if not _HOST.fullmatch(parts.netloc):
        return "has a host that is no name and no address"
    if parts.fragment or "#" in url:
        return "must not have a #fragment"
    return None


def host_problem(host: str) -> str | None:
    """What is wrong with an entry of allowedHosts, or None."""
    if host == "*" or _HOST.fullmatch(host):
        return None
    return "must be a host name or address, with or without a port, IPv6 in brackets; or `*`"


def origin_problem(origin: str) -> str | None:
    """What is wrong with an entry of allowedOrigins, or None."""
    scheme, separator, host = origin.partition("://")
    if origin == "*" or (separator and re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) and _HOST.fullmatch(host)):
        return None
    return "must be an origin such as https://app.example or http://localhost:3000; or `*`"

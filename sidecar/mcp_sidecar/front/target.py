"""The request target: what a path names, after the one decoding that everybody must agree on.

Origin form (`/mcp?x=1`) is the usual one. Absolute form (`http://host/mcp`) is accepted as RFC 9112 3.2.2 asks, but
only where its authority equals `Host`, so that two readers can never see two hosts. Routing is the endpoint's.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

_known: dict[bytes, tuple[str, str]] = {}
_MOST_KNOWN = 256


class BadTarget(ValueError):
    """The target is not one that this server can name. The message is fit for the caller."""


def split_target(target: bytes, host: bytes) -> tuple[str, str]:
    """Decoded path and raw query. Raises BadTarget."""
    known = _known.get(target)
    if known is not None:
        return known
    rest = target
    if not rest.startswith(b"/"):
        rest = _strip_authority(rest, host)
    raw, _, query = rest.partition(b"?")
    if b"#" in rest:
        raise BadTarget("fragment in the request target")
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise BadTarget("request target is not UTF-8") from None
    if "\0" in path:
        raise BadTarget("NUL in the request target")
    split = (path, query.decode("latin-1"))
    if rest is target:
        if len(_known) >= _MOST_KNOWN:  # somebody scans: start anew rather than keep their paths
            _known.clear()
        _known[target] = split
    return split


def _strip_authority(target: bytes, host: bytes) -> bytes:
    if target == b"*":
        return target
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise BadTarget("request target is neither a path nor an http URL")
    end = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
    if rest[:end].lower() != host.lower():
        raise BadTarget("authority of the request target differs from Host")
    return rest[end:] if rest[end : end + 1] == b"/" else b"/" + rest[end:]

"""What an API server says, made ours: refusals become exceptions, a watch's bytes become events.

Bytes and dicts only: sending requests is `client`'s business, and what to do about a failure is its caller's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mcp_operator.errors import KubeError, Unavailable, kube_error

MAX_LINE = 16 * 2**20
"""Bytes of one watch event. etcd keeps objects of 1.5 MiB by default; JSON makes them longer."""

EXCERPT = 200
"""Characters shown of an answer that is not the API server's own format."""


class WatchEvent(NamedTuple):
    """One event of a watch. For `BOOKMARK` the object holds no more than its resourceVersion."""

    type: str
    """`ADDED`, `MODIFIED`, `DELETED` or `BOOKMARK`."""
    object: dict[str, Any]


class EventLines:
    """Cuts a watch's stream into events, however its bytes arrive; what is left of a line at the end is no event."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[WatchEvent]:
        """Events that `chunk` completes. Raises a KubeError for an `ERROR` event, Unavailable for what is not JSON."""
        *lines, self._rest = (self._rest + chunk).split(b"\n") if self._rest else chunk.split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise Unavailable(0, "ProtocolError", f"a watch event is longer than {MAX_LINE} bytes")
        for line in lines:
            if line.strip():
                yield _event(line)


def _event(line: bytes) -> WatchEvent:
    document = decoded(line)
    kind, object_ = document.get("type"), document.get("object")
    if not isinstance(kind, str) or not isinstance(object_, dict):
        raise Unavailable(0, "ProtocolError", "a watch sent something that is no event")
    if kind == "ERROR":
        raise status_error(object_, status=500)
    metadata = object_.get("metadata")
    if not isinstance(metadata, dict) or "resourceVersion" not in metadata:
        raise Unavailable(0, "ProtocolError", "a watch sent an object without a version")
    if kind != "BOOKMARK" and "name" not in metadata:
        raise Unavailable(0, "ProtocolError", "a watch sent an object without a name")
    return WatchEvent(kind, object_)


def decoded(body: bytes) -> dict[str, Any]:
    """A JSON object; raises Unavailable for anything else (a proxy's page, an answer cut short)."""
    try:
        document = json.loads(body)
    except ValueError:
        raise Unavailable(0, "ProtocolError", "the API server's answer is not JSON") from None
    if not isinstance(document, dict):
        raise Unavailable(0, "ProtocolError", "the API server's answer is not an object")
    return document


def failure(status: int, headers: Mapping[str, str], body: bytes) -> KubeError:
    """The exception for an answer whose HTTP status is no success."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if isinstance(document, dict) and document.get("kind") == "Status":
        return status_error(document, status=status, retry_after=_seconds(headers.get("Retry-After")))
    text = " ".join(body[: EXCERPT * 4].decode("utf-8", "replace").split())[:EXCERPT]
    return kube_error(
        status,
        "Unknown",
        f"the API server answered HTTP {status}" + (f": {text}" if text else ""),
        retry_after=_seconds(headers.get("Retry-After")),
    )


def status_error(document: Mapping[str, Any], *, status: int, retry_after: float | None = None) -> KubeError:
    """The exception for a Status object; `status` and `retry_after` where it does not say."""
    details = document.get("details") or {}
    causes = tuple(str(cause.get("reason", "")) for cause in details.get("causes") or ())
    if retry_after is None and details.get("retryAfterSeconds"):
        retry_after = float(details["retryAfterSeconds"])
    reason = str(document.get("reason") or "Unknown")
    message = str(document.get("message") or reason)
    return kube_error(int(document.get("code") or status), reason, message, causes=causes, retry_after=retry_after)


def _seconds(value: str | None) -> float | None:
    """`Retry-After` in seconds; API servers do not send dates."""
    return float(value) if value is not None and value.isascii() and value.isdigit() else None

"""A request body that is too large to keep, read past for the sake of the id in it.

A client on SDK 1.x ends its whole session on a plain 413, and waits for ever for an answer without its request's id. So
the oversized request of a legacy session is read to the end, but not kept: only both ends are, where every client known
puts the id (`{"jsonrpc":"2.0","id":1,…` or `…,"jsonrpc":"2.0","id":1}`). Where it is not found there, 413 it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_KEPT: Final = 256
_ID: Final = rb'"id"\s*:\s*(-?[0-9]{1,19}|"[^"\\\x00-\x1f]{0,128}")\s*'
# An unescaped quote cannot stand within a string, so what follows the first brace and what precedes the last one are
# members of the message itself.
_FIRST: Final = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID + rb"[,}]")
_LAST: Final = re.compile(rb"[,{]\s*" + _ID + rb"(?:,\s*\"jsonrpc\"\s*:\s*\"2\.0\"\s*)?\}\s*\Z")


def answerable(method: bytes, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the sender is better served with an answer than with 413: a caller within a legacy session."""
    return method == b"POST" and b"mcp-session-id" in headers and b"expect" not in headers


class SkippedBody:
    """Both ends of a body that is going by."""

    __slots__ = ("_first", "_last")

    def __init__(self, first: bytes) -> None:
        self._first = first[:_KEPT]
        self._last = first[-_KEPT:]

    def pass_by(self, data: bytes) -> None:
        """More of it."""
        if len(self._first) < _KEPT:
            self._first += data[: _KEPT - len(self._first)]
        self._last = (self._last + data)[-_KEPT:] if len(data) < _KEPT else data[-_KEPT:]

    def request_id(self) -> bytes | None:
        """The raw id of the one message in it, None where it is at neither end."""
        match = _LAST.search(self._last) if self._first.lstrip()[:1] == b"{" else None
        if match is None:
            match = _FIRST.match(self._first)
        if match is None:
            return None
        found = match[1]
        try:
            found.decode()
        except UnicodeDecodeError:
            return None
        return found

"""Bytes in, lines out: the framing of MCP over stdio and sockets (MCP 2026-07-28 `basic/transports/stdio`).

Linear in the number of bytes whatever their chunking, bounded in memory whatever their number: the official SDK's
reader is quadratic and unbounded (notes/resilience.md 0.6) and dies of bad UTF-8, so one odd server stalls everybody.
Here a line is bytes; what is in it is somebody else's business. No I/O.
"""

from __future__ import annotations

import re
from typing import Final

DEFAULT_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of the longest line that is accepted."""

KEPT: Final = 4096
"""Bytes kept of either end of a line that was too long."""

_VERSION: Final = rb'(?:"jsonrpc"\s*:\s*"[^"\\]{0,8}"\s*,\s*)?'
_ID: Final = rb'"id"\s*:\s*(\d{1,19}|"[^"\\]{1,64}")\s*'
_HEAD_ID: Final = re.compile(rb"\s*\{\s*" + _VERSION + _ID + rb",\s*" + _VERSION + rb'"(?:result|error)"')
_HEAD: Final = re.compile(rb"\s*\{\s*" + _VERSION + rb'"(?:result|error)"')
_TAIL_ID: Final = re.compile(rb"[]},]\s*" + _VERSION + _ID + rb'(?:,\s*"jsonrpc"\s*:\s*"[^"\\]{0,8}"\s*)?\}\s*\Z')


class Oversized:
    """A line that was too long: its two ends and its size. The bytes between were thrown away as they came."""

    __slots__ = ("head", "size", "tail")

    def __init__(self, head: bytes, tail: bytes, size: int) -> None:
        self.head = head
        self.tail = tail
        self.size = size
        """Bytes of the line without its newline."""

    def id(self) -> bytes | None:
        """The id of the JSON-RPC answer it probably was, as raw JSON; None where neither end shows it."""
        return find_id(self.head, self.tail)


def find_id(head: bytes, tail: bytes) -> bytes | None:
    """The id of a JSON-RPC answer of which only the two ends are known or sound, as raw JSON.

    Only where it cannot be anything else: right at the beginning (Python, Go, Rust), or just before the brace that
    closes the message (the TypeScript SDK writes it last).
    """
    found = _HEAD_ID.match(head)
    if found is None and _HEAD.match(head):
        found = _TAIL_ID.search(tail, max(0, len(tail) - 160))
    return found.group(1) if found else None


class LineFramer:
    """Cuts a stream of bytes at newlines. Empty lines are skipped; the `\\r` of a `\\r\\n` is removed.

    `limit`: bytes of the longest line accepted, `\\r` included; longer ones come out as `Oversized`.
    """

    __slots__ = ("_head", "_partial", "_size", "_tail", "limit")

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        if limit < 1:
            raise ValueError("limit must be at least 1")
        self.limit = limit
        self._partial = bytearray()
        self._head: bytes | None = None
        self._tail = b""
        self._size = 0

    @property
    def pending(self) -> int:
        """Bytes held of a line that is not complete."""
        return len(self._partial) + (0 if self._head is None else len(self._head) + len(self._tail))

    def feed(self, data: bytes) -> list[bytes | Oversized]:
        """The lines that `data` completes, in order."""
        lines: list[bytes | Oversized] = []
        pieces = data.split(b"\n")
        rest = pieces.pop()
        if pieces:
            if self._partial or self._head is not None:
                self._extend(pieces[0])
                pieces[0] = b""
                self._finish(lines)
            limit = self.limit
            for piece in pieces:
                if len(piece) > limit:
                    lines.append(Oversized(piece[:KEPT], piece[-KEPT:], len(piece)))
                    continue
                line = piece[:-1] if piece[-1:] == b"\r" else piece
                if line:
                    lines.append(line)
        if rest:
            self._extend(rest)
        return lines

    def drop_partial(self) -> None:
        """Forget what is held of a line that is not complete."""
        self._partial, self._head, self._tail, self._size = bytearray(), None, b"", 0

    def eof(self) -> list[bytes | Oversized]:
        """What is left as the last line: servers forget its newline (notes/resilience.md D.3 row 11)."""
        lines: list[bytes | Oversized] = []
        self._finish(lines)
        return lines

    def _extend(self, data: bytes) -> None:
        if self._head is None:
            self._partial += data
            if len(self._partial) <= self.limit:
                return
            whole = self._partial
            self._head, self._tail, self._size = bytes(whole[:KEPT]), bytes(whole[-KEPT:]), len(whole)
            self._partial = bytearray()
            return
        if len(self._head) < KEPT:
            self._head += data[: KEPT - len(self._head)]
        self._size += len(data)
        self._tail = (self._tail + data[-KEPT:])[-KEPT:]

    def _finish(self, lines: list[bytes | Oversized]) -> None:
        if self._head is not None:
            lines.append(Oversized(self._head, self._tail, self._size))
            self._head, self._tail, self._size = None, b"", 0
            return
        line = bytes(self._partial[:-1] if self._partial[-1:] == b"\r" else self._partial)
        self._partial = bytearray()
        if line:
            lines.append(line)

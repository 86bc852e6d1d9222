"""Server-sent events out of bytes, whatever the borders of the chunks they come in.

Follows WHATWG HTML 9.2 with two differences MCP needs: an event of `id` or `retry` alone is reported too (priming
events and the polling of 2025-11-25), and one event is bounded. Linear in the bytes fed. Opens no connection, decodes
no JSON.
"""

from __future__ import annotations

from typing import Final

_BOM: Final = b"\xef\xbb\xbf"
DEFAULT_EVENT_LIMIT: Final = 16 * 1024 * 1024


class EventTooLarge(ValueError):
    """One event, or one line, is longer than the limit. The stream cannot be read further."""


class ServerEvent:
    """One event as it was sent: `id` and `retry` are those of this event, None where it had none."""

    __slots__ = ("data", "id", "name", "retry")

    def __init__(self, data: bytes, id: bytes | None, name: bytes, retry: bytes | None) -> None:
        self.data = data
        self.id = id
        self.name = name
        """The `event` field; empty where absent, which means `message`."""
        self.retry = retry
        """Milliseconds as decimal digits."""

    @property
    def is_message(self) -> bool:
        """Whether it is of the type that carries JSON-RPC."""
        return not self.name or self.name == b"message"


class EventFramer:
    """Splits one stream into events. `limit`: bytes of one event, its fields included."""

    __slots__ = (
        "_data",
        "_first",
        "_id",
        "_name",
        "_partial",
        "_partial_size",
        "_retry",
        "_size",
        "_skip_lf",
        "comments",
        "limit",
    )

    def __init__(self, limit: int = DEFAULT_EVENT_LIMIT) -> None:
        self.limit = limit
        self.comments = 0
        """Comment lines seen: keep-alives."""
        self._partial: list[bytes] = []
        """Pieces of the unfinished line: joined once, so that a long line costs linear time."""
        self._partial_size = 0
        self._skip_lf = False
        self._first = True
        self._size = 0
        self._data: list[bytes] = []
        self._id: bytes | None = None
        self._name = b""
        self._retry: bytes | None = None

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that this chunk completes. Raises EventTooLarge."""
        if self._skip_lf and chunk:
            # the line end "\r\n" was cut between its two bytes, and the line ended at the first
            self._skip_lf = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._skip_lf = chunk[-1:] == b"\r"
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        rest = lines.pop()
        events: list[ServerEvent] = []
        if lines and self._partial:
            self._partial.append(lines[0])
            lines[0] = b"".join(self._partial)
            self._partial.clear()
            self._partial_size = 0
        for line in lines:
            if line:
                self._line(line)
            else:
                event = self._dispatch()
                if event is not None:
                    events.append(event)
        if rest:
            self._partial.append(rest)
            self._partial_size += len(rest)
            if self._size + self._partial_size > self.limit:
                raise EventTooLarge(f"an event of more than {self.limit} bytes")
        return events

    def _line(self, line: bytes) -> None:
        if self._first:
            self._first = False
            if line.startswith(_BOM):
                line = line[3:]
        self._size += len(line)
        if self._size > self.limit:
            raise EventTooLarge(f"an event of more than {self.limit} bytes")
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            self._data.append(value)
        elif not field:
            if line:
                self.comments += 1
                self._size -= len(line)
        elif field == b"event":
            self._name = value
        elif field == b"id":
            if b"\0" not in value:
                self._id = value
        elif field == b"retry" and value.isdigit():
            self._retry = value

    def _dispatch(self) -> ServerEvent | None:
        self._first = False
        event = None
        if self._data or self._id is not None or self._retry is not None:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            event = ServerEvent(data, self._id, self._name, self._retry)
            self._data.clear()
            self._id = self._retry = None
        self._name = b""
        self._size = 0
        return event

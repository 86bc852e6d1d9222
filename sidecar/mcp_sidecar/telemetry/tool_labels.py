"""Bounds the `tool` label: only names that the upstream lists become label values, and only so many of them.

A caller's input is never a label: it could make series without end (notes/resilience.md E.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

TOOL_KEPT_SECONDS: Final = 3600.0
"""A tool no longer listed for so long gives up its label when another needs the room."""


class _Tool(msgspec.Struct, gc=False):
    name: str


class _ToolList(msgspec.Struct, gc=False):
    tools: list[_Tool]


_tool_list: Final = msgspec.json.Decoder(_ToolList)


def tool_names(result: bytes) -> list[str]:
    """The names in a `tools/list` result; none where it cannot be read."""
    try:
        return [tool.name for tool in _tool_list.decode(result).tools]
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return []


class ToolLabels:
    """Which tools of one server have a label value of their own: only listed ones, at most `limit`."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit = limit
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._latest = b""
        self._latest_at = 0.0

    def __contains__(self, name: str | None) -> bool:
        return name in self._seen

    def just_listed(self, result: bytes) -> bool:
        """Whether the same list was seen a moment ago: it need not be parsed again."""
        now = self._clock()
        if result == self._latest and now - self._latest_at < TOOL_KEPT_SECONDS / 10:
            return True
        self._latest = result
        self._latest_at = now
        return False

    def listed(self, names: Iterable[str]) -> tuple[list[str], int]:
        """Take note of names that the upstream listed. Returns the names given up and how many found no room."""
        now = self._clock()
        given_up: list[str] = []
        homeless = 0
        for name in names:
            if name not in self._seen and len(self._seen) >= self.limit:
                oldest = min(self._seen, key=self._seen.__getitem__, default=None)
                if oldest is None or now - self._seen[oldest] < TOOL_KEPT_SECONDS:
                    homeless += 1
                    continue
                del self._seen[oldest]
                given_up.append(oldest)
            self._seen[name] = now
        return given_up, homeless

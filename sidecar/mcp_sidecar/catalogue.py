"""What is known of a server's tools: names for metric labels, hints for retries, headers to check, counts.

Learned from `tools/list` answers that pass, and from those the health check asks for. A hint is a hint: whether it
counts is the config's decision (`retry.trustAnnotations`; MCP 2026-07-28 `server/tools`: untrusted by default).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from mcp_sidecar.pipeline.call import CallKind
from mcp_sidecar.protocol.param_headers import Paths, mirrored
from mcp_sidecar.protocol.revisions import IDEMPOTENT_METHODS, SAFE_METHODS


class _Annotations(msgspec.Struct):
    read_only: bool = msgspec.field(default=False, name="readOnlyHint")
    idempotent: bool = msgspec.field(default=False, name="idempotentHint")


class _Tool(msgspec.Struct):
    name: str
    annotations: _Annotations | None = None
    input_schema: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name="inputSchema")


class _ToolList(msgspec.Struct):
    tools: list[_Tool]
    next_cursor: str | None = msgspec.field(default=None, name="nextCursor")


_decode = msgspec.json.Decoder(_ToolList).decode
_NONE: Paths = {}


@dataclass(frozen=True)
class KindSettings:
    """tools: name → kind, wins over all hints; trust_*: whether the server's own hint of that name counts."""

    tools: Mapping[str, CallKind] = field(default_factory=dict)
    trust_read_only: bool = False
    trust_idempotent: bool = False


class Catalogue:
    """The tools of one server."""

    def __init__(self, settings: KindSettings) -> None:
        self._settings = settings
        self._annotations: dict[str, _Annotations | None] = {}
        self._kinds: dict[str, CallKind] = {}
        self._mirrored: dict[str, Paths] = {}
        self._seen = b""
        self.next_cursor: str | None = None
        """Where the next page begins, None where the newest was the last."""
        self.complete = False
        """Whether the whole list was seen, not only a first page."""

    @property
    def tools(self) -> frozenset[str]:
        """The names in the newest list."""
        return frozenset(self._annotations)

    def __contains__(self, tool: str) -> bool:
        return tool in self._annotations

    def __len__(self) -> int:
        return len(self._annotations)

    def reconfigure(self, settings: KindSettings) -> None:
        """Use new rules from now on."""
        self._settings = settings
        self._kinds.clear()

    def learn(self, result: bytes, *, first_page: bool = True) -> bool:
        """Take in a `tools/list` result; one that cannot be read changes nothing. Returns whether there is more."""
        if first_page and result == self._seen:
            return not self.complete
        try:
            page = _decode(result)
        except msgspec.DecodeError:
            return False
        if first_page:
            self._annotations = {}
            self._mirrored = {}
            self._seen = result if page.next_cursor is None else b""
        self._annotations.update((tool.name, tool.annotations) for tool in page.tools)
        self._mirrored.update(
            (tool.name, paths) for tool in page.tools if (paths := mirrored(bytes(tool.input_schema)))
        )
        self._kinds.clear()
        self.next_cursor = page.next_cursor
        self.complete = page.next_cursor is None
        return not self.complete

    def mirrored(self, tool: str) -> Paths:
        """The `Mcp-Param-*` headers that must agree with the arguments of this tool."""
        return self._mirrored.get(tool, _NONE)

    def kind(self, method: str, name: str | None) -> CallKind:
        """What a second execution of a call would do."""
        if method in SAFE_METHODS:
            return CallKind.SAFE
        if method != "tools/call" or name is None:
            return CallKind.IDEMPOTENT if method in IDEMPOTENT_METHODS else CallKind.UNSAFE
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._tool_kind(name)
            if name in self._annotations:  # only names of the server: callers must not grow this
                self._kinds[name] = kind
        return kind

    def _tool_kind(self, name: str) -> CallKind:
        configured = self._settings.tools.get(name)
        if configured is not None:
            return configured
        annotations = self._annotations.get(name)
        if annotations is not None:
            if annotations.read_only and self._settings.trust_read_only:
                return CallKind.SAFE
            if annotations.idempotent and self._settings.trust_idempotent:
                return CallKind.IDEMPOTENT
        return CallKind.UNSAFE

"""Which answers are kept, for whom, and how long: what the cache asks about each call.

The rules of both eras in one place (design.md, "Cache"): modern answers by their `ttlMs` and `cacheScope`; legacy
lists for `list_ttl` where the server announced that it tells of changes; tool results only for tools that the config
names. `ServerPolicy` is the policy of one server; what it cannot know (sessions, processes, capabilities) is asked of
the caller of its constructor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from mcp_sidecar.pipeline.call import Call, Era
from mcp_sidecar.protocol.envelope import ResultHead
from mcp_sidecar.protocol.revisions import CACHEABLE_METHODS

MAX_TTL: Final = 86_400.0
"""Seconds; a longer `ttlMs` is cut (as the SDK's client does)."""

LISTS: Final = frozenset({"tools/list", "prompts/list", "resources/list", "resources/templates/list"})
CALL_TOOL: Final = "tools/call"

GROUPS: Final[Mapping[str, str]] = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resources",
    "resources/read": "reads",
    "server/discover": "discover",
    CALL_TOOL: "calls",
}
"""What is invalidated together, by method."""

CHANGES: Final[Mapping[str, str]] = {
    "notifications/tools/list_changed": "tools",
    "notifications/prompts/list_changed": "prompts",
    "notifications/resources/list_changed": "resources",
    "notifications/resources/updated": "reads",
}
"""The group that a notification makes old."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Seconds and bytes."""

    max_bytes: int = 16 << 20
    list_ttl: float = 300.0
    stale_if_error: float = 3600.0
    tools: Mapping[str, float] = field(default_factory=dict)
    """Tools whose results are kept, with how long. They must change nothing."""
    share_public: bool = True
    """Give answers that the server calls `public` to every caller."""


class CachePolicy(Protocol):
    """What the cache asks."""

    def scope(self, call: Call) -> bytes | None:
        """What else the answer depends on (session, process), None where it is not to be kept."""

    def fresh_for(self, call: Call, head: ResultHead) -> float:
        """Seconds for which a result answers calls instead of the server; 0 not at all."""

    def stale_for(self, call: Call, head: ResultHead) -> float:
        """Seconds after that for which it may stand in while the server fails."""


class ServerPolicy:
    """The policy of one server.

    `legacy_scope(call)`: a key of the upstream session or process that answers a legacy call, None for "do not keep".
    `announces(call, method)`: whether the server told this session or process that it announces changes of that list.
    """

    __slots__ = ("announces", "legacy_scope", "settings")

    def __init__(
        self,
        settings: CacheSettings,
        *,
        legacy_scope: Callable[[Call], bytes | None],
        announces: Callable[[Call, str], bool],
    ) -> None:
        self.settings = settings
        self.legacy_scope = legacy_scope
        self.announces = announces

    def scope(self, call: Call) -> bytes | None:
        """Modern answers depend on no session."""
        if call.era is Era.MODERN:
            return b""
        if call.method in LISTS or call.method == CALL_TOOL:
            return self.legacy_scope(call)
        return None

    def fresh_for(self, call: Call, head: ResultHead) -> float:
        """See the module."""
        method = call.method
        if method == CALL_TOOL:
            return self.settings.tools.get(call.name or "", 0.0)
        if head.ttl_ms is not None:
            return min(max(0.0, head.ttl_ms / 1000), MAX_TTL)
        if call.era is Era.LEGACY and method in LISTS and self.announces(call, method):
            return self.settings.list_ttl
        return 0.0

    def stale_for(self, call: Call, head: ResultHead) -> float:
        """Lists, reads and discovery may stand in; results of tools never."""
        return self.settings.stale_if_error if call.method in CACHEABLE_METHODS else 0.0

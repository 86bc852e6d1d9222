"""Answers from memory what was asked before, and stands in for a server that fails.

Bounded by bytes, least recently used first to go. Kept are whole, successful results only: no errors, no `isError`,
no `input_required`, nothing of a call that carries one-time state, nothing of a detached stream. An answer that was
asked for before a change notice and arrives after it is not kept (the generation of its group has moved on). Which
answers, for whom and how long is `cache_policy`'s business; what makes two calls the same question is `cache_key`'s.

A result with `ttlMs` is given out with that lowered by its age, never overstated.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Raw

from mcp_sidecar.errors import CallError, Reason
from mcp_sidecar.pipeline.cache_key import Key, key_of
from mcp_sidecar.pipeline.cache_policy import CALL_TOOL, CHANGES, GROUPS, MAX_TTL, CachePolicy, CacheSettings
from mcp_sidecar.pipeline.call import Call, Handler, Reply, Source
from mcp_sidecar.protocol.envelope import EnvelopeError, ResultHead, compose, members, result_head
from mcp_sidecar.protocol.revisions import CACHEABLE_METHODS

SERVER_TROUBLE: Final = frozenset(
    {
        Reason.QUEUE_FULL,
        Reason.QUEUE_TIMEOUT,
        Reason.BREAKER_OPEN,
        Reason.SERVER_NOT_READY,
        Reason.DEADLINE_EXCEEDED,
        Reason.ATTEMPT_TIMEOUT,
        Reason.ACQUIRE_TIMEOUT,
        Reason.CONNECT_FAILED,
        Reason.START_FAILED,
        Reason.CONNECTION_LOST,
        Reason.CHILD_EXITED,
        Reason.PROTOCOL_ERROR,
        Reason.UPSTREAM_STATUS,
        Reason.UPSTREAM_THROTTLED,
        Reason.TLS_FAILED,
    }
)
"""Failures that an old answer may stand in for. Not for a lost session (the caller must begin anew), a refused
credential, or what the caller did itself."""

_OVERHEAD: Final = 600
"""Bytes that an entry costs besides its contents: objects, tables, index (measured with tracemalloc)."""
_STEP: Final = 1.0
"""Seconds for which one rewritten reply is given out: its `ttlMs` is that of the end of the step."""


class _Entry:
    __slots__ = ("before", "fresh_until", "reply", "rewrite_at", "size", "stale_until", "stored_at", "tag", "ttl")

    def __init__(
        self, result: bytes, ttl: float | None, now: float, fresh: float, stale: float, tag: tuple[str, str]
    ) -> None:
        self.stored_at = now
        self.fresh_until = now + fresh
        self.stale_until = now + fresh + stale
        self.tag = tag
        self.ttl = ttl
        self.size = _OVERHEAD + len(result)
        self.reply = Reply(result, source=Source.CACHE)
        self.before = b""
        self.rewrite_at = float("inf")
        if ttl is not None:
            parts: dict[str, Raw | bytes] = {name: value for name, value in members(result).items() if name != "ttlMs"}
            self.before = compose(parts)[:-1] + (b',"ttlMs":' if parts else b'"ttlMs":')
            self.size += len(self.before)
            self.rewrite_at = now

    def serve(self, now: float) -> Reply:
        """The answer as it is now."""
        if now >= self.rewrite_at:
            assert self.ttl is not None
            step = min(_STEP, self.ttl / 20)
            left = max(0.0, self.stored_at + self.ttl - now - step)
            self.reply = Reply(self.before + b"%d}" % int(left * 1000), source=Source.CACHE)
            self.rewrite_at = now + step
        return self.reply

    def stand_in(self) -> Reply:
        """The answer while the server fails: not fresh."""
        result = self.reply.result if self.ttl is None else self.before + b"0}"
        return Reply(result, source=Source.STALE)


class Cache:
    """The stage. One per server."""

    __slots__ = (
        "_entries",
        "_generations",
        "_index",
        "bypassed",
        "bytes",
        "clock",
        "evictions",
        "hits",
        "invalidations",
        "misses",
        "policy",
        "settings",
        "stale",
    )

    def __init__(
        self, settings: CacheSettings, policy: CachePolicy, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self.policy = policy
        self.clock = clock
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.stale = 0
        self.bypassed = 0
        """Calls of a kept method that must not be answered from memory."""
        self.evictions = 0
        self.invalidations = 0
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._index: dict[bytes, dict[tuple[str, str], set[Key]]] = {}
        """Scope → (group, URI) → keys: an invalidation costs what it drops."""
        self._generations = dict.fromkeys(GROUPS.values(), 0)

    def __len__(self) -> int:
        return len(self._entries)

    def reconfigure(self, settings: CacheSettings, policy: CachePolicy) -> None:
        """Take new settings. What is kept stays, as far as it fits, until it is old by the settings it came under."""
        if self.settings.share_public and not settings.share_public:
            self.clear()
        self.settings = settings
        self.policy = policy
        self._shrink()

    def __call__(self, call: Call, next: Handler) -> Awaitable[Reply]:
        """Answer the call from memory or by `next`."""
        method = call.method
        if method == CALL_TOOL:
            if call.name not in self.settings.tools:
                return next(call)
        elif method not in CACHEABLE_METHODS:
            return next(call)
        return self._answer(call, next)

    def flight(self, call: Call) -> tuple[Key, int] | None:
        """What calls must have in common to share one answer under way; None where they must not."""
        key = self.key(call)
        return None if key is None else (key, self._generations[GROUPS[call.method]])

    def key(self, call: Call) -> Key | None:
        """The key of a call; None where its answer is not kept."""
        if call.method == CALL_TOOL:
            if call.name not in self.settings.tools:
                return None
        elif call.method not in CACHEABLE_METHODS:
            return None
        scope = self.policy.scope(call)
        return None if scope is None else key_of(call, scope)

    async def _answer(self, call: Call, next: Handler) -> Reply:
        key = self.key(call)
        if key is None:
            self.bypassed += 1
            return await next(call)
        now = self.clock()
        entry = self._find(key)
        if entry is not None and now < entry.fresh_until:
            self.hits += 1
            return entry.serve(now)
        self.misses += 1
        group = GROUPS[call.method]
        generation = self._generations[group]
        try:
            reply = await next(call)
        except CallError as error:
            entry = self._find(key) if error.reason in SERVER_TROUBLE else None
            if entry is None or self.clock() >= entry.stale_until:
                raise
            self.stale += 1
            return entry.stand_in()
        if reply.source is Source.UPSTREAM and reply.result is not None and generation == self._generations[group]:
            self._store(call, key, reply)
        return reply

    def _find(self, key: Key) -> _Entry | None:
        entries = self._entries
        entry = entries.get(key)
        if entry is None:
            if not self.settings.share_public:
                return None
            key = Key(key[0], key[1], key[2], None, key[4])
            entry = entries.get(key)
            if entry is None:
                return None
        entries.move_to_end(key)
        return entry

    def _store(self, call: Call, key: Key, reply: Reply) -> None:
        result = reply.result
        assert result is not None
        if reply.detached or reply.status != 200 or result[:1] != b"{":
            return
        head = result_head(result)
        if head.result_type != "complete" or head.is_error:
            return
        public = key._replace(identity=None)
        self._drop(key)
        self._drop(public)
        fresh = self.policy.fresh_for(call, head)
        stale = self.policy.stale_for(call, head)
        if fresh <= 0 and stale <= 0:
            return
        if self.settings.share_public and head.cache_scope == "public":
            key = public
        now = self.clock()
        tag = (GROUPS[call.method], (call.name or "") if call.method == "resources/read" else "")
        try:
            entry = _Entry(result, _ttl(head), now, fresh, stale, tag)
        except EnvelopeError:
            return
        entry.size += len(key.params) + len(key.scope)
        # One answer may not push out everything else.
        if entry.size > self.settings.max_bytes // 4:
            return
        self._entries[key] = entry
        self._index.setdefault(key.scope, {}).setdefault(tag, set()).add(key)
        self.bytes += entry.size
        self._shrink()

    def notified(self, method: str, uri: str | None = None, scope: bytes | None = None) -> None:
        """The server announced a change: `method` of the notification, the resource's URI, the session or process."""
        group = CHANGES.get(method)
        if group is not None:
            self.invalidate(group, uri=uri, scope=scope)

    def invalidate(self, group: str, *, uri: str | None = None, scope: bytes | None = None) -> None:
        """Make answers of a group (values of `GROUPS`) old: lists may still stand in for a failing server."""
        self._generations[group] += 1
        self.invalidations += 1
        scopes = list(self._index) if scope is None else [scope]
        keep = group in ("tools", "prompts", "resources")
        for each in scopes:
            tags = self._index.get(each, {})
            if uri is not None or keep:
                keys = list(tags.get((group, uri or ""), ()))
            else:
                keys = [key for tag, some in tags.items() if tag[0] == group for key in some]
            for key in keys:
                if keep:
                    self._entries[key].fresh_until = float("-inf")
                else:
                    self._drop(key)

    def forget(self, scope: bytes) -> None:
        """A session or process is gone, and its answers with it."""
        for group in self._generations:
            self._generations[group] += 1
        for keys in list(self._index.get(scope, {}).values()):
            for key in list(keys):
                self._drop(key)

    def clear(self) -> None:
        """Forget everything; answers under way are not kept either."""
        for group in self._generations:
            self._generations[group] += 1
        self._entries.clear()
        self._index.clear()
        self.bytes = 0

    def sweep(self) -> int:
        """Drop what can no longer be used at all. For a timer of the owner; returns how many."""
        now = self.clock()
        dead = [key for key, entry in self._entries.items() if now >= entry.stale_until]
        for key in dead:
            self._drop(key)
        return len(dead)

    def _shrink(self) -> None:
        while self.bytes > self.settings.max_bytes:
            self._drop(next(iter(self._entries)))
            self.evictions += 1

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.bytes -= entry.size
        tags = self._index[key.scope]
        keys = tags[entry.tag]
        keys.discard(key)
        if not keys:
            del tags[entry.tag]
            if not tags:
                del self._index[key.scope]


def _ttl(head: ResultHead) -> float | None:
    """Seconds of `ttlMs`, None where the result has none."""
    return None if head.ttl_ms is None else min(max(0.0, head.ttl_ms / 1000), MAX_TTL)

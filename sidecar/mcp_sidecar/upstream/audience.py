"""Who among the callers of a shared process hears what it says on its own account.

A shared process knows one client, us: log levels and subscriptions are merged towards it; list changes go to all,
updates to their subscribers, and what cannot be attributed to one caller is dropped (design.md, "Upstreams"). Every
change notice is also told to the cache.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import msgspec
from msgspec import Raw

from mcp_sidecar.errors import CallError, SessionLost, UpstreamError
from mcp_sidecar.pipeline.call import Call, Event, Reply
from mcp_sidecar.protocol import envelope, translate
from mcp_sidecar.upstream.outbox import Outbox
from mcp_sidecar.upstream.profile import Profile

LIST_CHANGES: Final = {
    "notifications/tools/list_changed": ("tools", "toolsListChanged"),
    "notifications/prompts/list_changed": ("prompts", "promptsListChanged"),
    "notifications/resources/list_changed": ("resources", "resourcesListChanged"),
}
UPDATED: Final = "notifications/resources/updated"
_MESSAGE: Final = "notifications/message"
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

OnChange = Callable[[str, str | None], None]
"""Told that a group (`tools`, `prompts`, `resources`) or one resource (`resource`, its URI) changed."""


class Home(Protocol):
    """The server that serves a caller now: the successor of the one that began to (shared_server.py)."""

    def stop_listening(self, listener: Listener) -> None:
        """The listener's stream is over."""


class SharedSession:
    """What the sidecar keeps for one legacy session on a shared server."""

    __slots__ = ("asked", "level", "outbox", "over", "uris")

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.level: str | None = None
        self.uris: set[str] = set()
        self.asked: dict[bytes, asyncio.Future[Reply]] = {}
        """Our request's raw id → the caller's response (legacy callers of modern servers)."""
        self.over = False

    def end(self) -> None:
        """Nothing is delivered or asked any more."""
        self.over = True
        self.outbox.close()
        for future in self.asked.values():
            if not future.done():
                future.set_exception(SessionLost("the session is over"))


class _Filter(msgspec.Struct, rename="camel"):
    tools_list_changed: bool = False
    prompts_list_changed: bool = False
    resources_list_changed: bool = False
    resource_subscriptions: list[str] = []


class Listener:
    """A modern caller's `subscriptions/listen` on a legacy server."""

    __slots__ = ("call", "ended", "flags", "home", "uris", "wanted")

    def __init__(self, call: Call, profile: Profile, home: Home) -> None:
        params = envelope.members(call.params) if call.params is not None else {}
        try:
            wanted = msgspec.json.decode(params.get("notifications", Raw(b"{}")), type=_Filter)
        except msgspec.DecodeError as error:
            raise envelope.EnvelopeError(envelope.INVALID_PARAMS, f"params.notifications: {error}") from None
        self.call = call
        self.home = home
        self.flags = {
            flag
            for group, flag in LIST_CHANGES.values()
            if getattr(wanted, f"{group}_list_changed") and profile.announces(group)
        }
        resources = profile.capabilities.get("resources")
        subscribable = isinstance(resources, dict) and resources.get("subscribe") is True
        self.uris = set(wanted.resource_subscriptions) if subscribable else set()
        self.wanted: list[str] = []
        """The resources that the server was asked to tell of for this caller."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def acknowledge(self) -> None:
        """Say what will be honoured: the first frame of the stream."""
        honoured: dict[str, Any] = dict.fromkeys(sorted(self.flags), True)
        if self.uris:
            honoured["resourceSubscriptions"] = sorted(self.uris)
        self.frame("notifications/subscriptions/acknowledged", envelope.encode({"notifications": honoured}))

    def frame(self, method: str, params: bytes | None) -> None:
        """Send one frame; a caller that does not read loses its stream, not its neighbours."""
        try:
            self.call.emit(Event(translate.with_subscription(method, params, self.call.id)))
        except CallError as error:
            if not self.ended.done():
                self.ended.set_exception(error)


class Audience:
    """The callers of one shared server: sessions of the legacy era, listeners of the modern."""

    def __init__(self, on_change: OnChange) -> None:
        self._on_change = on_change
        self.sessions: set[SharedSession] = set()
        self.listeners: set[Listener] = set()
        self._wanted: Counter[str] = Counter()
        self.dropped = 0
        """Notifications that nobody could be given."""

    @property
    def uris(self) -> list[str]:
        """The resources that somebody is subscribed to."""
        return [uri for uri, count in self._wanted.items() if count > 0]

    @property
    def level(self) -> str | None:
        """The most talkative log level that a session asked for."""
        levels = [session.level for session in self.sessions if session.level in LEVELS]
        return min(levels, key=lambda level: LEVELS.index(str(level))) if levels else None

    def want(self, uri: str) -> bool:
        """Count a subscriber; True for the first."""
        self._wanted[uri] += 1
        return self._wanted[uri] == 1

    def unwant(self, uri: str) -> bool:
        """Count a subscriber less; True for the last."""
        left = self._wanted[uri] - 1
        if left > 0:
            self._wanted[uri] = left
            return False
        return self._wanted.pop(uri, 0) > 0

    def hear(self, method: str, message: bytes, calls: Iterable[Call] = ()) -> None:
        """Take in a legacy notification of a process; `calls` are in flight on it."""
        if method in LIST_CHANGES:
            group, flag = LIST_CHANGES[method]
            self._on_change(group, None)
            self._broadcast(method, message, flag)
        elif method == UPDATED:
            parsed = envelope.parse(message)
            params = parsed.params if isinstance(parsed.params, Raw) else None
            uri = envelope.params_head(params).uri
            if not isinstance(uri, str):
                return
            self._on_change("resource", uri)
            for session in self.sessions:
                if uri in session.uris:
                    session.outbox.deliver(message)
            for listener in list(self.listeners):
                if uri in listener.uris:
                    listener.frame(method, None if params is None else bytes(params))
        elif method == _MESSAGE and self._is_alone(calls):
            next(iter(self.sessions)).outbox.deliver(message)
        else:
            self.dropped += 1

    def _is_alone(self, calls: Iterable[Call]) -> bool:
        """Whether there is one session, and nobody else that a log message, which names no call, could be about."""
        if len(self.sessions) != 1 or self.listeners:
            return False
        (only,) = self.sessions
        return all(call.session is not None and call.session.state is only for call in calls)

    def changed_everything(self, profile: Profile) -> None:
        """The process was started anew: whatever it had announced may be different."""
        for method, (group, flag) in LIST_CHANGES.items():
            self._on_change(group, None)
            if profile.announces(group):
                self._broadcast(method, envelope.notification(method, None), flag)

    def _broadcast(self, method: str, message: bytes, flag: str) -> None:
        for session in self.sessions:
            session.outbox.deliver(message)
        for listener in list(self.listeners):
            if flag in listener.flags:
                listener.frame(method, None)

    def adopt(self, other: Audience, home: Home) -> None:
        """Take over the callers of another audience, which loses them; `home` serves them from now on."""
        for listener in other.listeners:
            listener.home = home
        self.sessions |= other.sessions
        self.listeners |= other.listeners
        self._wanted.update(other._wanted)
        other.sessions, other.listeners, other._wanted = set(), set(), Counter()

    def close(self, error: UpstreamError | None = None) -> None:
        """The server is gone for good."""
        for session in self.sessions:
            session.outbox.close()
        for listener in self.listeners:
            if not listener.ended.done():
                if error is None:
                    listener.ended.set_result(None)
                else:
                    listener.ended.set_exception(error)

"""Writes the status of MCPServers where it changed, and tells of the change by Events and metrics.

What is compared is the newest that is known: the watch of our own write comes later than the write. What a sidecar or a
server says gets into a status, so whoever controls one could have it written without end: there is a token bucket for
each MCPServer, and what has to wait is written a little later as it is then. What belongs into a status is `status`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mcp_operator.conditions import transitions
from mcp_operator.errors import NotFound
from mcp_operator.kube.events import EventType, ObjectReference
from mcp_operator.kube.resources import MCP_SERVERS, Resource
from mcp_operator.reasons import REASONS, Reason
from mcp_operator.store import Entry, Key, is_older

BURST = 20
REFILL = 5.0
"""Writes of one status at once, and seconds for one more."""

Confirm = Callable[[], Awaitable[None]]


class Gone(Exception):
    """The MCPServer does not exist any more."""


class StatusClient(Protocol):
    """The one verb that is needed of the API."""

    async def apply_status(
        self, resource: Resource, namespace: str, name: str, status: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Server-side apply of a status; the metadata."""


class Recorder(Protocol):
    """Takes Events; never fails the caller."""

    def record(self, about: ObjectReference, type: EventType, reason: str, message: str) -> None:
        """Post an Event, soon."""


@dataclass(slots=True)
class _Written:
    uid: str
    status: Mapping[str, Any]
    answer: Mapping[str, Any]
    tokens: float
    at: float


class StatusWriter:
    """Of all MCPServers."""

    def __init__(self, client: StatusClient, recorder: Recorder, *, clock: Callable[[], float]) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._written: dict[Key, _Written] = {}
        self.conditions: dict[Key, tuple[Reason, ...]] = {}
        """What every MCPServer was last found to be, for the metrics: rows of the table of reasons, which all share."""

    def known(self, key: Key, entry: Entry) -> Mapping[str, Any]:
        """The status that the MCPServer has."""
        written = self._written.get(key)
        if written is not None and written.uid == entry.uid and is_older(entry.manifest, written.answer):
            return written.status
        found = entry.manifest.get("status")
        return found if isinstance(found, Mapping) else {}

    async def write(
        self, key: Key, entry: Entry, before: Mapping[str, Any], status: Mapping[str, Any], confirm: Confirm
    ) -> float:
        """Write `status` where it is another than `before`. Seconds until it may be; 0 where there is nothing to do.

        `confirm` is awaited before a write. Raises Gone, KubeError.
        """
        self.conditions[key] = tuple(
            REASONS[condition["type"], condition["reason"]] for condition in status.get("conditions", ())
        )
        if _ordered(status) == _ordered(before):
            return 0.0
        tokens = self._tokens(key, entry.uid)
        if tokens < 1:
            return (1 - tokens) * REFILL
        await confirm()
        try:
            answer = await self._client.apply_status(MCP_SERVERS, *key, status)
        except NotFound:
            raise Gone from None
        if answer["metadata"].get("uid") != entry.uid:
            raise Gone  # its successor has it now, and says what is true of it at its first look
        self._written[key] = _Written(entry.uid, status, answer, tokens - 1, self._clock())
        about = ObjectReference.of(entry.manifest["metadata"])
        for event in transitions(before, status):
            self._recorder.record(about, event.type, event.reason, event.message)
        return 0.0

    def forget(self, key: Key) -> None:
        """The MCPServer is gone."""
        self._written.pop(key, None)
        self.conditions.pop(key, None)

    def _tokens(self, key: Key, uid: str) -> float:
        written = self._written.get(key)
        if written is None or written.uid != uid:
            return BURST
        return min(BURST, written.tokens + (self._clock() - written.at) / REFILL)


def _ordered(status: Mapping[str, Any]) -> dict[str, Any]:
    """With its keyed lists in one order: the API server may keep another."""
    ordered = dict(status)
    for name, keys in (("conditions", ("type",)), ("secrets", ("name", "key"))):
        found = ordered.get(name)
        if isinstance(found, list | tuple) and all(isinstance(each, Mapping) for each in found):
            ordered[name] = sorted(found, key=lambda each: tuple(str(each.get(key)) for key in keys))
    return ordered

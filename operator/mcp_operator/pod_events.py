"""Why the kubelet cannot prepare a pod: volumes that cannot be mounted, a network that is not there.

Of that a pod's own status says only that it waits; the kubelet tells the cause in Events. They are asked for where a
pod has waited for a while, one pod of an MCPServer at a time, and never watched: Events are many, and of everybody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mcp_operator.errors import KubeError
from mcp_operator.kube.client import Page
from mcp_operator.kube.resources import EVENTS, Resource
from mcp_operator.observed import PodView
from mcp_operator.store import Key

log = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds that a pod may wait before anybody asks."""
AGAIN = 30.0
"""Seconds until the same is asked again."""
_LIMIT = 50
"""Events of one pod that are read."""
_REASONS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox", "NetworkNotReady")
_COMBINED = "(combined from similar events): "
_SUMMARY = "Unable to attach or mount volumes"
"""Begins the kubelet's message that names the volumes and no cause."""


class Lister(Protocol):
    """What is needed of the API."""

    async def page(
        self, resource: Resource, namespace: str | None = None, *, field_selector: str = "", limit: int = 0
    ) -> Page:
        """Part of a list."""


@dataclass(slots=True)
class _Waiting:
    uid: str
    ask_at: float
    words: str = ""


class PodEvents:
    """Of all MCPServers. `clock` gives monotonic seconds."""

    def __init__(self, client: Lister, *, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._waiting: dict[Key, _Waiting] = {}

    async def of(self, key: Key, pods: Sequence[PodView]) -> Mapping[str, str]:
        """uid → the kubelet's words, of the pod that waits the longest; empty where none does or nothing was said."""
        first = min((pod for pod in pods if _waits(pod)), key=lambda pod: (pod.created, pod.name), default=None)
        if first is None:
            self.forget(key)
            return {}
        waiting = self._waiting.get(key)
        if waiting is None or waiting.uid != first.uid:
            waiting = self._waiting[key] = _Waiting(first.uid, self._clock() + GRACE)
        if self._clock() >= waiting.ask_at:
            waiting.ask_at = self._clock() + AGAIN
            waiting.words = await self._ask(key[0], first) or waiting.words
        return {first.uid: waiting.words} if waiting.words else {}

    def again(self, key: Key) -> float | None:
        """Seconds until `of` has something to ask; None where nobody waits."""
        waiting = self._waiting.get(key)
        return max(waiting.ask_at - self._clock(), 0.0) if waiting is not None else None

    def forget(self, key: Key) -> None:
        """Nobody waits, or the MCPServer is gone."""
        self._waiting.pop(key, None)

    async def _ask(self, namespace: str, pod: PodView) -> str:
        selector = f"involvedObject.uid={pod.uid},type=Warning"
        try:
            page = await self._client.page(EVENTS, namespace, field_selector=selector, limit=_LIMIT)
        except KubeError as error:  # what they would explain is told without them, later
            log.debug("Events of pod %s/%s cannot be read: %s", namespace, pod.name, error)
            return ""
        told = [each for each in page.items if each.get("reason") in _REASONS and each.get("message")]
        newest = max(told, key=_rank, default=None)
        return _words(newest) if newest is not None else ""


def _waits(pod: PodView) -> bool:
    """Whether a node has taken it and has not prepared it."""
    missing = {each.type for each in pod.conditions}
    return (
        not (pod.deleting or pod.finished) and "PodReadyToStartContainers" in missing and "PodScheduled" not in missing
    )


def _words(event: Mapping[str, Any]) -> str:
    return str(event["message"]).removeprefix(_COMBINED)


def _rank(event: Mapping[str, Any]) -> tuple[bool, str]:
    when = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""
    return not _words(event).startswith(_SUMMARY), str(when)

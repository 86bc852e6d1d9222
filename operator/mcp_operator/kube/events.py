"""Kubernetes Events about MCPServers: what `kubectl describe` shows.

Telling must never hold up or fail the work: `record` only queues, the queue is bounded, and one task writes. The same
thing said again within an hour counts the first Event up instead of making another; an object that has much to say is
slowed down by a token bucket of its own (client-go's numbers). What is worth telling is decided elsewhere; messages
must hold no secret.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from mcp_operator.errors import AlreadyExists, KubeError, NotFound, OperatorError
from mcp_operator.kube.client import Client
from mcp_operator.kube.resources import EVENTS, MCP_SERVERS, Resource

logger = logging.getLogger(__name__)

COMPONENT = "outrigger-operator"
SERIES = 3600.0
"""Seconds for which the same thing said again counts one Event up; API servers forget Events after an hour."""
BURST = 25
REFILL = 300.0
"""Tokens of an object's bucket, and seconds until it has one more."""
QUEUE = 1000
"""Events that wait to be written, at most."""
REMEMBERED = 2000
"""Series and buckets that are remembered, at most."""
ATTEMPTS = 3
MESSAGE_BYTES = 1024
"""What an API server takes."""

EventType = Literal["Normal", "Warning"]


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """What an Event is about."""

    namespace: str
    name: str
    uid: str
    resource: Resource = MCP_SERVERS

    @classmethod
    def of(cls, metadata: Mapping[str, Any], resource: Resource = MCP_SERVERS) -> ObjectReference:
        """From an object's metadata."""
        return cls(metadata["namespace"], metadata["name"], metadata["uid"], resource)


_Said = tuple[str, EventType, str, str]
"""uid, type, reason, message."""


@dataclass(slots=True)
class _Pending:
    name: str
    about: ObjectReference
    action: str
    times: int
    first: str
    last: str


@dataclass(slots=True)
class _Series:
    name: str
    count: int
    ends: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class EventRecorder:
    """Queues Events; `run` writes them until it is cancelled."""

    def __init__(
        self,
        client: Client,
        instance: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        token: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """`instance`: which replica of the operator. `token` makes names unique."""
        self.dropped: Counter[str] = Counter()
        """Why (`QueueFull`, `RateLimited`, `Refused`) -> Events that were not written, for metrics."""
        self._client = client
        self._instance = instance[:128]
        self._clock = clock
        self._wall_clock = wall_clock
        self._token = token
        self._pending: OrderedDict[_Said, _Pending] = OrderedDict()
        self._series: OrderedDict[_Said, _Series] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._wake = asyncio.Event()

    def record(
        self, about: ObjectReference, type: EventType, reason: str, message: str, action: str = "Reconcile"
    ) -> None:
        """Tell of something, soon. `reason` and `action` in CamelCase. Never waits, never fails."""
        said = (about.uid, type, reason, message.encode()[:MESSAGE_BYTES].decode("utf-8", "ignore"))
        now = datetime.fromtimestamp(self._wall_clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if (waiting := self._pending.get(said)) is not None:
            waiting.times += 1
            waiting.last = now
        elif not self._may_speak(about.uid):
            self.dropped["RateLimited"] += 1
        elif len(self._pending) >= QUEUE:
            self.dropped["QueueFull"] += 1
        else:
            self._pending[said] = _Pending(f"{about.name}.{self._token()}", about, action, 1, now, now)
            self._wake.set()

    async def run(self) -> None:
        """Owner of the queue. Never returns."""
        while True:
            while self._pending:
                await self._write(*self._pending.popitem(last=False))
            self._wake.clear()
            await self._wake.wait()

    async def _write(self, said: _Said, pending: _Pending) -> None:
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(2.0**attempt)
            try:
                await self._count_up_or_create(said, pending)
                return
            except KubeError as problem:
                if not problem.transient:
                    break
            except OperatorError:
                break  # another replica leads, and tells
        self.dropped["Refused"] += pending.times
        logger.debug("an event about %s/%s could not be written", pending.about.namespace, pending.about.name)

    async def _count_up_or_create(self, said: _Said, pending: _Pending) -> None:
        namespace, now = pending.about.namespace, self._clock()
        series = self._series.get(said)
        if series is not None and now < series.ends:
            count = series.count + pending.times
            try:
                await self._client.patch(
                    EVENTS, namespace, series.name, {"count": count, "lastTimestamp": pending.last}
                )
                series.count = count
                return
            except NotFound:  # somebody deleted it
                pass
        try:
            await self._client.create(self._manifest(said, pending))
        except AlreadyExists:  # of an attempt whose answer was lost
            pass
        self._series[said] = _Series(pending.name, pending.times, now + SERIES)
        self._series.move_to_end(said)
        if len(self._series) > REMEMBERED:
            self._series.popitem(last=False)

    def _manifest(self, said: _Said, pending: _Pending) -> dict[str, Any]:
        uid, severity, reason, message = said
        about = pending.about
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"namespace": about.namespace, "name": pending.name},
            "involvedObject": {
                "apiVersion": about.resource.api_version,
                "kind": about.resource.kind,
                "namespace": about.namespace,
                "name": about.name,
                "uid": uid,
            },
            "type": severity,
            "reason": reason,
            "message": message,
            "action": pending.action,
            "count": pending.times,
            "firstTimestamp": pending.first,
            "lastTimestamp": pending.last,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
        }

    def _may_speak(self, uid: str) -> bool:
        now = self._clock()
        bucket = self._buckets.pop(uid, None) or _Bucket(BURST, now)
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) / REFILL)
        bucket.at = now
        allowed = bucket.tokens >= 1
        bucket.tokens -= allowed
        self._buckets[uid] = bucket  # the one that spoke last is forgotten last
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return allowed

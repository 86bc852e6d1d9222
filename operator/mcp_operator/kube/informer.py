"""A small copy of the objects of one kind, kept current by list and watch.

Not kopf's watches: kopf keeps every object whole, with a record and a worker for each, and forgets the record only if
it sees the deletion (measured: 25 KiB an object, and deletions missed during a break never go). Not an index of
client-go's making either: here an object is projected to the few fields that somebody needs, as it arrives, and the
rest is dropped; a thousand Deployments cost a few megabytes. What a change means is left to `on_change`.

The list is paged and consistent (no resourceVersion: a new leader must see what the old one wrote last); the watch
goes on from it, with bookmarks, so that its version stays young. A watch that ends or breaks is taken up where it was;
one that cannot be taken up at once, or whose version is too old, starts over with a list, and what the list lacks has
been deleted meanwhile. Silence proves nothing: a watch without a byte for 90 s is opened anew, where it was (bookmarks
are not promised, so it is no failure either).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from mcp_operator.errors import Expired, KubeError, Throttled
from mcp_operator.kube.answers import WatchEvent
from mcp_operator.kube.client import PAGE, WATCH_TIMEOUT, Client
from mcp_operator.kube.resources import Resource

logger = logging.getLogger(__name__)

T = TypeVar("T")

Key = tuple[str, str]
"""Namespace and name."""

BACKOFF_BASE = 0.25
BACKOFF_MAX = 15.0
"""Seconds between attempts while the API server refuses or cannot be reached, jitter included."""
LIVED = 5.0
"""Seconds after which a watch counts as one that worked, even if nothing happened."""


class Informer(Generic[T]):
    """Objects of one kind, projected. `run` keeps them current until it is cancelled."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        namespaces: tuple[str, ...] | None,
        label_selector: str,
        project: Callable[[dict[str, Any]], T],
        on_change: Callable[[Key, T | None, T | None], None],
        *,
        metadata_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        """`namespaces`: one watch for each; None or empty: one for all.

        `project` takes an object and keeps what matters; it must keep the uid where it matters that an object was
        deleted and made anew, since only a projection that differs (`!=`) is a change. `on_change` takes the key, what
        was known (None: nothing) and what is known now (None: deleted); it must not block.
        """
        self.synced = asyncio.Event()
        """Set once everything was listed for the first time."""
        self._feeds = {
            namespace: _Feed(
                client, resource, namespace, label_selector, project, on_change, metadata_only, clock, rng, self._listed
            )
            for namespace in dict.fromkeys(namespaces or (None,))
        }

    async def run(self) -> None:
        """Owner of the watches. Never returns."""
        async with asyncio.TaskGroup() as group:
            for feed in self._feeds.values():
                group.create_task(feed.run())

    def get(self, namespace: str, name: str) -> T | None:
        """What is known of an object."""
        feed = self._feeds.get(None) or self._feeds.get(namespace)
        return feed.known.get((namespace, name)) if feed is not None else None

    def items(self) -> Iterator[tuple[Key, T]]:
        """All that is known. Take a copy before awaiting anything."""
        for feed in self._feeds.values():
            yield from feed.known.items()

    def values(self) -> Iterator[T]:
        """All that is known, without the keys."""
        for feed in self._feeds.values():
            yield from feed.known.values()

    def __len__(self) -> int:
        return sum(len(feed.known) for feed in self._feeds.values())

    @property
    def last_contact(self) -> float:
        """When the API server was last heard, on `clock`, by the watch that has waited longest; 90 s ago is normal."""
        return min(feed.contact for feed in self._feeds.values())

    def _listed(self) -> None:
        if all(feed.listed for feed in self._feeds.values()):
            self.synced.set()


class _Feed(Generic[T]):
    """List and watch of one namespace, or of all."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        namespace: str | None,
        label_selector: str,
        project: Callable[[dict[str, Any]], T],
        on_change: Callable[[Key, T | None, T | None], None],
        metadata_only: bool,
        clock: Callable[[], float],
        rng: Callable[[], float],
        on_listed: Callable[[], None],
    ) -> None:
        self.known: dict[Key, T] = {}
        self.contact = clock()
        self.listed = False
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._label_selector = label_selector
        self._project = project
        self._on_change = on_change
        self._metadata_only = metadata_only
        self._clock = clock
        self._rng = rng
        self._on_listed = on_listed
        self._version = ""
        """From where to watch; empty: list first."""
        self._failures = 0
        self._page = PAGE
        self._complaint = ""

    async def run(self) -> None:
        while True:
            self._failures += 1  # until the watch gives a sign of life
            asked_to_wait = 0.0
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except KubeError as problem:
                self._complain(problem)
                asked_to_wait = min(problem.retry_after or 0.0, BACKOFF_MAX)
                if isinstance(problem, Expired) or (self._failures and not isinstance(problem, Throttled)):
                    self._version = ""
            if self._failures:
                ceiling = min(BACKOFF_MAX, BACKOFF_BASE * 2.0 ** min(self._failures, 16))
                await asyncio.sleep(asked_to_wait + self._rng() * ceiling)

    async def _list(self) -> None:
        seen: set[Key] = set()
        token = ""
        while True:
            try:
                page = await self._client.page(
                    self._resource,
                    self._namespace,
                    label_selector=self._label_selector,
                    metadata_only=self._metadata_only,
                    limit=self._page,
                    token=token,
                )
            except Expired:  # it took longer than versions are kept: all at once, then
                self._page = 0
                raise
            self.contact = self._clock()
            seen.update([self._keep(object_) for object_ in page.items])
            token = page.token
            if not token:
                break
        self._page = PAGE
        for key in [key for key in self.known if key not in seen]:
            self._forget(key)
        self._version = page.resource_version
        self.listed = True
        self._on_listed()

    async def _watch(self) -> None:
        opened: float | None = None
        try:
            async with self._client.watch(
                self._resource,
                self._namespace,
                resource_version=self._version,
                label_selector=self._label_selector,
                metadata_only=self._metadata_only,
                timeout=WATCH_TIMEOUT * (0.8 + 0.4 * self._rng()),  # not all at the same time
            ) as events:
                opened = self.contact = self._clock()
                async for event in events:
                    self._take(event)
                    self._lives()
        finally:
            if opened is not None and self._clock() - opened >= LIVED:
                self._lives()

    def _take(self, event: WatchEvent) -> None:
        metadata = event.object["metadata"]
        if event.type == "DELETED":
            self._forget(_key(metadata))
        elif event.type != "BOOKMARK":
            self._keep(event.object)
        self._version = metadata["resourceVersion"]
        self.contact = self._clock()

    def _keep(self, object_: dict[str, Any]) -> Key:
        key = _key(object_["metadata"])
        try:
            new = self._project(object_)
        except Exception:  # one object that is not as we know it must not blind us for all others
            logger.exception("cannot read %s %s/%s", self._resource, *key)
            return key
        old = self.known.get(key)
        if old is None or new != old:
            self.known[key] = new
            self._changed(key, old, new)
        return key

    def _forget(self, key: Key) -> None:
        old = self.known.pop(key, None)
        if old is not None:
            self._changed(key, old, None)

    def _changed(self, key: Key, old: T | None, new: T | None) -> None:
        try:
            self._on_change(key, old, new)
        except Exception:  # as above
            logger.exception("cannot tell of a change of %s %s/%s", self._resource, *key)

    def _lives(self) -> None:
        self._failures = 0
        if self._complaint:
            self._complaint = ""
            logger.info("watching %s in %s again", self._resource, self._namespace or "all namespaces")

    def _complain(self, problem: KubeError) -> None:
        """Once for each kind of trouble: an API server that is away for an hour is one line."""
        if isinstance(problem, Expired) and not self._failures:
            return  # part of life: nothing of the kind has changed for long
        if problem.reason != self._complaint:
            self._complaint = problem.reason
            where = self._namespace or "all namespaces"
            logger.warning("cannot watch %s in %s: %s", self._resource, where, problem)


def _key(metadata: dict[str, Any]) -> Key:
    return metadata.get("namespace", ""), metadata["name"]

"""What the API server last said of every MCPServer.

Fed by the watch (`handlers`), read by the reconciler. A write of our own status comes back as an event, so only a
change of what somebody else decides (generation, labels, annotations, deletion) marks an MCPServer. kopf does not tell
of an object that was deleted while its watch was down; the reconciler asks the API server before it writes anything on
the word of an old entry, and calls `drop` where the object is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Key = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An MCPServer as it was last seen. `seen_at`: monotonic seconds."""

    manifest: Mapping[str, Any]
    seen_at: float

    @property
    def uid(self) -> str:
        """The object's uid."""
        return str(self.manifest["metadata"]["uid"])

    @property
    def generation(self) -> int:
        """The spec's generation."""
        return int(self.manifest["metadata"].get("generation", 0))

    @property
    def deleting(self) -> bool:
        """Somebody asked to delete it."""
        return bool(self.manifest["metadata"].get("deletionTimestamp"))


class Store:
    """MCPServers by namespace and name. `changed(key, urgent)` is called for each that must be looked at."""

    def __init__(self, changed: Callable[[Key, bool], None], *, clock: Callable[[], float]) -> None:
        self._changed = changed
        self._clock = clock
        self._entries: dict[Key, Entry] = {}
        self.events = 0

    def put(self, manifest: Mapping[str, Any], *, new: bool = False, deleted: bool = False) -> None:
        """Take what an event or a read says. `new`: somebody made it just now; else an unknown one was listed."""
        self.events += 1
        metadata = manifest["metadata"]
        key = (str(metadata["namespace"]), str(metadata["name"]))
        before = self._entries.get(key)
        if deleted:
            if before is not None and before.uid == metadata.get("uid"):
                del self._entries[key]
                self._changed(key, True)
            return
        entry = Entry(_slim(manifest), self._clock())
        self._entries[key] = entry
        if before is None:
            self._changed(key, new)
        elif _identity(before.manifest) != _identity(entry.manifest):
            self._changed(key, True)

    def drop(self, key: Key, uid: str) -> None:
        """The API server does not know it any more."""
        entry = self._entries.get(key)
        if entry is not None and entry.uid == uid:
            del self._entries[key]

    def get(self, key: Key) -> Entry | None:
        """What was last seen."""
        return self._entries.get(key)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Key]:
        return iter(tuple(self._entries))


def _slim(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without managedFields, half of its memory."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name != "managedFields"}
    return {**manifest, "metadata": metadata}


def _identity(manifest: Mapping[str, Any]) -> tuple[Any, ...]:
    metadata = manifest["metadata"]
    return (
        metadata.get("uid"),
        metadata.get("generation"),
        metadata.get("deletionTimestamp"),
        metadata.get("labels"),
        metadata.get("annotations"),
    )

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

    def put(self, manifest: Mapping[str, Any], kind: str | None = None) -> None:
        """Take what an event of `kind` says (`ADDED`, `MODIFIED`, `DELETED`), or a list or a read (None).

        Events of one object arrive in order, but not with those of another of the same name, nor with our own reads:
        what is older than what is known says nothing.
        """
        metadata = manifest["metadata"]
        key = (str(metadata["namespace"]), str(metadata["name"]))
        before = self._entries.get(key)
        if kind == "DELETED":
            if before is not None and before.uid == metadata.get("uid"):
                del self._entries[key]
                self._changed(key, True)
            return
        if kind is not None and before is not None and is_older(manifest, before.manifest):
            return
        entry = Entry(_slim(manifest), self._clock())
        self._entries[key] = entry
        if before is None:
            self._changed(key, kind == "ADDED")
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


def is_older(manifest: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """By resourceVersion, which orders the states of all objects of a kind (Kubernetes API concepts, "Resource
    versions"); where one of them is no number, nothing is older."""
    versions = [str(each["metadata"].get("resourceVersion", "")) for each in (manifest, known)]
    if not all(version.isascii() and version.isdigit() for version in versions):
        return False
    return int(versions[0]) < int(versions[1])


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

"""Sees that files changed: Secret and ConfigMap volumes, CSI mounts, plain files.

By polling. Watching a mounted file by its path sees nothing when the kubelet swaps the volume (notes/resilience.md
F.2), and a poll of a few small files costs microseconds. Content is compared, not times: a swap to the same content is
no change. What a change means is the callback's business; a callback that raises keeps what it had.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from mcp_sidecar.errors import ConfigError, SecretError
from mcp_sidecar.secrets.files import MAX_BYTES, MAX_NAMES

Digests = dict[str, bytes]


class DirectoryWatch:
    """The files of one directory; those in `names`, or all of it."""

    def __init__(self, directory: Path, names: Iterable[str] | None = None) -> None:
        self.directory = directory
        self.names = None if names is None else frozenset(names)
        self.generation = 0
        """Raised by each change that was seen."""
        self._seen = self.scan()

    def scan(self) -> Digests:
        """A digest of each file's content by its name; files that cannot be read are left out. Blocking."""
        try:
            base = self.directory / os.readlink(self.directory / "..data")  # once: all files of one version
        except OSError:
            base = self.directory
        return {name: digest for name in self._listed(base) if (digest := _digest(base / name, self.directory / name))}

    def poll(self) -> frozenset[str]:
        """The names of the files that changed, came or went since the last look. Blocking."""
        return self.compare(self.scan())

    def compare(self, now: Digests) -> frozenset[str]:
        """As `poll`, with what a `scan` in another thread found."""
        before, self._seen = self._seen, now
        changed = frozenset(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if changed:
            self.generation += 1
        return changed

    def _listed(self, base: Path) -> list[str]:
        if self.names is not None:
            return sorted(self.names)
        try:
            return sorted(name for name in os.listdir(base) if not name.startswith(".."))[:MAX_NAMES]
        except OSError:
            return []


def _digest(*candidates: Path) -> bytes | None:
    for path in candidates:
        try:
            if not path.is_file():
                continue
            with open(path, "rb") as file:
                return hashlib.blake2b(file.read(MAX_BYTES), digest_size=16).digest()
        except (OSError, ValueError):
            continue
    return None


class Watcher:
    """Polls any number of files and tells who wants to know. One `run` for all of them."""

    def __init__(self, interval: float = 2.0, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """`interval`: seconds between two looks. `sleep` is injected by tests."""
        self.interval = interval
        self.reloads = 0
        """Changes that a callback took."""
        self.failures = 0
        """Changes that a callback refused; it keeps what it had."""
        self.last_error: str | None = None
        self._sleep = sleep
        self._entries: list[_Entry] = []

    def add(
        self,
        files: Iterable[Path],
        on_change: Callable[[], Awaitable[None] | None],
        *,
        directories: Iterable[Path] = (),
    ) -> Callable[[], None]:
        """Call `on_change` when one of `files`, or any file of one of `directories`, changes, comes or goes, once per
        look however many did. Returns what ends it.

        `on_change` raises SecretError or ConfigError for a bad new content: that is counted, what it had stays in use,
        and it is called again with the next change.
        """
        entry = _Entry(files, directories, on_change)
        self._entries.append(entry)
        return lambda: self._entries.remove(entry) if entry in self._entries else None

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await self._sleep(self.interval)
            await self.look()

    async def look(self) -> None:
        """One look. The files are read in a thread: a hanging mount must not stop the loop."""
        for entry in tuple(self._entries):
            scans = await asyncio.to_thread(entry.scan)
            if entry not in self._entries:
                continue
            changed = entry.compare(scans)
            if changed:
                await self._tell(entry)

    async def _tell(self, entry: _Entry) -> None:
        try:
            answer = entry.on_change()
            if answer is not None:
                await answer
        except (SecretError, ConfigError) as error:
            self.last_error = str(error)
            self.failures += 1
            return
        self.last_error = None
        self.reloads += 1


class _Entry:
    """What one `add` named, by directory."""

    __slots__ = ("_watches", "on_change")

    def __init__(
        self, files: Iterable[Path], directories: Iterable[Path], on_change: Callable[[], Awaitable[None] | None]
    ) -> None:
        by_directory: dict[Path, set[str]] = {}
        for file in files:
            by_directory.setdefault(file.parent, set()).add(file.name)
        self._watches = [DirectoryWatch(directory, names) for directory, names in by_directory.items()]
        self._watches += [DirectoryWatch(directory) for directory in directories]
        self.on_change = on_change

    def scan(self) -> list[Digests]:
        return [watch.scan() for watch in self._watches]

    def compare(self, scans: list[Digests]) -> bool:
        # Every watch must take its scan, so no short circuit.
        changed = [watch.compare(scan) for watch, scan in zip(self._watches, scans, strict=True)]
        return any(changed)

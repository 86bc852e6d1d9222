"""What a new config changes: what is used at once, which servers need a new upstream, what needs a restart.

Every field says of itself how it is reloaded (`x-reload` of its schema); nothing about single fields is said here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcp_sidecar.config.snapshot import Snapshot
from mcp_sidecar.errors import ConfigError

if TYPE_CHECKING:
    from mcp_sidecar.config import Config


@dataclass
class Changes:
    """replaced: servers whose upstream must be made anew; needs_restart: paths of fields that wait for a restart."""

    changed: set[str] = field(default_factory=set)
    replaced: set[str] = field(default_factory=set)
    needs_restart: set[str] = field(default_factory=set)

    @property
    def nothing(self) -> bool:
        """The configs are the same."""
        return not self.changed


class Reload:
    """Compares configs, and keeps the count."""

    def __init__(self) -> None:
        self.succeeded = 0
        self.refused = 0
        self.last_refusal: list[str] = []
        """The problems of the newest config, if it was refused."""
        self.needs_restart: set[str] = set()
        """Settings in which the config in use differs from the one that the process began with, and cannot be used."""
        self._first: Config | None = None
        self._restart: set[str] = set()

    def compare(self, old: Config, new: Config) -> Changes:
        """What is different."""
        assert isinstance(old, Snapshot) and isinstance(new, Snapshot)  # noqa: PT018
        changes = Changes()
        _compare(old, new, "", changes, skip={"servers"})
        for name, server in new.enabled_servers.items():
            before = old.enabled_servers.get(name)
            if before is None:
                changes.changed.add(f"servers.{name}")
                continue
            found = Changes()
            assert isinstance(before, Snapshot) and isinstance(server, Snapshot)  # noqa: PT018
            _compare(before, server, f"servers.{name}", found)
            changes.changed |= found.changed
            if found.replaced:
                changes.replaced.add(name)
            changes.needs_restart |= found.needs_restart
        changes.changed |= {f"servers.{name}" for name in old.enabled_servers if name not in new.enabled_servers}
        self._first = self._first or old
        assert isinstance(self._first, Snapshot)
        since_start = Changes()
        _compare(self._first, new, "", since_start, skip={"servers"})
        self._restart = since_start.needs_restart
        return changes

    def refuse(self, error: ConfigError) -> None:
        """The new config is bad."""
        self.refused += 1
        self.last_refusal = [f"{problem.path}: {problem.message}" for problem in error.problems]

    def succeed(self) -> None:
        """The new config is in use."""
        self.succeeded += 1
        self.last_refusal = []
        self.needs_restart = self._restart


def _compare(old: Snapshot, new: Snapshot, path: str, changes: Changes, skip: set[str] | None = None) -> None:
    for setting in new.fields:
        if skip and setting.name in skip:
            continue
        before, after = getattr(old, setting.name), getattr(new, setting.name)
        if before == after:
            continue
        where = f"{path}.{setting.alias}".lstrip(".")
        if isinstance(before, Snapshot) and isinstance(after, Snapshot) and setting.reload == "Live":
            _compare(before, after, where, changes)
            continue
        changes.changed.add(where)
        if setting.reload == "Replaces":
            changes.replaced.add(where)
        elif setting.reload == "Restart":
            changes.needs_restart.add(where)

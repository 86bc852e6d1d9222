"""A config that was loaded: what it says, where it came from, and how to read it again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_sidecar.errors import Problem

if TYPE_CHECKING:
    from mcp_sidecar.config.document import Config


def file_hash(text: bytes) -> str:
    """16 hex digits of the sha256 of a config's text. Unlike `Config.config_hash` it changes with every byte, so it
    is for texts without secrets, as the operator's are."""
    return hashlib.sha256(text).hexdigest()[:16]


@dataclass(frozen=True)
class LoadedConfig:
    """A good config, where it came from, and what should be known about it."""

    config: Config
    source: str
    """For people: a path, or `MCP_CONFIG_JSON`."""
    path: Path | None
    """The file to watch for changes; None when the config came from the environment."""
    warnings: tuple[Problem, ...] = ()
    file_hash: str = ""
    """Of its text, as `file_hash` makes it: tells the operator which ConfigMap a pod runs."""
    again: Callable[[], LoadedConfig] | None = field(default=None, repr=False, compare=False)

    @property
    def directory(self) -> Path:
        """What relative paths in the config are relative to: the config's directory, else the working directory."""
        return self.path.parent if self.path is not None else Path.cwd()

    def reload(self) -> LoadedConfig:
        """The config read anew from the same source, with the same overrides. Raises ConfigError."""
        return self if self.again is None else self.again()

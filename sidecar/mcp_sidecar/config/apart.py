"""Loads the config in a short process of its own, so that the models stay out of the long one.

The process prints a pickle of snapshots to a pipe that only its parent reads; a config that is refused comes back as
its problems. Costs 0.3 s of CPU at each start and reload, and saves 14 MiB for as long as the sidecar runs.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_sidecar.config.loaded import LoadedConfig
from mcp_sidecar.config.snapshot import Field, Snapshot
from mcp_sidecar.errors import ConfigError, Problem

if TYPE_CHECKING:
    from mcp_sidecar.config.scalars import Section

_TIMEOUT = 60.0


def load_apart(file: str | os.PathLike[str] | None = None, *, environ: Mapping[str, str] | None = None) -> LoadedConfig:
    """As `mcp_sidecar.config.load`, with a snapshot for the config. Blocking. Raises ConfigError."""
    environ = dict(os.environ if environ is None else environ)
    command = [sys.executable, "-P", "-m", "mcp_sidecar.config.apart"]
    if file is not None:
        command.append(os.fspath(file))
    # without the current directory on the path, the package must be found where this process found it
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        command, env={**environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_TIMEOUT
    )
    if done.returncode != 0:
        raise ConfigError([Problem("", f"the config could not be checked: the process ended with {done.returncode}")])
    answer = pickle.loads(done.stdout)  # noqa: S301 from our own child, by a pipe of ours
    if not isinstance(answer, LoadedConfig):
        raise ConfigError(*answer)
    return replace(answer, again=lambda: load_apart(file, environ=environ))


def _main() -> int:
    from mcp_sidecar.config.loader import load

    answer: object
    try:
        loaded = load(sys.argv[1] if len(sys.argv) > 1 else None)
        config: Any = _snapshot(loaded.config, {})
        answer = replace(loaded, config=config, again=None)
    except ConfigError as error:
        answer = (error.problems, error.source)
    sys.stdout.buffer.write(pickle.dumps(answer))
    return 0


def _snapshot(value: Any, seen: dict[int, Snapshot]) -> Any:
    from mcp_sidecar.config.document import Config
    from mcp_sidecar.config.scalars import Section

    if isinstance(value, Section):
        if id(value) not in seen:
            names = [*type(value).model_fields, *_computed(value)]
            values = {name: _snapshot(getattr(value, name), seen) for name in names}
            digest = value.config_hash() if isinstance(value, Config) else ""
            seen[id(value)] = Snapshot(_fields(value), values, digest)
        return seen[id(value)]
    if isinstance(value, dict):
        return {key: _snapshot(item, seen) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_snapshot(item, seen) for item in value)
    return value


def _computed(section: Section) -> list[str]:
    return [name for name, member in vars(type(section)).items() if isinstance(member, property)]


def _fields(section: Section) -> tuple[Field, ...]:
    fields = []
    for name, info in type(section).model_fields.items():
        extra: Any = info.json_schema_extra or {}
        fields.append(Field(name, info.alias or name, extra.get("x-reload", "Live")))
    return tuple(fields)


if __name__ == "__main__":
    raise SystemExit(_main())

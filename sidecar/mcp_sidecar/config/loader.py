"""Finds and reads the config: which source wins, and overrides of single settings by environment variables.

In this order, and the first one that is named is the only one: `--config FILE`, `MCP_CONFIG_JSON` (the config itself),
the file at `MCP_CONFIG_PATH`, `~/.mcp/config.json`. A named file that is missing or broken is fatal; there are no
implicit servers. Afterwards `OUTRIGGER__<PATH>` variables replace single settings (see `overrides`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mcp_sidecar.config.jsonc import decode
from mcp_sidecar.config.loaded import LoadedConfig, file_hash
from mcp_sidecar.config.overrides import apply_overrides
from mcp_sidecar.config.parsing import parse
from mcp_sidecar.errors import ConfigError, Problem

DEFAULT_PATH = ".mcp/config.json"
"""Below the home directory."""


def load(
    file: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    home: Path | None = None,
) -> LoadedConfig:
    """Read the config from the first source that is named. Raises ConfigError with all problems."""
    environ = os.environ if environ is None else environ
    extra: list[Problem] = []
    if file is not None:
        if environ.get("MCP_CONFIG_JSON"):
            extra.append(Problem("", "MCP_CONFIG_JSON is set too and not used: --config wins"))
        return _load_file(Path(file), "--config", environ, extra)
    if text := environ.get("MCP_CONFIG_JSON"):
        return load_text(text.encode("utf-8", "surrogateescape"), "MCP_CONFIG_JSON", environ=environ)
    if named := environ.get("MCP_CONFIG_PATH"):
        return _load_file(Path(named).expanduser(), "MCP_CONFIG_PATH", environ, extra)
    usual = (home if home is not None else Path.home()) / DEFAULT_PATH
    if usual.exists():
        return _load_file(usual, "the usual place", environ, extra)
    raise ConfigError(
        [
            Problem(
                "",
                "no config found. Looked at: the variable MCP_CONFIG_JSON (not set), the file named by MCP_CONFIG_PATH "
                f"(not set), and {usual} (not there). Give one of them, or --config FILE",
            )
        ]
    )


def load_text(
    data: bytes, source: str, *, environ: Mapping[str, str] | None = None, path: Path | None = None
) -> LoadedConfig:
    """The config in `data`, JSON with comments. Raises ConfigError naming `source`."""
    environ = os.environ if environ is None else environ
    tree = decode(data, source)
    tree, problems = apply_overrides(tree, environ)
    try:
        parsed = parse(tree, source)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems], source) from None
    if problems:
        raise ConfigError(problems, source)
    return LoadedConfig(parsed.config, source, path, parsed.warnings, file_hash(data))


def _load_file(path: Path, named_by: str, environ: Mapping[str, str], extra: list[Problem]) -> LoadedConfig:
    path = path.absolute()
    source = str(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError([Problem("", f"there is no file {source} (named by {named_by})")], source) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no path"
        raise ConfigError([Problem("", f"cannot read {source} (named by {named_by}): {why}")], source) from None
    loaded = load_text(data, source, environ=environ, path=path)
    return replace(
        loaded,
        warnings=(*extra, *loaded.warnings),
        again=lambda: _load_file(path, named_by, environ, extra),
    )

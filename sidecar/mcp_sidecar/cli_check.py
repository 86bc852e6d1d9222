"""The command `check`: what a good config means, and what should be known about it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from mcp_sidecar.config import LoadedConfig, Server
from mcp_sidecar.errors import Problem

_MODES = {"Stdio": "stdio", "Socket": "stdio on a socket", "StreamableHTTP": "Streamable HTTP", "SSE": "HTTP+SSE"}


def check(loaded: LoadedConfig, *, values: bool) -> int:
    """Print a summary of a config that loaded; with `values`, read its values too. 2 when one cannot be read."""
    config = loaded.config
    print(f"{loaded.source}: good, config {config.config_hash()}")
    width = max(len(name) for name in config.servers)
    for name, server in config.servers.items():
        print(f"  {name:<{width}}  {_summary(name, server)}")
    warnings = [*loaded.warnings, *_programs(config.enabled_servers)]
    if warnings:
        print(f"{len(warnings)} warning{'s'[: len(warnings) > 1]}:")
        for problem in warnings:
            print(f"  {problem.path}: {problem.message}" if problem.path else f"  {problem.message}")
    return _values(loaded) if values else 0


def _summary(name: str, server: Server) -> str:
    if server.disabled:
        return "disabled"
    said = [_MODES[server.kind]]
    if server.command is not None:
        said.append(server.isolation if server.processes == 1 else f"{server.processes} processes")
    said.append(f"at /servers/{name}/mcp")
    return ", ".join(said)


def _programs(servers: dict[str, Server]) -> list[Problem]:
    """Commands that are not there. The check may run elsewhere than the sidecar, so it is a warning."""
    found = []
    for name, server in servers.items():
        if server.command is None or not server.command.literal:
            continue
        program = str(server.command.parts[0])
        if shutil.which(program) is None and not Path(program).is_file():
            found.append(Problem(f"servers.{name}.command", "is not found on this machine"))
    return found


def _values(loaded: LoadedConfig) -> int:
    from mcp_sidecar.secrets import SecretStore

    store = SecretStore(loaded.config, directory=loaded.directory)
    failures = {name: secrets.failure for name, secrets in store.servers.items() if secrets.failure}
    if not failures:
        print("all values can be read")
        return 0
    for name, failure in failures.items():
        print(f"servers.{name}: {failure}", file=sys.stderr)
    return 2

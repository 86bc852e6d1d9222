"""The MCP SDK's everything server: a server with every feature of the protocol, to try Outrigger with.

It is in the SDK's source distribution only, so that is fetched, as requirements/everything.txt pins it, and pip
compares its hash. `contents` puts it into the sidecar-runtime image; `python -m images.everything` makes the same
command for this machine; the conformance tests take more from the same source.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "everything.txt"
COMMAND = "mcp-everything-server"
PACKAGE = "mcp_everything_server"
STDIO = Path(__file__).with_name("everything_stdio.py")
"""The command, with the first line that it has in an image."""

FETCH_TIMEOUT = 300.0
"""Seconds."""

_INSIDE = Path("examples", "servers", "everything-server")


def pin() -> tuple[str, str]:
    """The version of the SDK, and its lines in the lock: requirement and hashes."""
    found = re.search(r"^mcp==(?P<version>\S+)(?: .*\n)(?:    --hash=.*\n)+", LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{LOCK.name} does not pin mcp")
    return found["version"], found[0]


def fetch_sdk(directory: Path) -> None:
    """Unpack the SDK's source distribution into `directory`, as `mcp-VERSION`.

    Raises:
        subprocess.SubprocessError: pip could not have it, or its hash is another.
    """
    with tempfile.TemporaryDirectory() as downloads:
        requirement = Path(downloads, "mcp.txt")
        requirement.write_text(pin()[1])
        # --no-binary: the wheel has neither the examples nor the conformance client
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        command = [*pip, "--require-hashes", "--no-binary", "mcp", "-d", downloads, "-r", str(requirement)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_TIMEOUT)
        (archive,) = Path(downloads).glob("mcp-*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")


def server_of(sdk: Path) -> Path:
    """The directory that holds the server's package, in a directory that `fetch_sdk` filled."""
    return sdk / f"mcp-{pin()[0]}" / _INSIDE


def copy_package(target: Path) -> None:
    """Put the server's package into the directory `target`."""
    with tempfile.TemporaryDirectory() as sdk:
        fetch_sdk(Path(sdk))
        package = server_of(Path(sdk)) / PACKAGE
        shutil.copytree(package, target / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


def main() -> int:
    """Make the command for this machine."""
    parser = argparse.ArgumentParser(
        prog="python -m images.everything",
        description=f"Make the command {COMMAND} of this Python's SDK, for the PATH.",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "everything", metavar="DIR")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    copy_package(output)
    command = output / COMMAND
    _, _, program = STDIO.read_text().partition("\n")
    command.write_text(f"#!{sys.executable}\n{program}")
    command.chmod(0o755)
    print(command)
    return 0


if __name__ == "__main__":
    sys.exit(main())

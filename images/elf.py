"""Which shared libraries programs and extension modules need, asked of the machine's own loader.

Says nothing about where they go in an image: `stage` does.
"""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

_MAGIC = b"\x7fELF"
_RESOLVED = re.compile(r"^\s+(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x[0-9a-f]+\)$")
_MISSING = re.compile(r"^\s+(?P<name>\S+) => not found$")


def is_elf(path: Path) -> bool:
    """Whether `path` is a program or a shared library."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == _MAGIC


def shared_libraries(files: Iterable[Path]) -> dict[str, Path]:
    """The libraries that `files` need, all the way down: name that the loader looks for -> file.

    The loader itself is among them, under its absolute path.

    Raises:
        FileNotFoundError: a library that this machine lacks, by name.
    """
    targets = sorted(str(file) for file in files)
    if not targets:
        return {}
    # ldd exits with 1 for a static program among many, so its exit code says nothing.
    said = subprocess.run(["ldd", *targets], capture_output=True, text=True, check=False).stdout
    found: dict[str, Path] = {}
    for line in said.splitlines():
        if match := _MISSING.match(line):
            raise FileNotFoundError(f"no shared library {match['name']} on this machine")
        if match := _RESOLVED.match(line):
            path = Path(match["path"])
            found[match["name"] or str(path)] = path
    return found

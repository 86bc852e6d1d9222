"""The README's examples at a terminal: commands, and what they are said to print.

A test runs the command and compares; what differs from run to run (times, ports, names) it makes alike itself.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def shown(command: str) -> list[str]:
    """The lines below `$ <…command…>` in the README, up to the next command or the end of the block."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    (begin,) = [number for number, line in enumerate(lines) if re.match(rf"    \$ .*{re.escape(command)}", line)]
    found = []
    for line in lines[begin + 1 :]:
        if line.startswith("    $ ") or not (line.startswith("    ") or not line):
            break
        found.append(line[4:])
    return found


def words(text: str) -> list[str]:
    """Without regard to columns and line ends, which depend on how long names are."""
    return text.split()

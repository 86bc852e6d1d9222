"""Paths into a config, as people read them: `servers.git.retry.maxRetries`, `front.tokens[0].file`.

A key may be anything, a token pasted into the wrong place too. So only keys that look like names are shown.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_NAME = re.compile(r"(?!.*: )[A-Za-z0-9_$.:/@ !?+#%&*(),;~^|<>-]{1,64}")
_PLAIN = re.compile(r"[A-Za-z0-9_$-]+")


def show(path: Path) -> str:
    """`path` as text."""
    shown = ""
    for step in path:
        if isinstance(step, int):
            shown += f"[{step}]"
        elif _PLAIN.fullmatch(step) and len(step) <= 64:
            shown += f".{step}" if shown else step
        else:
            shown += f"[{key(step)}]"
    return shown


def key(name: str) -> str:
    """`name` in quotes when it looks like a name, else a description of it."""
    return f'"{name}"' if _NAME.fullmatch(name) else f"a key of {len(name)} characters"

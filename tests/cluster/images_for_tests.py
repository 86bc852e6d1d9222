"""Images of servers that are not ours, for the tests on a node: small, with a user of their own and without a shell.

- `ECHO`: nothing but the static echo server of the benchmark; command `/echo stdio` or `/echo http --addr HOST:PORT`;
- `EVERYTHING`: the SDK's everything server; `mcp-everything-server` on stdio, `everything-http serve` over HTTP, and
  `everything-http fault …` makes that slow, refuse or hang (tests/children/everything_http.py).

Pods that call MCP endpoints have our own image sidecar-runtime, which has a client and a shell.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import echo_server
from conformance import fetched
from images import contents, everything
from images.__main__ import build
from images.archive import Recipe
from images.stage import Stage

ECHO = "e2e.outrigger.local/echo:1"
EVERYTHING = "e2e.outrigger.local/everything:1"
USER = 4321
"""As who the servers run; no name, as in many images."""

_HTTP = Path(__file__).resolve().parents[1] / "children" / "everything_http.py"
_MADE_OF = (Path(__file__), _HTTP, everything.LOCK, *sorted(Path(everything.__file__).parent.glob("*.py")))


def archives() -> tuple[Path, ...]:
    """The images as docker archives, from the cache where they have been made before."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (*_MADE_OF, echo_server.build()):
        digest.update(path.read_bytes())
    folder = fetched.entry(f"e2e-images-{digest.hexdigest()[:12]}", _make)
    return tuple(sorted(folder.glob("*.tar")))


def _make(folder: Path) -> None:
    layers = {"echo": _echo, "base": contents.base, "everything": _everything}
    build(
        [
            Recipe("echo", ECHO, ("echo",), _config("/echo")),
            Recipe("everything", EVERYTHING, ("base", "everything"), _config("everything-http")),
        ],
        folder,
        layers,
    )


def _config(program: str) -> dict[str, Any]:
    return {
        "User": f"{USER}:{USER}",
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "LANG=C.UTF-8"],
        "Entrypoint": [program],
        "WorkingDir": "/",
    }


def _echo(stage: Stage, below: Sequence[Stage]) -> None:
    stage.copy(echo_server.build(), "/echo")
    stage.folder("/tmp", mode=0o1777)


def _everything(stage: Stage, below: Sequence[Stage]) -> None:
    contents.everything(stage, below)
    stage.remove(contents.VENV[1:])
    interpreter = f"#!{contents.EVERYTHING_VENV}/bin/python\n"
    stage.text("/usr/local/bin/everything-http", interpreter + _HTTP.read_text(), executable=True)


if __name__ == "__main__":
    for archive in archives():
        print(archive)

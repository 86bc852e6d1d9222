"""The private folder of `outrigger up`: config, Secrets and session keys as files that only this user can read.

In memory where the system has such a place. A lock tells a folder that is in use from one that a killed process left
behind; the next run removes that one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

PREFIX = "outrigger-up-"
_LOCK = "lock"


def base_directory(environ: Mapping[str, str]) -> Path:
    """Where folders are made: the user's runtime directory, which is in memory, else the one for temporary files."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime)
    return Path(tempfile.gettempdir())


@contextlib.contextmanager
def private_folder(base: Path) -> Iterator[Path]:
    """A folder that is gone at the end, and with it those of runs that were killed. Raises OSError."""
    _remove_abandoned(base)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))  # mode 0700
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # not one of ours, or just being made
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # in use
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


class ServerFolder:
    """The files of one sidecar. A file is replaced in one step, so that no reader sees half of it."""

    CONFIG = "config.json"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: dict[str, bytes] = {}

    def write(self, files: Mapping[str, bytes]) -> bool:
        """Have exactly these files; the config is written last. True where anything changed. Raises OSError."""
        wanted = dict(sorted(files.items(), key=lambda item: item[0] == self.CONFIG))
        changed = False
        for name, content in wanted.items():
            if self._written.get(name) != content:
                self._replace(self.path / name, content)
                self._written[name] = content
                changed = True
        for name in [name for name in self._written if name not in wanted]:
            (self.path / name).unlink(missing_ok=True)
            del self._written[name]
            changed = True
        return changed

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._written.clear()

    def _replace(self, path: Path, content: bytes) -> None:
        for folder in reversed(path.parents):  # each of ours gets the mode, which `parents=True` would not do
            if folder.is_relative_to(self.path):
                folder.mkdir(mode=0o700, exist_ok=True)
        new = self.path / f".{secrets.token_hex(6)}"  # not beside it: every file there may be somebody's variable
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
        new.replace(path)

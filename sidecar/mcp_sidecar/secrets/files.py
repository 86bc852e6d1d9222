"""Reads the files of mounted Secrets so that files of one volume are of one version.

The kubelet changes a volume by moving the symlink `..data` to a new directory; every file is a symlink through it. Who
opens two files by name may get one old and one new. A `Files` resolves `..data` of each directory once and reads
everything from there. One `Files` is one reading; make a new one for the next. CSI mounts and plain files have no
`..data` and are read as they are.
"""

from __future__ import annotations

import os
from pathlib import Path

from mcp_sidecar.errors import SecretError

MAX_BYTES = 1 << 20
"""Largest secret file: a Secret object holds no more."""
MAX_NAMES = 1000
"""Files of a directory that is read or watched as a whole."""


class Files:
    """One consistent reading of secret files. Blocking: call it before the loop runs, or from a thread."""

    def __init__(self) -> None:
        self._bases: dict[Path, Path] = {}
        self._contents: dict[Path, bytes] = {}

    def read(self, path: Path) -> bytes:
        """The content of `path`. Raises SecretError that names the path and the reason."""
        known = self._contents.get(path)
        if known is None:
            known = self._contents[path] = self._read(path)
        return known

    def text(self, path: Path, *, empty: bool = False) -> str:
        """The content as text without its one trailing newline. Raises SecretError when it is no text, and when there
        is none unless `empty` allows that."""
        try:
            text = self.read(path).decode("utf-8")
        except UnicodeDecodeError:
            raise SecretError(f"the file {path} is not UTF-8 text") from None
        text = text.removesuffix("\n").removesuffix("\r")
        if not text and not empty:
            raise SecretError(f"the file {path} is empty")
        if "\0" in text:
            raise SecretError(f"the file {path} holds a NUL character")
        return text

    def names(self, directory: Path) -> list[str]:
        """The names of the files in `directory`, sorted, those that begin with a dot left out: the kubelet's own links
        and what editors leave. Raises SecretError where it cannot be listed."""
        try:
            base = self._base(directory)
            found = sorted(name for name in os.listdir(base) if not name.startswith(".") and (base / name).is_file())
        except FileNotFoundError:
            raise SecretError(f"there is no directory {directory}") from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise SecretError(f"cannot list the directory {directory}: {why}") from None
        if len(found) > MAX_NAMES:
            raise SecretError(f"the directory {directory} holds more than {MAX_NAMES} files")
        return found

    def _base(self, directory: Path) -> Path:
        base = self._bases.get(directory)
        if base is None:
            try:
                base = directory / os.readlink(directory / "..data")
            except OSError:
                base = directory
            self._bases[directory] = base
        return base

    def _read(self, path: Path) -> bytes:
        base = self._base(path.parent)
        try:
            if base is not path.parent:
                try:
                    return _content(base / path.name)
                except FileNotFoundError:  # not of the volume, or the old version is gone already
                    self._bases.pop(path.parent, None)
            return _content(path)
        except FileNotFoundError:
            raise SecretError(f"there is no file {path}") from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise SecretError(f"cannot read the file {path}: {why}") from None


def _content(path: Path) -> bytes:
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20}MiB")
    return content

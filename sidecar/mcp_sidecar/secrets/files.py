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

    def text(self, path: Path) -> str:
        """The content as text without its one trailing newline. Raises SecretError when empty or no text."""
        try:
            text = self.read(path).decode("utf-8")
        except UnicodeDecodeError:
            raise SecretError(f"the file {path} is not UTF-8 text") from None
        text = text.removesuffix("\n").removesuffix("\r")
        if not text:
            raise SecretError(f"the file {path} is empty")
        if "\0" in text:
            raise SecretError(f"the file {path} holds a NUL character")
        return text

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

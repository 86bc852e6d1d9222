"""Turns the description of a value into the value, again and again: variables, files, sealed tokens.

A `SecretValue` prints as `***` and gives its text only to who asks for it by name. Errors name the place a value comes
from and never the value.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from pathlib import Path

from mcp_sidecar.config.values import SEALED_PREFIX, Value
from mcp_sidecar.errors import SecretError
from mcp_sidecar.secrets.files import Files
from mcp_sidecar.secrets.keyring import KeySource


class SecretValue:
    """A text that must not be seen."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __reduce__(self) -> str:
        raise TypeError("a secret value is not to be pickled")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretValue):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)


def open_sealed(text: str, server: str, keys: KeySource, files: Files) -> str:
    """`text`, opened with the keys of now if it is a sealed value for `server`. Raises SecretError."""
    return keys.keyring(files).unseal(text, server) if text.startswith(SEALED_PREFIX) else text


class ValueSource:
    """One value of one server, ready to be resolved whenever it is needed."""

    __slots__ = ("_directory", "_environ", "_keys", "_server", "value")

    def __init__(
        self, value: Value, server: str, *, environ: Mapping[str, str], keys: KeySource, directory: Path
    ) -> None:
        """`server` is the name sealed values must be made for; relative paths begin at `directory`."""
        self.value = value
        self._server = server
        self._environ = environ
        self._keys = keys
        self._directory = directory

    def __repr__(self) -> str:
        return f"ValueSource({self.value.describe()})"

    @property
    def file(self) -> Path | None:
        """The file to watch, if it comes from one."""
        return self._directory / Path(self.value.place).expanduser() if self.value.kind == "file" else None

    def resolve(self, files: Files | None = None) -> SecretValue:
        """The value of now. Raises SecretError."""
        files = files or Files()
        value = self.value
        if value.kind == "file":
            assert self.file is not None
            return SecretValue(self._opened(files.text(self.file), files))
        if value.kind == "env":
            return SecretValue(self._variable(value.place, None, files))
        text = "".join(
            part if isinstance(part, str) else self._variable(part.name, part.default, files) for part in value.parts
        )
        return SecretValue(self._opened(text, files) if value.kind == "sealed" else text)

    def _variable(self, name: str, default: str | None, files: Files) -> str:
        found = self._environ.get(name, "")
        if found:
            return self._opened(found, files)
        if default is not None:
            return default
        state = "is empty" if name in self._environ else "is not set"
        raise SecretError(f"the environment variable {name} {state}")

    def _opened(self, text: str, files: Files) -> str:
        return open_sealed(text, self._server, self._keys, files)

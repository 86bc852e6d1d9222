"""Sealed values: `fernet:v1:<token>`, opened by any of several keys, bound to the server they were sealed for.

Fernet does not bind a token to its use, so the plaintext is JSON that names the server, and opening checks it: a token
of one server cannot be pasted into another. `cryptography` is imported when the first sealed value is met, not before.
The first key seals; the others open what was sealed before a rotation. There is never a made-up key: without one, what
was sealed stays shut.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_sidecar.config.values import SEALED_PREFIX
from mcp_sidecar.errors import SecretError
from mcp_sidecar.secrets.files import Files

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

KEY_VARIABLE = "MCP_ENCRYPTION_KEY"
KEY_FILE_VARIABLE = "MCP_ENCRYPTION_KEY_FILE"


def keygen() -> str:
    """A new random key."""
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode("ascii")


class Keyring:
    """One or more keys. Holds them in memory only; prints as a count."""

    def __init__(self, keys: Iterable[str], source: str = "the keys") -> None:
        """Raises SecretError when there is no key or one is malformed; names its place, never the key."""
        listed = list(keys)
        if not listed:
            raise SecretError(f"{source}: there is no key in it")
        for number, key in enumerate(listed, 1):
            _check(key, f"{source}, key {number}")
        from cryptography.fernet import Fernet, MultiFernet

        self._fernet: MultiFernet = MultiFernet([Fernet(key) for key in listed])
        self._count = len(listed)

    def __repr__(self) -> str:
        return f"Keyring({self._count} keys)"

    def seal(self, value: str, name: str) -> str:
        """`value`, sealed with the first key for the server `name`."""
        plain = json.dumps({"for": name, "value": value}, ensure_ascii=False, separators=(",", ":"))
        return SEALED_PREFIX + self._fernet.encrypt(plain.encode()).decode("ascii")

    def unseal(self, sealed: str, name: str) -> str:
        """What was sealed for the server `name`. Raises SecretError with the reason."""
        text = self._decrypt(sealed)
        try:
            inner = json.loads(text)
            bound, value = inner["for"], inner["value"]
        except (ValueError, KeyError, TypeError):
            raise SecretError("the sealed value was not made by `seal`") from None
        if not isinstance(bound, str) or not isinstance(value, str):
            raise SecretError("the sealed value was not made by `seal`")
        if bound != name:
            raise SecretError(f"the value was sealed for {bound!r}, not for {name!r}")
        if not value:
            raise SecretError("the sealed value is empty")
        return value

    def rotate(self, sealed: str) -> str:
        """`sealed` anew with the first key, its server and its time of sealing kept. Raises SecretError."""
        from cryptography.fernet import InvalidToken

        try:
            return SEALED_PREFIX + self._fernet.rotate(_token(sealed)).decode("ascii")
        except InvalidToken:
            raise SecretError(self._shut()) from None

    def sealed_at(self, sealed: str) -> int:
        """When it was sealed, in seconds since 1970. Raises SecretError."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.extract_timestamp(_token(sealed))
        except InvalidToken:
            raise SecretError(self._shut()) from None

    def _decrypt(self, sealed: str) -> bytes:
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(_token(sealed))
        except InvalidToken:
            raise SecretError(self._shut()) from None

    def _shut(self) -> str:
        keys = "the key does not open it" if self._count == 1 else f"none of the {self._count} keys opens it"
        return f"the sealed value stays shut: {keys} (another key, or a truncated or changed value)"


class KeySource:
    """Where the keys are: `MCP_ENCRYPTION_KEY`, the file at `MCP_ENCRYPTION_KEY_FILE`, `secrets.keyFile`.

    All that are given count, in this order. Keys are read when a sealed value is met, and again for each reading, so
    that a key file may rotate too.
    """

    def __init__(self, environ: Mapping[str, str], key_file: Path | None = None) -> None:
        self._inline = environ.get(KEY_VARIABLE, "")
        named = environ.get(KEY_FILE_VARIABLE, "")
        self.files = tuple(path for path in (Path(named) if named else None, key_file) if path is not None)
        self._keyring: Keyring | None = None
        self._made_of: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"KeySource({', '.join(map(str, self.files))})"

    def keyring(self, files: Files | None = None) -> Keyring:
        """The keys of now. Raises SecretError when there are none, or a file or key is bad."""
        files = files or Files()
        keys: list[str] = _split(self._inline)
        sources = [KEY_VARIABLE] if keys else []
        for path in self.files:
            keys += _split(files.text(path))
            sources.append(f"the key file {path}")
        if not sources:
            raise SecretError(
                f"a value is sealed and there is no key: set {KEY_FILE_VARIABLE}, {KEY_VARIABLE} or secrets.keyFile"
            )
        if self._keyring is None or self._made_of != tuple(keys):
            self._keyring = Keyring(keys, " and ".join(sources))
            self._made_of = tuple(keys)
        return self._keyring


def _split(text: str) -> list[str]:
    """The keys in a file or variable: one a line, or separated by commas; lines that begin with # are comments."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [key for line in lines for key in re.split(r"[\s,]+", line) if key]


def _check(key: str, place: str) -> None:
    try:
        length = len(base64.b64decode(key.encode("ascii"), altchars=b"-_", validate=True))
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raise SecretError(f"{place} is no key: it must be 32 bytes in URL-safe base64; `keygen` makes one") from None
    if length != 32:
        raise SecretError(f"{place} is no key: it has {length} bytes instead of 32; `keygen` makes one")


def _token(sealed: str) -> bytes:
    if not sealed.startswith(SEALED_PREFIX) or not sealed.isascii():
        raise SecretError(f"is no sealed value: it must begin with {SEALED_PREFIX}")
    return sealed[len(SEALED_PREFIX) :].strip().encode("ascii")

"""The commands `seal`, `unseal`, `rotate` and `keygen`. Values come by stdin and go to stdout, never through argv."""

from __future__ import annotations

import getpass
import os
import re
import sys
from pathlib import Path

from mcp_sidecar.config.values import SEALED_PREFIX
from mcp_sidecar.errors import SecretError
from mcp_sidecar.secrets.files import MAX_BYTES
from mcp_sidecar.secrets.keyring import Keyring, KeySource
from mcp_sidecar.secrets.keyring import keygen as new_key

_SEALED = re.compile(re.escape(SEALED_PREFIX) + r"[A-Za-z0-9_=-]+")


def seal(name: str, key_file: str | None) -> int:
    """Seal stdin for the server `name`. Raises SecretError."""
    print(_keyring(key_file).seal(_value("Value: "), name))
    return 0


def unseal(name: str, key_file: str | None) -> int:
    """Open the sealed value on stdin. Raises SecretError."""
    print(_keyring(key_file).unseal(_value("Sealed value: "), name))
    return 0


def rotate(key_file: str | None) -> int:
    """Copy stdin to stdout with every sealed value sealed anew. Raises SecretError before anything is written."""
    keyring = _keyring(key_file)
    text = _input()
    count = len(_SEALED.findall(text))
    if not count:
        raise SecretError(f"there is nothing sealed ({SEALED_PREFIX}…) in the input")
    sys.stdout.write(_SEALED.sub(lambda match: keyring.rotate(match[0]), text))
    print(f"{count} value{'s'[: count > 1]} sealed anew", file=sys.stderr)
    return 0


def keygen(file: str | None) -> int:
    """Print a new key, or put it first into `file`, which only its owner can read. Raises SecretError."""
    key = new_key()
    if file is None:
        print(key)
        return 0
    path = Path(file)
    try:
        older = path.read_text() if path.exists() else ""
        replacement = path.with_name(f".{path.name}.{os.getpid()}")
        with open(os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(f"{key}\n{older}")
        replacement.replace(path)
    except OSError as error:
        raise SecretError(f"cannot write {path}: {error.strerror}") from None
    count = len(older.split()) + 1
    print(f"{path}: {count} key{'s'[: count > 1]}, the new one first", file=sys.stderr)
    return 0


def _keyring(key_file: str | None) -> Keyring:
    source = KeySource(os.environ, None if key_file is None else Path(key_file))
    return source.keyring()


def _value(prompt: str) -> str:
    """One value from stdin without its last newline, or typed unseen at a terminal. Raises SecretError."""
    value = getpass.getpass(prompt) if sys.stdin.isatty() else _input().removesuffix("\n").removesuffix("\r")
    if not value:
        raise SecretError("the input is empty")
    return value


def _input() -> str:
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise SecretError(f"the input is larger than {MAX_BYTES >> 20}MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise SecretError("the input is not UTF-8 text") from None

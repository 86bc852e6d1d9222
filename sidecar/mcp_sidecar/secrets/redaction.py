"""Takes known secret values out of text that leaves the process: logs, a server's stderr, errors, `/status`.

The last line of defence: nothing should put a secret there, but a server prints what it likes. Known are the resolved
values, as they are and as they look in URLs, JSON and base64. Very short values are left alone, since taking `true` or
`8080` out of every line would help nobody.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import overload
from urllib.parse import quote, quote_plus

from mcp_sidecar.config.values import Value

MASK = "***"
MIN_LENGTH = 6
"""Shorter values are not taken out."""

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|COOKIE|PRIVATE|DSN|CONNECTION", re.IGNORECASE)
_TOKEN_LIKE = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_+=.~-]{16,}")
_SCHEMES = frozenset({"bearer", "basic", "token", "digest"})


def looks_secret(value: Value, name: str, text: str) -> bool:
    """Whether the value of the variable or header `name` is to be redacted: what was sealed or comes from a file, what
    a name calls a secret, and what looks like a token. `NODE_ENV=production` is not."""
    if value.kind in ("file", "sealed"):
        return True
    return any(_SECRET_NAME.search(part) for part in (name, *value.references)) or bool(_TOKEN_LIKE.fullmatch(text))


class Redactor:
    """Replaces known secrets by `***`. Costs nothing while none is known."""

    def __init__(self) -> None:
        self._by_owner: dict[str, tuple[frozenset[str], frozenset[str]]] = {}  # the newest values, and those before
        self._texts: tuple[str, ...] = ()
        self._bytes: tuple[bytes, ...] = ()

    def know(self, owner: str, values: Iterable[str]) -> None:
        """Take the newest values of `owner` (a server's name). Those before stay known, since connections and processes
        that have them are still draining; what was before those is forgotten."""
        newest, fresh = self._by_owner.get(owner, (frozenset(), frozenset()))[0], frozenset(values)
        if fresh != newest:
            self._by_owner[owner] = (fresh, newest)
            self._rebuild()

    def forget(self, owner: str) -> None:
        """Forget the values of `owner`."""
        self._by_owner.pop(owner, None)
        self._rebuild()

    @overload
    def redact(self, text: str) -> str: ...
    @overload
    def redact(self, text: bytes) -> bytes: ...
    def redact(self, text: str | bytes) -> str | bytes:
        """`text` with every known secret replaced."""
        if isinstance(text, str):
            for form in self._texts:
                if form in text:
                    text = text.replace(form, MASK)
            return text
        for raw in self._bytes:
            if raw in text:
                text = text.replace(raw, MASK.encode())
        return text

    def _rebuild(self) -> None:
        forms = {
            form for sets in self._by_owner.values() for values in sets for value in values for form in _forms(value)
        }
        # Longest first: a value that holds another must go as a whole.
        self._texts = tuple(sorted(forms, key=lambda form: (-len(form), form)))
        self._bytes = tuple(form.encode() for form in self._texts)


def _forms(value: str) -> set[str]:
    """How `value` may appear in text."""
    found: set[str] = set()
    for part in {value, value.strip(), *_words(value)}:
        if len(part) < MIN_LENGTH:
            continue
        found |= {part, quote(part, safe=""), quote(part), quote_plus(part)}
        found |= {json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1]}
        found |= _base64_forms(part.encode())
    return {form for form in found if len(form) >= MIN_LENGTH}


def _words(value: str) -> list[str]:
    """The credentials in `Bearer abc`, and the lines of a PEM or the like, which logs may break up."""
    scheme, _, rest = value.partition(" ")
    words = [rest.strip()] if scheme.lower() in _SCHEMES else []
    return words + [line for line in value.splitlines() if len(line) >= 16] if "\n" in value else words


def _base64_forms(raw: bytes) -> set[str]:
    """The base64 of `raw`, alone and inside something longer: three alignments, without the characters that neighbours
    would change."""
    found: set[str] = set()
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).decode()
        bits = 8 * shift
        core = encoded[-(-bits // 6) : (bits + 8 * len(raw)) // 6]
        if len(core) >= 8:
            found |= {core, core.replace("+", "-").replace("/", "_")}
    return found

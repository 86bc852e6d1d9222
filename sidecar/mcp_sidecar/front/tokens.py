"""Bearer tokens that callers must show, read from files, each with the tools its bearer may use.

Files because Secrets are mounted as files and rotate there: `reload()` is called by whoever watches them. Only hashes
are kept, and every known one is compared in constant time, so neither memory nor timing tells a token. Off where no
token file is configured: then nobody asks this module.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcp_sidecar.front.refusal import Fault, Refusal

ToolFilter = Callable[[str], bool]

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # b64token, RFC 6750 2.1
_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class TokenFile:
    """Where a token is. One token a line: while one rotates, the old and the new may both be valid."""

    name: str
    """Names the bearer in logs and audit; never the token."""
    file: Path
    tools: ToolFilter | None = None
    """The tools its bearer may see and call; None for all."""


class Principal:
    """Who showed a token."""

    __slots__ = ("name", "tools")

    def __init__(self, name: str, tools: ToolFilter | None) -> None:
        self.name = name
        self.tools = tools

    def allows(self, tool: str) -> bool:
        """Whether the bearer may know of and call a tool."""
        return self.tools is None or self.tools(tool)


class BearerTokens:
    """The tokens that are valid now.

    A file that is gone takes its tokens with it: that is how one is revoked. A file that cannot be read, or holds
    anything but tokens, keeps what it had and shows in `problems`. With no valid token left nobody is let in.
    """

    def __init__(self, files: Sequence[TokenFile]) -> None:
        self._files = tuple(files)
        self._valid: dict[TokenFile, tuple[bytes, ...]] = {}
        self._known: tuple[tuple[bytes, Principal], ...] = ()
        self.problems: tuple[str, ...] = ()
        """What is wrong with the files, by name; never a value."""
        self.reload()

    def reload(self) -> bool:
        """Read the files again; True when other tokens are valid now. Takes effect from the next request on."""
        valid: dict[TokenFile, tuple[bytes, ...]] = {}
        problems: list[str] = []
        for entry in self._files:
            try:
                valid[entry] = _read(entry.file)
            except FileNotFoundError:
                problems.append(f"token {entry.name}: no file {entry.file}")
            except (OSError, ValueError) as error:
                problem = error.strerror if isinstance(error, OSError) else str(error)
                problems.append(f"token {entry.name}: {entry.file}: {problem}")
                if entry in self._valid:
                    valid[entry] = self._valid[entry]
        owners: dict[bytes, str] = {}
        for entry, digests in valid.items():
            others = {owners.setdefault(digest, entry.name) for digest in digests} - {entry.name}
            problems.extend(f"token {entry.name} is the same as {other}, whose tools apply" for other in sorted(others))
        self.problems = tuple(problems)
        changed = valid != self._valid
        if changed:
            self._valid = valid
            self._known = tuple(
                (digest, Principal(entry.name, entry.tools))
                for entry, digests in valid.items()
                for digest in digests
                if owners[digest] == entry.name
            )
        return changed

    def authenticate(self, authorization: bytes | None) -> Principal | None:
        """Who shows this `Authorization` header; None for nobody."""
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        shown = hashlib.sha256(token.strip(b" ")).digest()
        found: Principal | None = None
        for digest, principal in self._known:  # all of them, always: the time must not tell which one was near
            if hmac.compare_digest(digest, shown):
                found = principal
        return found


def challenge(authorization: bytes | None) -> Refusal:
    """The 401 for a caller without a valid token (RFC 6750 3)."""
    if authorization is None:
        return Refusal(
            Fault.UNAUTHORIZED, "a bearer token is needed", ((b"WWW-Authenticate", b'Bearer realm="outrigger"'),)
        )
    header = (b"WWW-Authenticate", b'Bearer realm="outrigger", error="invalid_token"')
    return Refusal(Fault.UNAUTHORIZED, "the bearer token is not valid", (header,))


def _read(path: Path) -> tuple[bytes, ...]:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"larger than {_MOST_BYTES} bytes")
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if not lines:
        raise ValueError("empty")
    if not all(_TOKEN.fullmatch(line) for line in lines):
        raise ValueError("holds characters that no bearer token has (RFC 6750 2.1)")
    return tuple(hashlib.sha256(line).digest() for line in lines)

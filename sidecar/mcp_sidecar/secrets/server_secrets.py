"""Everything of one server's config that is resolved late: command, arguments, environment, URL, headers.

Resolved as a whole, so that a connection or process never sees half of a rotation. A bad new value keeps the old; where
there never was a good one, `failure` says why the server is not ready. Each change raises `generation`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_sidecar.config.headers import USELESS_HEADERS, header_problem
from mcp_sidecar.config.urls import url_problem
from mcp_sidecar.config.values import Value
from mcp_sidecar.errors import SecretError
from mcp_sidecar.secrets.files import Files
from mcp_sidecar.secrets.keyring import KeySource
from mcp_sidecar.secrets.redaction import looks_secret
from mcp_sidecar.secrets.resolving import ValueSource, open_sealed

if TYPE_CHECKING:
    from mcp_sidecar.config.server import Server

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Resolved:
    """The values of one moment. Nothing in it is printed."""

    command: str | None = field(default=None, repr=False)
    args: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    working_dir: str | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    """Lower-case names and their values; `authorization` from a token included."""
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    """What the redactor must know."""


class ServerSecrets:
    """The late values of one server."""

    def __init__(
        self,
        name: str,
        server: Server,
        *,
        keys: KeySource,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
        token: Value | None = None,
    ) -> None:
        """`token` is the server's `MCP_TOKEN_…`, if it has one."""
        self.name = name
        self.current: Resolved | None = None
        """The newest good values; None before the first, and then `failure` says why."""
        self.generation = 0
        """Raised by each change; 0 before the first good values."""
        self.failure: str | None = None
        """Why the newest reading failed, None when it did not. The old values stay in use."""
        self._server = server
        self._environ = os.environ if environ is None else environ
        self._keys = keys
        self._directory = directory or Path.cwd()
        self._token = token

    def refresh(self, files: Files | None = None) -> bool:
        """Read everything again. True when there are new good values. Never raises SecretError: see `failure`."""
        try:
            fresh = self._resolve(files or Files())
        except SecretError as error:
            self.failure = str(error)
            return False
        self.failure = None
        if fresh == self.current:
            return False
        self.current = fresh
        self.generation += 1
        return True

    def values(self) -> Resolved:
        """The newest good values. Raises SecretError with the reason when there never were any."""
        if self.current is None:
            raise SecretError(self.failure or "the values were not read yet")
        return self.current

    def watched(self) -> frozenset[Path]:
        """The files whose change means a new reading."""
        values = [*self._server.env.values(), *self._server.headers.values()]
        values += [self._token] if self._token is not None else []
        files = {file for value in values if (file := self._source(value).file) is not None}
        return frozenset(files | set(self._keys.files))

    def watched_directories(self) -> frozenset[Path]:
        """The directories any change of whose files means a new reading."""
        return frozenset(self._whole(entry.directory) for entry in self._server.env_from)

    def _whole(self, directory: str) -> Path:
        return self._directory / Path(directory).expanduser()

    def _source(self, value: Value) -> ValueSource:
        return ValueSource(value, self.name, environ=self._environ, keys=self._keys, directory=self._directory)

    def _resolve(self, files: Files) -> Resolved:
        server, known = self._server, set[str]()

        def text(value: Value | None, what: str) -> str | None:
            if value is None:
                return None
            try:
                found = self._source(value).resolve(files).reveal()
            except SecretError as error:
                raise SecretError(f"{what}: {error}") from None
            if looks_secret(value, what.rpartition(".")[2], found):
                known.add(found)
            return found

        env = self._imported(files)
        known |= set(env.values())
        env |= {name: text(value, f"env.{name}") or "" for name, value in server.env.items()}
        headers = [self._header(name, text(value, f"headers.{name}") or "") for name, value in server.headers.items()]
        if self._token is not None:
            token = text(self._token, "token") or ""
            known.add(token)
            if not token.isascii() or any(character.isspace() for character in token):
                raise SecretError("token: must be the bare token, without spaces and without `Bearer`")
            headers.append(self._header("authorization", f"Bearer {token}"))
        url = text(server.url, "url")
        if url is not None and (problem := url_problem(url)):
            raise SecretError(f"url: {problem}")
        working_dir = text(server.working_dir, "workingDir")
        return Resolved(
            command=text(server.command, "command"),
            args=tuple(text(value, f"args[{index}]") or "" for index, value in enumerate(server.args)),
            env=env,
            working_dir=None if working_dir is None else str(self._directory / Path(working_dir).expanduser()),
            url=url,
            headers=tuple(header for header in headers if header[0].decode() not in USELESS_HEADERS),
            secrets=frozenset(known),
        )

    def _imported(self, files: Files) -> dict[str, str]:
        """The variables of `envFrom`. All of them count as secret: what is in a file was put there for a reason.

        A directory without variables is a failure as a missing one is: the volume of an optional Secret that is not
        there (yet) is an empty directory, and a server must not run without its credentials.
        """
        env: dict[str, str] = {}
        for index, entry in enumerate(self._server.env_from):
            directory, place = self._whole(entry.directory), f"envFrom[{index}]"
            found: dict[str, str] = {}
            try:
                for file in files.names(directory):
                    if _VARIABLE.fullmatch(name := entry.prefix + file):
                        sealed = files.text(directory / file, empty=True)
                        found[name] = open_sealed(sealed, self.name, self._keys, files)
            except SecretError as error:
                raise SecretError(f"{place}: {error}") from None
            if not found:
                raise SecretError(f"{place}: no file in {directory} has the name of a variable")
            env |= found
        return env

    def _header(self, name: str, value: str) -> tuple[bytes, bytes]:
        if problem := header_problem(name, value):
            raise SecretError(f"headers.{name}: {problem}")
        return name.lower().encode("ascii"), value.strip(" \t").encode("latin-1")

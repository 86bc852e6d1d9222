"""The secrets of all servers: read at the start, read again when a file changes, known to the redactor.

What a new value means for connections and processes is said to `on_change`; what the values are for is the upstreams'.
A config that is reloaded gets a new store.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_sidecar.errors import SecretError
from mcp_sidecar.secrets.files import Files
from mcp_sidecar.secrets.keyring import KeySource
from mcp_sidecar.secrets.redaction import Redactor
from mcp_sidecar.secrets.server_secrets import ServerSecrets
from mcp_sidecar.secrets.tokens import server_tokens
from mcp_sidecar.secrets.watch import Watcher

if TYPE_CHECKING:
    from mcp_sidecar.config.document import Config


class SecretStore:
    """The late values of every enabled server."""

    def __init__(
        self,
        config: Config,
        *,
        directory: Path | None = None,
        environ: Mapping[str, str] | None = None,
        redactor: Redactor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads everything once. `directory`: where relative paths begin. Raises ConfigError for `MCP_TOKEN_…`
        variables that fit no server; a value that cannot be read makes only its server fail."""
        environ = os.environ if environ is None else environ
        directory = directory or Path.cwd()
        key_file = config.secrets.key_file
        keys = KeySource(environ, None if key_file is None else directory / Path(key_file).expanduser())
        tokens = server_tokens(config, environ)
        self.redactor = redactor or Redactor()
        self.servers: dict[str, ServerSecrets] = {
            name: ServerSecrets(name, server, keys=keys, environ=environ, directory=directory, token=tokens.get(name))
            for name, server in config.enabled_servers.items()
        }
        self._clock = clock
        self._read_at: dict[str, float] = {}
        files = Files()
        for name in self.servers:
            self._refresh(name, files)

    def adopt(self, other: SecretStore, names: Iterable[str]) -> None:
        """Go on with the values of the store that this one replaces, for servers of which nothing has changed: what was
        made of them stays tied to them."""
        for name in names:
            if name in other.servers and name in self.servers:
                self.servers[name] = other.servers[name]
                if name in other._read_at:
                    self._read_at[name] = other._read_at[name]

    def watch(
        self,
        watcher: Watcher,
        on_change: Callable[[str], None],
        on_failure: Callable[[str, str], None] | None = None,
    ) -> Callable[[], None]:
        """Read a server's values again when one of its files changes; then call `on_change` with its name, or
        `on_failure` with its name and why they cannot be used: those before stay in use.

        Returns what ends it: a store that is replaced must not go on reading.
        """
        ends = [
            watcher.add(
                secrets.watched(),
                functools.partial(self._changed, name, on_change, on_failure),
                directories=secrets.watched_directories(),
            )
            for name, secrets in self.servers.items()
            if secrets.watched() or secrets.watched_directories()
        ]
        return lambda: [end() for end in ends].clear()

    def age(self, name: str) -> float | None:
        """Seconds since the values of a server were last changed; None when there never were good ones."""
        at = self._read_at.get(name)
        return None if at is None else self._clock() - at

    async def _changed(
        self, name: str, on_change: Callable[[str], None], on_failure: Callable[[str, str], None] | None
    ) -> None:
        files = Files()
        if await asyncio.to_thread(self._refresh, name, files):
            on_change(name)
        failure = self.servers[name].failure
        if failure is not None:
            if on_failure is not None:
                on_failure(name, failure)
            raise SecretError(f"{name}: {failure}")  # counted by the watcher

    def _refresh(self, name: str, files: Files) -> bool:
        secrets = self.servers[name]
        if not secrets.refresh(files):
            return False
        assert secrets.current is not None
        self.redactor.know(name, secrets.current.secrets)
        self._read_at[name] = self._clock()
        return True

"""What the front reads from files: bearer tokens, TLS certificates, the key of sessions. Each is read again on change.

A file that cannot be used at the start is a ConfigError; later what was read before stays in use, and the log and a
metric tell.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_sidecar import settings
from mcp_sidecar.config.loaded import LoadedConfig
from mcp_sidecar.config.patterns import NamePatterns
from mcp_sidecar.errors import ConfigError, Problem, SecretError
from mcp_sidecar.front.sessions import Sessions, load_key
from mcp_sidecar.front.tls import ServerTls, TlsFiles
from mcp_sidecar.front.tokens import BearerTokens, TokenFile
from mcp_sidecar.secrets import Watcher
from mcp_sidecar.telemetry.catalogue import Catalogue
from mcp_sidecar.telemetry.log import Log

if TYPE_CHECKING:
    from mcp_sidecar.config import Config


class FrontFiles:
    """Makes tokens, TLS and sessions of a config, and watches their files."""

    def __init__(self, log: Log, catalogue: Catalogue, watcher: Watcher) -> None:
        self._log = log
        self._catalogue = catalogue
        self._watcher = watcher
        self._configured: object = ()
        self._tokens: BearerTokens | None = None
        self._unwatch_tokens: Callable[[], None] | None = None

    def sessions(self, loaded: LoadedConfig, address: str) -> tuple[Sessions, bytes]:
        """The legacy sessions under the key of `sessions.keyFile`, else of the state directory, and the key. Raises
        ConfigError. `address`: by which other replicas reach this one, or empty."""
        whole = loaded.config.sessions
        state = _path(loaded, whole.state_directory) if whole.state_directory else _state_directory()
        key_file = _path(loaded, whole.key_file) if whole.key_file else None
        try:
            key = load_key(key_file, state)
        except SecretError as error:
            if key_file is not None:
                raise ConfigError([Problem("sessions.keyFile", str(error))], loaded.source) from None
            self._log.warning("session ids will not outlive this process", error=str(error))
            key = os.urandom(32)
        deleted = state / "deleted-sessions" if state.is_dir() else None
        return Sessions(key, settings.sessions(loaded.config), deleted_file=deleted, address=address), key

    def tls(self, loaded: LoadedConfig) -> ServerTls | None:
        """TLS of the MCP port, None where it is plain. Raises ConfigError."""
        tls = loaded.config.front.tls
        if tls is None:
            return None
        ca = _path(loaded, tls.client_ca_file) if tls.client_ca_file else None
        files = TlsFiles(_path(loaded, tls.cert_file), _path(loaded, tls.key_file), ca)
        try:
            context = ServerTls(files)
        except SecretError as error:
            raise ConfigError([Problem("front.tls", str(error))], loaded.source) from None
        watched = [files.cert_file, files.key_file, *([ca] if ca is not None else [])]
        self._watcher.add(watched, lambda: self._reread("tls", context.reload, lambda: context.problem))
        return context

    def tokens(self, loaded: LoadedConfig) -> BearerTokens | None:
        """The bearer tokens, None where anybody may call. What was made of other settings is watched no more."""
        config: Config = loaded.config
        if config.front.tokens == self._configured:
            return self._tokens  # with what was read before of a file that cannot be read now
        self._configured = config.front.tokens
        if self._unwatch_tokens is not None:
            self._unwatch_tokens()
            self._unwatch_tokens = None
        self._tokens = None
        if not config.front.tokens:
            return None
        files = [
            TokenFile(token.name, _path(loaded, token.file), NamePatterns(token.tools)) for token in config.front.tokens
        ]
        tokens = self._tokens = BearerTokens(files)
        for problem in tokens.problems:
            self._log.error("a bearer token cannot be used", error=problem)
        self._unwatch_tokens = self._watcher.add(
            [entry.file for entry in files],
            lambda: self._reread("tokens", tokens.reload, lambda: "; ".join(tokens.problems)),
        )
        return tokens

    def _reread(self, what: str, read: Callable[[], bool], problem: Callable[[], str]) -> None:
        changed = read()
        wrong = problem()
        self._catalogue.secret_reloads.labels(what, "error" if wrong else "ok").inc()
        if wrong:
            self._log.error(f"{what}: the new files cannot be used", error=wrong)
            raise SecretError(wrong)
        if changed:
            self._log.info(f"{what}: new files are in use")


def _path(loaded: LoadedConfig, name: str) -> Path:
    return loaded.directory / Path(name).expanduser()


def _state_directory() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "outrigger"

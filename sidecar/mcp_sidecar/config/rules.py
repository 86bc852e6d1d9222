"""The rules across fields: what is well-formed alone and wrong, useless or dangerous together.

Each rule looks at a whole, typed config and yields findings with the canonical paths it looked at. An error stops the
config; a warning is shown by `check` and logged at the start.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mcp_sidecar.config.document import Config
from mcp_sidecar.config.headers import MANAGED_HEADERS, USELESS_HEADERS, header_problem
from mcp_sidecar.config.naming import token_name
from mcp_sidecar.config.paths import Path, key
from mcp_sidecar.config.server import Server
from mcp_sidecar.config.urls import host_problem, origin_problem, url_problem
from mcp_sidecar.config.values import Value

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_PROCESS_ONLY = ("isolation", "processes", "max_sessions")
_MAX_SOCKET_PATH = 107  # sun_path of Linux, less its NUL


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found. The first path is where it is reported."""

    severity: Literal["error", "warning"]
    message: str
    paths: tuple[Path, ...]


def _error(message: str, *paths: Path) -> Finding:
    return Finding("error", message, paths)


def _warning(message: str, *paths: Path) -> Finding:
    return Finding("warning", message, paths)


def check(config: Config) -> Iterator[Finding]:
    """All findings. Disabled servers are not looked at."""
    if not config.servers:
        yield _error("has no servers: name at least one", ("servers",))
    elif not config.enabled_servers:
        yield _error("every server is disabled", ("servers",))
    yield from _token_names(config)
    for name, server in config.enabled_servers.items():
        at: Path = ("servers", name)
        yield from _target(server, at)
        yield from _without_effect(server, at)
        yield from _times(server, at)
        yield from _order(server, at)
        yield from _environment(server, at)
        yield from _headers(server, at)
        yield from _tls(server, at)
        yield from _tools(server, at)
        yield from _policy(config, server, at)
    yield from _front(config)
    yield from _replicas(config)
    if config.sessions.idle_timeout > config.sessions.lifetime and "idle_timeout" in config.sessions.model_fields_set:
        yield _error("must be at most sessions.lifetime", ("sessions", "idleTimeout"), ("sessions", "lifetime"))


def _token_names(config: Config) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name in config.servers:
        other = seen.setdefault(token_name(name), name)
        if other != name:
            yield _error(
                f"differs from {key(other)} too little: both would use MCP_TOKEN_{token_name(name)}",
                ("servers", name),
                ("servers", other),
            )


def _target(server: Server, at: Path) -> Iterator[Finding]:
    places = tuple((*at, name) for name in ("command", "url", "socket"))
    given = [name for name in ("command", "url", "socket") if getattr(server, name) is not None]
    if len(given) != 1:
        said = f"has {' and '.join(given)}" if given else "has none of command, url and socket"
        yield _error(f"{said}; give exactly one of them", at, *places)
        return
    if server.command is not None and server.command.literal and not server.command.parts[0]:
        yield _error("must not be empty", (*at, "command"))
    if server.url is not None and server.url.literal and (problem := url_problem(str(server.url.parts[0]))):
        yield _error(problem, (*at, "url"))
    if server.socket is not None:
        if not server.socket.startswith("/"):
            yield _error("must be an absolute path", (*at, "socket"))
        elif len(server.socket.encode()) > _MAX_SOCKET_PATH:
            yield _error(
                f"must be at most {_MAX_SOCKET_PATH} bytes, the longest path of a Unix socket", (*at, "socket")
            )
    fits = ("Auto", "StreamableHTTP", "SSE") if server.is_http else ("Auto", "Stdio")
    if server.transport not in fits:
        yield _error(f"does not fit {given[0]}; use one of {', '.join(fits)}", (*at, "transport"), *places)


def _without_effect(server: Server, at: Path) -> Iterator[Finding]:
    """Settings that the kind of server makes meaningless: errors where somebody may rely on them."""
    given = server.model_fields_set
    if server.is_http:
        for name in _PROCESS_ONLY:
            if name in given:
                yield _error("is for servers over stdio only", (*at, _alias(name)), (*at, "url"))
        useless: tuple[str, ...] = ("args", "env", "env_from", "working_dir", "start_timeout", "restart", "stop")
        why = "has no effect on a server with a url"
    else:
        useless = ("headers", "tls", "connect_timeout", "pool", "allow_link_local", "credentials")
        why = "has no effect on a server without a url"
        if server.command is None:
            useless += ("args", "env", "env_from", "working_dir", "stop")
            why = "has no effect on a server behind a socket"
        if server.isolation == "PerSession" and server.processes > 1:
            yield _error("must be 1 with `isolation: PerSession`", (*at, "processes"), (*at, "isolation"))
        if server.isolation == "Shared" and "max_sessions" in given:
            yield _warning("has no effect without `isolation: PerSession`", (*at, "maxSessions"), (*at, "isolation"))
    for name in useless:
        if name in given and getattr(server, name) not in ((), {}, None):
            yield _warning(why, (*at, _alias(name)))


def _alias(name: str) -> str:
    return str(Server.model_fields[name].alias)


def _times(server: Server, at: Path) -> Iterator[Finding]:
    if server.timeout > server.total_timeout:
        yield _error(
            "must be at least timeout: an attempt is part of its call", (*at, "totalTimeout"), (*at, "timeout")
        )
    if server.health.timeout > server.health.interval:
        yield _error("must be at most health.interval", (*at, "health", "timeout"), (*at, "health", "interval"))


def _order(server: Server, at: Path) -> Iterator[Finding]:
    """Everything that has a least and a most."""
    backoff, breaker, pool, restart = server.retry.backoff, server.circuit_breaker, server.pool, server.restart
    pairs: list[tuple[float, float, Path, str, str]] = [
        (backoff.base, backoff.max, ("retry", "backoff"), "base", "max"),
        (breaker.open_duration, breaker.max_open_duration, ("circuitBreaker",), "openDuration", "maxOpenDuration"),
        (pool.min, pool.max, ("pool",), "min", "max"),
        (restart.backoff_base, restart.backoff_max, ("restart",), "backoffBase", "backoffMax"),
    ]
    for least, most, section, low, high in pairs:
        if least > most:
            yield _error(f"must be at most {high}", (*at, *section, low), (*at, *section, high))


def _environment(server: Server, at: Path) -> Iterator[Finding]:
    for name in server.env:
        if not name or "=" in name or "\0" in name:
            yield _error("is no name of an environment variable", (*at, "env", name))
    for index, argument in enumerate(server.args):
        if argument.references:
            yield _warning(
                "puts a variable into the arguments, which anyone on the machine can read; prefer env",
                (*at, "args", index),
            )


def _headers(server: Server, at: Path) -> Iterator[Finding]:
    seen: set[str] = set()
    for name, value in server.headers.items():
        place = (*at, "headers", name)
        lower = name.lower()
        if lower in seen:
            yield _error("is there twice (case does not matter)", place)
        seen.add(lower)
        if lower in USELESS_HEADERS:
            yield _warning("has no effect: the protocol says what it must be", place)
        elif lower in MANAGED_HEADERS:
            yield _error("is the sidecar's own to set", place)
        elif problem := header_problem(name, str(value.parts[0]) if value.literal else ""):
            yield _error(problem, place)
    if server.credentials == "Forward" and "authorization" in seen:
        yield _error(
            "conflicts with the header Authorization: one of both would win silently",
            (*at, "credentials"),
            (*at, "headers"),
        )


def _tls(server: Server, at: Path) -> Iterator[Finding]:
    tls = server.tls
    if (tls.cert_file is None) != (tls.key_file is None):
        missing = "keyFile" if tls.key_file is None else "certFile"
        yield _error(f"needs {missing} too", (*at, "tls"), (*at, "tls", "certFile"), (*at, "tls", "keyFile"))
    if not tls.verify:
        yield _warning("lets anybody between here and the server read and change everything", (*at, "tls", "verify"))
    plain = server.url is not None and str(server.url.parts[0]).lower().startswith("http://")
    if plain and tls.model_fields_set:
        yield _error("needs a url that begins with https://", (*at, "tls"), (*at, "url"))


def _tools(server: Server, at: Path) -> Iterator[Finding]:
    for name in server.cache.tools:
        if server.retry.tools.get(name) == "Unsafe":
            yield _error(
                "is Unsafe in retry.tools: what changes something must not be answered from a cache",
                (*at, "cache", "tools", name),
                (*at, "retry", "tools", name),
            )


def _policy(config: Config, server: Server, at: Path) -> Iterator[Finding]:
    """`secrets.require: SealedOrFile`."""
    if config.secrets.require == "Any":
        return

    def bare(value: Value) -> bool:
        return value.kind in ("text", "env")

    for section, values in (("env", server.env), ("headers", server.headers)):
        for name, value in values.items():
            if bare(value) and (section == "headers" or _SECRET_NAME.search(name)):
                yield _error(
                    "must be sealed or come from a file: `secrets.require` is SealedOrFile",
                    (*at, section, name),
                    ("secrets", "require"),
                )


def _front(config: Config) -> Iterator[Finding]:
    front = config.front
    if front.port and front.port == front.admin_port:
        yield _error("must differ from port", ("front", "adminPort"), ("front", "port"))
    for index, host in enumerate(front.allowed_hosts):
        if problem := host_problem(host):
            yield _error(problem, ("front", "allowedHosts", index))
    for index, origin in enumerate(front.allowed_origins):
        if problem := origin_problem(origin):
            yield _error(problem, ("front", "allowedOrigins", index))
    seen: set[str] = set()
    for index, token in enumerate(front.tokens):
        if token.name in seen:
            yield _error("names a token that is there already", ("front", "tokens", index, "name"))
        seen.add(token.name)
    if front.tokens and front.tls is None and front.host not in _LOOPBACK:
        yield _warning("are sent in plain text: front.tls is not set", ("front", "tokens"))


def _replicas(config: Config) -> Iterator[Finding]:
    place: Path = ("sessions", "address")
    if config.sessions.address is None:
        return
    try:
        address = ipaddress.ip_address(config.sessions.address)
    except ValueError:
        address = None
    if address is None or address.is_unspecified or address.is_multicast or "%" in config.sessions.address:
        yield _error("must be the IP address of this replica, such as 10.1.2.3 or fd00::7", place)
        return
    if config.sessions.key_file is None:
        yield _warning(
            "has no effect without sessions.keyFile: each replica has a key of its own", place, ("sessions", "keyFile")
        )
    if config.front.host in _LOOPBACK and not address.is_loopback:
        yield _warning(f"cannot be reached by others: front.host is {config.front.host}", place, ("front", "host"))

"""The seed's `MCP_TOKEN_<SERVER>` variables: the bearer token of one HTTP server, plain or sealed.

`MCP_TOKEN_GITHUB` belongs to the server `github`; `MCP_TOKEN_GITHUB_FILE` names a file that holds it. A variable that
fits no server, or two that fit one, is an error: a token that is silently not used makes a server anonymous.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mcp_sidecar.config.naming import token_name
from mcp_sidecar.config.values import Value
from mcp_sidecar.errors import ConfigError, Problem

if TYPE_CHECKING:
    from mcp_sidecar.config.document import Config

PREFIX = "MCP_TOKEN_"
FILE_SUFFIX = "_FILE"


def server_tokens(config: Config, environ: Mapping[str, str]) -> dict[str, Value]:
    """The token of each server that has one, by the server's name. Raises ConfigError with all problems."""
    servers = {token_name(name): name for name in config.servers}
    found: dict[str, tuple[str, Value]] = {}
    problems: list[Problem] = []
    for variable in sorted(environ):
        rest = variable.removeprefix(PREFIX)
        if rest == variable or not environ[variable]:
            continue
        owners = []
        if rest in servers:
            owners.append((servers[rest], Value("env", place=variable)))
        if rest.endswith(FILE_SUFFIX) and (short := rest.removesuffix(FILE_SUFFIX)) in servers:
            owners.append((servers[short], Value("file", place=environ[variable])))
        if len(owners) != 1:
            problems.append(Problem(variable, _fits(owners, servers)))
            continue
        name, value = owners[0]
        if name in found:
            problems.append(Problem(variable, f"gives the server {name!r} a second token, beside {found[name][0]}"))
            continue
        found[name] = variable, value
        if problem := _problem(config, name):
            problems.append(Problem(variable, problem))
    if problems:
        raise ConfigError(problems, "the environment")
    return {name: value for name, (_, value) in found.items() if not config.servers[name].disabled}


def _fits(owners: list[tuple[str, Value]], servers: Mapping[str, str]) -> str:
    if owners:
        return f"fits two servers, {owners[0][0]!r} and the file of {owners[1][0]!r}; rename one of them"
    names = ", ".join(PREFIX + name for name in servers)
    return f"fits no server of the config; there could be {names}"


def _problem(config: Config, name: str) -> str | None:
    server = config.servers[name]
    if server.disabled:
        return None
    if not server.is_http:
        return f"has no effect: the server {name!r} has no url; give it the token in env"
    if any(header.lower() == "authorization" for header in server.headers):
        return f"conflicts with the header Authorization of the server {name!r}"
    if server.credentials == "Forward":
        return f"conflicts with `credentials: Forward` of the server {name!r}"
    return None

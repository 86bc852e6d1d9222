"""The whole config: the servers and the sections of the sidecar."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import Field

from mcp_sidecar.config.front import Audit, Front, Log, Metrics, Readiness, Secrets, Sessions, Shutdown
from mcp_sidecar.config.resilience import HOUR
from mcp_sidecar.config.scalars import Duration, Section, setting
from mcp_sidecar.config.server import Server
from mcp_sidecar.config.values import Value

SERVER_NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$"
"""A server's name is a path segment, a metric label and (sanitized) part of a variable's name."""

ServerName = Annotated[str, Field(pattern=SERVER_NAME_PATTERN)]


class Config(Section):
    """The whole config. `parse` and `load` make one; they also check the rules across fields."""

    servers: dict[ServerName, Server] = Field(
        description="The MCP servers by name.", json_schema_extra={"x-reload": "Live"}
    )
    global_timeout: Duration = setting(30.0, "Default of every server's timeout.", ge=0.001, le=HOUR)
    max_concurrent_connections: int | None = setting(
        None,
        "Connections to all HTTP servers together at most. No bound of its own by default, since every pool has one: "
        "one bound for all lets a busy server starve the others.",
        ge=1,
        le=100_000,
        reload="Restart",
    )
    max_concurrent_starts: int = setting(
        2, "Processes of servers that are started at the same time.", ge=1, le=64, reload="Restart"
    )
    readiness: Readiness = setting(Readiness, "When /readyz says yes. A string is short for its mode.", shown="{}")
    front: Front = setting(Front, "What callers connect to.", shown="{}")
    sessions: Sessions = setting(Sessions, "Legacy sessions of callers.", shown="{}")
    shutdown: Shutdown = setting(Shutdown, "The end of the process.", shown="{}")
    secrets: Secrets = setting(Secrets, "Sealed values.", shown="{}")
    log: Log = setting(Log, "The log.", shown="{}")
    audit: Audit = setting(Audit, "The audit log.", shown="{}")
    metrics: Metrics = setting(Metrics, "Prometheus metrics.", shown="{}")

    @property
    def enabled_servers(self) -> dict[str, Server]:
        """The servers that are not disabled, in the order of the config."""
        return {name: server for name, server in self.servers.items() if not server.disabled}

    def config_hash(self) -> str:
        """12 hex digits that change with the config, defaults included. No secret goes into it: of a value only where
        it comes from counts, so that two configs that differ in a literal alone have the same hash."""
        text = json.dumps(_shape(self), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _shape(value: object) -> Any:
    match value:
        case Value():
            return value.shape()
        case Section():
            return {name: _shape(getattr(value, name)) for name in type(value).model_fields}
        case dict():
            return {str(key): _shape(item) for key, item in value.items()}
        case tuple():
            return [_shape(item) for item in value]
    return value

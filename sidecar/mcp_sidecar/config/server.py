"""One MCP server as the config describes it: where it is, how to speak to it, how it is protected.

A server is a command, a URL or a Unix socket; everything else has a default. Names of desktop clients (`type`, `cwd`,
`serverUrl`, …) are translated before this model sees them, by `vocabulary`; rules across fields are in `rules`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_sidecar.config.patterns import NamePatterns
from mcp_sidecar.config.resilience import (
    DAY,
    HOUR,
    Cache,
    CircuitBreaker,
    Health,
    Limits,
    Pool,
    Restart,
    Retry,
    Stop,
    UpstreamTls,
)
from mcp_sidecar.config.scalars import Duration, Section, Strings, setting
from mcp_sidecar.config.values import Text, Value

Kind = Literal["Stdio", "StreamableHTTP", "SSE", "Socket"]
"""How a server is reached, once `transport: Auto` is decided."""

STDIO_CONCURRENCY = 100


VARIABLE_PREFIX_PATTERN = r"^([A-Za-z_][A-Za-z0-9_]*)?$"


class EnvFrom(Section):
    """Variables of the command from a directory, such as the volume of a Secret or ConfigMap."""

    directory: str = Field(
        min_length=1,
        description="Each file in it whose name, behind the prefix, can be a variable's becomes one. Read at each "
        "start of a process and watched. Missing or without any such file: the server is not ready.",
        json_schema_extra={"x-reload": "Replaces"},
    )
    prefix: str = setting(
        "",
        "Put before each name.",
        pattern=VARIABLE_PREFIX_PATTERN,
        max_length=253,
        reload="Replaces",
    )


class Server(Section):
    """One MCP server. Exactly one of `command`, `url` and `socket`."""

    # where it is
    command: Text | None = setting(
        None, "Program to run, a path or found on PATH. It speaks MCP on stdin and stdout.", reload="Replaces"
    )
    args: Annotated[tuple[Text, ...], Field(strict=False)] = setting(
        (), "Arguments of the command. Anyone on the machine can read them: no secrets here.", reload="Replaces"
    )
    env: dict[str, Value] = setting(
        dict,
        "Environment of the command, beside a short allow-list (PATH, HOME, LANG, …) of ours.",
        shown="{}",
        reload="Replaces",
    )
    env_from: Annotated[tuple[EnvFrom, ...], Field(strict=False)] = setting(
        (), "Directories of variables; later ones win over earlier ones, and env over all.", reload="Replaces"
    )
    working_dir: Text | None = setting(None, "Directory the command runs in; by default ours.", reload="Replaces")
    url: Text | None = setting(None, "Endpoint of a server that speaks HTTP, http:// or https://.", reload="Replaces")
    headers: dict[str, Value] = setting(
        dict, "Headers sent with each request to the URL.", shown="{}", reload="Replaces"
    )
    socket: str | None = setting(
        None,
        "Path of a Unix socket on which each connection is a process of the server, stdio on the socket.",
        reload="Replaces",
    )
    transport: Literal["Auto", "Stdio", "StreamableHTTP", "SSE"] = setting(
        "Auto", "How to speak to it. Auto: Stdio for a command or socket, Streamable HTTP for a URL.", reload="Replaces"
    )
    disabled: bool = setting(False, "Leave this server out.", reload="Replaces")
    revision: str | None = setting(
        None,
        "Stands for what the sidecar cannot see of the server, such as the secrets of one behind a socket. A change "
        "begins new processes and connections and drains the old.",
        max_length=64,
        reload="Replaces",
    )

    # processes and sessions
    isolation: Literal["Shared", "PerSession"] = setting(
        "Shared",
        "stdio only. Shared: one process for all callers, no sampling, elicitation or roots. PerSession: a process "
        "for each legacy session, and one more for modern callers.",
        reload="Replaces",
    )
    processes: int = setting(
        1,
        "Processes with `isolation: Shared`; more than one only for a server that keeps no state.",
        ge=1,
        le=64,
        reload="Replaces",
    )
    max_sessions: int = setting(16, "Processes at most with `isolation: PerSession`.", ge=1, le=1024)
    sessions: Literal["Stateful", "Stateless"] = setting(
        "Stateful",
        "Stateless declares that the server keeps nothing in a legacy session, so that "
        "a lost one is begun anew in silence.",
    )

    # time
    timeout: Duration = setting(
        30.0,
        "Longest time of one attempt without progress. When not set: globalTimeout.",
        ge=0.001,
        le=HOUR,
        shown="globalTimeout (30s)",
    )
    total_timeout: Duration = setting(
        lambda data: max(300.0, data.get("timeout", 0.0)),
        "Longest time of a call with all its attempts and waits.",
        ge=0.001,
        le=DAY,
        shown="5m, or timeout if that is longer",
    )
    connect_timeout: Duration = setting(10.0, "Longest time to open a connection, TLS included.", ge=0.001, le=600)
    start_timeout: Duration = setting(
        60.0,
        "Longest time from the start of a process to its first answer; npx and uvx may download first.",
        ge=0.001,
        le=3600,
    )

    # protection
    retry: Retry = setting(Retry, "Retries.", shown="{}")
    circuit_breaker: CircuitBreaker = setting(CircuitBreaker, "Circuit breaker.", shown="{}")
    pool: Pool = setting(Pool, "HTTP connections.", shown="{}")
    limits: Limits = setting(Limits, "Concurrency, queue, sizes, rate.", shown="{}")
    cache: Cache = setting(Cache, "Cache.", shown="{}")
    health: Health = setting(Health, "Active check.", shown="{}")
    restart: Restart = setting(Restart, "Restarts of a process.", shown="{}")
    stop: Stop = setting(Stop, "Stopping of a process.", shown="{}")

    # security
    credentials: Literal["Drop", "Forward"] = setting(
        "Drop", "What happens to the caller's Authorization header: it is dropped, or forwarded to the URL."
    )
    tls: UpstreamTls = setting(UpstreamTls, "TLS to the URL.", shown="{}")
    allow_link_local: bool = setting(
        False,
        "Allow a URL that resolves to a link-local address (cloud metadata services live there).",
        reload="Replaces",
    )
    allowed_tools: Strings | None = setting(
        None, "Names or patterns (`*`, `?`) of the tools that callers see and may call; all by default."
    )
    denied_tools: Strings = setting(
        (), "Names or patterns of tools that callers neither see nor may call; wins over allowedTools."
    )

    @property
    def kind(self) -> Kind:
        """How it is reached."""
        if self.command is not None:
            return "Stdio"
        if self.socket is not None:
            return "Socket"
        return "SSE" if self.transport == "SSE" else "StreamableHTTP"

    @property
    def is_http(self) -> bool:
        """True when it has a URL."""
        return self.url is not None

    @property
    def max_concurrent(self) -> int:
        """Calls in flight at most: the configured bound, else `pool.max` over HTTP and 100 over stdio."""
        if self.limits.max_concurrent is not None:
            return self.limits.max_concurrent
        return self.pool.max if self.is_http else STDIO_CONCURRENCY

    @property
    def tools_filter(self) -> NamePatterns | None:
        """Which tools callers may see and call; None allows all. Build it once, it caches its answers."""
        if self.allowed_tools is None and not self.denied_tools:
            return None
        return NamePatterns(self.allowed_tools, self.denied_tools)

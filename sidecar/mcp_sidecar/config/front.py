"""The sections of the sidecar as a whole: front, sessions, shutdown, secrets, log, audit, metrics, readiness.

What belongs to one server is in `server` and `resilience`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mcp_sidecar.config.resilience import DAY
from mcp_sidecar.config.scalars import ByteSize, Duration, Section, Strings, setting


class Readiness(Section):
    """When `/readyz` says yes."""

    mode: Literal["Startup", "Upstream"] = setting(
        "Startup",
        "Startup: ready after the upstream answered once, and from then on. Upstream: follows the upstream.",
    )
    require: Literal["Any", "All"] = setting("Any", "With several servers: how many of them must be up.")


class FrontTls(Section):
    """TLS of the MCP port. Files are read again when they change."""

    cert_file: str = Field(min_length=1, description="Certificate chain (PEM).", json_schema_extra={"x-reload": "Live"})
    key_file: str = Field(min_length=1, description="Key (PEM).", json_schema_extra={"x-reload": "Live"})
    client_ca_file: str | None = setting(None, "CA bundle (PEM); when set, callers must show a certificate of it.")


class Token(Section):
    """A bearer token that callers may show."""

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Name of the token in the audit log.",
        json_schema_extra={"x-reload": "Live"},
    )
    file: str = Field(
        min_length=1,
        description="File that holds the token; read again when it changes.",
        json_schema_extra={"x-reload": "Live"},
    )
    tools: Strings = setting(("*",), "Names or patterns (`*`, `?`) of the tools its bearer may see and call.")


class Front(Section):
    """What callers connect to."""

    host: str = setting(
        "127.0.0.1", "Address of the MCP port; `0.0.0.0` in the images.", max_length=253, reload="Restart"
    )
    port: int = setting(8080, "The MCP port; 0 takes a free one.", ge=0, le=65535, reload="Restart")
    admin_host: str = setting("127.0.0.1", "Address of the admin port.", max_length=253, reload="Restart")
    admin_port: int = setting(
        9090, "The admin port (probes, metrics, status); 0 takes a free one.", ge=0, le=65535, reload="Restart"
    )
    allowed_hosts: Strings = setting(
        ("localhost", "127.0.0.1", "[::1]"),
        "Values of the Host header that are answered, with or without a port; `*` allows all. "
        "Guards against DNS rebinding.",
    )
    allowed_origins: Strings = setting(
        (),
        "Values of the Origin header that are answered, such as `https://app.example`; "
        "requests without Origin always are.",
    )
    max_request_bytes: ByteSize = setting(4 << 20, "Largest request body.", ge=1024, le=1 << 30)
    max_header_bytes: ByteSize = setting(32 << 10, "Largest request head.", ge=1024, le=1 << 20)
    header_timeout: Duration = setting(10.0, "Longest time for a request head to arrive.", ge=0.01, le=600)
    body_timeout: Duration = setting(30.0, "Longest time for a request body to arrive.", ge=0.01, le=3600)
    idle_timeout: Duration = setting(75.0, "A connection without a request is closed after this.", ge=0.1, le=DAY)
    max_connections: int = setting(4096, "Connections of callers at most.", ge=1, le=1_000_000)
    max_calls_per_connection: int = setting(
        100, "Calls in flight on one connection at most; so also the longest batch.", ge=1, le=10_000
    )
    max_sessions: int = setting(10_000, "Legacy sessions open at most.", ge=1, le=1_000_000)
    tls: FrontTls | None = setting(None, "TLS on the MCP port; plain by default.", reload="Restart")
    tokens: Annotated[tuple[Token, ...], Field(strict=False)] = setting(
        (), "Bearer tokens, one of which each caller must show; anybody may call by default."
    )


class Sessions(Section):
    """Legacy sessions of callers. Their ids are sealed tokens."""

    key_file: str | None = setting(
        None,
        "File with the key (32 bytes, or their hex or base64) that seals session ids; the replicas of a server "
        "share it. By default a key is made and kept in stateDirectory.",
        reload="Restart",
    )
    state_directory: str | None = setting(
        None,
        "Directory for the key when keyFile is not set; by default "
        "$XDG_STATE_HOME/outrigger, else ~/.local/state/outrigger.",
        reload="Restart",
    )
    address: str | None = setting(
        None,
        "IP address by which the other replicas reach this one at front.port. Set, a session that lives in this pod "
        "(PerSession, HTTP+SSE, a url on localhost) is found from every replica with the same keyFile: requests are "
        "passed on to the pod that holds it.",
        max_length=45,
        reload="Restart",
    )
    lifetime: Duration = setting(DAY, "A session ends after this.", ge=1, le=30 * DAY)
    idle_timeout: Duration = setting(
        1800.0,
        "A session without calls or streams is let go after this: with PerSession its process ends and it is over, "
        "else it goes on when it is used again, without its subscriptions.",
        ge=1,
        le=30 * DAY,
    )


class Shutdown(Section):
    """The end of the process after SIGTERM."""

    grace_period: Duration = setting(
        25.0, "Time for calls in flight to end; below Kubernetes' terminationGracePeriodSeconds of 30.", ge=0, le=3600
    )


class Secrets(Section):
    """Sealed values and where they are opened."""

    key_file: str | None = setting(
        None,
        "File with Fernet keys, one a line, the first seals. "
        "MCP_ENCRYPTION_KEY and MCP_ENCRYPTION_KEY_FILE come before it.",
    )
    require: Literal["Any", "SealedOrFile"] = setting(
        "Any",
        "SealedOrFile refuses literals and variables in headers and in environment variables that look like secrets "
        "(KEY, TOKEN, SECRET, PASSWORD, CREDENTIAL, AUTH in the name).",
    )
    poll_interval: Duration = setting(2.0, "How often files are looked at for a new value.", ge=0.05, le=3600)


def _level(value: Any) -> Any:
    return value.capitalize() if isinstance(value, str) else value  # the seed and most tools write INFO


class Log(Section):
    """The log: JSON lines on stderr."""

    level: Annotated[Literal["Debug", "Info", "Warning", "Error"], BeforeValidator(_level)] = setting(
        "Info", "Least important lines that are written."
    )
    calls: bool = setting(True, "Write one line for each finished call.")
    stderr_lines_per_second: int = setting(
        50, "Lines of a server's stderr that are passed on each second; the rest is counted.", ge=1, le=10_000
    )


class Audit(Section):
    """The audit log: one JSON line per tools/call on stdout."""

    enabled: bool = setting(True, "Write the audit log.")
    arguments: Literal["None", "Names", "Hash"] = setting(
        "None", "What is said of a call's arguments: nothing, their names, or a hash. Never their values."
    )
    on_full: Literal["Block", "Drop"] = setting(
        "Drop", "When the reader is too slow: calls wait for it, or lines are dropped and counted."
    )


class Metrics(Section):
    """Prometheus metrics on the admin port."""

    enabled: bool = setting(True, "Serve /metrics.")
    max_tool_labels: int = setting(
        50, "Tools of a server that get their own label; the rest is `_other`.", ge=0, le=1000
    )
    tool_histograms: bool = setting(True, "Histograms per tool; `false` keeps one per server.")

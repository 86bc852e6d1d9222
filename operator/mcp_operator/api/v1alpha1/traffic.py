"""The sections of the sidecar that have a shape of their own here: times, sessions, front, shutdown, secrets.

Files of the sidecar's config are references to Secrets here; everything else has its name, bounds and default. The
sections that are the same in both (retry, pool, …) are the sidecar's own models.
"""

from __future__ import annotations

from typing import Literal

from mcp_operator.api.v1alpha1.base import Items, ObjectName, Part, Port, ToolPattern, field, taken
from mcp_operator.api.v1alpha1.references import KeySelector, SecretSource, ValueSource
from mcp_sidecar.config import ByteSize, Duration
from mcp_sidecar.config import Front as SidecarFront
from mcp_sidecar.config import Secrets as SidecarSecrets
from mcp_sidecar.config import Server as SidecarServer
from mcp_sidecar.config import Sessions as SidecarSessions
from mcp_sidecar.config import Shutdown as SidecarShutdown
from mcp_sidecar.config import Token as SidecarToken


class Timeouts(Part):
    """How long things may take."""

    timeout: Duration = taken(SidecarServer, "timeout", description="Longest time of one attempt without progress.")
    total_timeout: Duration = taken(SidecarServer, "total_timeout")
    connect_timeout: Duration = taken(
        SidecarServer,
        "connect_timeout",
        description=("Longest time to open a connection, TLS included. http and remote only."),
        stored=False,
    )
    start_timeout: Duration = taken(
        SidecarServer,
        "start_timeout",
        description=(
            "Longest time from the start of a process to its first answer; npx and uvx may download first. stdio only."
        ),
        stored=False,
    )


class Sessions(Part):
    """Legacy sessions of callers. Their ids are sealed tokens."""

    mode: Literal["Stateful", "Stateless"] = taken(SidecarServer, "sessions")
    lifetime: Duration = taken(SidecarSessions, "lifetime")
    idle_timeout: Duration = taken(
        SidecarSessions, "idle_timeout", shown="30m, or lifetime if that is less", stored=False
    )
    key_secret_ref: KeySelector | None = field(
        None,
        "Key of a Secret with the key (32 bytes, or their hex or base64) that seals session ids. By default the "
        "operator makes one; give one to keep sessions when the MCPServer is made anew or moves to another cluster.",
        change="Rolls",
    )


class FrontTls(Part):
    """TLS of the MCP port. A new certificate is used without a restart."""

    secret_name: ObjectName = field(..., "Name of a Secret of type kubernetes.io/tls (keys tls.crt and tls.key).")
    client_ca: ValueSource | None = field(
        None, "CA certificates (PEM); when given, callers must show a certificate of it.", alias="clientCA"
    )


class Token(Part):
    """A bearer token that callers may show."""

    name: str = taken(SidecarToken, "name", description="Name of the token in the audit log.")
    secret_key_ref: KeySelector = field(
        ..., "Key of a Secret that holds the token; a new value is used without a restart.", change="Rolls"
    )
    tools: Items[ToolPattern] = field(
        ("*",),
        "Names or patterns (`*`, `?`) of the tools its bearer may see and call.",
        change="Live",
        max_length=256,
        list_type="set",
    )


class Front(Part):
    """What callers connect to."""

    port: Port = field(
        8080, "Port of the container for callers (the Service has its own: service.port).", change="Rolls"
    )
    admin_port: Port = field(9090, "Port of the container for probes, metrics and status.", change="Rolls")
    max_request_bytes: ByteSize = taken(SidecarFront, "max_request_bytes")
    max_header_bytes: ByteSize = taken(SidecarFront, "max_header_bytes")
    header_timeout: Duration = taken(SidecarFront, "header_timeout")
    body_timeout: Duration = taken(SidecarFront, "body_timeout")
    idle_timeout: Duration = taken(SidecarFront, "idle_timeout")
    max_connections: int = taken(SidecarFront, "max_connections")
    max_calls_per_connection: int = taken(SidecarFront, "max_calls_per_connection")
    max_sessions: int = taken(SidecarFront, "max_sessions")
    tls: FrontTls | None = field(None, "TLS on the MCP port; plain by default.", change="Rolls")
    tokens: Items[Token] = field(
        (),
        "Bearer tokens, one of which each caller must show; without any, everybody whom the NetworkPolicy lets through "
        "may call.",
        change="Live",
        max_length=64,
        list_type="map",
        keys=("name",),
    )


class Shutdown(Part):
    """The end of a pod."""

    grace_period: Duration = taken(
        SidecarShutdown,
        "grace_period",
        description="Time for calls in flight to end when a pod is stopped; the pod's terminationGracePeriodSeconds "
        "follows from it.",
        change="Rolls",
    )


class Secrets(Part):
    """Sealed values, and how secrets are read."""

    encryption_key: SecretSource | None = field(
        None, "Fernet keys that open sealed values (`fernet:v1:…`), one a line, the first seals.", change="Rolls"
    )
    require: Literal["Any", "SealedOrFile"] = taken(
        SidecarSecrets,
        "require",
        description="SealedOrFile refuses literals in headers, and in environment variables that look like secrets "
        "(KEY, TOKEN, SECRET, PASSWORD, CREDENTIAL, AUTH in the name): they must come from a Secret or be sealed.",
    )
    poll_interval: Duration = taken(SidecarSecrets, "poll_interval")

"""The three kinds of MCP server: a command on stdio, a container that speaks HTTP, a remote URL.

An MCPServer is exactly one of them. How calls to it are protected is the same for all and stands in the spec.
"""

from __future__ import annotations

from typing import Literal

from mcp_operator.api.v1alpha1.base import (
    AbsolutePath,
    Argument,
    Items,
    ObjectName,
    Part,
    Port,
    field,
    taken,
)
from mcp_operator.api.v1alpha1.references import EnvFromSource, EnvVar, Header, SecretSource, ValueSource
from mcp_sidecar.config import Restart, Server, Stop

PullPolicy = Literal["Always", "IfNotPresent", "Never"]
_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
URL_PATTERN = rf"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]{{1,253}})(:{_PORT})?([/?][\x21\x22\x24-\x7e]*)?$"
"""As `mcp_sidecar.config.urls` has it, with http:// and https:// in lower case."""

Transport = Literal["StreamableHTTP", "SSE"]

_TRANSPORT = "How the server speaks HTTP. SSE is the transport of 2024-11-05, with one stream and a separate endpoint."
_PULL = "When the image is pulled; by default Always for the tag latest, else IfNotPresent."
_ENV = "Environment variables of the server. Names are unique."
_ENV_FROM = (
    "Secrets and ConfigMaps whose keys all become environment variables; env wins over them, later over earlier."
)
_HEADERS = "Headers that are sent with each request to the server. Names are unique, case does not matter."


class Stdio(Part):
    """A command that speaks MCP on stdin and stdout."""

    command: str = field(
        ...,
        "Program to run, a path or found on PATH: in the sidecar-runtime image (Node with npx, Python with uvx), or in "
        "image where it is given. It replaces the entrypoint of image.",
        min_length=1,
        max_length=4096,
    )
    args: Items[Argument] = field(
        (),
        "Arguments of the command. Everybody who can read the pod can read them: no secrets here.",
        max_length=256,
        list_type="atomic",
    )
    env: Items[EnvVar] = field((), _ENV, max_length=128, list_type="map", keys=("name",))
    env_from: Items[EnvFromSource] = field((), _ENV_FROM, max_length=32, list_type="atomic")
    working_dir: AbsolutePath | None = field(None, "Directory that the command runs in; by default that of the image.")
    image: str | None = field(
        None,
        "Image that holds the server, which runs in a container of its own, with its own files and user. By default "
        "the command runs in the sidecar-runtime image.",
        min_length=1,
        max_length=1024,
        pattern=r"^[\x21-\x7e]+$",
    )
    image_pull_policy: PullPolicy | None = field(None, _PULL)
    isolation: Literal["Shared", "PerSession"] = taken(
        Server,
        "isolation",
        description="Shared: one process for all callers, without sampling, elicitation or roots. PerSession: a "
        "process for each legacy session, and one more for modern callers.",
        change="Rolls",
    )
    processes: int = taken(
        Server,
        "processes",
        description="Processes with isolation Shared; more than one only for a server that keeps no state.",
        change="Rolls",
    )
    max_sessions: int = taken(
        Server,
        "max_sessions",
        description="Processes at most with isolation PerSession, in each pod.",
        shown="16",
        stored=False,
    )
    restart: Restart | None = field(None, "How often a process that ends is started again.", change="Live")
    stop: Stop | None = field(
        None, "How a process is stopped: its input is closed, then SIGTERM, then SIGKILL to its group.", change="Live"
    )


class Http(Part):
    """A container that speaks MCP over HTTP."""

    image: str = field(..., "Image of the server.", min_length=1, max_length=1024, pattern=r"^[\x21-\x7e]+$")
    image_pull_policy: PullPolicy | None = field(None, _PULL)
    command: Items[Argument] = field((), "Replaces the entrypoint of the image.", max_length=64, list_type="atomic")
    args: Items[Argument] = field(
        (),
        "Replaces the arguments of the image. Everybody who can read the pod can read them: no secrets here.",
        max_length=256,
        list_type="atomic",
    )
    env: Items[EnvVar] = field((), _ENV, max_length=128, list_type="map", keys=("name",))
    env_from: Items[EnvFromSource] = field((), _ENV_FROM, max_length=32, list_type="atomic")
    working_dir: AbsolutePath | None = field(None, "Directory that the server runs in; by default that of the image.")
    port: Port = field(8000, "Port that the server listens on, on 127.0.0.1 or on all addresses of the pod.")
    path: str = field(
        "/mcp", "Path of its MCP endpoint.", min_length=1, max_length=1024, pattern=r"^/[\x21\x22\x24-\x7e]*$"
    )
    transport: Transport = field("StreamableHTTP", _TRANSPORT)
    headers: Items[Header] = field((), _HEADERS, max_length=64, list_type="map", keys=("name",))


class ClientCertificate(Part):
    """A client certificate."""

    secret_name: ObjectName = field(..., "Name of a Secret of type kubernetes.io/tls (keys tls.crt and tls.key).")


class RemoteTls(Part):
    """TLS to a remote server. The certificate is verified unless it is said otherwise."""

    ca_certificate: ValueSource | None = field(
        None, "CA certificates (PEM) to verify the server with, instead of those of the image."
    )
    client_certificate: ClientCertificate | None = field(None, "Certificate that is shown to the server.")
    server_name: str | None = field(None, "Name to verify instead of the URL's host.", min_length=1, max_length=253)
    verification: Literal["Verify", "Skip"] = field(
        "Verify",
        "Whether the server's certificate is verified. Skip lets anybody between here and the server read and change "
        "everything.",
    )


class Remote(Part):
    """A server that runs elsewhere and speaks HTTP."""

    url: str = field(
        ...,
        "Endpoint of the server, http:// or https://, without user, password and fragment.",
        min_length=1,
        max_length=2048,
        pattern=URL_PATTERN,
    )
    transport: Transport = field("StreamableHTTP", _TRANSPORT)
    headers: Items[Header] = field((), _HEADERS, max_length=64, list_type="map", keys=("name",))
    bearer_token: SecretSource | None = field(
        None,
        "Token that is sent as `Authorization: Bearer …`. The key holds the token alone; a new one is used for the "
        "next connection, without a restart.",
    )
    tls: RemoteTls | None = field(None, "TLS to the server.")
    link_local: Literal["Refuse", "Allow"] = field(
        "Refuse",
        "Whether the URL may resolve to a link-local address, where the metadata services of clouds live.",
    )

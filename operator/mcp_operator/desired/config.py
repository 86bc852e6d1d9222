"""The sidecar's config of an MCPServer.

It is made of two halves that never overlap. What `rolling` says is fixed for the life of a pod: it is about files,
ports and commands that only new pods have. What `live` says reaches running sidecars through the mounted file. The name
of the ConfigMap comes from the rolling half (`config_map`); that the sidecar takes the whole is checked in `problems`.

Values that are written in an MCPServer are literal, as people expect of Kubernetes: the `${NAME}` that the sidecar
would replace is escaped. Sealed values (`fernet:v1:…`) are passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mcp_operator.api.v1alpha1 import (
    EnvFromSource,
    EnvVar,
    Front,
    Header,
    MCPServer,
    Remote,
    RemoteTls,
    Shutdown,
    Stdio,
    ValueSource,
    written,
)
from mcp_operator.desired.cluster import Cluster
from mcp_operator.desired.mounts import directory, file_path
from mcp_operator.desired.needs import TLS_KEYS, is_bridged
from mcp_operator.desired.service import host_names
from mcp_sidecar.config import show_duration

SOCKET_DIRECTORY = "/run/outrigger/socket"
SOCKET = f"{SOCKET_DIRECTORY}/mcp.sock"
"""Where the bridge listens and the sidecar connects."""

SESSION_DIRECTORY = "/run/outrigger/session"
SESSION_KEY_FILE = f"{SESSION_DIRECTORY}/key"

STATE_DIRECTORY = "/run/outrigger/state"
"""Outlives a restart of the container, not the pod: there the sidecar remembers which sessions were ended."""

_REFERENCE = re.compile(r"\$\{[^}]*")

_PROTECTION = ("retry", "circuit_breaker", "limits", "cache", "health")
_WHOLE = ("log", "audit", "metrics")


def config(server: MCPServer, cluster: Cluster, revision: str = "") -> dict[str, Any]:
    """The whole config, as JSON data."""
    whole = _merged(rolling(server), live(server, cluster))
    if revision:
        whole["servers"][server.metadata.name]["revision"] = revision
    return whole


def rolling(server: MCPServer) -> dict[str, Any]:
    """The part that only new pods may see."""
    spec = server.spec
    front, shutdown = spec.front or Front(), spec.shutdown or Shutdown()
    listener: dict[str, Any] = {
        "host": "0.0.0.0",  # noqa: S104 a pod's own address; the NetworkPolicy says who may reach it
        "port": front.port,
        "adminHost": "0.0.0.0",  # noqa: S104
        "adminPort": front.admin_port,
    }
    if front.tls is not None:
        listener["tls"] = _certificate(front.tls.secret_name)
        if front.tls.client_ca is not None:
            listener["tls"]["clientCaFile"] = value_file(front.tls.client_ca)
    out: dict[str, Any] = {
        "servers": {server.metadata.name: _target(server)},
        "front": listener,
        "sessions": {"keyFile": SESSION_KEY_FILE, "stateDirectory": STATE_DIRECTORY},
        "shutdown": {"gracePeriod": show_duration(shutdown.grace_period)},
    }
    if spec.secrets is not None and spec.secrets.encryption_key is not None:
        ref = spec.secrets.encryption_key.secret_key_ref
        out["secrets"] = {"keyFile": file_path("Secret", ref.name, ref.key)}
    return out


def token_files(server: MCPServer) -> list[str]:
    """The files of `front.tokens`, sorted. A pod without one of them must not see a config that names it."""
    tokens = server.spec.front.tokens if server.spec.front is not None else ()
    return sorted({file_path("Secret", token.secret_key_ref.name, token.secret_key_ref.key) for token in tokens})


def live(server: MCPServer, cluster: Cluster) -> dict[str, Any]:
    """The part that running sidecars take up."""
    spec = server.spec
    front = written(spec.front) if spec.front is not None else {}
    for name in ("port", "adminPort", "tls", "tokens"):
        front.pop(name, None)
    allowed = spec.service.allowed_hosts if spec.service is not None else ()
    front["allowedHosts"] = list(dict.fromkeys((*host_names(server, cluster), *allowed)))
    if spec.service is not None and spec.service.allowed_origins:
        front["allowedOrigins"] = list(spec.service.allowed_origins)
    if spec.front is not None and spec.front.tokens:
        front["tokens"] = [
            {
                "name": token.name,
                "file": file_path("Secret", token.secret_key_ref.name, token.secret_key_ref.key),
                "tools": list(token.tools),
            }
            for token in spec.front.tokens
        ]
    out: dict[str, Any] = {
        "servers": {server.metadata.name: _protection(server)},
        "front": front,
        "readiness": {"mode": spec.readiness},
    }
    for name in _WHOLE:
        section = getattr(spec, name)
        if section is not None:
            out[name] = written(section)
    if spec.sessions is not None:
        sessions = written(spec.sessions)
        out["sessions"] = {name: sessions[name] for name in ("lifetime", "idleTimeout") if name in sessions}
    if spec.secrets is not None:
        secrets = written(spec.secrets)
        out["secrets"] = {name: secrets[name] for name in ("require", "pollInterval") if name in secrets}
    return out


def literal(text: str) -> str:
    """`text` so that the sidecar's config means just that by it, `${NAME}` included."""
    return _REFERENCE.sub(r"$\g<0>", text)


def _target(server: MCPServer) -> dict[str, Any]:
    """Where the server is and how to speak to it."""
    spec = server.spec
    if spec.stdio is not None:
        processes = {"isolation": spec.stdio.isolation, "processes": spec.stdio.processes}
        if is_bridged(server):  # command and environment are the bridge's
            return {"socket": SOCKET, "transport": "Stdio", **processes}
        return {"transport": "Stdio", **_command(spec.stdio), **processes}
    if spec.http is not None:
        url = f"http://127.0.0.1:{spec.http.port}{literal(spec.http.path)}"
        return {"url": url, "transport": spec.http.transport, **_headers(spec.http.headers)}
    return _remote(spec.remote) if spec.remote is not None else {}


def _command(stdio: Stdio) -> dict[str, Any]:
    out: dict[str, Any] = {"command": literal(stdio.command), "args": [literal(each) for each in stdio.args]}
    if stdio.env:
        out["env"] = {variable.name: _value(variable) for variable in stdio.env}
    if stdio.env_from:
        out["envFrom"] = [_directory(source) for source in stdio.env_from]
    if stdio.working_dir is not None:
        out["workingDir"] = literal(stdio.working_dir)
    return out


def _remote(remote: Remote) -> dict[str, Any]:
    out: dict[str, Any] = {
        "url": literal(remote.url),
        "transport": remote.transport,
        "allowLinkLocal": remote.link_local == "Allow",
        **_headers(remote.headers),
    }
    if remote.tls is not None and (tls := _tls(remote.tls)):
        out["tls"] = tls
    return out


def _tls(tls: RemoteTls) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if tls.ca_certificate is not None:
        out["caFile"] = value_file(tls.ca_certificate)
    if tls.client_certificate is not None:
        out |= _certificate(tls.client_certificate.secret_name)
    if tls.server_name is not None:
        out["serverName"] = tls.server_name
    if tls.verification == "Skip":
        out["verify"] = False
    return out


def _protection(server: MCPServer) -> dict[str, Any]:
    """How calls are protected. What would have no effect on this kind of server is left out: the sidecar would warn."""
    spec = server.spec
    out: dict[str, Any] = {}
    if spec.timeouts is not None:
        out |= written(spec.timeouts)
    for name in _PROTECTION:
        section = getattr(spec, name)
        if section is not None:
            out[type(spec).model_fields[name].alias or name] = written(section)
    if spec.stdio is None:
        if spec.pool is not None:
            out["pool"] = written(spec.pool)
        out["credentials"] = spec.credentials
    else:
        if spec.stdio.isolation == "PerSession":
            out["maxSessions"] = spec.stdio.max_sessions
        if spec.stdio.restart is not None:
            out["restart"] = written(spec.stdio.restart)
        if spec.stdio.stop is not None and not is_bridged(server):
            out["stop"] = written(spec.stdio.stop)
    if spec.sessions is not None:
        out["sessions"] = spec.sessions.mode
    if spec.allowed_tools is not None:
        out["allowedTools"] = list(spec.allowed_tools)
    if spec.denied_tools:
        out["deniedTools"] = list(spec.denied_tools)
    return out


def _headers(headers: Iterable[Header]) -> dict[str, Any]:
    values = {header.name: _value(header) for header in headers}
    return {"headers": values} if values else {}


def _value(holder: EnvVar | Header) -> str | dict[str, Any]:
    if holder.value_from is not None:
        return {"valueFrom": {"file": value_file(holder.value_from)}}
    return literal(holder.value or "")


def value_file(source: ValueSource) -> str:
    """The file of a key of a Secret or ConfigMap."""
    if source.secret_key_ref is not None:
        return file_path("Secret", source.secret_key_ref.name, source.secret_key_ref.key)
    if source.config_map_key_ref is not None:
        return file_path("ConfigMap", source.config_map_key_ref.name, source.config_map_key_ref.key)
    return ""


def _directory(source: EnvFromSource) -> dict[str, Any]:
    out: dict[str, Any] = {"directory": env_from_directory(source)}
    if source.prefix is not None:
        out["prefix"] = source.prefix
    return out


def env_from_directory(source: EnvFromSource) -> str:
    """The directory whose files are the variables of an `envFrom`."""
    if source.secret_ref is not None:
        return directory("Secret", source.secret_ref.name)
    return directory("ConfigMap", source.config_map_ref.name) if source.config_map_ref is not None else ""


def _certificate(secret: str) -> dict[str, Any]:
    certificate, key = TLS_KEYS
    return {"certFile": file_path("Secret", secret, certificate), "keyFile": file_path("Secret", secret, key)}


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Both; a setting is in one of them only."""
    out = dict(one)
    for key, value in other.items():
        out[key] = _merged(out[key], value) if key in out else value
    return out

"""What an MCPServer needs of Secrets and ConfigMaps: which keys, for which field, and how they reach which container.

One walk over the spec, so that the config, the volumes, the status and the operator's own reads never disagree. Where a
value ends up in a pod is in `mounts` and `containers`; whether it is there is for the operator to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mcp_operator.api.v1alpha1 import EnvFromSource, EnvVar, Header, KeySelector, MCPServer, ValueSource

Kind = Literal["Secret", "ConfigMap"]
Container = Literal["server", "sidecar"]
Use = Literal["File", "Environment", "Volume", "SessionKey"]

TLS_KEYS = ("tls.crt", "tls.key")
"""Keys of a Secret of type `kubernetes.io/tls`."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A key of a Secret or ConfigMap in the MCPServer's namespace that its pods need."""

    kind: Kind
    name: str
    key: str | None
    """None for whatever the object holds."""
    used_for: str
    """Path of the field below `spec`: `stdio.env[TOKEN]`."""
    in_environment: bool = False
    """True where a container gets the value as a variable, and must be replaced to see a change."""


@dataclass(frozen=True, slots=True)
class Need:
    """A reference and how its value reaches a container."""

    reference: Reference
    container: Container
    use: Use = "File"
    """File: a file that is read when it is needed. Environment: a variable. Volume: a volume of the user's own.
    SessionKey: the volume of the session key."""
    required: bool = False
    """The container cannot start without it: the kubelet waits. Else a missing value makes the server not ready."""


def references(server: MCPServer) -> tuple[Reference, ...]:
    """Every key that the pods need, once for each field that needs it, in the order of the spec.

    The session key that the operator makes itself is not among them.
    """
    return tuple(dict.fromkeys(need.reference for need in needs(server)))


def environment_references(server: MCPServer) -> tuple[Reference, ...]:
    """Those of `references` whose change must replace the pods."""
    return tuple(reference for reference in references(server) if reference.in_environment)


def process_references(server: MCPServer) -> tuple[Reference, ...]:
    """Those that the bridge reads for each process that it starts, where the sidecar cannot see a change."""
    if not is_bridged(server):
        return ()
    return tuple(need.reference for need in needs(server) if need.container == "server" and need.use == "File")


def is_bridged(server: MCPServer) -> bool:
    """True for a stdio server in an image of its own, which the bridge runs."""
    return server.spec.stdio is not None and server.spec.stdio.image is not None


def needs(server: MCPServer) -> Iterator[Need]:
    """Everything that is needed, in the order of the spec."""
    yield from _of_kind(server)
    yield from _of_sidecar(server)
    yield from _of_pod(server)


def _of_kind(server: MCPServer) -> Iterator[Need]:
    stdio, http, remote = server.spec.stdio, server.spec.http, server.spec.remote
    if stdio is not None:
        container: Container = "server" if is_bridged(server) else "sidecar"
        yield from _variables("stdio", stdio.env, stdio.env_from, container, "File")
    if http is not None:
        yield from _variables("http", http.env, http.env_from, "server", "Environment")
        yield from _headers("http", http.headers)
    if remote is not None:
        yield from _headers("remote", remote.headers)
        if remote.bearer_token is not None:
            yield Need(_secret(remote.bearer_token.secret_key_ref, "remote.bearerToken"), "sidecar")
        if remote.tls is not None:
            yield from _source(remote.tls.ca_certificate, "remote.tls.caCertificate", "sidecar")
            if remote.tls.client_certificate is not None:
                name = remote.tls.client_certificate.secret_name
                yield from _certificate(name, "remote.tls.clientCertificate", required=False)


def _of_sidecar(server: MCPServer) -> Iterator[Need]:
    spec = server.spec
    if spec.sessions is not None and spec.sessions.key_secret_ref is not None:
        key = _secret(spec.sessions.key_secret_ref, "sessions.keySecretRef")
        yield Need(key, "sidecar", "SessionKey", required=True)
    if spec.front is not None:
        if spec.front.tls is not None:
            yield from _certificate(spec.front.tls.secret_name, "front.tls", required=True)
            yield from _source(spec.front.tls.client_ca, "front.tls.clientCA", "sidecar", required=True)
        for token in spec.front.tokens:
            yield Need(_secret(token.secret_key_ref, f"front.tokens[{token.name}]"), "sidecar")
    if spec.secrets is not None and spec.secrets.encryption_key is not None:
        yield Need(_secret(spec.secrets.encryption_key.secret_key_ref, "secrets.encryptionKey"), "sidecar")


def _of_pod(server: MCPServer) -> Iterator[Need]:
    template = server.spec.pod_template
    if template is None:
        return
    if template.server is not None and (is_bridged(server) or server.spec.http is not None):
        use: Use = "File" if is_bridged(server) else "Environment"
        yield from _variables("podTemplate.server", template.server.env, (), "server", use)
    for volume in template.volumes:
        at = f"podTemplate.volumes[{volume.name}]"
        if volume.secret is not None and not volume.secret.optional:
            keys = [item.key for item in volume.secret.items]
            yield from _volume("Secret", volume.secret.secret_name, keys, at)
        if volume.config_map is not None and not volume.config_map.optional:
            keys = [item.key for item in volume.config_map.items]
            yield from _volume("ConfigMap", volume.config_map.name, keys, at)
        if volume.projected is not None:
            for source in volume.projected.sources:
                yield from _projected(source, at)


def _variables(
    section: str, env: Iterable[EnvVar], env_from: Iterable[EnvFromSource], container: Container, use: Use
) -> Iterator[Need]:
    native = use == "Environment"
    for variable in env:
        yield from _source(variable.value_from, f"{section}.env[{variable.name}]", container, use)
    for index, source in enumerate(env_from):
        at = f"{section}.envFrom[{index}]"
        if source.secret_ref is not None:
            yield Need(Reference("Secret", source.secret_ref.name, None, at, native), container, use, required=native)
        if source.config_map_ref is not None:
            name = source.config_map_ref.name
            yield Need(Reference("ConfigMap", name, None, at, native), container, use, required=native)


def _headers(section: str, headers: Iterable[Header]) -> Iterator[Need]:
    for header in headers:
        yield from _source(header.value_from, f"{section}.headers[{header.name}]", "sidecar")


def _source(
    source: ValueSource | None, used_for: str, container: Container, use: Use = "File", *, required: bool = False
) -> Iterator[Need]:
    if source is None:
        return
    native = use == "Environment"
    if source.secret_key_ref is not None:
        yield Need(_secret(source.secret_key_ref, used_for, native), container, use, required or native)
    if source.config_map_key_ref is not None:
        name, key = source.config_map_key_ref.name, source.config_map_key_ref.key
        yield Need(Reference("ConfigMap", name, key, used_for, native), container, use, required or native)


def _secret(ref: KeySelector, used_for: str, in_environment: bool = False) -> Reference:
    return Reference("Secret", ref.name, ref.key, used_for, in_environment)


def _certificate(name: str, used_for: str, *, required: bool) -> Iterator[Need]:
    for key in TLS_KEYS:
        yield Need(Reference("Secret", name, key, used_for), "sidecar", required=required)


def _volume(kind: Kind, name: str, keys: Iterable[str], used_for: str) -> Iterator[Need]:
    named: list[str | None] = list(keys)
    for key in named or [None]:
        yield Need(Reference(kind, name, key, used_for), "server", "Volume", required=True)


def _projected(source: Mapping[str, Any], used_for: str) -> Iterator[Need]:
    """The API server checks the shape of a projected source; what is malformed needs nothing here."""
    kinds: tuple[tuple[str, Kind], ...] = (("secret", "Secret"), ("configMap", "ConfigMap"))
    for field, kind in kinds:
        wanted = source.get(field)
        if not isinstance(wanted, Mapping) or wanted.get("optional") or not isinstance(wanted.get("name"), str):
            continue
        items = wanted.get("items") or []
        keys = [str(item["key"]) for item in items if isinstance(item, Mapping) and "key" in item]
        yield from _volume(kind, wanted["name"], keys, used_for)

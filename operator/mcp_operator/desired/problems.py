"""What is wrong with an MCPServer that the CRD could not see, in the words and paths of the MCPServer.

The sidecar's own `parse` is asked, since whatever it refuses would end as pods that never start. Its paths are those of
the config, so they are put back into those of the spec. What the API server refuses when it gets the manifests is not
looked for here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mcp_operator.api.v1alpha1 import MCPServer
from mcp_operator.desired.cluster import Cluster
from mcp_operator.desired.config import literal
from mcp_operator.desired.containers import OWN_VARIABLES, OWN_VOLUMES
from mcp_operator.desired.needs import is_bridged
from mcp_operator.desired.service import host_names
from mcp_operator.errors import Problem
from mcp_sidecar.config import SEALED_PREFIX, ConfigError
from mcp_sidecar.config import parse as parse_config

_INDEX = re.compile(r"\[([0-9]+)\](.*)", re.DOTALL)
_STEP = re.compile(r'\.([A-Za-z0-9_$-]+)(.*)|\["(.*?)"\](.*)', re.DOTALL)


def problems(server: MCPServer, cluster: Cluster, config: dict[str, Any]) -> tuple[Problem, ...]:
    """All of them; `config` is that of the sidecar. Messages hold no value."""
    found = [Problem(_place(server, cluster, path), message) for path, message in _refusals(config)]
    found += _of_environment(server)
    found += _of_names(server)
    return tuple(dict.fromkeys(found))


def _refusals(config: dict[str, Any]) -> list[tuple[str, str]]:
    try:
        parse_config(config)
    except ConfigError as error:
        return [(problem.path, problem.message) for problem in error.problems]
    return []


def _of_environment(server: MCPServer) -> Iterator[Problem]:
    """Variables of the server's own container: they are not in the sidecar's config, but its rules hold for them."""
    spec = server.spec
    own = spec.stdio if is_bridged(server) else spec.http
    if own is None:
        return
    beside = spec.pod_template.server if spec.pod_template is not None else None
    for section, env in ((spec.kind, own.env), ("podTemplate.server", beside.env if beside is not None else ())):
        plain = {variable.name: variable.value or "" for variable in env if variable.value_from is None}
        for name, value in plain.items():
            if value.startswith(SEALED_PREFIX):
                yield Problem(
                    f"spec.{section}.env[{name}]",
                    "is a sealed value, which the sidecar cannot open for the server's own container; use a Secret",
                )
        if spec.secrets is not None and spec.secrets.require != "Any":
            values = {name: literal(value) for name, value in plain.items() if not value.startswith(SEALED_PREFIX)}
            tried = {
                "servers": {"x": {"command": "x", "env": values}},
                "secrets": {"require": spec.secrets.require},
            }
            for path, message in _refusals(tried):
                yield Problem(f"spec.{section}.env[{_last(path)}]", message)


def _of_names(server: MCPServer) -> Iterator[Problem]:
    """Names in podTemplate that are the operator's."""
    template = server.spec.pod_template
    if template is None:
        return
    for volume in template.volumes:
        if OWN_VOLUMES.fullmatch(volume.name):
            yield Problem(f"spec.podTemplate.volumes[{volume.name}]", "is the name of a volume of the operator's own")
    if template.sidecar is not None:
        for variable in template.sidecar.env:
            if OWN_VARIABLES.match(variable.name):
                yield Problem(
                    f"spec.podTemplate.sidecar.env[{variable.name}]",
                    "is for the operator to set; say it with the fields of the spec",
                )
    known = {volume.name for volume in template.volumes}
    for name, container in (("server", template.server), ("sidecar", template.sidecar)):
        for mount in container.volume_mounts if container is not None else ():
            if mount.name not in known:
                yield Problem(
                    f"spec.podTemplate.{name}.volumeMounts[{mount.mount_path}].name",
                    "names no volume of podTemplate.volumes",
                )


def _last(path: str) -> str:
    """The last step of a path of the sidecar: `servers.x.env.TOKEN`, `servers.x.env["a.b"]`."""
    return path[:-2].rpartition('["')[2] if path.endswith('"]') else path.rpartition(".")[2]


def _place(server: MCPServer, cluster: Cluster, path: str) -> str:
    """The path in the MCPServer for a path in the config."""
    kind = server.spec.kind
    base = f"servers.{server.metadata.name}"
    places = {
        f"{base}.url": "spec.http.path" if kind == "http" else "spec.remote.url",
        f"{base}.tls.caFile": "spec.remote.tls.caCertificate",
        f"{base}.tls.certFile": "spec.remote.tls.clientCertificate",
        f"{base}.tls.keyFile": "spec.remote.tls.clientCertificate",
        f"{base}.tls.verify": "spec.remote.tls.verification",
        f"{base}.tls": "spec.remote.tls",
        f"{base}.allowLinkLocal": "spec.remote.linkLocal",
        f"{base}.socket": "spec.stdio",
        f"{base}.sessions": "spec.sessions.mode",
        "readiness.mode": "spec.readiness",
        "readiness": "spec.readiness",
        "front.tls.certFile": "spec.front.tls.secretName",
        "front.tls.keyFile": "spec.front.tls.secretName",
        "front.tls.clientCaFile": "spec.front.tls.clientCA",
        "sessions.keyFile": "spec.sessions.keySecretRef",
        "secrets.keyFile": "spec.secrets.encryptionKey",
        "front.allowedOrigins": "spec.service.allowedOrigins",
        "front.allowedHosts": "spec.service.allowedHosts",
        base: f"spec.{kind}",
    }
    places |= {f"{base}.{name}": f"spec.{kind}.{name}" for name in _OF_KIND}
    places |= {f"{base}.{name}": f"spec.timeouts.{name}" for name in _TIMES}
    places |= {f"{base}.{name}": f"spec.{name}" for name in _OF_SPEC}
    for start in sorted(places, key=len, reverse=True):
        rest = path[len(start) :]
        if path.startswith(start) and rest[:1] in ("", ".", "["):
            return places[start] + _rest(server, cluster, start, rest)
    return f"spec.{path}" if path else "spec"


_OF_KIND = (
    "command",
    "args",
    "env",
    "envFrom",
    "workingDir",
    "headers",
    "transport",
    "isolation",
    "processes",
    "maxSessions",
    "restart",
    "stop",
)
_TIMES = ("timeout", "totalTimeout", "connectTimeout", "startTimeout")
_OF_SPEC = (
    "retry",
    "circuitBreaker",
    "pool",
    "limits",
    "cache",
    "health",
    "credentials",
    "allowedTools",
    "deniedTools",
)


def _rest(server: MCPServer, cluster: Cluster, start: str, rest: str) -> str:
    """What follows a known place, where the MCPServer counts or names it otherwise."""
    if start.endswith((".env", ".headers")) and (step := _STEP.fullmatch(rest)):
        return f"[{step[1] or step[3]}]{step[2] or step[4] or ''}"
    if start == "front.allowedHosts" and (index := _INDEX.fullmatch(rest)):
        # The operator's own names come first; one that the user repeats is in the list once.
        names = host_names(server, cluster)
        allowed = server.spec.service.allowed_hosts if server.spec.service is not None else ()
        merged = list(dict.fromkeys((*names, *allowed)))
        place = int(index[1])
        if place < len(merged) and merged[place] in allowed:
            return f"[{allowed.index(merged[place])}]{index[2]}"
    return rest

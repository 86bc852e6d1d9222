"""Rules about what an MCPServer is: its name, its kind, what fits which kind, headers and environment.

The same as the sidecar's own rules (`mcp_sidecar.config.rules`) where it has one, so that a mistake is told when it is
applied and not by a pod; what the sidecar only warns of, since it also loads files of desktop clients, is refused here.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from mcp_operator.api.rule import Declared
from mcp_operator.api.v1alpha1.kinds import Http, Remote, Stdio
from mcp_operator.api.v1alpha1.references import EnvFromSource, EnvVar, Header, ValueSource
from mcp_operator.api.v1alpha1.spec import MCPServer, MCPServerSpec
from mcp_sidecar.config import MANAGED_HEADERS, SEALED_PREFIX

STDIO: dict[str, Any] = {"stdio": {"command": "server"}}
OWN_IMAGE: dict[str, Any] = {"stdio": {"command": "server", "image": "registry.example/server:1"}}
HTTP: dict[str, Any] = {"http": {"image": "registry.example/server:1"}}
REMOTE: dict[str, Any] = {"remote": {"url": "https://mcp.example/mcp"}}
_URL: dict[str, Any] = REMOTE["remote"]
_KEY = {"name": "token", "key": "value"}
_SOURCE = {"secretKeyRef": _KEY}
_TOKEN = {"name": "TOKEN", "value": "text"}
_SEALED = {"name": "TOKEN", "value": f"{SEALED_PREFIX}gAAAA"}
_HEADER = {"name": "X-Team", "value": "blue"}

_TELLING = "(?i)KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH"  # as in mcp_sidecar.config.rules
_UNSET = sorted(MANAGED_HEADERS | {"accept", "content-type"})


def _there(path: str) -> str:
    """CEL for: the list at `path` below self is given."""
    steps = path.split(".")
    return " && ".join(f"has(self.{'.'.join(steps[:length])})" for length in range(1, len(steps) + 1))


def _literal_headers(kind: str, rest: dict[str, Any]) -> Declared:
    bare = f"self.{kind}.headers.all(h, !has(h.value) || h.value.startsWith('{SEALED_PREFIX}'))"
    return Declared(
        id=f"literal-{kind}-headers",
        rule=f"!has(self.secrets) || self.secrets.require == 'Any' || !({_there(f'{kind}.headers')}) || {bare}",
        message="secrets.require is SealedOrFile: give the header's value by valueFrom, or sealed",
        field=f".{kind}.headers",
        accepted={
            kind: {**rest, "headers": [{"name": "X-Team", "valueFrom": _SOURCE}]},
            "secrets": {"require": "SealedOrFile"},
        },
        refused={kind: {**rest, "headers": [_HEADER]}, "secrets": {"require": "SealedOrFile"}},
    )


def _literal_env(path: str, accepted: dict[str, Any], refused: dict[str, Any]) -> Declared:
    name = path.replace(".", "-").lower()
    plain = f"has(e.value) && !e.value.startsWith('{SEALED_PREFIX}')"
    bare = f"!self.{path}.exists(e, {plain} && e.name.matches('{_TELLING}'))"
    return Declared(
        id=f"literal-{name}",
        rule=f"!has(self.secrets) || self.secrets.require == 'Any' || !({_there(path)}) || {bare}",
        message="secrets.require is SealedOrFile: give a variable that looks like a secret (KEY, TOKEN, SECRET, PASSW, "
        "CREDENTIAL, AUTH in its name) by valueFrom, or sealed",
        field=f".{path}",
        accepted={**accepted, "secrets": {"require": "SealedOrFile"}},
        refused={**refused, "secrets": {"require": "SealedOrFile"}},
    )


def _sealed(path: str, sealed: dict[str, Any], *, unless: str = "") -> Declared:
    name = path.replace(".", "-").lower()
    return Declared(
        id=f"sealed-{name}-needs-key",
        rule=f"!({_there(path)}) || {unless}(has(self.secrets) && has(self.secrets.encryptionKey)) || "
        f"self.{path}.all(e, !has(e.value) || !e.value.startsWith('{SEALED_PREFIX}'))",
        message="a sealed value (fernet:v1:…) needs secrets.encryptionKey to be opened",
        field=f".{path}",
        accepted={**sealed, "secrets": {"encryptionKey": _SOURCE}},
        refused=sealed,
    )


_NAME = Declared(
    id="name",
    rule="self.metadata.name.matches('^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$')",
    message="metadata.name must be at most 50 characters, begin with a letter, hold only a-z, 0-9 and -, and not end "
    "with -: the Deployment and the Service are named after it",
    accepted={"metadata": {"name": "a" * 50}},
    refused={"metadata": {"name": "1st-server"}},
)

_SPEC = (
    Declared(
        id="one-kind",
        rule="[has(self.stdio), has(self.http), has(self.remote)].filter(given, given).size() == 1",
        message="give exactly one of stdio, http and remote",
        accepted=STDIO,
        refused={**STDIO, **REMOTE},
    ),
    Declared(
        id="pool-needs-http",
        rule="!has(self.stdio) || !has(self.pool)",
        message="pool has no effect on stdio, which has no HTTP connections: remove it, or set limits.maxConcurrent",
        field=".pool",
        accepted={**REMOTE, "pool": {"max": 20}},
        refused={**STDIO, "pool": {"max": 20}},
    ),
    Declared(
        id="forward-needs-http",
        rule="!has(self.stdio) || self.credentials == 'Drop'",
        message="credentials: Forward has no effect on stdio, which has no headers: remove it",
        field=".credentials",
        accepted={**HTTP, "credentials": "Forward"},
        refused={**STDIO, "credentials": "Forward"},
    ),
    *(
        Declared(
            id=f"forward-or-{kind}-authorization",
            rule=f"self.credentials == 'Drop' || !({_there(f'{kind}.headers')}) || "
            f"!self.{kind}.headers.exists(h, h.name.lowerAscii() == 'authorization')",
            message=f"give one of credentials: Forward and the header Authorization in {kind}.headers: one of both "
            "would win silently",
            field=".credentials",
            accepted={kind: {**rest, "headers": [_HEADER]}, "credentials": "Forward"},
            refused={
                kind: {**rest, "headers": [{"name": "AUTHORIZATION", "valueFrom": _SOURCE}]},
                "credentials": "Forward",
            },
        )
        for kind, rest in (("http", HTTP["http"]), ("remote", _URL))
    ),
    Declared(
        id="forward-or-bearer-token",
        rule="self.credentials == 'Drop' || !has(self.remote) || !has(self.remote.bearerToken)",
        message="give one of credentials: Forward and remote.bearerToken: one of both would win silently",
        field=".credentials",
        accepted={"remote": {**_URL, "bearerToken": _SOURCE}},
        refused={"remote": {**_URL, "bearerToken": _SOURCE}, "credentials": "Forward"},
    ),
    Declared(
        id="connect-timeout-needs-http",
        rule="!has(self.stdio) || !has(self.timeouts) || !has(self.timeouts.connectTimeout)",
        message="timeouts.connectTimeout has no effect on stdio: remove it, or set timeouts.startTimeout",
        field=".timeouts.connectTimeout",
        accepted={**REMOTE, "timeouts": {"connectTimeout": "5s"}},
        refused={**STDIO, "timeouts": {"connectTimeout": "5s"}},
    ),
    Declared(
        id="start-timeout-needs-stdio",
        rule="has(self.stdio) || !has(self.timeouts) || !has(self.timeouts.startTimeout)",
        message="timeouts.startTimeout is for stdio only: remove it, or set timeouts.connectTimeout",
        field=".timeouts.startTimeout",
        accepted={**STDIO, "timeouts": {"startTimeout": "5m"}},
        refused={**REMOTE, "timeouts": {"startTimeout": "5m"}},
    ),
    Declared(
        id="http-port-is-free",
        rule="!has(self.http) || !((has(self.front) ? [self.front.port, self.front.adminPort] : [8080, 9090])"
        ".exists(port, port == self.http.port))",
        message="http.port must differ from front.port (8080) and front.adminPort (9090), since all listen in one pod: "
        "change the one that can be changed",
        field=".http.port",
        accepted={"http": {**HTTP["http"], "port": 8080}, "front": {"port": 8081}},
        refused={"http": {**HTTP["http"], "port": 8080}},
    ),
    Declared(
        id="server-container",
        rule="!has(self.podTemplate) || !has(self.podTemplate.server) || has(self.http) || "
        "(has(self.stdio) && has(self.stdio.image))",
        message="podTemplate.server is for a server in a container of its own (http, or stdio with image): write it "
        "under podTemplate.sidecar, where the server runs or is called from",
        field=".podTemplate.server",
        accepted={**OWN_IMAGE, "podTemplate": {"server": {"resources": {"limits": {"memory": "256Mi"}}}}},
        refused={**STDIO, "podTemplate": {"server": {"resources": {"limits": {"memory": "256Mi"}}}}},
    ),
    Declared(
        id="pod-monitor-needs-metrics",
        rule="!has(self.monitoring) || self.monitoring.podMonitor == 'Disabled' || !has(self.metrics) || "
        "self.metrics.enabled",
        message="monitoring.podMonitor: Enabled needs metrics.enabled: true",
        field=".monitoring.podMonitor",
        accepted={**STDIO, "monitoring": {"podMonitor": "Enabled"}},
        refused={**STDIO, "monitoring": {"podMonitor": "Enabled"}, "metrics": {"enabled": False}},
    ),
    _literal_headers("http", HTTP["http"]),
    _literal_headers("remote", _URL),
    _literal_env(
        "stdio.env",
        {"stdio": {"command": "server", "env": [{"name": "MODE", "value": "text"}]}},
        {"stdio": {"command": "server", "env": [_TOKEN]}},
    ),
    _literal_env(
        "http.env",
        {"http": {**HTTP["http"], "env": [{"name": "MODE", "value": "text"}]}},
        {"http": {**HTTP["http"], "env": [_TOKEN]}},
    ),
    _literal_env(
        "podTemplate.server.env",
        {**HTTP, "podTemplate": {"server": {"env": [{"name": "MODE", "value": "text"}]}}},
        {**HTTP, "podTemplate": {"server": {"env": [_TOKEN]}}},
    ),
    _sealed("stdio.env", {"stdio": {"command": "server", "env": [_SEALED]}}, unless="has(self.stdio.image) || "),
    _sealed("http.headers", {"http": {**HTTP["http"], "headers": [{**_SEALED, "name": "X-Token"}]}}),
    _sealed("remote.headers", {"remote": {**_URL, "headers": [{**_SEALED, "name": "X-Token"}]}}),
)

_STDIO = (
    Declared(
        id="one-process-per-session",
        rule="self.isolation == 'Shared' || self.processes == 1",
        message="processes must be 1 with isolation: PerSession, which starts a process for each session; its bound is "
        "maxSessions",
        field=".processes",
        accepted={**STDIO["stdio"], "processes": 4},
        refused={**STDIO["stdio"], "processes": 4, "isolation": "PerSession"},
    ),
    Declared(
        id="max-sessions-needs-per-session",
        rule="self.isolation == 'PerSession' || !has(self.maxSessions)",
        message="maxSessions has no effect without isolation: PerSession: remove it, or set that",
        field=".maxSessions",
        accepted={**STDIO["stdio"], "maxSessions": 4, "isolation": "PerSession"},
        refused={**STDIO["stdio"], "maxSessions": 4},
    ),
    Declared(
        id="pull-policy-needs-image",
        rule="has(self.image) || !has(self.imagePullPolicy)",
        message="imagePullPolicy has no effect without image: remove it, or give the server's image",
        field=".imagePullPolicy",
        accepted={**OWN_IMAGE["stdio"], "imagePullPolicy": "Always"},
        refused={**STDIO["stdio"], "imagePullPolicy": "Always"},
    ),
    Declared(
        id="stop-without-image",
        rule="!has(self.image) || !has(self.stop)",
        message="stop has no effect with image, where the bridge stops the processes: remove it",
        field=".stop",
        accepted={**STDIO["stdio"], "stop": {"termGrace": "5s"}},
        refused={**OWN_IMAGE["stdio"], "stop": {"termGrace": "5s"}},
    ),
    Declared(
        id="sealed-in-own-image",
        rule="!has(self.image) || !has(self.env) || "
        f"self.env.all(e, !has(e.value) || !e.value.startsWith('{SEALED_PREFIX}'))",
        message="a sealed value (fernet:v1:…) is opened by the sidecar, not in the server's own image: give it by "
        "valueFrom",
        field=".env",
        accepted={**OWN_IMAGE["stdio"], "env": [{"name": "TOKEN", "valueFrom": _SOURCE}]},
        refused={**OWN_IMAGE["stdio"], "env": [_SEALED]},
    ),
)


def _headers(rest: dict[str, Any]) -> tuple[Declared, ...]:
    return (
        Declared(
            id="headers-once",
            rule="!has(self.headers) || self.headers.all(h, self.headers.exists_one(o, o.name.lowerAscii() == "
            "h.name.lowerAscii()))",
            message="a header is there twice (case does not matter): give each once",
            field=".headers",
            accepted={**rest, "headers": [_HEADER, {"name": "x-other", "value": "1"}]},
            refused={**rest, "headers": [_HEADER, {**_HEADER, "name": "x-team"}]},
        ),
    )


_HTTP = (
    *_headers(HTTP["http"]),
    Declared(
        id="sealed-in-http",
        rule=f"!has(self.env) || self.env.all(e, !has(e.value) || !e.value.startsWith('{SEALED_PREFIX}'))",
        message="a sealed value (fernet:v1:…) is opened by the sidecar, not in the server's container: give it by "
        "valueFrom",
        field=".env",
        accepted={**HTTP["http"], "env": [_TOKEN]},
        refused={**HTTP["http"], "env": [_SEALED]},
    ),
)

_REMOTE = (
    *_headers(_URL),
    Declared(
        id="tls-needs-https",
        rule="!has(self.tls) || self.url.startsWith('https://')",
        message="tls needs a url that begins with https://",
        field=".tls",
        accepted={**_URL, "tls": {"serverName": "mcp.internal"}},
        refused={"url": "http://mcp.example/mcp", "tls": {"serverName": "mcp.internal"}},
    ),
    Declared(
        id="bearer-token-or-authorization",
        rule="!has(self.bearerToken) || !has(self.headers) || "
        "!self.headers.exists(h, h.name.lowerAscii() == 'authorization')",
        message="give one of bearerToken and the header Authorization",
        field=".bearerToken",
        accepted={**_URL, "bearerToken": _SOURCE, "headers": [_HEADER]},
        refused={**_URL, "bearerToken": _SOURCE, "headers": [{"name": "Authorization", "valueFrom": _SOURCE}]},
    ),
)


def _either(one: str, other: str, data: dict[str, Any], both: dict[str, Any], **rest: Any) -> Declared:
    return Declared(
        id=f"{one}-or-{other}".lower(),
        rule=f"has(self.{one}) != has(self.{other})",
        message=f"give exactly one of {one} and {other}",
        accepted={**data, **rest},
        refused={**data, **both, **rest},
    )


RULES: dict[type[BaseModel], tuple[Declared, ...]] = {
    MCPServer: (_NAME,),
    MCPServerSpec: _SPEC,
    Stdio: _STDIO,
    Http: _HTTP,
    Remote: _REMOTE,
    EnvVar: (_either("value", "valueFrom", {"value": "text"}, {"valueFrom": _SOURCE}, name="MODE"),),
    ValueSource: (_either("secretKeyRef", "configMapKeyRef", _SOURCE, {"configMapKeyRef": _KEY}),),
    EnvFromSource: (
        _either("secretRef", "configMapRef", {"secretRef": {"name": "all"}}, {"configMapRef": {"name": "all"}}),
    ),
    Header: (
        _either("value", "valueFrom", {"value": "text"}, {"valueFrom": _SOURCE}, name="X-Team"),
        Declared(
            id="header-is-ours",
            rule=f"!(self.name.lowerAscii() in {_UNSET})",
            message="this header is the protocol's or the connection's own and is set by the sidecar: remove it",
            field=".name",
            accepted=_HEADER,
            refused={"name": "Mcp-Session-Id", "value": "text"},
        ),
    ),
}

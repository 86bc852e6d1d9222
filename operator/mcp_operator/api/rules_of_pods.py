"""Rules about what people add to the pods: labels, volumes and mounts, security, tolerations, resources.

Mostly those of the core API, so that a mistake is told when the MCPServer is applied and not by a refused Deployment;
beside them what keeps the operator's own parts of the pod whole.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from mcp_operator.api.rule import Declared
from mcp_operator.api.v1alpha1.pod import (
    PodTemplate,
    Resources,
    SeccompProfile,
    SidecarContainer,
    Toleration,
    TopologySpreadConstraint,
)
from mcp_operator.api.v1alpha1.volumes import KeyToPath, Volume, VolumeMount
from mcp_operator.api.v1alpha1.workload import LabelSelector, Monitoring, Service

OWN_LABELS = (
    "app.kubernetes.io/component",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/name",
    "app.kubernetes.io/part-of",
    "pod-template-hash",
)
"""Labels that the operator, or the Deployment it makes, sets; with those that begin with outrigger.dev/."""

OWN_VOLUMES = ("bridge", "config", "home", "server-tmp", "session", "socket", "state", "tmp")
"""Volumes of the operator; with secret-N and configmap-N."""

_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_HIDING = ["/", "/etc", "/run", "/dev", "/proc", "/sys", "/tmp"]  # noqa: S108 names, no files of ours


def _metadata(name: str, *, labels: bool, spelled: str) -> tuple[Declared, ...]:
    """Rules of the map of labels or annotations that is called `name`."""
    own = (
        f"key in {list(OWN_LABELS)} || key.startsWith('outrigger.dev/')"
        if labels
        else "key.startsWith('outrigger.dev/')"
    )
    kind = "label" if labels else "annotation"
    which = (
        "app.kubernetes.io/ name, instance, component, part-of, managed-by, and outrigger.dev/"
        if labels
        else "outrigger.dev/"
    )
    return (
        Declared(
            id=f"own-{name.lower()}",
            rule=f"!has(self.{name}) || !self.{name}.exists(key, {own})",
            message=f"a {kind} of these belongs to the operator ({which}…): remove it",
            field=f".{name}",
            accepted={name: {"example.org/team": "blue"}},
            refused={name: {"outrigger.dev/mcpserver": "other"}},
        ),
        Declared(
            id=f"{name.lower()}-keys",
            rule=f"!has(self.{name}) || self.{name}.all(key, key.matches(r'{_KEY}'))",
            message=f"a key is no key of {spelled}: at most 63 characters of A-Z, a-z, 0-9, -, _ and ., beginning and "
            "ending with a letter or digit, after an optional DNS name and /",
            field=f".{name}",
            accepted={name: {"example.org/team": "blue"}},
            refused={name: {"-team": "blue"}},
        ),
    )


def _mounted(container: str) -> Declared:
    mounts = f"self.{container}.volumeMounts"
    return Declared(
        id=f"{container}-mounts-exist",
        rule=f"!has(self.{container}) || !has({mounts}) || {mounts}.all(m, has(self.volumes) && "
        "self.volumes.exists(v, v.name == m.name))",
        message="a name is not in podTemplate.volumes: add the volume there, or use the name of one that is",
        field=f".{container}.volumeMounts",
        accepted={
            "volumes": [{"name": "data", "emptyDir": {}}],
            container: {"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        },
        refused={container: {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}},
    )


_SOURCES = ("emptyDir", "configMap", "secret", "projected", "persistentVolumeClaim", "ephemeral")

_VOLUME = (
    Declared(
        id="one-source",
        rule=f"[{', '.join(f'has(self.{source})' for source in _SOURCES)}].filter(given, given).size() == 1",
        message=f"give exactly one of {', '.join(_SOURCES[:-1])} and {_SOURCES[-1]}",
        accepted={"name": "data", "emptyDir": {}},
        refused={"name": "data"},
    ),
    Declared(
        id="own-volumes",
        rule=f"!(self.name in {list(OWN_VOLUMES)}) && !self.name.matches('^(secret|configmap)-[0-9]+$')",
        message=f"the names {', '.join(OWN_VOLUMES)}, secret-N and configmap-N belong to the operator: use another",
        field=".name",
        accepted={"name": "data", "emptyDir": {}},
        refused={"name": "config", "emptyDir": {}},
    ),
)

_MOUNT = (
    Declared(
        id="own-paths",
        rule=f"!(self.mountPath in {_HIDING}) && !self.mountPath.matches('^/(etc|run)/outrigger(/|$)')",
        message=f"must not be {', '.join(_HIDING)}, nor /etc/outrigger or /run/outrigger or below, which belong to the "
        "pod itself: mount it elsewhere",
        field=".mountPath",
        accepted={"name": "data", "mountPath": "/data"},
        refused={"name": "data", "mountPath": "/run/outrigger/secrets"},
    ),
    Declared(
        id="plain-path",
        rule="self.mountPath == '/' || !self.mountPath.matches('//|/[.]{1,2}(/|$)|:|/$')",
        message="must be a plain absolute path: no .., no ., no //, no colon, and no / at the end",
        field=".mountPath",
        accepted={"name": "data", "mountPath": "/data/..cache"},
        refused={"name": "data", "mountPath": "/srv/../etc/outrigger"},
    ),
    Declared(
        id="sub-path",
        rule="!has(self.subPath) || !self.subPath.matches('^/|(^|/)[.]{2}(/|$)')",
        message="must stay inside the volume: no / at the beginning, and no .. in it",
        field=".subPath",
        accepted={"name": "data", "mountPath": "/data", "subPath": "models/small"},
        refused={"name": "data", "mountPath": "/data", "subPath": "../other"},
    ),
)

_TOLERATION = (
    Declared(
        id="exists-has-no-value",
        rule="!has(self.operator) || self.operator != 'Exists' || !has(self.value)",
        message="operator: Exists takes no value: remove it",
        field=".value",
        accepted={"key": "gpu", "operator": "Exists"},
        refused={"key": "gpu", "operator": "Exists", "value": "yes"},
    ),
    Declared(
        id="every-key-exists",
        rule="has(self.key) || (has(self.operator) && self.operator == 'Exists')",
        message="without key, operator must be Exists: that tolerates every taint",
        field=".operator",
        accepted={"operator": "Exists"},
        refused={"operator": "Equal"},
    ),
    Declared(
        id="seconds-of-no-execute",
        rule="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        message="tolerationSeconds needs effect: NoExecute",
        field=".tolerationSeconds",
        accepted={"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
        refused={"key": "gpu", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 60},
    ),
)

_SPREAD = Declared(
    id="min-domains",
    rule="!has(self.minDomains) || self.whenUnsatisfiable == 'DoNotSchedule'",
    message="minDomains needs whenUnsatisfiable: DoNotSchedule",
    field=".minDomains",
    accepted={"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2},
    refused={"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2},
)

_SECCOMP = Declared(
    id="localhost-profile",
    rule="has(self.localhostProfile) == (self.type == 'Localhost')",
    message="type: Localhost needs localhostProfile, and RuntimeDefault takes none",
    field=".localhostProfile",
    accepted={"type": "Localhost", "localhostProfile": "profiles/mcp.json"},
    refused={"type": "RuntimeDefault", "localhostProfile": "profiles/mcp.json"},
)

_RESOURCES = Declared(
    id="requests-at-most-limits",
    rule="!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || "
    "!quantity(string(self.requests[name])).isGreaterThan(quantity(string(self.limits[name]))))",
    message="requests must be at most limits",
    field=".requests",
    accepted={"requests": {"cpu": "500m"}, "limits": {"cpu": 1}},
    refused={"requests": {"memory": "2Gi"}, "limits": {"memory": "512Mi"}},
)

_SIDECAR: dict[str, Any] = {"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}
_OWN_VARIABLES = Declared(
    id="own-variables",
    rule="!has(self.env) || !self.env.exists(e, e.name.startsWith('OUTRIGGER_') || e.name.startsWith('MCP_') || "
    "e.name == 'POD_IP')",
    message="variables that begin with OUTRIGGER_ or MCP_, and POD_IP, configure the sidecar and belong to the "
    "operator: write the field of the spec instead",
    field=".env",
    accepted={"env": [_SIDECAR]},
    refused={"env": [{"name": "OUTRIGGER__FRONT__PORT", "value": "1"}]},
)

_KEY_TO_PATH = Declared(
    id="path-in-volume",
    rule="!self.path.matches('^/|(^|/)[.]{2}(/|$)')",
    message="must stay inside the volume: no / at the beginning, and no .. in it",
    field=".path",
    accepted={"key": "ca.crt", "path": "certs/ca.crt"},
    refused={"key": "ca.crt", "path": "../ca.crt"},
)

_SELECTOR = Declared(
    id="selector-keys",
    rule=f"!has(self.matchLabels) || self.matchLabels.all(key, key.matches(r'{_KEY}'))",
    message="a key is no key of a label",
    field=".matchLabels",
    accepted={"matchLabels": {"example.org/team": "blue"}},
    refused={"matchLabels": {"-team": "blue"}},
)

RULES: dict[type[BaseModel], tuple[Declared, ...]] = {
    PodTemplate: (
        *_metadata("labels", labels=True, spelled="a label"),
        *_metadata("annotations", labels=False, spelled="an annotation"),
        _mounted("server"),
        _mounted("sidecar"),
    ),
    Service: (
        *_metadata("labels", labels=True, spelled="a label"),
        *_metadata("annotations", labels=False, spelled="an annotation"),
    ),
    Monitoring: _metadata("labels", labels=True, spelled="a label"),
    Volume: _VOLUME,
    VolumeMount: _MOUNT,
    KeyToPath: (_KEY_TO_PATH,),
    SidecarContainer: (_OWN_VARIABLES,),
    SeccompProfile: (_SECCOMP,),
    Toleration: _TOLERATION,
    TopologySpreadConstraint: (_SPREAD,),
    Resources: (_RESOURCES,),
    LabelSelector: (_SELECTOR,),
}

"""The pod template: containers, volumes, users, where the pods run.

It depends on nothing that reaches running pods by itself, or a tunable would replace them. It meets the restricted pod
security standard and carries no token of a service account.
"""

from __future__ import annotations

import math
from typing import Any

from mcp_operator.api.v1alpha1 import MCPServer, PodTemplate, Shutdown, Volume, written
from mcp_operator.desired.cluster import Images
from mcp_operator.desired.containers import (
    PRE_STOP_SECONDS,
    bridge_installer,
    runs_command,
    server_container,
    sidecar,
)
from mcp_operator.desired.metadata import CHECKSUM_ANNOTATION, labels, selector_labels, without_nulls
from mcp_operator.desired.mounts import FILE_MODE, mounts
from mcp_operator.desired.needs import environment_references, is_bridged, needs
from mcp_operator.desired.session import session_secret_key, session_secret_name

FS_GROUP = 65532
"""Group of the pod's volumes: the containers share the bridge's socket and the files of Secrets by it, whatever their
users are. It is that of our images."""

GRACE_MARGIN_SECONDS = 10
"""Beside the time for calls to end: the sidecar stops processes and writes its last lines, then the server stops."""


def pod_template(server: MCPServer, images: Images, config_map: str, checksum: str) -> dict[str, Any]:
    """The template of a Deployment's pods. `config_map` is the ConfigMap's name; `checksum` stands for the values that
    containers have in their environment."""
    template = server.spec.pod_template or PodTemplate()
    annotations = dict(template.annotations or {})
    if checksum and environment_references(server):
        annotations[CHECKSUM_ANNOTATION] = checksum
    metadata: dict[str, Any] = {"labels": {**(template.labels or {}), **labels(server)}}
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": _spec(server, template, images, config_map)}


def service_account_name(server: MCPServer) -> str:
    """The user's ServiceAccount, else our own."""
    template = server.spec.pod_template
    named = template.service_account_name if template is not None else None
    return named or server.metadata.name


def _spec(server: MCPServer, template: PodTemplate, images: Images, config_map: str) -> dict[str, Any]:
    files = mounts(needs(server))
    init = [
        container
        for container in (bridge_installer(server, images), server_container(server, files))
        if container is not None
    ]
    out: dict[str, Any] = {
        "serviceAccountName": service_account_name(server),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _grace(server),
        "securityContext": _security(template),
        "containers": [sidecar(server, images, files)],
        "volumes": [*_volumes(server, config_map), *files.volumes, *(_users_volume(each) for each in template.volumes)],
    }
    if init:
        out["initContainers"] = init
    secrets = dict.fromkeys((*images.pull_secrets, *(each.name for each in template.image_pull_secrets)))
    if secrets:
        out["imagePullSecrets"] = [{"name": name} for name in secrets]
    return out | _scheduling(server, template)


def _grace(server: MCPServer) -> int:
    """Seconds from the end of a pod to SIGKILL."""
    shutdown = server.spec.shutdown or Shutdown()
    return PRE_STOP_SECONDS + math.ceil(shutdown.grace_period) + GRACE_MARGIN_SECONDS


def _security(template: PodTemplate) -> dict[str, Any]:
    wanted = written(template.security_context) if template.security_context is not None else {}
    if not wanted.get("supplementalGroups"):
        wanted.pop("supplementalGroups", None)
    return {"fsGroup": FS_GROUP, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}} | wanted


def _scheduling(server: MCPServer, template: PodTemplate) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if template.node_selector:
        out["nodeSelector"] = dict(template.node_selector)
    if template.tolerations:
        out["tolerations"] = [written(each) for each in template.tolerations]
    if template.affinity:
        out["affinity"] = without_nulls(template.affinity)
    if template.priority_class_name is not None:
        out["priorityClassName"] = template.priority_class_name
    if template.runtime_class_name is not None:
        out["runtimeClassName"] = template.runtime_class_name
    if constraints := _spread(server, template):
        out["topologySpreadConstraints"] = constraints
    return out


def _spread(server: MCPServer, template: PodTemplate) -> list[dict[str, Any]]:
    """Over zones and nodes as far as that is possible, unless the user says otherwise; an empty list says nothing."""
    if template.topology_spread_constraints is not None:
        return [
            {"labelSelector": {"matchLabels": selector_labels(server)}, **_filled(written(each))}
            for each in template.topology_spread_constraints
        ]
    return [
        {
            "topologyKey": key,
            "maxSkew": 1,
            "whenUnsatisfiable": "ScheduleAnyway",
            # Old and new pods of a rollout are not counted together: else the new ones would end up lopsided.
            "matchLabelKeys": ["pod-template-hash"],
            "labelSelector": {"matchLabels": selector_labels(server)},
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]


def _volumes(server: MCPServer, config_map: str) -> list[dict[str, Any]]:
    """The operator's own volumes."""
    session = {
        "secretName": session_secret_name(server),
        "defaultMode": FILE_MODE,
        "items": [{"key": session_secret_key(server), "path": "key"}],
    }
    out: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": config_map}},
        {"name": "session", "secret": session},
        {"name": "state", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if runs_command(server):
        out.append({"name": "home", "emptyDir": {}})
    else:
        if is_bridged(server):
            out.append({"name": "bridge", "emptyDir": {"sizeLimit": "16Mi"}})
            out.append({"name": "socket", "emptyDir": {"sizeLimit": "1Mi"}})
        if server.spec.remote is None:
            out.append({"name": "server-tmp", "emptyDir": {}})
    return out


def _users_volume(volume: Volume) -> dict[str, Any]:
    out: dict[str, Any] = without_nulls(written(volume))
    if volume.empty_dir is not None and not volume.empty_dir.medium:
        out["emptyDir"].pop("medium", None)
    if volume.empty_dir is not None and volume.empty_dir.size_limit is not None:
        out["emptyDir"]["sizeLimit"] = str(volume.empty_dir.size_limit)
    for source in ("secret", "configMap"):
        if source in out and not out[source].get("items"):
            out[source].pop("items", None)
    return out


def _filled(constraint: dict[str, Any]) -> dict[str, Any]:
    """Without the empty lists that the API server would drop."""
    return {name: value for name, value in constraint.items() if value != []}

"""What the operator keeps of the objects it watches: small frozen views, made once from the API's dicts.

An informer holds one view for every object there is, so a view keeps what reconciling, diagnosis and status read and
nothing else: strings that repeat are interned, messages are cut to `MESSAGE_LIMIT` characters, and containers are
kept only as how they fare. Views compare by value: an event that changes nothing here needs no reconcile.

What a view means is left to others: diagnosis.py says what is wrong, status.py says it to the user.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from mcp_operator.desired.metadata import CHECKSUM_ANNOTATION
from mcp_operator.desired.provenance import PROVENANCE_ANNOTATION, Provenance
from mcp_operator.observed_metadata import (
    ChildView,
    ConditionView,
    Object,
    Owner,
    applied,
    conditions_of,
    end,
    identity,
    items,
    mapping,
    number,
    start,
    text,
    word,
)

__all__ = [
    "ChildView",
    "ConditionView",
    "ContainerView",
    "DeploymentView",
    "Ended",
    "Owner",
    "PodView",
    "ReplicaSetView",
    "applied",
    "template_hash",
]

CONFIG_HASH_ANNOTATION = "outrigger.dev/config-hash"
REVISION_ANNOTATION = "deployment.kubernetes.io/revision"
TEMPLATE_HASH_LABEL = "pod-template-hash"
CONFIG_VOLUME = "config"
HOME_VOLUME = "home"
"""Only pods whose sidecar runs the server's command have it."""
SIDECAR_CONTAINER = "sidecar"
ADMIN_PORT_NAME = "admin"
DEFAULT_ADMIN_PORT = 9090


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """A Deployment: how far its rollout got."""

    namespace: str
    name: str
    uid: str
    server: str
    owner: Owner | None
    generation: int
    applied: str
    deleting: bool
    observed_generation: int
    paused: bool
    revision: int
    """Of its newest ReplicaSet, as the Deployment controller counts; 0 before it looked."""
    wanted: int
    """spec.replicas"""
    replicas: int
    updated: int
    ready: int
    available: int
    template: str
    """See `template_hash`."""
    config_map: str
    """The ConfigMap that the pod template mounts as its configuration."""
    image: str
    """Of the sidecar in the pod template."""
    provenance: Provenance | None
    """Of the pod template; None where no operator that tells applied it."""
    runs_command: bool
    """Whether the sidecar's container runs the server's command, which needs another image."""
    environment_checksum: str
    """The pod template's annotation: which values containers have in their environment."""
    conditions: tuple[ConditionView, ...]

    @classmethod
    def of(cls, obj: Object) -> DeploymentView:
        """The view of a Deployment."""
        meta, spec, status = mapping(obj, "metadata"), mapping(obj, "spec"), mapping(obj, "status")
        template = mapping(spec, "template")
        return cls(
            **identity(meta),
            generation=number(meta, "generation"),
            applied=applied(meta),
            observed_generation=number(status, "observedGeneration"),
            paused=spec.get("paused") is True,
            wanted=number(spec, "replicas", 1),
            replicas=number(status, "replicas"),
            updated=number(status, "updatedReplicas"),
            ready=number(status, "readyReplicas"),
            available=number(status, "availableReplicas"),
            **_pods(meta, template),
            runs_command=any(
                volume.get("name") == HOME_VOLUME for volume in items(mapping(template, "spec"), "volumes")
            ),
            environment_checksum=text(mapping(mapping(template, "metadata"), "annotations"), CHECKSUM_ANNOTATION),
            conditions=conditions_of(status),
        )

    @property
    def observed(self) -> bool:
        """Whether the status tells of the newest spec."""
        return self.observed_generation >= self.generation

    @property
    def complete(self) -> bool:
        """Whether every wanted replica is new and available and no old one is left, as `kubectl rollout status`."""
        return self.observed and self.updated >= self.wanted and self.replicas <= self.updated <= self.available


@dataclass(frozen=True, slots=True)
class ReplicaSetView:
    """One revision of a Deployment."""

    namespace: str
    name: str
    uid: str
    server: str
    owner: Owner | None
    deleting: bool
    created: str
    """RFC 3339, as the API server writes it: sorts by time."""
    revision: int
    wanted: int
    replicas: int
    ready: int
    available: int
    template: str
    config_map: str
    image: str
    """Of the sidecar in the pod template."""
    provenance: Provenance | None
    conditions: tuple[ConditionView, ...]

    @classmethod
    def of(cls, obj: Object) -> ReplicaSetView:
        """The view of a ReplicaSet."""
        meta, spec, status = mapping(obj, "metadata"), mapping(obj, "spec"), mapping(obj, "status")
        return cls(
            **identity(meta),
            created=text(meta, "creationTimestamp"),
            wanted=number(spec, "replicas", 1),
            replicas=number(status, "replicas"),
            ready=number(status, "readyReplicas"),
            available=number(status, "availableReplicas"),
            **_pods(meta, mapping(spec, "template")),
            conditions=conditions_of(status),
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended."""

    reason: str
    exit_code: int
    signal: int
    message: str
    """The end of the termination message: an error's last lines say most."""


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container of a pod, init containers included."""

    name: str
    image: str
    init: bool
    ready: bool
    restarted: bool
    """Whether it was restarted at least once. The count itself would make a loop of crashes a stream of changes."""
    state: str
    """`waiting`, `running` or `terminated`; empty before the kubelet looked."""
    since: str
    """RFC 3339: when the life began that is `running`."""
    reason: str
    """Of `waiting`."""
    message: str
    """Of `waiting`."""
    ended: Ended | None
    """Of `terminated`, else of the life before."""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod: where its sidecar is reached and what stops it."""

    namespace: str
    name: str
    uid: str
    server: str
    owner: Owner | None
    deleting: bool
    created: str
    """RFC 3339, as the API server writes it: sorts by time."""
    phase: str
    reason: str
    """Of the pod itself, such as Evicted."""
    message: str
    ip: str
    """Empty before it has one."""
    admin_port: int
    config_map: str
    config_hash: str
    """What the operator annotated it with, to make the kubelet look for a newer ConfigMap."""
    ready: bool
    conditions: tuple[ConditionView, ...]
    """Those that are not True."""
    containers: tuple[ContainerView, ...]

    @classmethod
    def of(cls, obj: Object) -> PodView:
        """The view of a pod."""
        meta, spec, status = mapping(obj, "metadata"), mapping(obj, "spec"), mapping(obj, "status")
        conditions = conditions_of(status)
        return cls(
            **identity(meta),
            created=word(meta, "creationTimestamp"),
            phase=word(status, "phase"),
            reason=word(status, "reason"),
            message=start(status, "message"),
            ip=text(status, "podIP"),
            admin_port=_admin_port(spec),
            config_map=config_map_of(obj),
            config_hash=word(mapping(meta, "annotations"), CONFIG_HASH_ANNOTATION),
            ready=any(each.type == "Ready" and each.status == "True" for each in conditions),
            conditions=tuple(each for each in conditions if each.status != "True"),
            containers=tuple(
                _container(each, init)
                for field, init in (("initContainerStatuses", True), ("containerStatuses", False))
                for each in items(status, field)
            ),
        )

    @property
    def finished(self) -> bool:
        """Whether none of it will run again: the ReplicaSet makes another."""
        return self.phase in ("Succeeded", "Failed")


def template_hash(template: Object) -> str:
    """Tells whether a ReplicaSet has the pod template of its Deployment.

    As the Deployment controller compares them: all of it but the label that it adds itself.
    """
    meta = dict(mapping(template, "metadata"))
    meta.pop("creationTimestamp", None)  # null in a Deployment's, by some versions of the API server
    meta["labels"] = {name: value for name, value in mapping(meta, "labels").items() if name != TEMPLATE_HASH_LABEL}
    found = json.dumps([meta, template.get("spec")], sort_keys=True, separators=(",", ":"))
    return blake2b(found.encode(), digest_size=8).hexdigest()


def _pods(meta: Object, template: Object) -> dict[str, Any]:
    """What is kept of the pod template of an object with this metadata."""
    pod_spec = mapping(template, "spec")
    return {
        "revision": _revision(meta),
        "template": template_hash(template),
        "config_map": config_map_of(template),
        "image": _image(pod_spec),
        "provenance": Provenance.parse(word(mapping(meta, "annotations"), PROVENANCE_ANNOTATION)),
    }


def _container(status: Object, init: bool) -> ContainerView:
    state = mapping(status, "state")
    waiting = mapping(state, "waiting")
    kind = next((each for each in ("terminated", "running", "waiting") if each in state), "")
    ended = mapping(state, "terminated") or mapping(mapping(status, "lastState"), "terminated")
    return ContainerView(
        name=word(status, "name"),
        image=word(status, "image"),
        init=init,
        ready=status.get("ready") is True,
        restarted=number(status, "restartCount") > 0,
        state=kind,
        since=text(mapping(state, "running"), "startedAt"),
        reason=word(waiting, "reason"),
        message=start(waiting, "message"),
        ended=Ended(
            reason=word(ended, "reason"),
            exit_code=number(ended, "exitCode"),
            signal=number(ended, "signal"),
            message=end(ended, "message"),
        )
        if ended
        else None,
    )


def config_map_of(pod: Object) -> str:
    """The ConfigMap that a pod, or the pods of a template, mount as their configuration."""
    for volume in items(mapping(pod, "spec"), "volumes"):
        if volume.get("name") == CONFIG_VOLUME:
            return word(mapping(volume, "configMap"), "name")
    return ""


def _image(pod_spec: Object) -> str:
    for container in items(pod_spec, "containers"):
        if container.get("name") == SIDECAR_CONTAINER:
            return word(container, "image")
    return ""


def _admin_port(pod_spec: Object) -> int:
    for container in items(pod_spec, "containers"):
        for port in items(container, "ports"):
            if port.get("name") == ADMIN_PORT_NAME:
                return number(port, "containerPort", DEFAULT_ADMIN_PORT)
    return DEFAULT_ADMIN_PORT


def _revision(meta: Object) -> int:
    found = text(mapping(meta, "annotations"), REVISION_ANNOTATION)
    return int(found) if found.isascii() and found.isdigit() else 0

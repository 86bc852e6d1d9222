"""What the operator keeps of the objects it watches: small frozen views, made once from the API's dicts.

An informer holds one view for every object there is, so a view keeps what reconciling, diagnosis and status read and
nothing else: strings that repeat are interned, messages are cut to `MESSAGE_LIMIT` characters, and containers are
kept only as how they fare. Views compare by value: an event that changes nothing here needs no reconcile.

What a view means is left to others: diagnosis.py says what is wrong, status.py says it to the user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from sys import intern
from typing import Any

MESSAGE_LIMIT = 512
FIELD_MANAGER = "outrigger"
SERVER_LABEL = "outrigger.dev/mcpserver"
CONFIG_HASH_ANNOTATION = "outrigger.dev/config-hash"
REVISION_ANNOTATION = "deployment.kubernetes.io/revision"
ENVIRONMENT_CHECKSUM_ANNOTATION = "outrigger.dev/environment-checksum"
TEMPLATE_HASH_LABEL = "pod-template-hash"
CONFIG_VOLUME = "config"
SIDECAR_CONTAINER = "sidecar"
ADMIN_PORT_NAME = "admin"
DEFAULT_ADMIN_PORT = 9090

Object = Mapping[str, Any]
"""An object of the Kubernetes API as decoded JSON."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller among an object's ownerReferences."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class ConditionView:
    """One of the conditions of an object that is not ours."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ChildView:
    """Any object we apply, from its metadata alone: a metadata-only watch is enough."""

    namespace: str
    name: str
    uid: str
    server: str
    """The MCPServer its label names; empty where it has none."""
    owner: Owner | None
    generation: int
    applied: str
    """See `applied`."""
    deleting: bool

    @classmethod
    def of(cls, obj: Object) -> ChildView:
        """The view of any object with metadata."""
        meta = _map(obj, "metadata")
        return cls(
            namespace=_name(meta, "namespace"),
            name=_text(meta, "name"),
            uid=_text(meta, "uid"),
            server=_name(_map(meta, "labels"), SERVER_LABEL),
            owner=_owner(meta),
            generation=_number(meta, "generation"),
            applied=applied(meta),
            deleting="deletionTimestamp" in meta,
        )


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
    config_map: str
    """The ConfigMap that the pod template mounts as its configuration."""
    image: str
    """Of the sidecar in the pod template."""
    environment_checksum: str
    """The pod template's annotation: which values containers have in their environment."""
    conditions: tuple[ConditionView, ...]

    @classmethod
    def of(cls, obj: Object) -> DeploymentView:
        """The view of a Deployment."""
        meta, spec, status = _map(obj, "metadata"), _map(obj, "spec"), _map(obj, "status")
        child = ChildView.of(obj)
        return cls(
            namespace=child.namespace,
            name=child.name,
            uid=child.uid,
            server=child.server,
            owner=child.owner,
            generation=child.generation,
            applied=child.applied,
            deleting=child.deleting,
            observed_generation=_number(status, "observedGeneration"),
            paused=spec.get("paused") is True,
            revision=_revision(meta),
            wanted=_number(spec, "replicas", 1),
            replicas=_number(status, "replicas"),
            updated=_number(status, "updatedReplicas"),
            ready=_number(status, "readyReplicas"),
            available=_number(status, "availableReplicas"),
            template=template_hash(_map(spec, "template")),
            config_map=_config_map(_map(_map(spec, "template"), "spec")),
            image=_image(_map(_map(spec, "template"), "spec")),
            environment_checksum=_text(
                _map(_map(_map(spec, "template"), "metadata"), "annotations"), ENVIRONMENT_CHECKSUM_ANNOTATION
            ),
            conditions=_conditions(status),
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
    conditions: tuple[ConditionView, ...]

    @classmethod
    def of(cls, obj: Object) -> ReplicaSetView:
        """The view of a ReplicaSet."""
        meta, spec, status = _map(obj, "metadata"), _map(obj, "spec"), _map(obj, "status")
        return cls(
            namespace=_name(meta, "namespace"),
            name=_text(meta, "name"),
            uid=_name(meta, "uid"),
            server=_name(_map(meta, "labels"), SERVER_LABEL),
            owner=_owner(meta),
            deleting="deletionTimestamp" in meta,
            created=_text(meta, "creationTimestamp"),
            revision=_revision(meta),
            wanted=_number(spec, "replicas", 1),
            replicas=_number(status, "replicas"),
            ready=_number(status, "readyReplicas"),
            available=_number(status, "availableReplicas"),
            template=template_hash(_map(spec, "template")),
            config_map=_config_map(_map(_map(spec, "template"), "spec")),
            conditions=_conditions(status),
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
        meta, spec, status = _map(obj, "metadata"), _map(obj, "spec"), _map(obj, "status")
        conditions = _conditions(status)
        return cls(
            namespace=_name(meta, "namespace"),
            name=_text(meta, "name"),
            uid=_text(meta, "uid"),
            server=_name(_map(meta, "labels"), SERVER_LABEL),
            owner=_owner(meta),
            deleting="deletionTimestamp" in meta,
            created=_name(meta, "creationTimestamp"),
            phase=_name(status, "phase"),
            reason=_name(status, "reason"),
            message=_start(status, "message"),
            ip=_text(status, "podIP"),
            admin_port=_admin_port(spec),
            config_map=_config_map(spec),
            config_hash=_name(_map(meta, "annotations"), CONFIG_HASH_ANNOTATION),
            ready=any(each.type == "Ready" and each.status == "True" for each in conditions),
            conditions=tuple(each for each in conditions if each.status != "True"),
            containers=tuple(
                _container(each, init)
                for field, init in (("initContainerStatuses", True), ("containerStatuses", False))
                for each in _items(status, field)
            ),
        )

    @property
    def finished(self) -> bool:
        """Whether none of it will run again: the ReplicaSet makes another."""
        return self.phase in ("Succeeded", "Failed")


def applied(meta: Object) -> str:
    """A short hash of the fields that are ours by the last apply; empty where there are none.

    The API server takes a field out of the set of a manager when another changes or removes it (server-side apply,
    "Field management"), so this hash changes with every foreign change of what we apply: status updates, fields of
    others and applies without an effect leave it as it is. The entry's time is part of it, since an apply under our
    own name (another replica's, an older one's) may change values and leave the set as it was. It does not tell whether
    the fields are those of the newest manifest: compare it with that of the answer to the last apply.
    """
    for entry in _items(meta, "managedFields"):
        if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply" and not entry.get("subresource"):
            text = json.dumps([entry.get("fieldsV1"), entry.get("time")], sort_keys=True, separators=(",", ":"))
            return blake2b(text.encode(), digest_size=8).hexdigest()
    return ""


def template_hash(template: Object) -> str:
    """Tells whether a ReplicaSet has the pod template of its Deployment.

    As the Deployment controller compares them: all of it but the label that it adds itself.
    """
    meta = dict(_map(template, "metadata"))
    meta.pop("creationTimestamp", None)  # null in a Deployment's, by some versions of the API server
    meta["labels"] = {name: value for name, value in _map(meta, "labels").items() if name != TEMPLATE_HASH_LABEL}
    text = json.dumps([meta, template.get("spec")], sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _container(status: Object, init: bool) -> ContainerView:
    state = _map(status, "state")
    waiting = _map(state, "waiting")
    kind = next((each for each in ("terminated", "running", "waiting") if each in state), "")
    ended = _map(state, "terminated") or _map(_map(status, "lastState"), "terminated")
    return ContainerView(
        name=_name(status, "name"),
        image=_name(status, "image"),
        init=init,
        ready=status.get("ready") is True,
        restarted=_number(status, "restartCount") > 0,
        state=kind,
        since=_text(_map(state, "running"), "startedAt"),
        reason=_name(waiting, "reason"),
        message=_start(waiting, "message"),
        ended=Ended(
            reason=_name(ended, "reason"),
            exit_code=_number(ended, "exitCode"),
            signal=_number(ended, "signal"),
            message=_end(ended, "message"),
        )
        if ended
        else None,
    )


def _conditions(status: Object) -> tuple[ConditionView, ...]:
    return tuple(
        ConditionView(_name(each, "type"), _name(each, "status"), _name(each, "reason"), _start(each, "message"))
        for each in _items(status, "conditions")
    )


def _owner(meta: Object) -> Owner | None:
    for each in _items(meta, "ownerReferences"):
        if each.get("controller") is True:
            return Owner(_name(each, "kind"), _name(each, "name"), _name(each, "uid"))
    return None


def _config_map(pod_spec: Object) -> str:
    for volume in _items(pod_spec, "volumes"):
        if volume.get("name") == CONFIG_VOLUME:
            return _name(_map(volume, "configMap"), "name")
    return ""


def _image(pod_spec: Object) -> str:
    for container in _items(pod_spec, "containers"):
        if container.get("name") == SIDECAR_CONTAINER:
            return _name(container, "image")
    return ""


def _admin_port(pod_spec: Object) -> int:
    for container in _items(pod_spec, "containers"):
        for port in _items(container, "ports"):
            if port.get("name") == ADMIN_PORT_NAME:
                return _number(port, "containerPort", DEFAULT_ADMIN_PORT)
    return DEFAULT_ADMIN_PORT


def _revision(meta: Object) -> int:
    text = _text(_map(meta, "annotations"), REVISION_ANNOTATION)
    return int(text) if text.isascii() and text.isdigit() else 0


def _map(value: Object, key: str) -> Object:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _items(value: Object, key: str) -> list[Object]:
    found = value.get(key)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _number(value: Object, key: str, default: int = 0) -> int:
    found = value.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) else default


def _text(value: Object, key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""


def _name(value: Object, key: str) -> str:
    """A string that many objects have in common."""
    return intern(_text(value, key))


def _start(value: Object, key: str) -> str:
    found = _text(value, key)
    return found if len(found) <= MESSAGE_LIMIT else found[: MESSAGE_LIMIT - 1] + "…"


def _end(value: Object, key: str) -> str:
    found = _text(value, key).strip()
    return found if len(found) <= MESSAGE_LIMIT else "…" + found[1 - MESSAGE_LIMIT :]

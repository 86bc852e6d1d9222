"""How keys of Secrets and ConfigMaps become files in the pod.

Each container sees only what it needs: a volume belongs to one container and holds the keys that this one uses, so the
server never sees the sidecar's certificates although both may come from one Secret. Whole volumes are mounted, never
single files, since only those follow a rotation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mcp_operator.desired.needs import Container, Kind, Need

SECRETS_DIRECTORY = "/run/outrigger/secrets"
CONFIG_MAPS_DIRECTORY = "/run/outrigger/configmaps"

FILE_MODE = 0o440
"""Readable for the container's user by the pod's fsGroup, for nobody else."""


@dataclass(frozen=True)
class Mounts:
    """The volumes of a pod, and per container where they are seen: items of `volumes` and of `volumeMounts`."""

    volumes: tuple[dict[str, Any], ...]
    _by_container: dict[Container, tuple[dict[str, Any], ...]] = field(repr=False)

    def of(self, container: Container) -> tuple[dict[str, Any], ...]:
        """The `volumeMounts` of a container."""
        return self._by_container.get(container, ())


def directory(kind: Kind, name: str) -> str:
    """Where the keys of a Secret or ConfigMap are files."""
    return f"{SECRETS_DIRECTORY if kind == 'Secret' else CONFIG_MAPS_DIRECTORY}/{name}"


def file_path(kind: Kind, name: str, key: str) -> str:
    """The file of one key."""
    return f"{directory(kind, name)}/{key}"


def mounts(needs: Iterable[Need]) -> Mounts:
    """The volumes for everything that is needed as files, in an order that depends on nothing but their names.

    A volume is `optional` unless a container cannot start without it: then a missing Secret keeps no pod from starting
    and the sidecar says which value it lacks.
    """
    groups: dict[tuple[Kind, Container, str], list[Need]] = {}
    for need in needs:
        if need.use == "File":
            place = (need.reference.kind, need.container, need.reference.name)
            groups.setdefault(place, []).append(need)
    volumes: list[dict[str, Any]] = []
    by_container: dict[Container, tuple[dict[str, Any], ...]] = {}
    counts = {"Secret": 0, "ConfigMap": 0}
    for (kind, container, name), group in sorted(groups.items()):
        volume = f"{kind.lower()}-{counts[kind]}"
        counts[kind] += 1
        volumes.append({"name": volume, **_source(kind, name, group)})
        mount = {"name": volume, "mountPath": directory(kind, name), "readOnly": True}
        by_container[container] = (*by_container.get(container, ()), mount)
    return Mounts(tuple(volumes), by_container)


def _source(kind: Kind, name: str, group: list[Need]) -> dict[str, Any]:
    source: dict[str, Any] = {"defaultMode": FILE_MODE, "optional": not any(need.required for need in group)}
    keys = {need.reference.key for need in group}
    if None not in keys:
        source["items"] = [{"key": key, "path": key} for key in sorted(str(key) for key in keys)]
    return {"secret": {"secretName": name, **source}} if kind == "Secret" else {"configMap": {"name": name, **source}}

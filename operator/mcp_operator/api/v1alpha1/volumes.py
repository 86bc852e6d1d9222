"""Volumes of the pod and where they are mounted.

Only kinds that the restricted pod security standard allows; no hostPath. Names are those of the core API.
"""

from __future__ import annotations

from typing import Literal

from mcp_operator.api.v1alpha1.base import (
    AbsolutePath,
    DataKey,
    Items,
    LabelName,
    ObjectName,
    Part,
    Quantity,
    Raw,
    field,
)

_MODE = "Mode bits of its files, in decimal: 288 is 0440."


class KeyToPath(Part):
    """A key that becomes a file."""

    key: DataKey = field(..., "The key.")
    path: str = field(..., "Path of its file, relative to the volume.", min_length=1, max_length=1024)
    mode: int | None = field(None, "Mode bits of this file, in decimal.", ge=0, le=511)


class EmptyDir(Part):
    """A directory that lives as long as the pod."""

    medium: Literal["", "Memory"] | None = field(None, "Memory keeps it in memory; by default on the node's disk.")
    size_limit: Quantity | None = field(None, "How much it may hold; a pod that exceeds it is evicted.")


class ConfigMapVolume(Part):
    """The keys of a ConfigMap as files."""

    name: ObjectName = field(..., "Name of the ConfigMap.")
    items: Items[KeyToPath] = field((), "Only these keys; all by default.", max_length=64, list_type="atomic")
    default_mode: int | None = field(None, _MODE, ge=0, le=511)
    optional: bool | None = field(None, "Start the pod even if it does not exist.")


class SecretVolume(Part):
    """The keys of a Secret as files."""

    secret_name: ObjectName = field(..., "Name of the Secret.")
    items: Items[KeyToPath] = field((), "Only these keys; all by default.", max_length=64, list_type="atomic")
    default_mode: int | None = field(None, _MODE, ge=0, le=511)
    optional: bool | None = field(None, "Start the pod even if it does not exist.")


class ProjectedVolume(Part):
    """Several sources in one directory."""

    sources: Items[Raw] = field(
        ..., "Sources as in a projected volume of a Pod.", min_length=1, max_length=16, list_type="atomic"
    )
    default_mode: int | None = field(None, _MODE, ge=0, le=511)


class ClaimVolume(Part):
    """An existing PersistentVolumeClaim."""

    claim_name: ObjectName = field(..., "Name of the PersistentVolumeClaim.")
    read_only: bool | None = field(None, "Mount it read-only.")


class EphemeralVolume(Part):
    """A PersistentVolumeClaim that is made with each pod and goes with it."""

    volume_claim_template: Raw = field(..., "The claim, as in an ephemeral volume of a Pod: metadata and spec.")


class Volume(Part):
    """A volume of the pod: a name and exactly one source."""

    name: LabelName = field(..., "Name of the volume.")
    empty_dir: EmptyDir | None = field(None, "A directory that lives as long as the pod.")
    config_map: ConfigMapVolume | None = field(None, "The keys of a ConfigMap as files.")
    secret: SecretVolume | None = field(None, "The keys of a Secret as files.")
    projected: ProjectedVolume | None = field(None, "Several sources in one directory.")
    persistent_volume_claim: ClaimVolume | None = field(None, "An existing PersistentVolumeClaim.")
    ephemeral: EphemeralVolume | None = field(None, "A PersistentVolumeClaim that is made with each pod.")


class VolumeMount(Part):
    """Where a volume is seen in a container."""

    name: LabelName = field(..., "Name of the volume in podTemplate.volumes.")
    mount_path: AbsolutePath = field(..., "Path in the container.")
    sub_path: str | None = field(
        None,
        "Only this path inside the volume. A file mounted so does not follow changes.",
        min_length=1,
        max_length=1024,
    )
    read_only: bool | None = field(None, "Mount it read-only.")

"""What people add to the pod: labels, scheduling, security, volumes, and the two containers.

Not everything that a Pod can have: what would break the restricted pod security standard or the operator's own parts of
the pod is not here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_operator.api.v1alpha1.base import Annotations, Items, Labels, ObjectName, Part, Quantity, Raw, field
from mcp_operator.api.v1alpha1.references import EnvVar, PlainEnvVar
from mcp_operator.api.v1alpha1.volumes import Volume, VolumeMount
from mcp_operator.api.v1alpha1.workload import LabelSelector, LocalObjectReference


class SeccompProfile(Part):
    """A seccomp profile."""

    type: Literal["RuntimeDefault", "Localhost"] = field(..., "The runtime's own profile, or one of the node.")
    localhost_profile: str | None = field(
        None, "Path of the node's profile, for Localhost.", min_length=1, max_length=1024
    )


class PodSecurityContext(Part):
    """Users and groups of all containers of the pod."""

    fs_group: int | None = field(None, "Group that owns the files of volumes; 65532 by default.", ge=0, le=2147483647)
    fs_group_change_policy: Literal["OnRootMismatch", "Always"] | None = field(
        None, "When the files of a volume are given to fsGroup: only if its root is not yet, or always."
    )
    supplemental_groups: Items[Annotated[int, Field(ge=0, le=2147483647)]] = field(
        (), "More groups of every process.", max_length=32, list_type="atomic"
    )
    run_as_user: int | None = field(None, "User of every container that sets none, not root.", ge=1, le=2147483647)
    run_as_group: int | None = field(None, "Group of every container that sets none.", ge=0, le=2147483647)
    seccomp_profile: SeccompProfile | None = field(
        None, "The seccomp profile of every container; RuntimeDefault by default."
    )


class SecurityContext(Part):
    """The user and the limits of one container. It never runs as root, and never with capabilities."""

    run_as_user: int | None = field(
        None,
        "User of the container, not root. To be set where the image runs as root or as a user with a name.",
        ge=1,
        le=2147483647,
    )
    run_as_group: int | None = field(None, "Group of the container.", ge=0, le=2147483647)
    read_only_root_filesystem: bool = field(
        True,
        "Whether the image's files are read-only; /tmp can always be written.",
    )
    seccomp_profile: SeccompProfile | None = field(None, "The seccomp profile of the container.")


class Resources(Part):
    """What a container asks for and may use, as in a Pod."""

    limits: dict[str, Quantity] | None = field(None, "What it may use at most, such as `memory: 512Mi`.", max_length=16)
    requests: dict[str, Quantity] | None = field(None, "What is set aside for it, such as `cpu: 100m`.", max_length=16)


class Toleration(Part):
    """A taint that the pod tolerates."""

    key: str | None = field(None, "Key of the taint; every key when it is not given.", min_length=1, max_length=317)
    operator: Literal["Exists", "Equal", "Lt", "Gt"] | None = field(None, "How value is compared; Equal by default.")
    value: str | None = field(None, "Value of the taint.", max_length=63)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = field(
        None, "Effect of the taint; every effect when it is not given."
    )
    toleration_seconds: int | None = field(
        None,
        "How long a NoExecute taint is tolerated, in seconds; for ever when it is not given.",
        ge=0,
        le=2147483647,
    )


class TopologySpreadConstraint(Part):
    """How the pods are spread over zones, nodes …"""

    max_skew: int = field(..., "Difference in pods between two places at most.", ge=1, le=1000)
    topology_key: str = field(..., "Label of nodes that tells the places apart.", min_length=1, max_length=317)
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = field(
        ..., "What happens to a pod that would break it."
    )
    label_selector: LabelSelector | None = field(
        None, "Pods that are counted; those of this MCPServer when it is not given."
    )
    match_label_keys: Items[Annotated[str, Field(min_length=1, max_length=317)]] = field(
        (), "Labels whose value a pod shares with the pods it is counted with.", max_length=16, list_type="atomic"
    )
    min_domains: int | None = field(None, "Places that must exist.", ge=1, le=1000)
    node_affinity_policy: Literal["Honor", "Ignore"] | None = field(None, "Whether nodeSelector and affinity count.")
    node_taints_policy: Literal["Honor", "Ignore"] | None = field(None, "Whether taints count.")


class ServerContainer(Part):
    """The container of the server: of stdio with an image, and of http."""

    resources: Resources | None = field(None, "What it asks for and may use.")
    security_context: SecurityContext | None = field(None, "Its user and limits.")
    env: Items[EnvVar] = field(
        (),
        "Environment variables of the container, beside those of stdio.env or http.env.",
        max_length=128,
        list_type="map",
        keys=("name",),
    )
    volume_mounts: Items[VolumeMount] = field(
        (), "Volumes that it sees.", max_length=64, list_type="map", keys=("mountPath",)
    )


class SidecarContainer(Part):
    """The container of the Outrigger sidecar, in which a stdio server without an image runs too."""

    resources: Resources | None = field(None, "What it asks for and may use.")
    security_context: SecurityContext | None = field(None, "Its user and limits.")
    env: Items[PlainEnvVar] = field(
        (),
        "Environment variables of the sidecar itself (proxies, CA paths); for the server's own use stdio.env.",
        max_length=64,
        list_type="map",
        keys=("name",),
    )
    volume_mounts: Items[VolumeMount] = field(
        (), "Volumes that it sees.", max_length=64, list_type="map", keys=("mountPath",)
    )


class PodTemplate(Part):
    """What is added to the pods."""

    labels: Labels | None = field(None, "Labels of the pods, beside the operator's own.", max_length=64)
    annotations: Annotations | None = field(None, "Annotations of the pods.", max_length=64)
    node_selector: Labels | None = field(None, "Labels that a node must have.", max_length=64)
    tolerations: Items[Toleration] = field((), "Taints that are tolerated.", max_length=64, list_type="atomic")
    affinity: Raw | None = field(None, "Affinity as in a Pod.")
    topology_spread_constraints: Items[TopologySpreadConstraint] | None = field(
        None,
        "How the pods are spread; over zones and nodes, as far as that is possible, when it is not given.",
        max_length=16,
        list_type="map",
        keys=("topologyKey", "whenUnsatisfiable"),
    )
    priority_class_name: ObjectName | None = field(None, "Priority class of the pods.")
    runtime_class_name: ObjectName | None = field(None, "Runtime class of the pods.")
    service_account_name: ObjectName | None = field(
        None,
        "ServiceAccount of the pods instead of the MCPServer's own; only where the operator's configuration allows it. "
        "No token is mounted.",
    )
    image_pull_secrets: Items[LocalObjectReference] = field(
        (), "Secrets with credentials for registries.", max_length=16, list_type="map", keys=("name",)
    )
    security_context: PodSecurityContext | None = field(None, "Users and groups of all containers.")
    volumes: Items[Volume] = field((), "Volumes of the pods.", max_length=64, list_type="map", keys=("name",))
    server: ServerContainer | None = field(None, "The container of the server: stdio with an image, and http.")
    sidecar: SidecarContainer | None = field(
        None, "The container of the sidecar, in which a stdio server without an image runs too."
    )

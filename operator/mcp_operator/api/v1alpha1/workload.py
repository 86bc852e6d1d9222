"""What Kubernetes does with the pods: scaling, disruption, who may reach them, monitoring, the Service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_operator.api.v1alpha1.base import (
    Annotations,
    IntOrPercent,
    Items,
    Labels,
    LabelValue,
    ObjectName,
    Part,
    Port,
    Raw,
    field,
)
from mcp_sidecar.config import Duration

_HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]{1,253})(:[0-9]{1,5})?"
AllowedHost = Annotated[str, Field(min_length=1, max_length=300, pattern=rf"^(\*|{_HOST})$")]
AllowedOrigin = Annotated[str, Field(min_length=1, max_length=300, pattern=rf"^(\*|[a-z][a-z0-9+.-]*://{_HOST})$")]
Cidr = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[0-9a-fA-F:.]+/[0-9]{1,3}$")]
Switch = Literal["Enabled", "Disabled"]


class LabelSelectorRequirement(Part):
    """One condition on labels."""

    key: str = field(..., "Key of the label.", min_length=1, max_length=317)
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = field(..., "What must hold for the label.")
    values: Items[LabelValue] = field((), "Values for In and NotIn.", max_length=64, list_type="atomic")


class LabelSelector(Part):
    """Selects objects by their labels; an empty one selects all."""

    match_labels: Labels | None = field(None, "Labels that must be there with these values.", max_length=64)
    match_expressions: Items[LabelSelectorRequirement] = field(
        (), "Conditions that must all hold.", max_length=32, list_type="atomic"
    )


class IpBlock(Part):
    """A range of addresses."""

    cidr: Cidr = field(..., "The range, such as 10.0.0.0/8.")
    except_: Items[Cidr] = field(
        (), "Ranges inside it that are left out.", alias="except", max_length=32, list_type="atomic"
    )


class NetworkPolicyPeer(Part):
    """Pods, namespaces or addresses, as in a NetworkPolicy."""

    pod_selector: LabelSelector | None = field(
        None, "Pods by label, in this namespace, or in those of namespaceSelector."
    )
    namespace_selector: LabelSelector | None = field(None, "Namespaces by label; without podSelector all their pods.")
    ip_block: IpBlock | None = field(None, "A range of addresses; alone.")


class Autoscaling(Part):
    """A HorizontalPodAutoscaler that sets replicas."""

    min_replicas: int = field(1, "Replicas at least.", ge=1, le=1000)
    max_replicas: int = field(..., "Replicas at most.", ge=1, le=1000)
    target_cpu_utilization_percentage: int | None = field(
        None,
        "Replicas are added above this use of the sidecar container's requested CPU, in percent. 80 when neither this "
        "nor metrics is given.",
        alias="targetCPUUtilizationPercentage",
        ge=1,
        le=1000,
    )
    metrics: Items[Raw] = field(
        (),
        "Metrics as in spec.metrics of a HorizontalPodAutoscaler (autoscaling/v2).",
        max_length=16,
        list_type="atomic",
    )
    behavior: Raw | None = field(
        None, "How fast it scales, as in spec.behavior of a HorizontalPodAutoscaler (autoscaling/v2)."
    )


class Disruption(Part):
    """A PodDisruptionBudget, made from two replicas up. At most one of minAvailable and maxUnavailable."""

    mode: Switch = field("Enabled", "Disabled makes no PodDisruptionBudget.")
    min_available: IntOrPercent | None = field(None, "Pods that must stay available, a number or a percentage.")
    max_unavailable: IntOrPercent | None = field(
        None, "Pods that may be unavailable, a number or a percentage; 1 when neither is given."
    )


class NetworkPolicy(Part):
    """Who may reach the pods, and what they may reach."""

    mode: Switch = field("Enabled", "Disabled makes no NetworkPolicy: every pod of the cluster may connect.")
    from_: Items[NetworkPolicyPeer] = field(
        (),
        "Callers beside the pods of the same namespace, who always may.",
        alias="from",
        max_length=64,
        list_type="atomic",
    )
    egress: Items[Raw] | None = field(
        None,
        "What the pods may connect to, as in spec.egress of a NetworkPolicy; everything when it is not given, nothing "
        "when it is empty. Name resolution needs a rule too.",
        max_length=64,
        list_type="atomic",
    )


class Monitoring(Part):
    """How Prometheus finds the metrics."""

    pod_monitor: Switch = field(
        "Disabled", "Enabled makes a PodMonitor where the cluster has that kind (Prometheus operator)."
    )
    labels: Labels | None = field(None, "Labels of the PodMonitor, such as your Prometheus selects by.", max_length=64)
    interval: Duration = field(30.0, "Time between scrapes.", ge=1, le=3600)
    scrape_timeout: Duration = field(
        lambda data: min(10.0, data.get("interval", 10.0)),
        "Longest time of a scrape.",
        ge=1,
        le=3600,
        shown="10s, or interval if that is less",
    )
    from_: Items[NetworkPolicyPeer] = field(
        (),
        "Who may reach the admin port beside the operator: Prometheus.",
        alias="from",
        max_length=64,
        list_type="atomic",
    )


class Service(Part):
    """The Service in front of the pods."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = field("ClusterIP", "Type of the Service.")
    port: Port = field(8080, "Port of the Service.")
    annotations: Annotations | None = field(None, "Annotations of the Service.", max_length=64)
    labels: Labels | None = field(None, "Labels of the Service, beside the operator's own.", max_length=64)
    allowed_hosts: Items[AllowedHost] = field(
        (),
        "Values of the Host header that are answered beside the Service's own names, with or without a port: the names "
        "of your ingress or gateway. `*` allows all.",
        max_length=64,
        list_type="set",
    )
    allowed_origins: Items[AllowedOrigin] = field(
        (),
        "Values of the Origin header that are answered, such as `https://app.example`; requests without Origin always "
        "are. `*` allows all.",
        max_length=64,
        list_type="set",
    )


class LocalObjectReference(Part):
    """An object in the namespace of the MCPServer."""

    name: ObjectName = field(..., "Name of the object.")

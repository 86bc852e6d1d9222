"""The operator's own configuration: its models and every default in one place.

It is read once, at the start; a change needs a new process. Where it comes from is in `config_loading`; what a setting
does is left to the part that it configures.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mcp_operator import __version__
from mcp_operator.api.v1alpha1 import NetworkPolicyPeer
from mcp_sidecar.config import Duration, Problem, Section, setting
from mcp_sidecar.config.scalars import Strings

DNS_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
"""What Kubernetes takes for the name of a namespace (RFC 1123 label)."""

DNS_SUBDOMAIN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
"""What Kubernetes takes for the name of most objects (RFC 1123 subdomain)."""

RENEWAL_JITTER = 1.2
"""A candidate waits up to this much longer than retryPeriod; client-go's leader election has the same factor."""

Peers = Annotated[tuple[NetworkPolicyPeer, ...], Field(strict=False, max_length=32)]
Namespaces = Annotated[tuple[Annotated[str, Field(pattern=DNS_LABEL)], ...], Field(strict=False)]


class ImageSettings(Section):
    """Images of the pods that MCPServers get."""

    registry: str = setting(
        "outrigger.local",
        "Registry and path before the images' names.",
        pattern=r"^[^\s/][^\s]*[^\s/]$",
        max_length=255,
    )
    tag: str = setting(
        __version__,
        "Tag of the images.",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$",
        shown="the operator's version",
    )
    sidecar: str | None = setting(
        None, "The sidecar's image, tag or digest included, in place of the one of registry and tag.", max_length=512
    )
    sidecar_runtime: str | None = setting(
        None,
        "The image that runs stdio commands (with Node and uv), in place of the one of registry and tag.",
        max_length=512,
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = setting("IfNotPresent", "When the kubelet pulls them.")
    pull_secrets: Strings = setting(
        (), "Names of Secrets, in the namespace of each MCPServer, that the kubelet pulls them with."
    )

    @property
    def sidecar_image(self) -> str:
        """The reference of the sidecar's image."""
        return self.sidecar or f"{self.registry}/sidecar:{self.tag}"

    @property
    def sidecar_runtime_image(self) -> str:
        """The reference of the image that runs stdio commands."""
        return self.sidecar_runtime or f"{self.registry}/sidecar-runtime:{self.tag}"


class LeaderElection(Section):
    """Which of several operators works: the holder of a Lease in the operator's namespace."""

    enabled: bool = setting(True, "Without it there must be one operator only.")
    lease_name: str = setting("outrigger-operator", "Name of the Lease.", pattern=DNS_SUBDOMAIN, max_length=253)
    lease_duration: Duration = setting(10.0, "Others wait this long after the last renewal.", ge=1, le=600)
    renew_deadline: Duration = setting(
        7.0, "The leader gives up when it could not renew for this long. Below leaseDuration.", ge=0.5, le=600
    )
    retry_period: Duration = setting(
        1.5, "Time between tries to renew or to get the Lease, up to a fifth more. Below renewDeadline.", ge=0.1, le=600
    )


class Admin(Section):
    """The admin port: /livez, /readyz, /metrics."""

    host: str = setting("127.0.0.1", "Its address; `0.0.0.0` in the image.", max_length=253)
    port: int = setting(8081, "Its port; 0 takes a free one.", ge=0, le=65535)


class ApiServer(Section):
    """How much is asked of the API server."""

    qps: int = setting(400, "Requests a second in the long run.", ge=1, le=10_000)
    burst: int = setting(800, "Requests at once after a rest.", ge=1, le=20_000)
    concurrency: int = setting(16, "Requests in flight at most, watches not counted.", ge=1, le=1000)
    timeout: Duration = setting(30.0, "Longest time of a request, watches not counted.", ge=1, le=600)


class StatusPoll(Section):
    """How often the sidecars of an MCPServer are asked what they know."""

    active: Duration = setting(2.0, "While something changes or is not ready.", ge=0.1, le=60)
    idle: Duration = setting(60.0, "While nothing changes, give or take a tenth.", ge=1, le=3600)
    timeout: Duration = setting(1.0, "Longest time of one answer.", ge=0.1, le=30)
    concurrency: int = setting(50, "Sidecars that are asked at the same time.", ge=1, le=1000)


class SecretPoll(Section):
    """How often Secrets and ConfigMaps that MCPServers name are read again: they are not watched."""

    missing: Duration = setting(10.0, "At first, while one is missing.", ge=1, le=3600)
    missing_max: Duration = setting(60.0, "The wait grows to this while it stays missing.", ge=1, le=3600)
    resolved: Duration = setting(300.0, "While all are there.", ge=1, le=86_400)


def _capitalized(value: Any) -> Any:
    return value.capitalize() if isinstance(value, str) else value  # most tools write INFO or json


class Log(Section):
    """The log on stderr."""

    level: Annotated[Literal["Debug", "Info", "Warning", "Error"], BeforeValidator(_capitalized)] = setting(
        "Info", "Least important lines that are written."
    )
    format: Annotated[Literal["Json", "Text"], BeforeValidator(_capitalized)] = setting(
        "Json", "One JSON object a line, or text for people."
    )


class OperatorConfig(Section):
    """Everything that can be set of the operator."""

    namespace: str = setting(
        "default",
        "Namespace of the operator itself, where its Lease is.",
        pattern=DNS_LABEL,
        shown="the pod's namespace, else `default`",
    )
    identity: str = setting(
        "outrigger",
        "Its name in the Lease; must differ between replicas.",
        max_length=253,
        shown="host name and chance",
    )
    watch_namespaces: Namespaces = setting((), "The only namespaces whose MCPServers it works for.", shown="all")
    cluster_domain: str = setting("cluster.local", "DNS domain of the cluster.", pattern=DNS_SUBDOMAIN, max_length=253)
    operator_labels: dict[str, str] = setting(
        lambda: {"app.kubernetes.io/name": "outrigger-operator"},
        "Labels of the operator's pods: NetworkPolicies let these reach the sidecars' admin port.",
        shown="`app.kubernetes.io/name: outrigger-operator`",
    )
    monitoring_from: Peers = setting(
        (),
        "Who may reach the admin port of every MCPServer's pods beside the operator and its own `monitoring.from`: "
        "peers as in a NetworkPolicy, such as Prometheus in another namespace.",
    )
    allowed_service_accounts: Strings = setting(
        (), "Service accounts that MCPServers may name in `podTemplate.serviceAccountName`; `*` allows any."
    )
    workers: int = setting(4, "MCPServers that are worked on at the same time.", ge=1, le=64)
    resync_interval: Duration = setting(
        1200.0, "Every MCPServer is looked at again after this, give or take half of it.", ge=10, le=86_400
    )
    max_concurrent_rollouts: int = setting(
        10,
        "MCPServers whose pods are replaced at the same time because a new version of the operator changes them.",
        ge=1,
        le=10_000,
    )
    images: ImageSettings = setting(ImageSettings, "Images.", shown="{}")
    leader_election: LeaderElection = setting(LeaderElection, "Leader election.", shown="{}")
    admin: Admin = setting(Admin, "The admin port.", shown="{}")
    api_server: ApiServer = setting(ApiServer, "How much is asked of the API server.", shown="{}")
    status_poll: StatusPoll = setting(StatusPoll, "How often sidecars are asked.", shown="{}")
    secret_poll: SecretPoll = setting(SecretPoll, "How often Secrets are read.", shown="{}")
    log: Log = setting(Log, "The log.", shown="{}")
    kubeconfig: str | None = setting(
        None, "Kubeconfig file; by default the pod's service account, else $KUBECONFIG, else ~/.kube/config."
    )
    context: str | None = setting(None, "Context of the kubeconfig, in place of its current one.", max_length=253)


def contradictions(config: OperatorConfig) -> list[Problem]:
    """What is wrong between settings that are good one by one."""
    problems = []
    election = config.leader_election
    if election.renew_deadline >= election.lease_duration:
        problems.append(
            Problem(
                "leaderElection.renewDeadline",
                "must be below leaseDuration: else two operators could lead at the same time",
            )
        )
    if election.retry_period * RENEWAL_JITTER >= election.renew_deadline:
        problems.append(
            Problem(
                "leaderElection.retryPeriod",
                f"must be below renewDeadline / {RENEWAL_JITTER:g}: else there is no second try",
            )
        )
    if config.secret_poll.missing > config.secret_poll.missing_max:
        problems.append(Problem("secretPoll.missing", "must not be above missingMax"))
    if config.status_poll.active > config.status_poll.idle:
        problems.append(Problem("statusPoll.active", "must not be above idle"))
    twice = sorted({name for name in config.watch_namespaces if config.watch_namespaces.count(name) > 1})
    problems += [Problem("watchNamespaces", f"holds {name} twice") for name in twice]
    return problems

"""The MCPServer itself: metadata and spec.

Sections that the sidecar's config has too are the sidecar's own models, so that names, bounds, defaults and
descriptions have one source.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from mcp_operator.api.v1alpha1.base import Items, Part, ToolPattern, field, taken
from mcp_operator.api.v1alpha1.kinds import Http, Remote, Stdio
from mcp_operator.api.v1alpha1.pod import PodTemplate
from mcp_operator.api.v1alpha1.traffic import Front, Secrets, Sessions, Shutdown, Timeouts
from mcp_operator.api.v1alpha1.workload import Autoscaling, Disruption, Monitoring, NetworkPolicy, Service
from mcp_sidecar.config import Audit, Cache, CircuitBreaker, Health, Limits, Log, Metrics, Pool, Retry
from mcp_sidecar.config import Readiness as SidecarReadiness
from mcp_sidecar.config import Server as SidecarServer

GROUP = "outrigger.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "MCPServer"
PLURAL = "mcpservers"

Kind = Literal["stdio", "http", "remote"]


class MCPServerSpec(Part):
    """The server (exactly one of stdio, http and remote), how calls to it are protected, and how its pods run."""

    # the server
    stdio: Stdio | None = field(None, "The server is a command that speaks MCP on stdin and stdout.", change="Rolls")
    http: Http | None = field(None, "The server is a container that speaks MCP over HTTP.", change="Rolls")
    remote: Remote | None = field(None, "The server runs elsewhere and speaks MCP over HTTP.", change="Rolls")

    # how calls are protected
    timeouts: Timeouts | None = field(None, "How long things may take.", change="Live")
    retry: Retry | None = field(
        None,
        "Which failed attempts are tried again. An unsafe tools/call that may have been executed never is.",
        change="Live",
    )
    circuit_breaker: CircuitBreaker | None = field(
        None, "When a failing server is left alone, and how it is tried again.", change="Live"
    )
    pool: Pool | None = field(None, "The HTTP connections to the server. http and remote only.", change="Live")
    limits: Limits | None = field(None, "How much is let through to the server at a time, in each pod.", change="Live")
    cache: Cache | None = field(
        None,
        "Which answers are kept. Tool results only where a tool is named, since a tool may change something.",
        change="Live",
    )
    health: Health | None = field(
        None, "The active check of the server. It is skipped while calls prove that the server lives.", change="Live"
    )
    readiness: Literal["Startup", "Upstream"] = taken(
        SidecarReadiness,
        "mode",
        description="When a pod is ready. Startup: after the server answered once, and from then on. Upstream: it "
        "follows the server, so a failing server takes the pod out of the Service.",
    )

    # who may do what
    credentials: Literal["Drop", "Forward"] = taken(
        SidecarServer,
        "credentials",
        description="What happens to the caller's Authorization header: it is dropped, or forwarded to the server. "
        "Forward is for http and remote only.",
    )
    allowed_tools: Items[ToolPattern] | None = field(
        None,
        "Names or patterns (`*`, `?`) of the tools that callers see and may call; all when it is not given.",
        change="Live",
        max_length=256,
        list_type="set",
    )
    denied_tools: Items[ToolPattern] = field(
        (),
        "Names or patterns of tools that callers neither see nor may call; wins over allowedTools.",
        change="Live",
        max_length=256,
        list_type="set",
    )

    # the sidecar
    sessions: Sessions | None = field(None, "Legacy sessions of callers. Their ids are sealed tokens.", change="Live")
    front: Front | None = field(None, "What callers connect to.", change="Live")
    shutdown: Shutdown | None = field(None, "The end of a pod.", change="Rolls")
    secrets: Secrets | None = field(None, "Sealed values, and how secrets are read.", change="Live")
    log: Log | None = field(None, "The sidecar's log: JSON lines on stderr.", change="Live")
    audit: Audit | None = field(None, "The audit log: one JSON line per tools/call on stdout.", change="Live")
    metrics: Metrics | None = field(None, "Prometheus metrics on the admin port.", change="Live")

    # the workload
    replicas: int = field(
        1, "Pods. 0 stops the server; with autoscaling the autoscaler sets it.", change="Live", ge=0, le=1000
    )
    autoscaling: Autoscaling | None = field(
        None, "A HorizontalPodAutoscaler that sets replicas; none when it is not given.", change="Live"
    )
    disruption: Disruption | None = field(
        None, "How many pods an eviction (a drained node) may take at once.", change="Live"
    )
    network_policy: NetworkPolicy | None = field(
        None, "Who may reach the pods, and what they may reach.", change="Live"
    )
    monitoring: Monitoring | None = field(None, "How Prometheus finds the metrics.", change="Live")
    service: Service | None = field(None, "The Service in front of the pods.", change="Live")
    pod_template: PodTemplate | None = field(None, "What is added to the pods.", change="Rolls")

    @property
    def kind(self) -> Kind:
        """Which kind of server it is."""
        return "stdio" if self.stdio is not None else "http" if self.http is not None else "remote"

    @property
    def server_image(self) -> str | None:
        """The image of the server's own container; None where it has none."""
        if self.http is not None:
            return self.http.image
        return self.stdio.image if self.stdio is not None else None


class ObjectMeta(BaseModel):
    """What the operator looks at of an object's metadata."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True)

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class MCPServer(BaseModel):
    """One MCP server that the operator runs. Frozen; made by `parse`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    metadata: ObjectMeta
    spec: MCPServerSpec

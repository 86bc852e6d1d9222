"""The MCPServer as `outrigger.dev/v1alpha1` has it: its models, and how a manifest becomes one.

`parse` makes an `MCPServer` of a manifest, or says everything that is wrong with it. `default` fills in what the API
server would. `written(part)` gives back what was written of any part, as JSON data. The CRD is made from the models by
`mcp_operator.api.crd`; `parse` and `default` stand on the CRD, so they are imported when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp_operator.api.v1alpha1.base import Change, Part, written
from mcp_operator.api.v1alpha1.kinds import ClientCertificate, Http, Remote, RemoteTls, Stdio
from mcp_operator.api.v1alpha1.pod import (
    PodSecurityContext,
    PodTemplate,
    Resources,
    SecurityContext,
    ServerContainer,
    SidecarContainer,
)
from mcp_operator.api.v1alpha1.references import (
    EnvFromSource,
    EnvVar,
    Header,
    KeySelector,
    ObjectRef,
    PlainEnvVar,
    SecretSource,
    ValueSource,
)
from mcp_operator.api.v1alpha1.spec import (
    API_VERSION,
    GROUP,
    KIND,
    PLURAL,
    VERSION,
    Kind,
    MCPServer,
    MCPServerSpec,
    ObjectMeta,
)
from mcp_operator.api.v1alpha1.traffic import Front, FrontTls, Secrets, Sessions, Shutdown, Timeouts, Token
from mcp_operator.api.v1alpha1.volumes import Volume, VolumeMount
from mcp_operator.api.v1alpha1.workload import (
    Autoscaling,
    Disruption,
    LabelSelector,
    Monitoring,
    NetworkPolicy,
    NetworkPolicyPeer,
    Service,
)

if TYPE_CHECKING:
    from mcp_operator.api.parsing import default, parse

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "Autoscaling",
    "Change",
    "ClientCertificate",
    "Disruption",
    "EnvFromSource",
    "EnvVar",
    "Front",
    "FrontTls",
    "Header",
    "Http",
    "KeySelector",
    "Kind",
    "LabelSelector",
    "MCPServer",
    "MCPServerSpec",
    "Monitoring",
    "NetworkPolicy",
    "NetworkPolicyPeer",
    "ObjectMeta",
    "ObjectRef",
    "Part",
    "PlainEnvVar",
    "PodSecurityContext",
    "PodTemplate",
    "Remote",
    "RemoteTls",
    "Resources",
    "SecretSource",
    "Secrets",
    "SecurityContext",
    "ServerContainer",
    "Service",
    "Sessions",
    "Shutdown",
    "SidecarContainer",
    "Stdio",
    "Timeouts",
    "Token",
    "ValueSource",
    "Volume",
    "VolumeMount",
    "default",
    "parse",
    "written",
]


def __getattr__(name: str) -> Any:
    if name not in ("default", "parse"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mcp_operator.api import parsing

    return getattr(parsing, name)

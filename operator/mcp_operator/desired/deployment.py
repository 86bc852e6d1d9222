"""The Deployment and the ServiceAccount of its pods.

New pods come before old ones go (`maxUnavailable: 0`), and a pod is ready only after its server answered once: so a
rollout with a wrong image or a broken secret never replaces pods that work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_operator.api.v1alpha1 import MCPServer
from mcp_operator.desired.metadata import Manifest, manifest, selector_labels
from mcp_operator.desired.pod import service_account_name
from mcp_operator.desired.provenance import PROVENANCE_ANNOTATION, Provenance

PROGRESS_DEADLINE_SECONDS = 600
"""After which a rollout without progress counts as failed. It does not follow `timeouts.startTimeout`, which may change
without a word to the Deployment."""

REVISION_HISTORY_LIMIT = 5
"""Old ReplicaSets, and so the old configs, that a rollback can go to."""


def deployment(server: MCPServer, template: dict[str, Any], provenance: Provenance) -> Manifest:
    """The Deployment `<name>`. With autoscaling too `replicas` is set: the autoscaler writes that of the MCPServer."""
    return {
        **manifest(server, "apps/v1", "Deployment", annotations={PROVENANCE_ANNOTATION: provenance.text}),
        "spec": {
            "replicas": server.spec.replicas,
            "selector": {"matchLabels": selector_labels(server)},
            # 25 % is rounded up, so one more at least.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
            "progressDeadlineSeconds": PROGRESS_DEADLINE_SECONDS,
            "revisionHistoryLimit": REVISION_HISTORY_LIMIT,
            "template": template,
        },
    }


def with_template(deployment: Manifest, template: Mapping[str, Any], provenance: Provenance) -> Manifest:
    """A Deployment like `deployment` with another pod template."""
    metadata = deployment["metadata"]
    annotations = {**metadata["annotations"], PROVENANCE_ANNOTATION: provenance.text}
    return {
        **deployment,
        "metadata": {**metadata, "annotations": annotations},
        "spec": {**deployment["spec"], "template": template},
    }


def service_account(server: MCPServer) -> Manifest | None:
    """A ServiceAccount without rights and without a token; None where the user named another."""
    if service_account_name(server) != server.metadata.name:
        return None
    return {**manifest(server, "v1", "ServiceAccount"), "automountServiceAccountToken": False}

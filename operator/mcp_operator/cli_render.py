"""The commands that print manifests: `render`, `crds`, `rbac`. What is in the manifests is left to those who make them.

stdout is for kubectl, stderr for people.
"""

from __future__ import annotations

import base64
import json
import secrets
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mcp_operator.yaml_text import dump_all
from mcp_sidecar.config import ConfigError, Problem

if TYPE_CHECKING:
    from mcp_operator.config import OperatorConfig
    from mcp_operator.desired import Desired
    from mcp_operator.documents import Document

PLACEHOLDER = "replace-me: 32 random bytes, base64"
"""Stands for a session key. A sidecar refuses it, so that nobody serves under a key that everybody knows."""

KEY_BYTES = 32


def show(manifests: Sequence[dict[str, Any]], output: str) -> None:
    """Print `manifests`: YAML documents, or one JSON object."""
    if output == "json":
        one = manifests[0] if len(manifests) == 1 else {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        print(json.dumps(one, indent=2, ensure_ascii=False))
        return
    sys.stdout.write(dump_all(manifests))


def crds(output: str) -> int:
    """Print the custom resource definitions, as they are in crds/."""
    from mcp_operator.api.crd import crd, crd_text

    if output == "yaml":
        sys.stdout.write(crd_text())
    else:
        show([crd()], output)
    return 0


def rbac(output: str, *, namespaces: Sequence[str], operator_namespace: str, service_account: str) -> int:
    """Print the operator's service account, its roles and their bindings."""
    from mcp_operator.kube.access import ServiceAccount, manifests

    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": service_account, "namespace": operator_namespace},
    }
    roles = manifests(ServiceAccount(operator_namespace, service_account), namespaces=namespaces)
    show([account, *roles], output)
    return 0


def render(files: Sequence[str], *, namespace: str, output: str, session_keys: str, config: OperatorConfig) -> int:
    """Print what the MCPServers in `files` become. Raises ConfigError with everything that is wrong with them."""
    from mcp_operator.desired import session_secret
    from mcp_operator.documents import read

    documents, problems = read(files, namespace=namespace)
    if not documents.servers and not problems:
        problems.append(Problem("", f"there is no MCPServer in {', '.join(files)}"))
    manifests: list[dict[str, Any]] = []
    needs: list[str] = []
    for document in documents.servers:
        try:
            server, wanted = computed(document, config)
        except ConfigError as error:
            problems += error.problems
            continue
        if wanted.session_secret == f"{document.name}-session":
            manifests.append(_with_key(session_secret(server), session_keys))
        manifests += wanted.manifests
        needs += _needs(document, wanted)
    if problems:
        raise ConfigError(problems)
    show(manifests, output)
    for line in needs:
        print(line, file=sys.stderr)
    return 0


def computed(document: Document, config: OperatorConfig) -> tuple[Any, Desired]:
    """The MCPServer in `document` and what it becomes. Raises ConfigError with its place."""
    from mcp_operator.api.v1alpha1 import default, parse
    from mcp_operator.desired import Cluster, Images, desired
    from mcp_operator.errors import SpecError

    try:
        server = parse(default(document.content))
    except SpecError as error:
        raise ConfigError(document.problems(Problem(*problem) for problem in error.problems)) from None
    cluster = Cluster(
        domain=config.cluster_domain,
        has_pod_monitor=True,  # who asks for one has the kind
        operator_namespace=config.namespace,
        operator_labels=config.operator_labels,
    )
    images = Images(
        sidecar=config.images.sidecar_image,
        sidecar_runtime=config.images.sidecar_runtime_image,
        pull_policy=config.images.pull_policy,
        pull_secrets=config.images.pull_secrets,
    )
    wanted = desired(server, cluster, images)
    if wanted.problems:
        raise ConfigError(document.problems(Problem(*problem) for problem in wanted.problems))
    return server, wanted


def _with_key(secret: dict[str, Any], session_keys: str) -> dict[str, Any]:
    if session_keys == "random":
        return {**secret, "data": {"key": base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}}
    return {**secret, "stringData": {"key": PLACEHOLDER}}


def _needs(document: Document, wanted: Desired) -> Iterable[str]:
    """What the pods of one MCPServer expect to find, for people."""
    by_object: dict[str, dict[str, list[str]]] = {}
    for reference in wanted.references:
        keys = by_object.setdefault(f"{reference.kind} {reference.name}", {})
        keys.setdefault(reference.key or "*", []).append(reference.used_for)
    for name, keys in by_object.items():
        used = ", ".join(f"{key} ({', '.join(places)})" for key, places in keys.items())
        yield f"MCPServer {document.name} expects the {name} in namespace {document.namespace}, with {used}"
    if any(manifest["kind"] == "HorizontalPodAutoscaler" for manifest in wanted.manifests):
        yield f"MCPServer {document.name} is what its HorizontalPodAutoscaler scales: apply it too and run the operator"

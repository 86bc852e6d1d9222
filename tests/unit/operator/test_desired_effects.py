"""Where each field of the CRD has its effect: in this setting of the sidecar, in that place of an object, nowhere else.

Every setting of the sidecar has a test of its own that shows what it does (test_settings_complete), so a field that
lands in the setting of its name does the same. A field without a row here fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from changed_fields import LEAVES, changed
from mcp_operator.desired import Desired

SERVER = "config.servers.NAME"
DEPLOYMENT = "Deployment.spec.template"
POD = f"{DEPLOYMENT}.spec"
SIDECAR, CONTAINER = f"{POD}.containers.sidecar", f"{POD}.initContainers.server"
PEERS = "NetworkPolicy.spec.ingress.*.from.*"

# A field's path (a regular expression) → the places that change with it; what is below a place belongs to it.
ROWS: list[tuple[str, tuple[str, ...]]] = [
    # the sidecar's settings of the same name
    (
        r"spec\.((?:retry|circuitBreaker|pool|limits|cache|health|allowedTools|deniedTools|credentials).*)",
        (rf"{SERVER}.\1",),
    ),
    (r"spec\.timeouts\.(.+)", (rf"{SERVER}.\1",)),
    (r"spec\.stdio\.((?:restart|stop)\..+|processes|maxSessions|command|args)", (rf"{SERVER}.\1",)),
    (
        r"spec\.((?:log|audit|metrics)\..+|secrets\.(?:require|pollInterval)|sessions\.(?:lifetime|idleTimeout))",
        (r"config.\1",),
    ),
    (r"spec\.(front\.(?:max\w+|\w+Timeout))", (r"config.\1",)),
    (r"spec\.readiness", ("config.readiness.mode",)),
    (r"spec\.sessions\.mode", (f"{SERVER}.sessions",)),
    (r"spec\.(?:http|remote)\.transport", (f"{SERVER}.transport",)),
    (r"spec\.remote\.url|spec\.http\.(?:port|path)", (f"{SERVER}.url",)),
    (r"spec\.remote\.linkLocal", (f"{SERVER}.allowLinkLocal",)),
    (r"spec\.remote\.tls\.serverName", (f"{SERVER}.tls.serverName",)),
    (r"spec\.remote\.tls\.verification", (f"{SERVER}.tls.verify",)),
    (r"spec\.service\.(allowedHosts|allowedOrigins)", (r"config.front.\1",)),
    # settings that name a file of the pod, which has it
    (r"spec\.(?:http|remote)\.headers\[\]\.(?:name|value)", (f"{SERVER}.headers",)),
    (r"spec\.(?:http|remote)\.headers\[\]\.valueFrom\..+", (f"{SERVER}.headers", "file of sidecar")),
    (r"spec\.remote\.bearerToken\..+", (f"{SIDECAR}.env", "file of sidecar")),
    (r"spec\.remote\.tls\.caCertificate\..+", (f"{SERVER}.tls.caFile", "file of sidecar")),
    (
        r"spec\.remote\.tls\.clientCertificate\..+",
        (f"{SERVER}.tls.certFile", f"{SERVER}.tls.keyFile", "file of sidecar"),
    ),
    (r"spec\.front\.tls\.secretName", ("config.front.tls.certFile", "config.front.tls.keyFile", "file of sidecar")),
    (r"spec\.front\.tls\.clientCA\..+", ("config.front.tls.clientCaFile", "file of sidecar")),
    (r"spec\.front\.tokens\[\]\.(?:name|tools)", ("config.front.tokens",)),
    (r"spec\.front\.tokens\[\]\.secretKeyRef\..+", ("config.front.tokens", "file of sidecar")),
    (r"spec\.secrets\.encryptionKey\..+", ("config.secrets.keyFile", "file of sidecar")),
    (r"spec\.sessions\.keySecretRef\.name", (f"{POD}.volumes.session.secret.secretName",)),
    (r"spec\.sessions\.keySecretRef\.key", (f"{POD}.volumes.session.secret.items",)),
    # settings that the objects must agree with
    (r"spec\.front\.port", ("config.front.port", f"{SIDECAR}.ports.mcp.containerPort")),
    (r"spec\.front\.adminPort", ("config.front.adminPort", f"{SIDECAR}.ports.admin.containerPort")),
    (r"spec\.shutdown\.gracePeriod", ("config.shutdown.gracePeriod", f"{POD}.terminationGracePeriodSeconds")),
    (r"spec\.stdio\.isolation", (f"{SERVER}.isolation", f"{SERVER}.maxSessions")),
    # the server's own container
    (r"spec\.(?:stdio|http)\.(image|imagePullPolicy)", (rf"{CONTAINER}.\1",)),
    (r"spec\.http\.(command|args|workingDir|env|envFrom)\b.*", (rf"{CONTAINER}.\1",)),
    (r"spec\.stdio\.workingDir", (f"{CONTAINER}.args",)),
    (r"spec\.stdio\.env\[\]\.name", (f"{CONTAINER}.args", f"{CONTAINER}.env")),
    (r"spec\.stdio\.env\[\]\.value", (f"{CONTAINER}.env",)),
    (r"spec\.stdio\.envFrom\[\]\.prefix", (f"{CONTAINER}.args",)),
    (r"spec\.stdio\.(?:env\[\]\.valueFrom|envFrom\[\])\..+", (f"{CONTAINER}.args", "file of server")),
    # the pods
    (
        r"spec\.podTemplate\.(securityContext\.seccompProfile)\..+",  # one for all containers that have none
        (rf"{POD}.\1", rf"{SIDECAR}.\1"),
    ),
    (r"spec\.podTemplate\.(labels|annotations)", (rf"{DEPLOYMENT}.metadata.\1",)),
    (
        r"spec\.podTemplate\.(nodeSelector|tolerations|affinity|topologySpreadConstraints|priorityClassName"
        r"|runtimeClassName|serviceAccountName|imagePullSecrets|securityContext|volumes)\b.*",
        (rf"{POD}.\1",),
    ),
    (r"spec\.podTemplate\.server\.env\[\]\.valueFrom\.secretKeyRef\..+", (f"{CONTAINER}.args", "file of server")),
    (r"spec\.podTemplate\.server\.(resources|securityContext|env|volumeMounts)\b.*", (rf"{CONTAINER}.\1",)),
    (r"spec\.podTemplate\.sidecar\.(resources|securityContext|env|volumeMounts)\b.*", (rf"{SIDECAR}.\1",)),
    # the objects beside them
    (r"spec\.replicas", ("Deployment.spec.replicas",)),
    (r"spec\.autoscaling\.(minReplicas|maxReplicas|metrics|behavior)", (r"HorizontalPodAutoscaler.spec.\1",)),
    (
        r"spec\.autoscaling\.targetCPUUtilizationPercentage",
        ("HorizontalPodAutoscaler.spec.metrics.*.containerResource.target.averageUtilization",),
    ),
    (r"spec\.disruption\.mode", ("PodDisruptionBudget",)),
    (r"spec\.disruption\.(minAvailable|maxUnavailable)", (r"PodDisruptionBudget.spec.\1",)),
    (r"spec\.networkPolicy\.mode", ("NetworkPolicy",)),
    (r"spec\.(?:networkPolicy|monitoring)\.from\[\]\.(.+)", (rf"{PEERS}.\1",)),
    (r"spec\.networkPolicy\.egress", ("NetworkPolicy.spec.egress",)),
    (r"spec\.monitoring\.podMonitor", ("PodMonitor",)),
    (r"spec\.monitoring\.labels", ("PodMonitor.metadata.labels",)),
    (r"spec\.monitoring\.(interval|scrapeTimeout)", (r"PodMonitor.spec.podMetricsEndpoints.*.\1",)),
    (r"spec\.service\.type", ("Service.spec.type",)),
    (r"spec\.service\.port", ("Service.spec.ports.mcp.port",)),
    (r"spec\.service\.(labels|annotations)", (r"Service.metadata.\1",)),
]


def expected(path: str) -> set[str]:
    """The places of a field, of the first row that fits."""
    for pattern, found in ROWS:
        if match := re.fullmatch(pattern, path):
            return {match.expand(each).replace("[]", ".*") for each in found}
    raise AssertionError(f"no row for {path}")


def values(part: Any, place: str, server: str) -> Iterator[tuple[str, str]]:
    """(place, value) of every value in a part of a manifest. Containers, volumes and ports go by their names."""
    if isinstance(part, dict) and part:
        for key, inner in part.items():
            yield from values(
                inner, f"{place}.{'NAME' if place == 'config.servers' and key == server else key}", server
            )
    elif isinstance(part, list) and part:
        named = place.rpartition(".")[2] in ("containers", "initContainers", "volumes", "ports")
        for inner in part:
            yield from values(inner, f"{place}.{inner['name'] if named and 'name' in inner else '*'}", server)
    else:
        yield place, json.dumps(part)


FOLLOW = (f"{POD}.volumes.config.configMap.name", "Deployment.metadata.annotations.outrigger.dev/pod-template")


def all_values(found: Desired) -> dict[str, list[str]]:
    """Everything in the objects, names and hashes that follow from the rest left out."""
    sorted_values: dict[str, list[str]] = {}
    for each in found.manifests:
        name = next(other["metadata"]["name"] for other in found.manifests if other["kind"] == "Deployment")
        start: tuple[Any, str] = (
            (json.loads(each["data"]["config.json"]), "config") if each["kind"] == "ConfigMap" else (each, each["kind"])
        )
        for place, value in values(*start, name):
            if place not in FOLLOW:
                sorted_values.setdefault(place, []).append(value)
    return {place: sorted(found) for place, found in sorted_values.items()}


def differing(before: Desired, after: Desired) -> set[str]:
    one, two = all_values(before), all_values(after)
    return {place for place in one.keys() | two.keys() if one.get(place) != two.get(place)}


CARRIES = re.compile(
    rf"{re.escape(POD)}\.(?:volumes\.(?:secret|configmap)-\d+\.|(?:init)?[cC]ontainers\.(?P<container>\w+)\.volumeMounts\.)"
)
"""Volumes for the files of Secrets and ConfigMaps, and where they are mounted."""


def place_of(path: str, wanted: set[str]) -> str | None:
    """The wanted place that a place is, or is below of."""
    for place in wanted:
        if path == place or path.startswith(f"{place}."):
            return place
    carried = CARRIES.match(path)
    for place in wanted:
        if (
            carried
            and place.startswith("file of ")
            and (carried["container"] or place.split()[-1]) == place.split()[-1]
        ):
            return place
    return None


@pytest.mark.parametrize("path", LEAVES)
def test_field_lands_where_it_belongs(path: str) -> None:
    wanted = expected(path)
    found = {place: place_of(place, wanted) for place in differing(*changed(path))}
    assert {place for place, known in found.items() if known is None} == set(), "it changes something else too"
    assert wanted == set(found.values()), "it does not change all it should"


def test_every_row_is_of_a_field() -> None:
    used = {next(pattern for pattern, _ in ROWS if re.fullmatch(pattern, path)) for path in LEAVES}
    assert [pattern for pattern, _ in ROWS if pattern not in used] == []

"""Every value of the Helm chart, once: its path, default, meaning and what it takes.

`chart_files` writes values.yaml, values.schema.json and the README's table from it. What a value does is left to the
templates in charts/outrigger.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
LABEL_VALUE: Schema = {"type": "string", "maxLength": 63}
LABELS: Schema = {"type": "object", "additionalProperties": LABEL_VALUE}
ANNOTATIONS: Schema = {"type": "object", "additionalProperties": TEXT}
OBJECT: Schema = {"type": "object"}
OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
NAME: Schema = {"type": "string", "maxLength": 253, "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"}
NAMESPACE: Schema = {"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
DIGEST: Schema = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
DURATION: Schema = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))*$"}
NUMBER_OR_PERCENT: Schema = {
    "oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^([0-9]+%)?$"}]
}
PROBE: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        name: {"type": "integer", "minimum": least, "description": meaning}
        for name, least, meaning in (
            ("initialDelaySeconds", 0, "Wait before the first probe."),
            ("periodSeconds", 1, "Time between probes."),
            ("timeoutSeconds", 1, "Longest time of one."),
            ("failureThreshold", 1, "Failures in a row that count."),
        )
    },
}
OVERRIDE: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "expr": {**TEXT, "description": "Expression in PromQL in place of the chart's."},
        "for": {**DURATION, "description": "How long it must hold."},
        "severity": {**LABEL_VALUE, "description": "Label `severity`."},
        "labels": {**LABELS, "description": "More labels."},
    },
}


@dataclass(frozen=True)
class Value:
    """One value. An object whose inner values are documented one by one is not listed itself."""

    path: str
    default: Any
    text: str
    schema: Schema
    example: Any = None
    """Shown as a comment in values.yaml."""
    shown: str = ""
    """The default as the README has it, where the literal would say little."""


@dataclass(frozen=True)
class Section:
    """Values that belong together, under a heading."""

    title: str
    values: tuple[Value, ...] = field(default=())


def _monitor(path: str, what: str) -> tuple[Value, ...]:
    return (
        Value(f"{path}.enabled", False, f"Make {what}. The cluster must know the kind (Prometheus Operator).", FLAG),
        Value(f"{path}.labels", {}, "Labels by which your Prometheus selects it.", LABELS, {"release": "prometheus"}),
        Value(f"{path}.annotations", {}, "Annotations of it.", ANNOTATIONS),
        Value(f"{path}.interval", "30s", "Time between scrapes.", DURATION),
        Value(f"{path}.scrapeTimeout", "10s", "Longest time of one; at most the interval.", DURATION),
        Value(f"{path}.relabelings", [], "More relabelings of the target.", OBJECTS),
        Value(f"{path}.metricRelabelings", [], "Relabelings of the samples, such as dropping some.", OBJECTS),
    )


IMAGES = Section(
    "Images",
    (
        Value("image.registry", "outrigger.local", "Registry and path before the names of all images.", TEXT),
        Value("image.tag", "", "Tag of all images.", {**TEXT, "maxLength": 128}, shown="the chart's `appVersion`"),
        Value(
            "image.pullPolicy",
            "IfNotPresent",
            "When the kubelet pulls them.",
            {"type": "string", "enum": ["Always", "IfNotPresent", "Never"]},
        ),
        Value(
            "image.pullSecrets",
            [],
            "Names of Secrets that the kubelet pulls them with: in the release's namespace for the operator, in the "
            "MCPServer's own for its pods.",
            {"type": "array", "items": {**NAME, "minLength": 1}},
        ),
        Value("image.digests.operator", "", "Digest of the operator's image; wins over the tag.", DIGEST),
        Value("image.digests.sidecar", "", "Digest of the sidecar's image.", DIGEST),
        Value(
            "image.digests.sidecarRuntime",
            "",
            "Digest of the image that runs stdio commands (with Node and uv).",
            DIGEST,
        ),
    ),
)

OPERATOR = Section(
    "Operator",
    (
        Value("replicas", 2, "Pods of the operator. One works, the others stand by.", COUNT),
        Value(
            "watchNamespaces",
            [],
            "The only namespaces whose MCPServers the operator works for: it then gets Roles there and nothing "
            "cluster-wide. They must exist. Empty is all namespaces, by a ClusterRole.",
            {"type": "array", "uniqueItems": True, "items": NAMESPACE},
            ["tools", "research"],
        ),
        Value(
            "operator.config",
            {},
            "Settings of the operator, as docs/operator-configuration.md names them. What the chart sets by other "
            "values (namespaces, labels) is refused here.",
            OBJECT,
            {"maxConcurrentRollouts": 5, "log": {"level": "Debug"}},
        ),
        Value(
            "resources",
            {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
            "What each pod asks for and may use. Measured: 76 MiB at rest, 112 MiB with 1 000 MCPServers, 144 MiB "
            "with 2 000.",
            OBJECT,
        ),
        Value("priorityClassName", "", "PriorityClass, such as `system-cluster-critical`.", NAME),
        Value("podLabels", {}, "More labels of the pods.", LABELS),
        Value("podAnnotations", {}, "More annotations of the pods.", ANNOTATIONS),
        Value("deploymentAnnotations", {}, "Annotations of the Deployment.", ANNOTATIONS),
        Value("nodeSelector", {}, "Labels that the nodes must have.", LABELS, {"kubernetes.io/arch": "amd64"}),
        Value("tolerations", [], "Taints that the pods bear.", OBJECTS),
        Value("affinity", {}, "Affinity of the pods.", OBJECT),
        Value(
            "topologySpreadConstraints",
            [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}],
            "How the pods are spread; the chart adds their `labelSelector` where one is missing.",
            OBJECTS,
        ),
        Value("strategy", {}, "Strategy of the Deployment.", OBJECT, shown="Kubernetes': rolling"),
        Value("revisionHistoryLimit", 3, "ReplicaSets that are kept for a rollback.", COUNT),
        Value("terminationGracePeriodSeconds", 30, "Time to finish work and give back the Lease.", COUNT),
        Value("extraEnv", [], "More variables of the container.", OBJECTS, [{"name": "HTTPS_PROXY", "value": "…"}]),
        Value("extraVolumes", [], "More volumes of the pods.", OBJECTS),
        Value("extraVolumeMounts", [], "Where the container mounts them.", OBJECTS),
        Value(
            "podSecurityContext",
            {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "Security context of the pods: the restricted standard.",
            OBJECT,
        ),
        Value(
            "securityContext",
            {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "Security context of the container.",
            OBJECT,
        ),
        Value(
            "livenessProbe",
            {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
            "Timing of the probe `/livez`: whether the event loop turns.",
            PROBE,
        ),
        Value(
            "readinessProbe",
            {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
            "Timing of the probe `/readyz`: whether it stands by, or leads and has read what exists.",
            PROBE,
        ),
        Value("podDisruptionBudget.enabled", True, "Make one, where there are two replicas or more.", FLAG),
        Value(
            "podDisruptionBudget.maxUnavailable", 1, "Pods that a drain may take at the same time.", NUMBER_OR_PERCENT
        ),
        Value(
            "podDisruptionBudget.minAvailable",
            "",
            "Pods that must stay, in place of `maxUnavailable`.",
            NUMBER_OR_PERCENT,
        ),
        Value(
            "networkPolicy.enabled",
            True,
            "Make one for the operator's pods: only the admin port (8081) is reached.",
            FLAG,
        ),
        Value(
            "networkPolicy.from",
            [],
            "Who reaches it, as NetworkPolicyPeers; empty is every pod of the cluster. The kubelet always does.",
            OBJECTS,
            [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        ),
        Value(
            "networkPolicy.egress",
            [],
            "What the operator may connect to, as egress rules; empty is everything. It needs the API server and the "
            "admin port (9090) of the sidecars.",
            OBJECTS,
        ),
    ),
)

RIGHTS = Section(
    "CRD and rights",
    (
        Value(
            "crds.enabled",
            True,
            "Install and upgrade the CustomResourceDefinition with the chart. Off where another release does.",
            FLAG,
        ),
        Value(
            "crds.keep",
            True,
            "Leave the CRD, and with it every MCPServer and its serving pods, when the release is uninstalled. "
            "`false` deletes them all.",
            FLAG,
        ),
        Value("rbac.create", True, "Make the operator's roles and their bindings.", FLAG),
        Value(
            "rbac.aggregateRoles",
            True,
            "Let `edit` and `admin` write MCPServers and `view` read them, by two aggregated ClusterRoles.",
            FLAG,
        ),
        Value("serviceAccount.create", True, "Make the operator's service account.", FLAG),
        Value("serviceAccount.name", "", "Its name.", NAME, shown="the operator's name"),
        Value("serviceAccount.annotations", {}, "Annotations of it.", ANNOTATIONS),
    ),
)

OBSERVABILITY = Section(
    "Metrics, dashboards, alerts",
    (
        Value(
            "docsUrl",
            "https://outrigger.dev/docs",
            "Where you serve docs/: dashboards and alerts link to it.",
            {**TEXT, "minLength": 1},
        ),
        Value("monitoring.service.enabled", True, "Make a Service of the operator's metrics.", FLAG),
        Value(
            "monitoring.service.annotations",
            {},
            "Annotations of it.",
            ANNOTATIONS,
            {"prometheus.io/scrape": "true", "prometheus.io/port": "8081"},
        ),
        Value(
            "monitoring.from",
            [],
            "Who may scrape the sidecars of all MCPServers, as NetworkPolicyPeers: their NetworkPolicies let in nobody "
            "else but the operator and each one's own `monitoring.from`.",
            OBJECTS,
            [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        ),
        *_monitor("monitoring.serviceMonitor", "a ServiceMonitor of the operator"),
        *_monitor("monitoring.podMonitor", "one PodMonitor of the sidecars of all MCPServers"),
        Value("dashboards.enabled", True, "Make a ConfigMap of each Grafana dashboard.", FLAG),
        Value("dashboards.namespace", "", "Namespace of them.", NAME, shown="the release's"),
        Value("dashboards.labels", {"grafana_dashboard": "1"}, "Labels by which Grafana's sidecar finds them.", LABELS),
        Value("dashboards.annotations", {}, "More annotations of them.", ANNOTATIONS),
        Value("dashboards.folder", "Outrigger", "Folder in Grafana; empty for none.", TEXT),
        Value(
            "dashboards.folderAnnotation",
            "grafana_folder",
            "Annotation by which Grafana's sidecar learns of the folder.",
            {**TEXT, "minLength": 1},
        ),
        Value(
            "alerts.enabled",
            False,
            "Make PrometheusRules of all alerts. The cluster must know the kind (Prometheus Operator).",
            FLAG,
        ),
        Value("alerts.namespace", "", "Namespace of them.", NAME, shown="the release's"),
        Value(
            "alerts.labels",
            {},
            "Labels by which your Prometheus selects the PrometheusRules.",
            LABELS,
            {"release": "prometheus"},
        ),
        Value("alerts.annotations", {}, "Annotations of the PrometheusRules.", ANNOTATIONS),
        Value("alerts.ruleLabels", {}, "Labels that every alert carries.", LABELS, {"team": "platform"}),
        Value(
            "alerts.runbookUrl",
            "",
            "Where the runbooks are: an alert's is `<runbookUrl>/<Name>.md`.",
            TEXT,
            shown="`<docsUrl>/runbooks`",
        ),
        Value(
            "alerts.grafanaUrl",
            "",
            "Address of Grafana: alerts then carry the link to their dashboard, `dashboard_url`.",
            TEXT,
        ),
        Value(
            "alerts.errorBudget",
            0.01,
            "Share of calls that may fail within 30 days.",
            {"type": "number", "exclusiveMinimum": 0, "maximum": 0.2},
        ),
        Value(
            "alerts.minimumCallRate",
            0.017,
            "Calls a second below which the error budget's alerts say nothing (0.017 is one a minute).",
            {"type": "number", "minimum": 0},
        ),
        Value(
            "alerts.disabled",
            [],
            "Names of alerts that are left out.",
            {"type": "array", "items": {**TEXT, "pattern": "^Outrigger[A-Za-z]+$"}},
            ["OutriggerBreakerOpen"],
        ),
        Value(
            "alerts.overrides",
            {},
            "What differs from the chart's in single alerts, by name: `expr`, `for`, `severity`, `labels`.",
            {
                "type": "object",
                "propertyNames": {"pattern": "^Outrigger[A-Za-z]+$"},
                "additionalProperties": OVERRIDE,
            },
            {"OutriggerRolloutStuck": {"for": "30m", "severity": "info"}},
        ),
    ),
)

RELEASE = Section(
    "The release",
    (
        Value("nameOverride", "", "In place of the chart's name in the names of objects.", NAME),
        Value("fullnameOverride", "", "In place of release and chart name in the names of objects.", NAME),
        Value("commonLabels", {}, "Labels of every object that the chart makes.", LABELS),
        Value(
            "extraObjects",
            [],
            "More manifests of yours, as objects or as text; both may hold templates.",
            {"type": "array", "items": {"type": ["object", "string"]}},
        ),
        Value("test.enabled", True, "Have `helm test` make an MCPServer and call one of its tools.", FLAG),
        Value("test.timeoutSeconds", 240, "Longest time of that test.", {"type": "integer", "minimum": 10}),
        Value("enabled", True, "For a chart that has this one as a dependency, as its `condition`.", FLAG),
        Value("global", {}, "Values that a parent chart gives to all its charts; not used.", OBJECT),
    ),
)

SECTIONS = (IMAGES, OPERATOR, RIGHTS, OBSERVABILITY, RELEASE)


def values() -> list[Value]:
    """All of them, in the order of values.yaml."""
    return [value for section in SECTIONS for value in section.values]

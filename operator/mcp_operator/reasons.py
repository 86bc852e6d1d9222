"""Every reason that a condition of an MCPServer can have: its status, what it means, what to do about it.

This table is the only place where a reason gets its status, so that one reason never stands for two;
docs/conditions.md is made of it. All types are positive: True is good. Which reason holds is left to status.py.
"""

# ruff: noqa: E501 a row of the table says what there is to say on one line

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ConditionType = Literal["Ready", "Available", "Progressing", "ServerReachable", "SecretsResolved", "ConfigApplied"]
Status = Literal["True", "False", "Unknown"]
Tone = Literal["Good", "Waiting", "Lost", "Bad"]
"""`Waiting` passes by itself or is wanted: no Event. `Lost` is a Warning where it was True before. `Bad` always is."""

TYPES: dict[ConditionType, str] = {
    "Ready": "The MCPServer serves as its newest spec says. The one to wait for and to alert on.",
    "Available": "At least one replica takes calls, be it of an older spec. While it is True callers are served.",
    "Progressing": "The newest spec reaches the pods, as the condition of the same name of a Deployment.",
    "ServerReachable": "The MCP server behind the sidecars answers, as they say themselves.",
    "SecretsResolved": "Every Secret and ConfigMap that the spec names exists, with the keys that are needed.",
    "ConfigApplied": "Every pod runs the newest configuration, as the sidecars say themselves.",
}
"""In the order of `status.conditions`, with what True means."""


@dataclass(frozen=True, slots=True)
class Reason:
    """A row of the table."""

    type: ConditionType
    reason: str
    status: Status
    tone: Tone
    meaning: str
    advice: str


_MISSING = (
    ("SecretMissing", "A Secret that the spec names does not exist.", "Create it: the message has the command."),
    ("ConfigMapMissing", "A ConfigMap that the spec names does not exist.", "Create it: the message has the command."),
    (
        "KeyMissing",
        "A Secret or ConfigMap lacks a key that the spec names.",
        "Add the key, or correct its name in the spec.",
    ),
    (
        "ReferenceForbidden",
        "The operator may not read a Secret or ConfigMap that the spec names.",
        "Give its service account `get` in this namespace: `outrigger rbac` prints the roles it needs.",
    ),
    (
        "SecretUnusable",
        "The Secrets exist, but the sidecars cannot use a value: not in the pod yet, empty, or sealed with another key.",
        "The message has the sidecar's words. A new Secret reaches running pods within two minutes.",
    ),
)
"""Reasons that `SecretsResolved` and `Ready` have in common."""

_ROWS = (
    Reason("Ready", "Ready", "True", "Good", "The newest spec is rolled out and serves.", "Nothing."),
    Reason(
        "Ready",
        "RolloutWaiting",
        "True",
        "Good",
        "As `Ready`, with the pods of before: after an upgrade of the operator MCPServers take turns.",
        "Nothing; see `Progressing`.",
    ),
    Reason("Ready", "ScaledToZero", "False", "Waiting", "No replicas are wanted.", "Set `spec.replicas`."),
    Reason(
        "Ready",
        "InvalidSpec",
        "False",
        "Bad",
        "The spec cannot be used. What ran before runs on.",
        "Correct the fields that the message names.",
    ),
    Reason(
        "Ready",
        "NameConflict",
        "False",
        "Bad",
        "An object of a name that is needed exists and belongs to somebody else. It is not touched.",
        "Delete or rename it, or give the MCPServer another name.",
    ),
    Reason(
        "Ready",
        "ApplyFailed",
        "False",
        "Bad",
        "The API server refuses an object that the operator applies: an admission policy, a webhook, a quota, missing rights.",
        "The message is the API server's; change what it names. The operator tries again by itself.",
    ),
    *(Reason("Ready", reason, "False", "Bad", meaning, advice) for reason, meaning, advice in _MISSING),
    Reason(
        "Ready",
        "ImagePullFailed",
        "False",
        "Bad",
        "The kubelet cannot get an image. Old pods serve on.",
        "Correct the image's name, or name a pull secret in `spec.podTemplate.imagePullSecrets`.",
    ),
    Reason(
        "Ready",
        "PodNotPrepared",
        "False",
        "Bad",
        "The pod's node cannot mount a volume, or has no network for it.",
        "The message is the kubelet's. A volume is one of `spec.podTemplate.volumes`: correct it, or mend what it names.",
    ),
    Reason(
        "Ready",
        "ImageUserNotAllowed",
        "False",
        "Bad",
        "The image runs as root or as a user without a number; pods are restricted.",
        "Set `spec.podTemplate.server.securityContext.runAsUser` to the number of a user that can run it, such as 1000.",
    ),
    Reason(
        "Ready",
        "ContainerRefused",
        "False",
        "Bad",
        "The kubelet cannot start a container as it is described.",
        "The message is the kubelet's; it mostly concerns `spec.podTemplate`.",
    ),
    Reason(
        "Ready",
        "CommandNotFound",
        "False",
        "Bad",
        "The server's command is not in its image, or cannot be executed.",
        "Correct `spec.stdio.command` or `spec.http.command`, or use an image that has it (`spec.stdio.image`).",
    ),
    Reason(
        "Ready",
        "PortInUse",
        "False",
        "Bad",
        "Two containers of the pod want the same port.",
        "Choose other ports: `spec.http.port`, `spec.front.port`, `spec.front.adminPort`.",
    ),
    Reason(
        "Ready",
        "ServerCrashing",
        "False",
        "Bad",
        "The server ends again and again.",
        "The message has its exit code and last words. Out of memory: raise `spec.podTemplate.server.resources.limits.memory`.",
    ),
    Reason(
        "Ready",
        "SidecarCrashing",
        "False",
        "Bad",
        "The sidecar, or another container that the operator put into the pod, ends again and again.",
        "Out of memory: raise `spec.podTemplate.sidecar.resources.limits.memory`. Else its log tells; please report it.",
    ),
    Reason(
        "Ready",
        "ContainerCrashing",
        "False",
        "Bad",
        "A container ends again and again that neither the spec nor the operator put into the pod.",
        "Look at its log; something in the cluster injects it.",
    ),
    Reason(
        "Ready",
        "PodRefused",
        "False",
        "Bad",
        "The API server refuses the pods: a quota, the namespace's pod security level, a webhook.",
        "The message is the API server's; change what it names.",
    ),
    Reason(
        "Ready",
        "Unschedulable",
        "False",
        "Bad",
        "No node takes a pod.",
        "The message is the scheduler's: smaller resources, other node selectors, tolerations, volumes, or more nodes.",
    ),
    Reason(
        "Ready",
        "PodEvicted",
        "False",
        "Bad",
        "A node threw a pod out, and its replacement does not serve yet.",
        "The message is the kubelet's. Short of memory or disk: set requests in `spec.podTemplate`.",
    ),
    Reason(
        "Ready",
        "RolloutStuck",
        "False",
        "Bad",
        "The rollout made no progress for the deadline of the Deployment, and nothing better is known.",
        "`kubectl describe pods` of the newest ReplicaSet.",
    ),
    Reason(
        "Ready",
        "ConfigRefused",
        "False",
        "Bad",
        "A sidecar does not accept the configuration that the operator wrote, and runs on with the one before.",
        "The message has its words. Pods of an older sidecar image may not know a new field.",
    ),
    Reason(
        "Ready",
        "ServerUnreachable",
        "False",
        "Bad",
        "The sidecars run, and the server behind them does not answer.",
        "The message has their last error. Is the server up, is `spec.remote.url` right, may the pods reach it? Mend that.",
    ),
    Reason(
        "Ready",
        "CallsFailing",
        "False",
        "Bad",
        "The server answers health checks, but calls fail or take too long: every pod's circuit breaker refuses most of them.",
        "The message has an error. Mend the server. Slow by nature: raise `spec.timeouts.timeout`, and above 30 s `spec.circuitBreaker.slowCallDuration` too.",
    ),
    Reason("Ready", "Progressing", "False", "Waiting", "The newest spec is being rolled out.", "Wait."),
    Reason(
        "Ready",
        "NoReplicasAvailable",
        "False",
        "Lost",
        "The rollout was complete, and now no replica serves; nothing better is known.",
        "Look at the pods and their nodes.",
    ),
    Reason("Available", "ReplicasAvailable", "True", "Good", "All wanted replicas take calls.", "Nothing."),
    Reason(
        "Available",
        "SomeReplicasAvailable",
        "True",
        "Waiting",
        "Fewer replicas than wanted take calls.",
        "`Ready` says why, where it is not merely scaling.",
    ),
    Reason("Available", "NoReplicasAvailable", "False", "Lost", "No replica takes calls.", "`Ready` says why."),
    Reason("Available", "ScaledToZero", "False", "Waiting", "No replicas are wanted.", "Set `spec.replicas`."),
    Reason("Available", "NotDeployed", "False", "Waiting", "There is no Deployment.", "`Ready` says why."),
    Reason("Available", "NotYetKnown", "Unknown", "Waiting", "The Deployment was just made.", "Wait."),
    Reason("Progressing", "RolloutComplete", "True", "Good", "The newest spec runs.", "Nothing."),
    Reason("Progressing", "RollingOut", "True", "Waiting", "New pods are replacing old ones.", "Wait."),
    Reason(
        "Progressing",
        "RolloutStuck",
        "False",
        "Bad",
        "No progress for the deadline of the Deployment. Old pods serve on.",
        "`Ready` says why. To go back, apply the spec of before.",
    ),
    Reason(
        "Progressing",
        "RolloutPaused",
        "False",
        "Waiting",
        "Somebody paused the Deployment.",
        "`kubectl rollout resume` it.",
    ),
    Reason(
        "Progressing",
        "WaitingForTurn",
        "False",
        "Waiting",
        "The pods of the operator's new version are rolled to a few MCPServers at a time (`maxConcurrentRollouts`).",
        "Wait. All other changes are applied at once.",
    ),
    Reason(
        "Progressing",
        "FleetStopped",
        "False",
        "Waiting",
        "The operator's new version failed with another MCPServer, so no further one gets its pods.",
        "The message names that one (`Progressing=False, RolloutStuck`); mend it, or take the operator's upgrade back.",
    ),
    Reason("Progressing", "Blocked", "False", "Waiting", "The newest spec is not applied.", "`Ready` says why."),
    Reason("Progressing", "NotYetKnown", "Unknown", "Waiting", "The Deployment was just made.", "Wait."),
    Reason("ServerReachable", "Reachable", "True", "Good", "The server answers every pod.", "Nothing."),
    Reason(
        "ServerReachable",
        "PartlyReachable",
        "True",
        "Bad",
        "The server answers some pods and not others, or only some pods' calls.",
        "The message has the last error of those it does not answer.",
    ),
    Reason(
        "ServerReachable",
        "Unreachable",
        "False",
        "Bad",
        "The server answers none of the pods.",
        "The message has their last error; `Ready` says what to do.",
    ),
    Reason(
        "ServerReachable",
        "CallsFailing",
        "False",
        "Bad",
        "The server answers health checks, and every pod's circuit breaker refuses calls because they failed.",
        "The message has an error; `Ready` says what to do.",
    ),
    Reason(
        "ServerReachable",
        "StatusUnreadable",
        "Unknown",
        "Waiting",
        "No sidecar's status can be read: the operator does not get through to the admin port.",
        "Let the operator's pods reach it (`spec.front.adminPort`): a NetworkPolicy, a mesh that wants mTLS.",
    ),
    Reason("ServerReachable", "NoPods", "Unknown", "Waiting", "No sidecar runs.", "`Ready` says why."),
    Reason("ServerReachable", "NotYetKnown", "Unknown", "Waiting", "The server was not asked yet.", "Wait."),
    Reason("SecretsResolved", "Resolved", "True", "Good", "All there.", "Nothing."),
    Reason("SecretsResolved", "NoneNeeded", "True", "Good", "The spec names none.", "Nothing."),
    *(Reason("SecretsResolved", reason, "False", "Bad", meaning, advice) for reason, meaning, advice in _MISSING),
    Reason("SecretsResolved", "NotYetKnown", "Unknown", "Waiting", "They were not looked for.", "`Ready` says why."),
    Reason("ConfigApplied", "Applied", "True", "Good", "Every pod runs the newest configuration.", "Nothing."),
    Reason(
        "ConfigApplied",
        "Propagating",
        "False",
        "Waiting",
        "Some pods run an older configuration yet. The kubelet brings the new one within seconds, at most two minutes.",
        "Wait.",
    ),
    Reason(
        "ConfigApplied",
        "AwaitingPods",
        "False",
        "Waiting",
        "The newest configuration comes with pods that are still starting or replace older ones.",
        "Wait. Longer: `Ready` and `Progressing` say what holds them up.",
    ),
    Reason(
        "ConfigApplied",
        "Refused",
        "False",
        "Bad",
        "A sidecar does not accept the newest configuration.",
        "The message has its words; see `ConfigRefused` of `Ready`.",
    ),
    Reason(
        "ConfigApplied",
        "WaitingForTurn",
        "False",
        "Waiting",
        "The operator's new version configures new pods otherwise, and this one waits for its turn; its pods keep theirs.",
        "Wait; see `Progressing`. Tunables that were changed meanwhile come with the new pods.",
    ),
    Reason("ConfigApplied", "Blocked", "False", "Waiting", "The newest spec is not applied.", "`Ready` says why."),
    Reason(
        "ConfigApplied",
        "StatusUnreadable",
        "Unknown",
        "Waiting",
        "A sidecar's status cannot be read, and no other one runs an older configuration.",
        "See `StatusUnreadable` of `ServerReachable`.",
    ),
    Reason("ConfigApplied", "NoPods", "Unknown", "Waiting", "No sidecar runs.", "`Ready` says why."),
    Reason("ConfigApplied", "NotYetKnown", "Unknown", "Waiting", "The pods were not asked yet.", "Wait."),
)

REASONS: dict[tuple[ConditionType, str], Reason] = {(row.type, row.reason): row for row in _ROWS}
"""Every reason of every type."""

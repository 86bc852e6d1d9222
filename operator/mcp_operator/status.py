"""The status of an MCPServer: all that was seen of it, put into six conditions and the fields beside them.

`build` is pure: the same facts give the same status, and a status built on itself is itself, so that nothing is
written at rest. It says nothing that was not seen: what was not looked at yet keeps its condition of before. What keeps
pods from serving is found by diagnosis.py, what sidecars say is put together by reported.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcp_operator.conditions import Finding, by_type, condition
from mcp_operator.diagnosis import Diagnosis, current_replica_set, diagnose, stuck
from mcp_operator.errors import BeingReplaced, KubeError, NameConflict, Problem
from mcp_operator.observed import DeploymentView, PodView, ReplicaSetView
from mcp_operator.reasons import REASONS, TYPES, ConditionType
from mcp_operator.references import MissingReference, Version
from mcp_operator.reported import (
    Asked,
    asked,
    config_applied,
    described,
    failing_calls,
    reachable,
    unreachable_cause,
    unusable_secret,
)
from mcp_operator.rollouts import Turn
from mcp_operator.sidecar_status import Reports, clean

_SECRETS = 512
"""Entries of status.secrets that the CRD allows; a Secret taken as a whole may have more keys."""
_TOLD = 10
"""Problems and missing objects that a message names; the rest is counted."""
_MISSING_REASONS = {
    ("Secret", "Missing"): "SecretMissing",
    ("ConfigMap", "Missing"): "ConfigMapMissing",
    ("Secret", "KeyMissing"): "KeyMissing",
    ("ConfigMap", "KeyMissing"): "KeyMissing",
    ("Secret", "Forbidden"): "ReferenceForbidden",
    ("ConfigMap", "Forbidden"): "ReferenceForbidden",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was seen of one MCPServer in one reconcile."""

    namespace: str
    name: str
    generation: int
    """metadata.generation of the MCPServer that the facts are about."""
    now: str
    """RFC 3339 in UTC, whole seconds: the time of conditions that change."""
    previous: Mapping[str, Any] = field(default_factory=dict)
    """The status that the MCPServer has."""
    problems: tuple[Problem, ...] = ()
    """Of the spec; then nothing of it was applied."""
    conflict: NameConflict | None = None
    apply_error: KubeError | BeingReplaced | None = None
    """Why something could not be applied, where trying again alone does not help, or did not for a while."""
    url: str | None = None
    selector: str | None = None
    config_hash: str | None = None
    """These three are of what is wanted: None where that could not be computed, then they stay as they are."""
    needs_references: bool = False
    missing: tuple[MissingReference, ...] = ()
    versions: tuple[Version, ...] = ()
    deployment: DeploymentView | None = None
    replica_sets: Sequence[ReplicaSetView] = ()
    pods: Sequence[PodView] = ()
    reports: Reports = field(default_factory=dict)
    events: Mapping[str, str] = field(default_factory=dict)
    """uid of a pod → why its node cannot prepare it."""
    turn: Turn = "Go"
    stopper: tuple[str, str] | None = None
    """Namespace and name of the MCPServer that failed, where the turn is `Stopped`."""
    config_waits: bool = False
    """The newest configuration is for the pods that come with the turn."""


def build(facts: Facts) -> dict[str, Any]:
    """The whole status."""
    before = by_type(facts.previous)
    deployment = facts.deployment
    current = current_replica_set(deployment, facts.replica_sets) if deployment is not None else None
    found = asked(facts.pods, facts.reports, current.uid if current is not None else "")
    blocked = _blocked(facts)
    rollout = _Rollout(deployment, current)
    findings = {
        "Available": _available(facts),
        "Progressing": _progressing(facts, rollout, blocked),
        "ServerReachable": _carried("ServerReachable", facts, before, found) or reachable(found),
        "SecretsResolved": _secrets(facts, before, found),
        "ConfigApplied": _config(facts, before, found, blocked),
    }
    findings["Ready"] = _ready(facts, before, rollout, found, blocked, findings)
    conditions = [
        condition(findings[kind], generation=facts.generation, now=facts.now, previous=before.get(kind))
        for kind in TYPES
    ]
    return {**_fields(facts, found), "conditions": conditions}


@dataclass(frozen=True, slots=True)
class _Rollout:
    """How far the newest spec got."""

    deployment: DeploymentView | None
    current: ReplicaSetView | None

    @property
    def done(self) -> bool:
        """Whether the newest pod template has replaced the older ones; scaling since then is no rollout."""
        deployment, current = self.deployment, self.current
        if deployment is None or current is None or deployment.replicas > deployment.updated:
            return False
        # What the Deployment says may be of the template before, as long as its controller has not looked.
        if not deployment.observed and not current.available:
            return False
        return deployment.complete or any(
            each.type == "Progressing" and each.status == "True" and each.reason == "NewReplicaSetAvailable"
            for each in deployment.conditions
        )

    @property
    def count(self) -> str:
        """How many replicas of how many run the newest spec."""
        wanted = self.deployment.wanted if self.deployment is not None else 0
        available = self.current.available if self.current is not None else 0
        return f"{min(available, wanted)} of {wanted} replicas"


def _blocked(facts: Facts) -> Finding | None:
    """`Ready` where the newest spec was not applied."""
    if facts.conflict is not None:
        conflict = facts.conflict
        held = f"it belongs to {conflict.owner}" if conflict.owner else "it was not made by Outrigger"
        message = (
            f"{conflict.kind} {conflict.name} exists, and {held}: nothing of it is touched. "
            f"Delete or rename it, or give this MCPServer another name"
        )
        return Finding("Ready", "NameConflict", message)
    if facts.problems:
        told = [f"{each.path}: {each.message}" if each.path else each.message for each in facts.problems]
        return Finding("Ready", "InvalidSpec", _listed(told))
    if facts.apply_error is not None:
        error = facts.apply_error
        prefix = f"the API server refuses {error.about or 'it'}: " if isinstance(error, KubeError) else ""
        return Finding("Ready", "ApplyFailed", prefix + clean(str(error), 800))
    return None


def _ready(
    facts: Facts,
    before: Mapping[str, Mapping[str, Any]],
    rollout: _Rollout,
    found: Asked,
    blocked: Finding | None,
    findings: Mapping[str, Finding],
) -> Finding:
    if blocked is not None:
        return blocked
    deployment, secrets, config = facts.deployment, findings["SecretsResolved"], findings["ConfigApplied"]
    if facts.missing:
        return Finding("Ready", secrets.reason, secrets.message)
    if deployment is None:
        return Finding("Ready", "Progressing", "the Deployment is being made")
    if deployment.wanted == 0:
        return Finding("Ready", "ScaledToZero", "no replicas are wanted: set spec.replicas to serve")
    cause = diagnose(deployment, facts.replica_sets, facts.pods, facts.reports, now=facts.now, events=facts.events)
    if cause is not None:
        return _caused(cause)
    if config.reason == "Refused":
        return Finding("Ready", "ConfigRefused", config.message)
    if secrets.reason == "SecretUnusable":
        return Finding("Ready", "SecretUnusable", secrets.message)
    down = unreachable_cause(found)
    if down is not None:
        return _caused(down)
    failing = failing_calls(found)
    if failing:
        return Finding("Ready", "CallsFailing", failing)
    kept = _kept(before, found)
    if kept is not None:
        return kept
    if not rollout.done:
        return Finding("Ready", "Progressing", f"{rollout.count} run the newest spec")
    if deployment.available == 0:
        return Finding("Ready", "NoReplicasAvailable", f"none of {deployment.wanted} replicas is available")
    serving = f"serving at {facts.url}" if facts.url is not None else "serving"
    if facts.turn != "Go":
        return Finding("Ready", "RolloutWaiting", f"{serving}, with the pods of the operator's version before")
    return Finding("Ready", "Ready", serving)


def _caused(cause: Diagnosis) -> Finding:
    return Finding("Ready", cause.reason, cause.message)


def _kept(before: Mapping[str, Mapping[str, Any]], found: Asked) -> Finding | None:
    """What sidecars had said, while they were not asked again: a new leader must not unsay it for a moment."""
    previous = before.get("Ready", {})
    said = ("ConfigRefused", "SecretUnusable", "ServerUnreachable", "CallsFailing", "CommandNotFound", "ServerCrashing")
    if found.unasked and previous.get("reason") in said:
        return Finding("Ready", str(previous["reason"]), str(previous.get("message", "")))
    return None


def _available(facts: Facts) -> Finding:
    deployment = facts.deployment
    if deployment is None:
        return Finding("Available", "NotDeployed", "there is no Deployment")
    if deployment.available == 0:
        if deployment.wanted == 0:
            return Finding("Available", "ScaledToZero", "no replicas are wanted")
        if deployment.observed_generation == 0:
            return Finding("Available", "NotYetKnown", "the Deployment was just made")
        return Finding("Available", "NoReplicasAvailable", f"none of {deployment.wanted} replicas is available")
    available = min(deployment.available, deployment.wanted)
    count = f"{available} of {deployment.wanted} replicas are available"
    if available < deployment.wanted:
        return Finding("Available", "SomeReplicasAvailable", count)
    return Finding("Available", "ReplicasAvailable", count)


def _progressing(facts: Facts, rollout: _Rollout, blocked: Finding | None) -> Finding:
    deployment = facts.deployment
    if blocked is not None:
        return Finding("Progressing", "Blocked", f"the newest spec is not applied ({blocked.reason})")
    halted = deployment is not None and stuck(deployment, rollout.current)
    if deployment is None or (deployment.observed_generation == 0 and not halted):
        return Finding("Progressing", "NotYetKnown", "the Deployment was just made")
    if rollout.done:
        if facts.turn == "Wait":
            message = "the pods of the operator's new version follow when it is this one's turn"
            return Finding("Progressing", "WaitingForTurn", message)
        if facts.turn == "Stopped":
            which = "MCPServer {}/{}".format(*facts.stopper) if facts.stopper is not None else "another MCPServer"
            message = f"the pods of the new version failed with {which}, so they are not rolled out further"
            return Finding("Progressing", "FleetStopped", message)
        return Finding("Progressing", "RolloutComplete", f"{deployment.wanted} replicas of the newest spec are wanted")
    if deployment.paused:
        resume = f"kubectl -n {facts.namespace} rollout resume deployment/{deployment.name}"
        return Finding("Progressing", "RolloutPaused", f"{rollout.count} run the newest spec; go on with: {resume}")
    if halted:
        return Finding("Progressing", "RolloutStuck", f"{rollout.count} run the newest spec, and it does not go on")
    return Finding("Progressing", "RollingOut", f"{rollout.count} run the newest spec")


def _secrets(facts: Facts, before: Mapping[str, Mapping[str, Any]], found: Asked) -> Finding:
    if facts.missing:
        order = list(dict.fromkeys(_MISSING_REASONS.values()))
        reasons = {_MISSING_REASONS[each.kind, each.why] for each in facts.missing}
        return Finding("SecretsResolved", min(reasons, key=order.index), _missing(facts))
    if facts.config_hash is None:
        return _as_before("SecretsResolved", before) or Finding(
            "SecretsResolved", "NotYetKnown", "what the spec refers to was not looked for"
        )
    unusable = unusable_secret(found)
    if unusable:
        return Finding("SecretsResolved", "SecretUnusable", unusable)
    if found.unasked and before.get("SecretsResolved", {}).get("reason") == "SecretUnusable":
        return _as_before("SecretsResolved", before) or Finding("SecretsResolved", "Resolved", "all are there")
    if not facts.needs_references:
        return Finding("SecretsResolved", "NoneNeeded", "the spec refers to no Secret or ConfigMap")
    return Finding("SecretsResolved", "Resolved", "every Secret and ConfigMap that the spec refers to is there")


def _missing(facts: Facts) -> str:
    """All that is missing, an object at a time, with the fields that need it and the command that makes it."""
    objects: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for each in facts.missing:
        keys = objects.setdefault((each.why, each.kind, each.name), {})
        keys.setdefault(each.key or "", []).append(f"spec.{each.used_for}")
    told = []
    for (why, kind, name), keys in sorted(objects.items(), key=lambda item: (item[0][0] != "Missing", item[0])):
        users = ", ".join(sorted({user for users in keys.values() for user in users}))
        names = sorted(key for key in keys if key)
        if why == "Missing":
            command = "create secret generic" if kind == "Secret" else "create configmap"
            files = "".join(f" --from-file={key}=FILE" for key in names) or " --from-env-file=FILE"
            create = f"kubectl -n {facts.namespace} {command} {name}{files}"
            told.append(f"{kind} {name} does not exist, and {users} needs it; create it: {create}")
        elif why == "KeyMissing":
            lacks = f"key {names[0]}" if len(names) == 1 else f"keys {', '.join(names)}"
            told.append(f"{kind} {name} has no {lacks}, and {users} needs it; add it")
        else:
            told.append(f"the operator may not read {kind} {name}, and {users} needs it; see outrigger rbac")
    return _listed(told)


def _config(facts: Facts, before: Mapping[str, Mapping[str, Any]], found: Asked, blocked: Finding | None) -> Finding:
    if blocked is not None:
        return Finding("ConfigApplied", "Blocked", f"the newest spec is not applied ({blocked.reason})")
    if facts.config_hash is None:
        return Finding("ConfigApplied", "NotYetKnown", "the configuration was not computed yet")
    if facts.config_waits:
        message = "the new configuration comes with the pods of the operator's new version"
        return Finding("ConfigApplied", "WaitingForTurn", message)
    if found.unasked and facts.previous.get("configHash") != facts.config_hash:
        return Finding("ConfigApplied", "NotYetKnown", "the sidecars were not asked yet")
    return _carried("ConfigApplied", facts, before, found) or config_applied(found, facts.config_hash)


def _carried(
    kind: ConditionType, facts: Facts, before: Mapping[str, Mapping[str, Any]], found: Asked
) -> Finding | None:
    """What was said before, where pods run and none was asked yet."""
    if not found.unasked:
        return None
    return _as_before(kind, before) or Finding(kind, "NotYetKnown", "the sidecars were not asked yet")


def _as_before(kind: ConditionType, before: Mapping[str, Mapping[str, Any]]) -> Finding | None:
    previous = before.get(kind, {})
    reason = str(previous.get("reason", ""))
    return Finding(kind, reason, str(previous.get("message", ""))) if (kind, reason) in REASONS else None


def _fields(facts: Facts, found: Asked) -> dict[str, Any]:
    """Everything but the conditions. What is not known now stays as it was."""
    previous, deployment = facts.previous, facts.deployment
    status: dict[str, Any] = {"observedGeneration": facts.generation}
    wanted = {"url": facts.url, "selector": facts.selector, "configHash": facts.config_hash}
    known = {name: value for name, value in wanted.items() if value is not None} | described(found)
    for name in ("url", "era", "server", "tools", "selector", "configHash"):
        value = known.get(name, previous.get(name))
        if value is not None:
            status[name] = value
    status["replicas"] = deployment.replicas if deployment is not None else 0
    status["readyReplicas"] = deployment.ready if deployment is not None else 0
    status["updatedReplicas"] = deployment.updated if deployment is not None else 0
    if facts.config_hash is None:
        secrets = previous.get("secrets")
    else:
        secrets = [
            {"name": each.name, "key": each.key, "version": each.version}
            for each in facts.versions
            if each.kind == "Secret"
        ][:_SECRETS]
    if secrets:
        status["secrets"] = secrets
    return status


def _listed(told: Sequence[str]) -> str:
    shown = [clean(each, 400) for each in told[:_TOLD]]
    more = len(told) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")

"""The status of an MCPServer: every reason of every condition has a situation here, and nothing is written at rest."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubernetes_objects import (
    HASH,
    NAME,
    NAMESPACE,
    NOW,
    crashing,
    deployment,
    pod,
    replica_set,
    running,
    sidecar_status,
    waiting,
)
from mcp_operator.conditions import by_type
from mcp_operator.errors import Forbidden, NameConflict, Problem
from mcp_operator.observed import DeploymentView, PodView, ReplicaSetView
from mcp_operator.reasons import REASONS, TYPES
from mcp_operator.references import MissingReference, Version
from mcp_operator.sidecar_status import Report, Unreadable, parse
from mcp_operator.status import Facts, build

LATER = "2026-11-23T13:00:00Z"
URL = f"http://{NAME}.{NAMESPACE}.svc.cluster.local:8080/mcp"
UNREADABLE = Unreadable("no connection to the admin port")


def report(**said: Any) -> Report:
    return parse(json.dumps(sidecar_status(**said)).encode(), NAME)


def seen(
    *pods: dict[str, Any],
    deployed: dict[str, Any] | None = None,
    sets: list[dict[str, Any]] | None = None,
    reports: list[Report | None] | Report | None = None,
    **facts: Any,
) -> Facts:
    """Facts of a server that serves with one pod, but for what is given. One report for each pod, or one for all."""
    views = tuple(PodView.of(each) for each in (pods or (pod(),)))
    answers = reports if isinstance(reports, list) else [reports or report()] * len(views)
    return Facts(
        **{
            "namespace": NAMESPACE,
            "name": NAME,
            "generation": 1,
            "now": NOW,
            "url": URL,
            "selector": "app.kubernetes.io/instance=web,app.kubernetes.io/name=mcpserver",
            "config_hash": HASH,
            "deployment": DeploymentView.of(deployed or deployment(wanted=len(views))),
            "replica_sets": tuple(
                ReplicaSetView.of(each) for each in (sets if sets is not None else [replica_set(wanted=len(views))])
            ),
            "pods": views,
            "reports": {view.uid: each for view, each in zip(views, answers, strict=True) if each is not None},
            **facts,
        }
    )


def nothing_yet(**facts: Any) -> Facts:
    """Facts of one that was just created."""
    return Facts(namespace=NAMESPACE, name=NAME, generation=1, now=NOW, **facts)


def broken(**what: Any) -> Facts:
    """Facts of one whose only pod is not ready."""
    deployed = what.pop("deployed", deployment(ready=0))
    reports = what.pop("reports", [None])
    sets = what.pop("sets", [replica_set(available=0)])
    return seen(pod(ready=False, **what), deployed=deployed, sets=sets, reports=reports)


def missing(kind: Any = "Secret", why: Any = "Missing", key: str | None = "token") -> MissingReference:
    return MissingReference(kind, "api", key, "remote.headers[0]", why)


def rolling_out(**new: Any) -> Facts:
    """An old pod that serves, and a new one that is as it is told."""
    return seen(
        pod(),
        pod(name="web-2-a", owner="web-2", **{"ready": False, **new}),
        deployed=deployment(image="server:2", ready=1, updated=1, total=2),
        sets=[replica_set(), replica_set("web-2", image="server:2", revision=2, available=0)],
        reports=[report(), None],
    )


UP = seen()
DOWN = report(up=False, answered=True, failures=3, last_error="connection refused")
FAILING = report(refuses=True, call_errors=["the server showed no sign of life for 0.3 s", "older"])
STARTING = report(up=False)
NO_NODE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}
STUCK = deployment(ready=0, progressing=("False", "ProgressDeadlineExceeded"))
ZERO = replace(seen(deployed=deployment(wanted=0, updated=0), sets=[replica_set(wanted=0)]), pods=(), reports={})
TEMPLATE = "spec.podTemplate"
TAKEN = NameConflict("Service", NAME, "Deployment shop")
REFUSED = Forbidden(403, "Forbidden", 'admission webhook "policy.example" denied the request: no team label')

SITUATIONS: dict[str, tuple[Facts, dict[str, str], list[str]]] = {
    "serves": (
        UP,
        {
            "Ready": "Ready",
            "Available": "ReplicasAvailable",
            "Progressing": "RolloutComplete",
            "ServerReachable": "Reachable",
            "SecretsResolved": "NoneNeeded",
            "ConfigApplied": "Applied",
        },
        [URL],
    ),
    "just created": (
        nothing_yet(url=URL, config_hash=HASH),
        {
            "Ready": "Progressing",
            "Available": "NotDeployed",
            "Progressing": "NotYetKnown",
            "ServerReachable": "NoPods",
            "SecretsResolved": "NoneNeeded",
            "ConfigApplied": "NoPods",
        },
        [],
    ),
    "Deployment just made": (
        replace(seen(deployed=deployment(ready=0, updated=0, observed=0), sets=[]), pods=(), reports={}),
        {"Ready": "Progressing", "Available": "NotYetKnown", "Progressing": "NotYetKnown"},
        [],
    ),
    "first rollout": (
        broken(),
        {"Ready": "Progressing", "Available": "NoReplicasAvailable", "Progressing": "RollingOut"},
        ["0 of 1 replicas"],
    ),
    "first replica of two": (
        seen(
            pod(),
            pod(name="web-1-b", ready=False),
            deployed=deployment(wanted=2, ready=1),
            sets=[replica_set(wanted=2, available=1)],
            reports=[report(), None],
        ),
        {"Ready": "Progressing", "Available": "SomeReplicasAvailable", "Progressing": "RollingOut"},
        ["1 of 2 replicas"],
    ),
    "scaling up": (
        seen(
            pod(),
            pod(name="web-1-b", ready=False),
            deployed=deployment(wanted=2, ready=1, progressing=("True", "NewReplicaSetAvailable")),
            sets=[replica_set(wanted=2, available=1)],
            reports=[report(), None],
        ),
        {"Ready": "Ready", "Available": "SomeReplicasAvailable", "Progressing": "RolloutComplete"},
        [],
    ),
    "scaled a moment ago": (
        seen(
            deployed=deployment(
                wanted=2,
                ready=1,
                updated=1,
                generation=2,
                observed=1,
                progressing=("True", "NewReplicaSetAvailable"),
            )
        ),
        {"Ready": "Ready", "Available": "SomeReplicasAvailable", "Progressing": "RolloutComplete"},
        [],
    ),
    "new template a moment ago": (
        seen(deployed=deployment(image="server:2", generation=2, observed=1)),
        {"Ready": "Progressing", "Available": "ReplicasAvailable", "Progressing": "RollingOut"},
        ["0 of 1 replicas"],
    ),
    "new ReplicaSet a moment ago": (
        seen(
            deployed=deployment(image="server:2", generation=2, observed=1),
            sets=[replica_set(), replica_set("web-2", image="server:2", wanted=0, revision=2)],
        ),
        {"Ready": "Progressing", "Available": "ReplicasAvailable", "Progressing": "RollingOut"},
        [],
    ),
    "rolling out": (
        rolling_out(),
        {"Ready": "Progressing", "Available": "ReplicasAvailable", "Progressing": "RollingOut"},
        [],
    ),
    "new image does not exist": (
        rolling_out(server=waiting("server", "ErrImagePull", "not found")),
        {
            "Ready": "ImagePullFailed",
            "Available": "ReplicasAvailable",
            "Progressing": "RollingOut",
            "ServerReachable": "Reachable",
        },
        ["server:1", "not found"],
    ),
    "paused": (
        seen(
            deployed=deployment(image="server:2", paused=True, updated=0, total=1),
            sets=[replica_set(), replica_set("web-2", image="server:2", wanted=0, revision=2)],
        ),
        {"Progressing": "RolloutPaused", "Available": "ReplicasAvailable"},
        [],
    ),
    "no replica left": (
        broken(deployed=deployment(ready=0, progressing=("True", "NewReplicaSetAvailable"))),
        {"Ready": "NoReplicasAvailable", "Available": "NoReplicasAvailable", "Progressing": "RolloutComplete"},
        [],
    ),
    "scaled to zero": (
        ZERO,
        {
            "Ready": "ScaledToZero",
            "Available": "ScaledToZero",
            "Progressing": "RolloutComplete",
            "ServerReachable": "NoPods",
            "ConfigApplied": "NoPods",
        },
        ["set spec.replicas"],
    ),
    "invalid from the beginning": (
        nothing_yet(problems=(Problem("spec.stdio.command", "must not be empty"),)),
        {
            "Ready": "InvalidSpec",
            "Available": "NotDeployed",
            "Progressing": "Blocked",
            "SecretsResolved": "NotYetKnown",
            "ConfigApplied": "Blocked",
        },
        ["spec.stdio.command: must not be empty"],
    ),
    "invalid while it serves": (
        seen(problems=(Problem("spec.stdio.command", "must not be empty"),)),
        {
            "Ready": "InvalidSpec",
            "Available": "ReplicasAvailable",
            "Progressing": "Blocked",
            "ServerReachable": "Reachable",
            "ConfigApplied": "Blocked",
        },
        [],
    ),
    "configuration not computed": (nothing_yet(), {"ConfigApplied": "NotYetKnown"}, []),
    "name taken": (
        nothing_yet(conflict=TAKEN),
        {"Ready": "NameConflict", "Progressing": "Blocked", "ConfigApplied": "Blocked"},
        ["Service web exists", "Deployment shop", "another name"],
    ),
    "refused by a webhook": (
        seen(apply_error=REFUSED),
        {"Ready": "ApplyFailed", "Progressing": "Blocked", "ConfigApplied": "Blocked"},
        ["policy.example", "no team label"],
    ),
    "Secret missing": (
        seen(missing=(missing(), missing(key="other")), needs_references=True),
        {"Ready": "SecretMissing", "SecretsResolved": "SecretMissing", "Available": "ReplicasAvailable"},
        [
            "Secret api does not exist",
            "spec.remote.headers[0]",
            "kubectl -n shop create secret generic api --from-file=other=FILE --from-file=token=FILE",
        ],
    ),
    "ConfigMap missing": (
        seen(missing=(missing("ConfigMap", key=None),), needs_references=True),
        {"Ready": "ConfigMapMissing", "SecretsResolved": "ConfigMapMissing"},
        ["kubectl -n shop create configmap api --from-env-file=FILE"],
    ),
    "key missing": (
        seen(missing=(missing(why="KeyMissing"),), needs_references=True),
        {"Ready": "KeyMissing", "SecretsResolved": "KeyMissing"},
        ["Secret api has no key token", "spec.remote.headers[0]"],
    ),
    "Secret may not be read": (
        seen(missing=(missing(why="Forbidden"),), needs_references=True),
        {"Ready": "ReferenceForbidden", "SecretsResolved": "ReferenceForbidden"},
        ["may not read Secret api", "outrigger rbac"],
    ),
    "several missing": (
        seen(missing=(missing(why="KeyMissing"), missing("ConfigMap"), missing()), needs_references=True),
        {"SecretsResolved": "SecretMissing"},
        ["ConfigMap api does not exist", "Secret api does not exist", "Secret api has no key token"],
    ),
    "all Secrets there": (
        seen(needs_references=True),
        {"Ready": "Ready", "SecretsResolved": "Resolved"},
        [],
    ),
    "value cannot be used": (
        seen(reports=report(secrets_problem="headers.X: sealed with another key"), needs_references=True),
        {"Ready": "SecretUnusable", "SecretsResolved": "SecretUnusable", "Available": "ReplicasAvailable"},
        ["headers.X: sealed with another key"],
    ),
    "root image": (
        broken(server=waiting("server", "CreateContainerConfigError", "container has runAsNonRoot and image will run")),
        {"Ready": "ImageUserNotAllowed"},
        [f"{TEMPLATE}.server.securityContext.runAsUser"],
    ),
    "kubelet refuses": (
        broken(server=waiting("server", "CreateContainerConfigError", "subPath")),
        {"Ready": "ContainerRefused"},
        [],
    ),
    "command missing": (
        broken(server=crashing("server", 127, "command not found: nope")),
        {"Ready": "CommandNotFound"},
        [],
    ),
    "port in use": (broken(server=crashing("server", 1, "Address already in use")), {"Ready": "PortInUse"}, []),
    "server crashes": (broken(server=crashing("server", 1, "boom")), {"Ready": "ServerCrashing"}, ["boom"]),
    "sidecar crashes": (broken(sidecar=crashing("sidecar", 1, "boom")), {"Ready": "SidecarCrashing"}, []),
    "mesh crashes": (broken(others=[crashing("istio-proxy")]), {"Ready": "ContainerCrashing"}, []),
    "pods refused": (
        replace(broken(sets=[replica_set(available=0, failure="exceeded quota: q")]), pods=(), reports={}),
        {"Ready": "PodRefused"},
        ["exceeded quota: q"],
    ),
    "ReplicaSet refused": (
        replace(
            broken(deployed=deployment(ready=0, observed=0, progressing=("False", "ReplicaSetCreateError")), sets=[]),
            pods=(),
        ),
        {"Ready": "PodRefused", "Progressing": "RolloutStuck"},
        [],
    ),
    "no node": (broken(conditions=[NO_NODE]), {"Ready": "Unschedulable"}, ["0/3 nodes"]),
    "evicted": (broken(phase="Failed", status={"reason": "Evicted"}), {"Ready": "PodEvicted"}, []),
    "stuck": (
        broken(deployed=STUCK),
        {"Ready": "RolloutStuck", "Progressing": "RolloutStuck"},
        ["kubectl describe pod web-1-a"],
    ),
    "server never answered": (
        broken(reports=[report(up=False, failures=5, last_error="connection refused")]),
        {"Ready": "ServerUnreachable", "ServerReachable": "Unreachable"},
        ["connection refused"],
    ),
    "server is starting": (broken(reports=[STARTING]), {"Ready": "Progressing", "ServerReachable": "NotYetKnown"}, []),
    "server went away": (
        seen(reports=DOWN),
        {"Ready": "ServerUnreachable", "ServerReachable": "Unreachable", "Available": "ReplicasAvailable"},
        ["connection refused"],
    ),
    "server's process went away": (
        seen(reports=report(up=False, answered=True, last_error="the server's process exited with status 9")),
        {"Ready": "ServerCrashing", "ServerReachable": "Unreachable"},
        ["status 9"],
    ),
    "server answers one of two": (
        seen(pod(), pod(name="web-1-b"), reports=[report(), DOWN]),
        {"Ready": "Ready", "ServerReachable": "PartlyReachable"},
        ["1 of 2 pods", "connection refused"],
    ),
    "calls fail": (
        seen(reports=FAILING),
        {"Ready": "CallsFailing", "ServerReachable": "CallsFailing", "Available": "ReplicasAvailable"},
        ["the server answers health checks", "circuit breaker", "no sign of life for 0.3 s"],
    ),
    "calls fail in all pods": (
        seen(pod(), pod(name="web-1-b"), reports=[FAILING, report(refuses=True)]),
        {"Ready": "CallsFailing", "ServerReachable": "CallsFailing"},
        [],
    ),
    "calls fail in one of two": (
        seen(pod(), pod(name="web-1-b"), reports=[report(), FAILING]),
        {"Ready": "Ready", "ServerReachable": "PartlyReachable"},
        ["answers calls of 1 of 2 pods", "no sign of life"],
    ),
    "calls failed once": (
        seen(reports=report(call_errors=["the server showed no sign of life for 0.3 s"])),
        {"Ready": "Ready", "ServerReachable": "Reachable"},
        [],
    ),
    "sidecars cannot be read": (
        seen(reports=UNREADABLE),
        {"Ready": "Ready", "ServerReachable": "StatusUnreadable", "ConfigApplied": "StatusUnreadable"},
        ["no connection to the admin port", "port 9191"],
    ),
    "one of two cannot be read": (
        seen(pod(), pod(name="web-1-b"), reports=[report(), UNREADABLE]),
        {"ServerReachable": "Reachable", "ConfigApplied": "StatusUnreadable"},
        ["web-1-b"],
    ),
    "not asked yet": (
        seen(reports=[None]),
        {"ServerReachable": "NotYetKnown", "ConfigApplied": "NotYetKnown", "Ready": "Ready"},
        [],
    ),
    "old configuration in one of two": (
        seen(pod(), pod(name="web-1-b"), reports=[report(), report(file_hash="0" * 16)]),
        {"Ready": "Ready", "ConfigApplied": "Propagating"},
        ["1 of 2 pods"],
    ),
    "configuration of pods that give way": (
        seen(pod(), pod(name="web-0-a", owner="web-0"), reports=[report(), report(file_hash="0" * 16)]),
        {"ConfigApplied": "AwaitingPods"},
        ["1 of 2 pods"],
    ),
    "configuration of a pod that is starting": (
        seen(pod(), pod(name="web-1-b", ready=False, sidecar=waiting("sidecar", "ContainerCreating"))),
        {"ConfigApplied": "AwaitingPods"},
        ["1 of 2 pods"],
    ),
    "configuration refused": (
        seen(reports=report(file_hash="0" * 16, refusal=["servers.web.x: unknown key"])),
        {"Ready": "ConfigRefused", "ConfigApplied": "Refused"},
        ["servers.web.x: unknown key"],
    ),
    "refused once, good again": (
        seen(reports=report(refusal=["servers.web.x: unknown key"])),
        {"Ready": "Ready", "ConfigApplied": "Applied"},
        [],
    ),
    "its node cannot prepare the pod": (
        replace(broken(), events={PodView.of(pod()).uid: 'MountVolume failed for volume "data"'}),
        {"Ready": "PodNotPrepared", "Available": "NoReplicasAvailable"},
        ['volume "data"'],
    ),
    "waits for its turn": (
        seen(turn="Wait"),
        {"Ready": "RolloutWaiting", "Progressing": "WaitingForTurn"},
        [URL],
    ),
    "the new configuration is for the new pods": (
        seen(turn="Wait", config_waits=True),
        {"Ready": "RolloutWaiting", "Progressing": "WaitingForTurn", "ConfigApplied": "WaitingForTurn"},
        [],
    ),
    "others failed": (seen(turn="Stopped"), {"Ready": "RolloutWaiting", "Progressing": "FleetStopped"}, []),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_situation(situation: str) -> None:
    facts, reasons, words = SITUATIONS[situation]
    conditions = by_type(build(facts))
    assert {kind: conditions[kind]["reason"] for kind in reasons} == reasons
    told = " ".join(each["message"] for each in conditions.values())
    for each in words:
        assert each in told


def test_every_reason_has_a_situation_and_its_status() -> None:
    shown: dict[tuple[str, str], str] = {}
    for facts, _, _ in SITUATIONS.values():
        for kind, each in by_type(build(facts)).items():
            shown[kind, each["reason"]] = each["status"]
    assert shown == {key: row.status for key, row in REASONS.items()}


def test_every_condition_is_shown_true_and_false() -> None:
    for kind in TYPES:
        assert {"True", "False"} <= {row.status for row in REASONS.values() if row.type == kind}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_shape(situation: str) -> None:
    """As metav1.Condition and the CRD want it."""
    facts, _, _ = SITUATIONS[situation]
    status = build(facts)
    assert [each["type"] for each in status["conditions"]] == list(TYPES)
    for each in status["conditions"]:
        assert set(each) == {"type", "status", "observedGeneration", "lastTransitionTime", "reason", "message"}
        assert each["observedGeneration"] == facts.generation
        assert each["message"]
        assert each["message"].isprintable()
        assert len(each["message"]) <= 1024
    assert status["observedGeneration"] == facts.generation
    assert json.loads(json.dumps(status)) == status
    assert None not in status.values()


@pytest.mark.parametrize("situation", SITUATIONS)
def test_at_rest_nothing_changes(situation: str) -> None:
    facts, _, _ = SITUATIONS[situation]
    status = build(facts)
    assert build(replace(facts, previous=status, now=LATER)) == status


class TestTimes:
    def test_a_change_of_status_has_its_time(self) -> None:
        before = build(UP)
        after = by_type(build(seen(reports=DOWN, previous=before, now=LATER)))
        assert after["ServerReachable"]["lastTransitionTime"] == LATER
        assert after["Available"]["lastTransitionTime"] == NOW

    def test_a_change_of_reason_alone_has_none(self) -> None:
        before = build(broken(server=crashing("server")))
        after = by_type(build(replace(broken(conditions=[NO_NODE]), previous=before, now=LATER)))
        assert after["Ready"]["reason"] == "Unschedulable"
        assert after["Ready"]["lastTransitionTime"] == NOW

    def test_a_new_generation(self) -> None:
        after = by_type(build(replace(UP, previous=build(UP), generation=2, now=LATER)))
        assert {each["observedGeneration"] for each in after.values()} == {2}
        assert {each["lastTransitionTime"] for each in after.values()} == {NOW}


class TestWhatWasKnownBefore:
    """A new leader asked no sidecar yet; it must not unsay what the one before it knew."""

    @pytest.mark.parametrize(
        "known",
        [
            UP,
            seen(reports=DOWN),
            seen(reports=report(secrets_problem="sealed with another key"), needs_references=True),
            seen(reports=report(file_hash="0" * 16, refusal=["x: unknown key"])),
            seen(reports=report(file_hash="0" * 16)),
            broken(reports=[report(up=False, failures=5, last_error="the command 'x' was not found on PATH")]),
        ],
        ids=["serves", "server down", "secret unusable", "config refused", "propagating", "command"],
    )
    def test_is_kept(self, known: Facts) -> None:
        before = build(known)
        assert build(replace(known, reports={}, previous=before, now=LATER)) == before

    def test_another_configuration_is_not_applied_because_the_last_one_was(self) -> None:
        after = by_type(build(replace(UP, reports={}, config_hash="f" * 16, previous=build(UP))))
        assert after["ConfigApplied"]["reason"] == "NotYetKnown"

    def test_a_status_of_an_older_operator(self) -> None:
        old = {"conditions": [{"type": "ServerReachable", "status": "True", "reason": "Fine", "message": "x"}, 7]}
        after = by_type(build(replace(UP, reports={}, previous=old)))
        assert after["ServerReachable"]["reason"] == "NotYetKnown"

    def test_a_pod_that_starts_is_not_unreadable(self) -> None:
        after = by_type(build(broken(reports=[UNREADABLE])))
        assert after["ServerReachable"]["reason"] == "NotYetKnown"


class TestPodsThatDoNotCount:
    @pytest.mark.parametrize("change", ["leaving", "finished"])
    def test_for_what_runs(self, change: str) -> None:
        old = pod(name="web-1-b")
        if change == "leaving":
            old["metadata"]["deletionTimestamp"] = NOW
        else:
            old["status"]["phase"] = "Failed"
        facts = seen(
            pod(), old, deployed=deployment(), sets=[replica_set()], reports=[report(), report(file_hash="0" * 16)]
        )
        conditions = by_type(build(facts))
        assert {kind: each["reason"] for kind, each in conditions.items()} == {
            kind: each["reason"] for kind, each in by_type(build(UP)).items()
        }


@pytest.mark.parametrize(
    ("all_missing", "reason"),
    [
        ((missing(why="KeyMissing"), missing("ConfigMap")), "ConfigMapMissing"),
        ((missing(why="KeyMissing"), missing(why="Forbidden")), "KeyMissing"),
        ((missing("ConfigMap"), missing(why="Forbidden"), missing()), "SecretMissing"),
    ],
)
def test_of_several_missing_the_first_to_make(all_missing: tuple[MissingReference, ...], reason: str) -> None:
    conditions = by_type(build(seen(missing=all_missing, needs_references=True)))
    assert conditions["Ready"]["reason"] == conditions["SecretsResolved"]["reason"] == reason


class TestFields:
    def test_of_one_that_serves(self) -> None:
        status = build(
            seen(
                pod(),
                pod(name="web-1-b"),
                versions=(
                    Version("Secret", "api", "token", "0a1b2c3d4e5f"),
                    Version("ConfigMap", "settings", "region", "0a1b2c3d4e5f"),
                ),
            )
        )
        del status["conditions"]
        assert status == {
            "observedGeneration": 1,
            "url": URL,
            "era": "Modern",
            "server": {"name": "files", "version": "1.2", "protocolVersions": ["2026-07-28"]},
            "tools": 3,
            "selector": "app.kubernetes.io/instance=web,app.kubernetes.io/name=mcpserver",
            "configHash": HASH,
            "replicas": 2,
            "readyReplicas": 2,
            "updatedReplicas": 2,
            "secrets": [{"name": "api", "key": "token", "version": "0a1b2c3d4e5f"}],
        }

    def test_of_one_that_was_just_created(self) -> None:
        status = build(nothing_yet())
        del status["conditions"]
        assert status == {"observedGeneration": 1, "replicas": 0, "readyReplicas": 0, "updatedReplicas": 0}

    def test_what_is_not_known_now_stays(self) -> None:
        before = build(seen(versions=(Version("Secret", "api", "token", "0a1b2c3d4e5f"),)))
        after = build(nothing_yet(previous=before, problems=(Problem("spec", "is wrong"),)))
        for name in ("url", "era", "server", "tools", "selector", "configHash", "secrets"):
            assert after[name] == before[name]

    def test_a_secret_that_is_no_longer_named_is_forgotten(self) -> None:
        before = build(seen(versions=(Version("Secret", "api", "token", "0a1b2c3d4e5f"),)))
        assert "secrets" not in build(seen(previous=before))

    @pytest.mark.parametrize(
        ("versions", "era"),
        [
            (["2026-07-28", "2025-11-25"], "Both"),
            (["2026-07-28"], "Modern"),
            (["2025-06-18"], "Legacy"),
        ],
    )
    def test_era(self, versions: list[str], era: str) -> None:
        assert build(seen(reports=report(upstream={"versions": versions})))["era"] == era

    def test_the_newest_pods_say_who_the_server_is(self) -> None:
        new = report(upstream={"eras": ["modern"], "serverInfo": {"name": "files", "version": "2.0"}})
        facts = rolling_out(ready=True)
        status = build(replace(facts, reports={"web-1-a-uid": report(), "web-2-a-uid": new}))
        assert status["server"]["version"] == "2.0"

    def test_a_server_that_is_down_says_no_more_than_before(self) -> None:
        down = report(up=False, upstream={"eras": [], "serverInfo": None, "protocolVersion": None})
        before = build(UP)
        after = build(seen(reports=down, previous=before))
        assert (after["era"], after["server"], after["tools"]) == (before["era"], before["server"], before["tools"])


def test_many_problems_are_counted() -> None:
    problems = tuple(Problem(f"spec.stdio.env[{number}]", "x" * 30) for number in range(30))
    message = by_type(build(nothing_yet(problems=problems)))["Ready"]["message"]
    assert message.endswith("and 20 more")


@given(
    st.lists(
        st.sampled_from(
            [
                (pod(), report()),
                (pod(), DOWN),
                (pod(), UNREADABLE),
                (pod(), None),
                (pod(ready=False), STARTING),
                (pod(ready=False, server=crashing("server", 1, "boom")), None),
                (pod(ready=False, server=running("server", restarts=1)), UNREADABLE),
                (pod(ready=False, conditions=[NO_NODE]), None),
                (pod(phase="Failed", ready=False), None),
            ]
        ),
        max_size=4,
    ),
    st.sampled_from([deployment(), deployment(wanted=3, ready=1), STUCK, deployment(image="x:2"), None]),
    st.sampled_from([(), (missing(),), (missing(why="KeyMissing"), missing("ConfigMap"))]),
    st.sampled_from(["Go", "Wait", "Stopped"]),
    st.sampled_from([HASH, "f" * 16, None]),
    st.sampled_from(list(SITUATIONS)),
    st.randoms(use_true_random=False),
)
@settings(max_examples=400, deadline=None)
def test_any_situation_after_any_other(
    pods: list[Any], deployed: Any, gone: Any, turn: Any, wanted: Any, before: str, random: Any
) -> None:
    """The same whatever the order of what was seen; built on itself it is itself."""
    named = []
    for number, (raw, answer) in enumerate(pods):
        meta = {**raw["metadata"], "name": f"web-1-{number}", "uid": f"pod-{number}"}
        named.append((PodView.of({**raw, "metadata": meta}), answer))
    facts = Facts(
        namespace=NAMESPACE,
        name=NAME,
        generation=2,
        now=LATER,
        previous=build(SITUATIONS[before][0]),
        config_hash=wanted,
        missing=gone,
        deployment=DeploymentView.of(deployed) if deployed is not None else None,
        replica_sets=(ReplicaSetView.of(replica_set()), ReplicaSetView.of(replica_set("web-0", image="x:0"))),
        pods=[view for view, _ in named],
        reports={view.uid: answer for view, answer in named if answer is not None},
        turn=turn,
    )
    status = build(facts)
    assert build(replace(facts, previous=status, now="2026-11-23T14:00:00Z")) == status
    random.shuffle(named)
    shuffled = replace(
        facts,
        pods=[view for view, _ in named],
        reports={view.uid: answer for view, answer in named if answer is not None},
        replica_sets=facts.replica_sets[::-1],
    )
    assert build(shuffled) == status

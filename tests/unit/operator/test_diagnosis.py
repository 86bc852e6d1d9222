"""What is wrong with the pods: a case for every cause, with what kubelet, scheduler and sidecar really say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kubernetes_objects import (
    NAME,
    NOW,
    crashing,
    deployment,
    ended,
    pod,
    replica_set,
    running,
    sidecar_status,
    waiting,
)
from mcp_operator.diagnosis import PRECEDENCE, Diagnosis, current_replica_set, diagnose, pod_cause
from mcp_operator.observed import DeploymentView, PodView, ReplicaSetView
from mcp_operator.reasons import REASONS
from mcp_operator.sidecar_status import Report, Unreadable, parse

LATER = "2026-11-23T12:30:00Z"
NOT_SCHEDULED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient memory.",
}
PULL = (
    'failed to pull and unpack image "reg.example/none:1": failed to resolve reference "reg.example/none:1": not found'
)


def report(**said: Any) -> Report:
    return parse(json.dumps(sidecar_status(**said)).encode(), NAME)


def diagnosed(
    *pods: dict[str, Any],
    deployed: dict[str, Any] | None = None,
    sets: list[dict[str, Any]] | None = None,
    reports: dict[str, Report] | None = None,
    now: str = NOW,
) -> Diagnosis | None:
    return diagnose(
        DeploymentView.of(deployed or deployment(ready=0)),
        [ReplicaSetView.of(each) for each in (sets if sets is not None else [replica_set(available=0)])],
        [PodView.of(each) for each in pods],
        reports,
        now=now,
    )


def not_ready(**what: Any) -> dict[str, Any]:
    return pod(ready=False, **what)


CASES: list[tuple[str, dict[str, Any], str, list[str]]] = [
    (
        "image does not exist",
        not_ready(server=waiting("server", "ErrImagePull", PULL)),
        "ImagePullFailed",
        ["server:1", "not found", "spec.podTemplate.imagePullSecrets"],
    ),
    (
        "image does not exist, backing off",
        not_ready(
            server=waiting(
                "server", "ImagePullBackOff", f'Back-off pulling image "reg.example/none:1": ErrImagePull: {PULL}'
            )
        ),
        "ImagePullFailed",
        ["not found"],
    ),
    (
        "image name is none",
        not_ready(
            server=waiting("server", "InvalidImageName", 'couldn\'t parse image name "A B": invalid reference format')
        ),
        "ImagePullFailed",
        ["invalid reference format"],
    ),
    (
        "image may not be pulled",
        not_ready(
            server=waiting(
                "server", "ErrImageNeverPull", 'Container image "x:1" is not present with pull policy of Never'
            )
        ),
        "ImagePullFailed",
        ["pull policy of Never"],
    ),
    (
        "sidecar's image",
        not_ready(sidecar=waiting("sidecar", "ErrImagePull", PULL)),
        "ImagePullFailed",
        ["the operator's configuration"],
    ),
    (
        "image of root",
        not_ready(
            server=waiting(
                "server",
                "CreateContainerConfigError",
                "container has runAsNonRoot and image will run as root (pod: x)",
            )
        ),
        "ImageUserNotAllowed",
        ["set spec.podTemplate.server.securityContext.runAsUser"],
    ),
    (
        "image of a named user",
        not_ready(
            server=waiting(
                "server",
                "CreateContainerConfigError",
                "container has runAsNonRoot and image has non-numeric user (node), cannot verify user is non-root",
            )
        ),
        "ImageUserNotAllowed",
        ["(node)", "set spec.podTemplate.server.securityContext.runAsUser"],
    ),
    (
        "user 0 asked for",
        not_ready(
            server=waiting(
                "server", "CreateContainerConfigError", "container's runAsUser breaks non-root policy (pod: x)"
            )
        ),
        "ImageUserNotAllowed",
        [],
    ),
    (
        "no such Secret",
        not_ready(server=waiting("server", "CreateContainerConfigError", 'secret "api" not found')),
        "SecretMissing",
        ["Secret api does not exist"],
    ),
    (
        "no such ConfigMap",
        not_ready(server=waiting("server", "CreateContainerConfigError", 'configmap "settings" not found')),
        "ConfigMapMissing",
        ["ConfigMap settings does not exist"],
    ),
    (
        "no such key",
        not_ready(server=waiting("server", "CreateContainerConfigError", "couldn't find key token in Secret shop/api")),
        "KeyMissing",
        ["Secret shop/api has no key token"],
    ),
    (
        "kubelet refuses",
        not_ready(server=waiting("server", "CreateContainerConfigError", "failed to prepare subPath for volumeMount")),
        "ContainerRefused",
        ["failed to prepare subPath"],
    ),
    (
        "no command",
        not_ready(
            server=waiting("server", "CreateContainerError", "failed to generate container spec: no command specified")
        ),
        "CommandNotFound",
        ["no command specified"],
    ),
    (
        "command not in the image",
        not_ready(
            server=crashing(
                "server",
                128,
                'failed to start containerd task: runc create failed: exec: "nope": executable file not found in $PATH',
                reason="StartError",
            )
        ),
        "CommandNotFound",
        ['"nope"', "set the command"],
    ),
    (
        "command is another processor's",
        not_ready(
            server=crashing("server", 128, "exec /server: exec format error", reason="StartError"),
        ),
        "CommandNotFound",
        ["exec format error"],
    ),
    (
        "bridge does not find it",
        not_ready(
            server=crashing(
                "server",
                127,
                "outrigger-bridge: command not found: nope; set spec.stdio.command to a program that the image has",
            )
        ),
        "CommandNotFound",
        ["command not found: nope; set spec.stdio.command"],
    ),
    (
        "start fails otherwise",
        not_ready(server=crashing("server", 128, "cgroup: no space left on device", reason="StartError")),
        "ContainerRefused",
        ["no space left"],
    ),
    (
        "port of the sidecar is taken",
        not_ready(
            sidecar=crashing("sidecar", 1, '{"level":"error","event":"cannot serve","error":"Address already in use"}')
        ),
        "PortInUse",
        ["spec.http.port", "spec.front.port", "spec.front.adminPort"],
    ),
    (
        "port of the server is taken",
        not_ready(server=crashing("server", 1, "Error: listen EADDRINUSE: address already in use :::8080")),
        "PortInUse",
        [],
    ),
    (
        "server crashes",
        not_ready(server=crashing("server", 3, "Traceback\n  File x\nKeyError: 'REGION'")),
        "ServerCrashing",
        ["exit code 3", "KeyError: 'REGION'"],
    ),
    (
        "server crashes without a word",
        not_ready(server=crashing("server", 0, "", reason="Completed")),
        "ServerCrashing",
        ["exit code 0", "kubectl logs --previous"],
    ),
    (
        "server is killed",
        not_ready(server=crashing("server", 139, "", signal=11)),
        "ServerCrashing",
        ["signal 11"],
    ),
    (
        "server needs too much memory",
        not_ready(server=crashing("server", 137, "", reason="OOMKilled", signal=9)),
        "ServerCrashing",
        ["memory", "raise spec.podTemplate.server.resources.limits.memory"],
    ),
    (
        "sidecar needs too much memory",
        not_ready(sidecar=crashing("sidecar", 137, "", reason="OOMKilled")),
        "SidecarCrashing",
        ["raise spec.podTemplate.sidecar.resources.limits.memory"],
    ),
    ("sidecar crashes", not_ready(sidecar=crashing("sidecar", 1, "boom")), "SidecarCrashing", ["boom"]),
    ("bridge cannot be copied", not_ready(server=crashing("bridge", 1, "cannot install")), "SidecarCrashing", []),
    (
        "sidecar refuses its configuration",
        not_ready(
            sidecar=crashing(
                "sidecar",
                2,
                "outrigger-sidecar: /etc/outrigger/config.json: 1 problem\n  servers.web.comand: unknown key",
            )
        ),
        "ConfigRefused",
        ["servers.web.comand: unknown key"],
    ),
    (
        "injected container crashes",
        not_ready(others=[crashing("istio-proxy", 1, "no control plane")]),
        "ContainerCrashing",
        ["istio-proxy", "no control plane"],
    ),
    ("no node", not_ready(conditions=[NOT_SCHEDULED], phase="Pending"), "Unschedulable", ["Insufficient memory"]),
    (
        "thrown out",
        not_ready(
            phase="Failed", status={"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}
        ),
        "PodEvicted",
        ["Evicted", "ephemeral-storage"],
    ),
]


@pytest.mark.parametrize(("described", "broken", "reason", "words"), CASES, ids=[case[0] for case in CASES])
def test_cause(described: str, broken: dict[str, Any], reason: str, words: list[str]) -> None:
    found = diagnosed(broken)
    assert found is not None
    assert found.reason == reason
    for each in words:
        assert each in found.message


def test_the_two_states_of_a_failed_pull_are_one_cause() -> None:
    now = not_ready(server=waiting("server", "ErrImagePull", PULL))
    back_off = f'Back-off pulling image "reg.example/none:1": ErrImagePull: {PULL}'
    assert diagnosed(now) == diagnosed(not_ready(server=waiting("server", "ImagePullBackOff", back_off)))


SAID: list[tuple[str, dict[str, Any], str, list[str]]] = [
    (
        "command not found",
        {"last_error": "the command '/no/such' does not exist"},
        "CommandNotFound",
        ["'/no/such' does not exist", "spec.stdio.command"],
    ),
    (
        "command not on PATH",
        {"last_error": "the command 'nope' was not found on PATH"},
        "CommandNotFound",
        [],
    ),
    (
        "process ends",
        {
            "last_error": "the server did not start: the server's process exited with status 3",
            "stderr": ["Traceback", "KeyError: 'REGION'"],
        },
        "ServerCrashing",
        ["exited with status 3", "KeyError: 'REGION'"],
    ),
    (
        "secret cannot be used",
        {
            "problem": "server web is not ready: headers.X: there is no file /run/x",
            "secrets_problem": "headers.X: there is no file /run/x",
        },
        "SecretUnusable",
        ["headers.X: there is no file /run/x"],
    ),
    (
        "refused",
        {"last_error": "no connection to 10.1.2.3:443: connection refused"},
        "ServerUnreachable",
        ["connection refused"],
    ),
]


@pytest.mark.parametrize(("described", "said", "reason", "words"), SAID, ids=[case[0] for case in SAID])
def test_cause_by_the_words_of_a_sidecar(described: str, said: dict[str, Any], reason: str, words: list[str]) -> None:
    found = diagnosed(not_ready(), reports={"web-1-a-uid": report(up=False, failures=4, **said)})
    assert found is not None
    assert found.reason == reason
    for each in words:
        assert each in found.message


def test_the_kubelet_need_not_name_the_pod_again() -> None:
    said = 'container has runAsNonRoot and image will run as root (pod: "web-1-a_shop(6fd0-44)", container: server)'
    found = diagnosed(not_ready(server=waiting("server", "CreateContainerConfigError", said)))
    assert found is not None
    assert found.message.startswith("image server:1: container has runAsNonRoot and image will run as root; set spec.")


class TestNothingIsWrong:
    def test_ready(self) -> None:
        assert diagnosed(pod()) is None

    @pytest.mark.parametrize(
        "starting",
        [
            not_ready(server=waiting("server", "ContainerCreating")),
            not_ready(server=waiting("server", "PodInitializing")),
            not_ready(),
            not_ready(conditions=[{**NOT_SCHEDULED, "reason": "SchedulingGated"}]),
            not_ready(status={"initContainerStatuses": [], "containerStatuses": []}, phase="Pending"),
        ],
        ids=["creating", "initializing", "running", "gated", "nobody looked"],
    )
    def test_starting(self, starting: dict[str, Any]) -> None:
        assert diagnosed(starting) is None

    def test_a_server_that_starts_slowly(self) -> None:
        starting = report(up=False, failures=1, last_error="connection refused")
        assert diagnosed(not_ready(), reports={"web-1-a-uid": starting}) is None

    def test_a_sidecar_that_cannot_be_read_yet(self) -> None:
        assert diagnosed(not_ready(), reports={"web-1-a-uid": Unreadable("no connection")}) is None

    def test_the_bridge_has_done_its_work(self) -> None:
        done = {"name": "bridge", "restartCount": 1, "state": {"terminated": ended(0, reason="Completed")}}
        assert diagnosed(not_ready(others=[], server=done)) is None

    def test_no_deployment(self) -> None:
        assert diagnose(None, [], [], now=NOW) is None

    def test_one_that_is_on_its_way_out(self) -> None:
        leaving = not_ready(server=crashing("server"))
        leaving["metadata"]["deletionTimestamp"] = NOW
        assert diagnosed(leaving) is None

    def test_thrown_out_and_replaced(self) -> None:
        evicted = not_ready(phase="Failed", status={"reason": "Evicted"})
        assert diagnosed(evicted, deployed=deployment(), sets=[replica_set()]) is None


class TestCrashLoop:
    """The cause must not come and go with the loop."""

    last = ended(1, "boom")

    @pytest.mark.parametrize(
        "state",
        [
            crashing("server", 1, "boom"),
            {"name": "server", "image": "server:1", "restartCount": 2, "state": {"terminated": last}},
            running("server", restarts=2, last=last),
        ],
        ids=["backing off", "just ended", "runs for a moment"],
    )
    def test_in_every_state(self, state: dict[str, Any]) -> None:
        found = diagnosed(not_ready(server=state))
        assert found == diagnosed(not_ready(server=crashing("server", 1, "boom")))
        assert found is not None

    def test_the_first_end_is_no_loop(self) -> None:
        assert diagnosed(not_ready(server={"name": "server", "state": {"terminated": self.last}})) is None

    def test_a_crash_long_ago(self) -> None:
        assert diagnosed(not_ready(server=running("server", restarts=2, last=self.last)), now=LATER) is None

    def test_it_serves_again(self) -> None:
        assert diagnosed(pod(server=running("server", restarts=2, last=self.last))) is None


class TestWhichPods:
    def test_only_those_of_the_newest_template(self) -> None:
        old_one = not_ready(name="web-1-a", owner="web-1", server=crashing("server"))
        found = diagnosed(
            old_one,
            pod("web-2-a", owner="web-2"),
            deployed=deployment(image="server:2", ready=0),
            sets=[replica_set(), replica_set("web-2", image="server:2", revision=2)],
        )
        assert found is None

    def test_the_new_ones_decide_while_old_ones_serve(self) -> None:
        found = diagnosed(
            pod(),
            not_ready(name="web-2-a", owner="web-2", server=waiting("server", "ErrImagePull", PULL)),
            deployed=deployment(image="server:2", ready=1, updated=1, total=2),
            sets=[replica_set(), replica_set("web-2", image="server:2", revision=2, available=0)],
        )
        assert found is not None
        assert found.reason == "ImagePullFailed"

    def test_after_a_rollback_the_older_replica_set_is_the_newest(self) -> None:
        sets = [
            ReplicaSetView.of(replica_set("web-1", revision=3)),
            ReplicaSetView.of(replica_set("web-2", image="server:2", revision=2)),
        ]
        current = current_replica_set(DeploymentView.of(deployment()), sets)
        assert current is not None
        assert current.name == "web-1"

    def test_a_replica_set_of_another(self) -> None:
        foreign = replica_set()
        foreign["metadata"]["ownerReferences"][0]["uid"] = "another"
        assert current_replica_set(DeploymentView.of(deployment()), [ReplicaSetView.of(foreign)]) is None

    def test_the_cause_that_stands_first(self) -> None:
        crashed = not_ready(name="web-1-a", server=crashing("server"))
        unplaced = not_ready(name="web-1-b", conditions=[NOT_SCHEDULED], server=waiting("server", ""))
        first = diagnosed(crashed, unplaced)
        assert first == diagnosed(unplaced, crashed)
        assert first is not None
        assert first.reason == "Unschedulable"


class TestRefusedPods:
    QUOTA = 'pods "web-5fd9d69cc5-x7wxw" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0'

    def test_by_the_api_server(self) -> None:
        found = diagnosed(sets=[replica_set(available=0, failure=self.QUOTA)])
        assert found is not None
        assert found.reason == "PodRefused"
        assert "exceeded quota: q" in found.message

    def test_names_that_are_made_anew_at_every_try_are_left_out(self) -> None:
        again = self.QUOTA.replace("x7wxw", "abcde")
        assert diagnosed(sets=[replica_set(available=0, failure=self.QUOTA)]) == diagnosed(
            sets=[replica_set(available=0, failure=again)]
        )

    def test_the_replica_set_is_refused(self) -> None:
        refused = deployment(ready=0, observed=0, progressing=("False", "ReplicaSetCreateError"))
        refused["status"]["conditions"][0]["message"] = 'Failed to create new replica set "web-1": exceeded quota: q'
        found = diagnosed(deployed=refused, sets=[])
        assert found is not None
        assert found.reason == "PodRefused"
        assert "exceeded quota: q" in found.message


class TestStuck:
    stuck = deployment(wanted=2, ready=0, progressing=("False", "ProgressDeadlineExceeded"))

    def test_without_a_better_cause(self) -> None:
        found = diagnosed(not_ready(), deployed=self.stuck)
        assert found is not None
        assert found.reason == "RolloutStuck"
        assert "0 of 2 new replicas" in found.message
        assert "kubectl describe pod web-1-a" in found.message

    def test_volumes_are_not_there(self) -> None:
        creating = not_ready(
            server=waiting("server", "PodInitializing"),
            sidecar=waiting("sidecar", "PodInitializing"),
            conditions=[{"type": "PodReadyToStartContainers", "status": "False"}],
        )
        found = diagnosed(creating, deployed=self.stuck)
        assert found is not None
        assert "waits for a volume or its network" in found.message

    def test_the_kubelet_says_why(self) -> None:
        creating = not_ready(conditions=[{"type": "PodReadyToStartContainers", "status": "False"}])
        view = PodView.of(creating)
        said = 'MountVolume failed for volume "share" : mount failed: -o username=me,password=hunter2 //nas/x'
        found = pod_cause(view, None, NOW, said)
        assert found is not None
        assert found.reason == "PodNotPrepared"
        assert 'volume "share"' in found.message
        assert "hunter2" not in found.message

    def test_the_kubelet_names_another_sandbox_each_time(self) -> None:
        view = PodView.of(not_ready(conditions=[{"type": "PodReadyToStartContainers", "status": "False"}]))
        said = 'Failed to create pod sandbox: failed to setup network for sandbox "{}": no such plugin'
        messages = {pod_cause(view, None, NOW, said.format(digit * 64)).message for digit in "0a"}  # type: ignore[union-attr]
        assert len(messages) == 1, "nothing is written anew while nothing changes"
        assert "no such plugin" in messages.pop()

    def test_a_better_cause(self) -> None:
        found = diagnosed(not_ready(server=crashing("server")), deployed=self.stuck)
        assert found is not None
        assert found.reason == "ServerCrashing"

    def test_of_the_template_before(self) -> None:
        before = deployment(ready=0, generation=2, observed=1, progressing=("False", "ProgressDeadlineExceeded"))
        assert diagnosed(deployed=before) is None


class TestWords:
    @pytest.mark.parametrize(
        ("said", "hidden"),
        [
            ("cannot reach postgres://app:hunter2@db:5432/x", "hunter2"),
            ("401 for Authorization: Bearer abcdefghijkl", "abcdefghijkl"),
            ("config: API_KEY=sk-12345678 is not valid", "sk-12345678"),
            ('{"password": "hunter2"}', "hunter2"),
        ],
    )
    def test_credentials_are_left_out(self, said: str, hidden: str) -> None:
        found = diagnosed(not_ready(server=crashing("server", 1, said)))
        assert found is not None
        assert hidden not in found.message

    def test_they_are_short_and_printable(self) -> None:
        found = diagnosed(not_ready(server=crashing("server", 1, "\x1b[31m\u202e" + "é" * 4000 + "\nlast line\x07")))
        assert found is not None
        assert len(found.message) < 500
        assert found.message.isprintable()
        assert found.message.endswith("last line")


def test_every_cause_is_a_reason_of_ready_and_has_a_case() -> None:
    shown = {case[2] for case in CASES} | {case[2] for case in SAID} | {"PodNotPrepared", "PodRefused", "RolloutStuck"}
    assert shown == set(PRECEDENCE)
    assert all(("Ready", reason) in REASONS for reason in PRECEDENCE)

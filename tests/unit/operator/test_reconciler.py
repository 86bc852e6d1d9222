"""Reconciling: what is written and what is not, what is told, and that everything heals when its cause goes."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mcp_operator.applier import Applier
from mcp_operator.desired import Cluster, Images
from mcp_operator.errors import BeingReplaced, Forbidden, Invalid, Throttled, Unavailable
from mcp_operator.inventory import Inventory
from mcp_operator.pod_reports import PodReports
from mcp_operator.queue import WorkQueue
from mcp_operator.reasons import REASONS, TYPES
from mcp_operator.reconciler import Reconciler, ReconcilerSettings, Result
from mcp_operator.references import References
from mcp_operator.rollouts import FleetRollout
from mcp_operator.session_key import SessionKeys
from mcp_operator.sidecar_status import SidecarReport, parse
from mcp_operator.status_writer import StatusWriter
from mcp_operator.store import Store
from mcp_operator.turns import PodTurns
from played_cluster import PlayedCluster

KEY = ("team", "search")
HTTP = {"image": "example.com/search:1"}


def server(name: str = "search", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "outrigger.dev/v1alpha1",
        "kind": "MCPServer",
        "metadata": {"namespace": "team", "name": name},
        "spec": spec or {"http": HTTP},
    }


def secret(name: str, **values: str) -> dict[str, Any]:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"kind": "Secret", "metadata": {"namespace": "team", "name": name}, "data": data}


class Operator:
    """A reconciler with its real parts over a played cluster. Nobody asks sidecars but the test."""

    def __init__(
        self, cluster: PlayedCluster, *, version: str = "1", limit: int = 1, pull_policy: str = "", **settings: Any
    ) -> None:
        self.cluster = cluster
        self.now = 1000.0
        self.marked: set[tuple[str, str]] = set()
        self.events: list[tuple[str, str]] = []
        self.store = Store(lambda key, _: self.marked.add(key), clock=self.clock)
        self.inventory = Inventory(self.marked.add, lambda *lost: self.applier.lost(*lost))
        self.applier = Applier(cluster, clock=self.clock)
        self.reports = PodReports(
            SimpleNamespace(),
            lambda key: (),
            self.marked.add,
            clock=self.clock,
            rng=lambda: 0.5,
        )
        self.followed: dict[tuple[str, str], bool] = {}
        self.asked_now: list[tuple[str, str]] = []
        self.reports.follow = lambda key, *, settled: self.followed.__setitem__(key, settled)
        self.reports.ask_now = self.asked_now.append
        self.reports._queue = WorkQueue(clock=self.clock, rng=lambda: 0.5)
        self.statuses = StatusWriter(cluster, self, clock=self.clock)
        self.references = References(cluster, clock=self.clock, rng=lambda: 0.5)
        self.fleet: FleetRollout[tuple[str, str]] = FleetRollout(limit)
        images = Images(f"o/sidecar:{version}", f"o/sidecar-runtime:{version}", pull_policy)
        self.turns = PodTurns(self.fleet, self.store, self.inventory, images, self.marked.update)
        self.reconciler = Reconciler(
            client=cluster,
            store=self.store,
            inventory=self.inventory,
            applier=self.applier,
            references=self.references,
            session_keys=SessionKeys(cluster, clock=self.clock, random_bytes=lambda count: b"r" * count),
            reports=self.reports,
            turns=self.turns,
            statuses=self.statuses,
            settings=ReconcilerSettings(images=images, cluster=Cluster(), **settings),
            clock=self.clock,
            rng=lambda: 0.5,
            timestamp=lambda: "2026-11-23T12:00:00Z",
        )
        cluster.watch_anew()
        self.tell()

    def clock(self) -> float:
        return self.now

    def record(self, about: Any, type: str, reason: str, message: str) -> None:
        self.events.append((type, reason))

    def tell(self) -> None:
        self.cluster.catch_up(self.store, self.inventory)

    async def once(self, key: tuple[str, str] = KEY) -> Result | None:
        """One pass, on the word of the newest."""
        self.tell()
        self.marked.discard(key)
        self.cluster.requests.clear()
        return await self.reconciler.reconcile(key)

    async def rest(self, *keys: tuple[str, str]) -> None:
        """As many passes as there is something to do."""
        self.marked.update(keys or (KEY,))
        for _ in range(50):
            if not self.marked:
                return
            await self.once(sorted(self.marked)[0])
            self.tell()
        raise AssertionError("it never comes to rest")

    def condition(self, kind: str = "Ready", key: tuple[str, str] = KEY) -> tuple[str, str, str]:
        found = self.cluster.objects["MCPServer", *key]["status"]["conditions"]
        one = next(each for each in found if each["type"] == kind)
        return one["status"], one["reason"], one["message"]

    def object(self, kind: str, name: str = "search") -> dict[str, Any]:
        return self.cluster.objects[kind, "team", name]

    def names(self, kind: str) -> list[str]:
        return sorted(name for found, _, name in self.cluster.objects if found == kind)

    def roll(self, name: str = "search", *, serving: bool = True) -> None:
        """What the Deployment and ReplicaSet controllers do, and a kubelet where it can."""
        deployment = self.object("Deployment", name)
        template, meta = deployment["spec"]["template"], deployment["metadata"]
        image = template["spec"]["containers"][0]["image"].replace("/", "-").replace(":", "-")
        policy = template["spec"]["containers"][0].get("imagePullPolicy", "")
        place = f"{name}-{image}{policy}-{template['spec']['volumes'][0]['configMap']['name'][-4:]}"
        for kind, each, which in list(self.cluster.objects):
            if kind == "ReplicaSet" and which.startswith(f"{name}-") and serving:
                self.cluster.objects[kind, each, which]["status"] = {}
        labels = {"outrigger.dev/mcpserver": name}
        self.cluster.put(
            {
                "kind": "ReplicaSet",
                "metadata": {
                    "namespace": "team",
                    "name": place,
                    "labels": labels,
                    "ownerReferences": [
                        {"kind": "Deployment", "name": name, "uid": meta["uid"], "controller": True},
                    ],
                    "annotations": {
                        **meta.get("annotations", {}),
                        "deployment.kubernetes.io/revision": str(meta["generation"]),
                    },
                },
                "spec": {"replicas": 1, "template": copy.deepcopy(template)},
                "status": {"replicas": 1, "availableReplicas": int(serving), "readyReplicas": int(serving)},
            }
        )
        before = deployment.get("status", {}).get("availableReplicas", 0)
        reason = "NewReplicaSetAvailable" if serving else "ReplicaSetUpdated"
        deployment["status"] = {
            "observedGeneration": meta["generation"],
            "replicas": 1 if serving else 1 + before,
            "updatedReplicas": 1,
            "readyReplicas": 1 if serving else before,
            "availableReplicas": 1 if serving else before,
            "conditions": [{"type": "Progressing", "status": "True", "reason": reason}],
        }
        self.cluster.put(deployment, same_spec=True)

    def pod(self, name: str = "search-a", *, ready: bool = True) -> dict[str, Any]:
        """A pod of the newest ReplicaSet whose sidecar runs."""
        newest = [found for place, found in self.cluster.objects.items() if place[0] == "ReplicaSet"][-1]
        owner = {"kind": "ReplicaSet", "name": "x", "uid": newest["metadata"]["uid"], "controller": True}
        return self.cluster.put(
            {
                "kind": "Pod",
                "metadata": {
                    "namespace": "team",
                    "name": name,
                    "labels": {"outrigger.dev/mcpserver": "search"},
                    "ownerReferences": [owner],
                },
                "spec": newest["spec"]["template"]["spec"],
                "status": {
                    "phase": "Running",
                    "podIP": "10.0.0.9",
                    "conditions": [{"type": "Ready", "status": str(ready)}],
                    "containerStatuses": [{"name": "sidecar", "state": {"running": {}}, "restartCount": 0}],
                },
            }
        )

    def answers(self, pod: dict[str, Any], file_hash: str) -> None:
        """What the pod's sidecar says."""
        mine = {"up": True, "answered": True, "health": {"failuresInARow": 0}, "tools": {"count": 2, "complete": True}}
        body = {
            "ready": True,
            "shuttingDown": False,
            "config": {"fileHash": file_hash},
            "servers": {"search": {**mine, "secrets": {"generation": 1}}},
        }
        report = parse(json.dumps(body).encode(), "search")
        assert isinstance(report, SidecarReport)
        self.reports._answers[KEY] = {pod["metadata"]["uid"]: report}

    @property
    def hash(self) -> str:
        return str(self.object("MCPServer")["status"]["configHash"])


@pytest.fixture
def cluster() -> PlayedCluster:
    return PlayedCluster()


@pytest.fixture
def operator(cluster: PlayedCluster) -> Operator:
    cluster.put(server())
    return Operator(cluster)


async def serving(operator: Operator) -> dict[str, Any]:
    """Bring it to where everything is well; its pod."""
    await operator.rest()
    operator.roll()
    pod = operator.pod()
    await operator.rest()
    operator.answers(pod, operator.hash)
    await operator.rest()
    assert operator.condition()[1] == "Ready", operator.condition()
    operator.asked_now.clear()
    return pod


# What is written, and what is not


async def test_the_first_pass_makes_everything_in_order_and_tells_of_it(operator) -> None:
    await operator.once()
    config = operator.names("ConfigMap")[0]
    assert operator.cluster.writes == [
        "create Secret search-session",
        "apply Service search",
        "apply ServiceAccount search",
        f"apply ConfigMap {config}",
        "apply NetworkPolicy search",
        "apply Deployment search",
        "status MCPServer search",
    ]
    assert "10.96.0.7" in operator.object("ConfigMap", config)["data"]["config.json"]
    assert operator.condition()[:2] == ("False", "Progressing")


async def test_where_nothing_happened_there_is_no_request(operator) -> None:
    await serving(operator)
    result = await operator.once()
    assert operator.cluster.requests == []
    assert result == Result(1200.0)
    operator.now += 600
    await operator.once()
    assert [each for each in operator.cluster.requests if each != "get Secret search-session"] == []


async def test_a_new_process_applies_everything_once_and_changes_nothing(operator) -> None:
    await serving(operator)
    version = operator.cluster.version
    successor = Operator(operator.cluster)
    await successor.rest()
    assert operator.cluster.version == version
    assert successor.events == []


async def test_a_changed_tunable_reaches_pods_through_the_config_map_and_refreshes_them(operator) -> None:
    pod = await serving(operator)
    operator.cluster.put(server(http=HTTP, timeouts={"timeout": "7s"}))
    await operator.once()
    config = operator.names("ConfigMap")[0]
    writes = [f"apply ConfigMap {config}", "annotate Pod search-a", "status MCPServer search"]
    assert operator.cluster.writes == writes
    assert operator.asked_now == [KEY]
    assert operator.condition("ConfigApplied")[:2] == ("False", "Propagating")
    assert operator.followed[KEY] is False
    await operator.rest()
    assert operator.cluster.writes == []
    operator.answers(pod, operator.hash)
    await operator.rest()
    assert operator.condition("ConfigApplied")[:2] == ("True", "Applied")
    assert operator.followed[KEY] is True


async def test_a_pod_that_still_runs_the_old_config_is_refreshed_once_more(operator) -> None:
    pod = await serving(operator)
    operator.answers(pod, "0" * 16)
    await operator.once()
    assert "annotate Pod search-a" in operator.cluster.writes
    await operator.once()
    assert "annotate Pod search-a" not in operator.cluster.writes


async def test_a_pod_that_may_not_be_annotated_is_no_failure(operator) -> None:
    await serving(operator)
    operator.cluster.refusals["annotate", "Pod"] = Forbidden(403, "Forbidden", "a webhook says no")
    operator.cluster.put(server(http=HTTP, timeouts={"timeout": "7s"}))
    result = await operator.once()
    assert not result.failed
    assert operator.condition("ConfigApplied")[1] == "Propagating"


async def test_what_is_not_wanted_any_more_goes(operator) -> None:
    await serving(operator)
    operator.cluster.put(server(http=HTTP, networkPolicy={"mode": "Disabled"}))
    await operator.once()
    assert "delete NetworkPolicy search" in operator.cluster.writes


async def test_a_pod_that_was_never_asked_is_asked_at_once(operator) -> None:
    await serving(operator)
    operator.pod("search-b")
    await operator.once()
    assert operator.asked_now == [KEY]


async def test_a_pod_that_was_asked_before_it_was_ready_is_asked_again_once_it_is(operator) -> None:
    """Only then it knows its server: the status is not to lack that until the next poll."""
    pod = await serving(operator)
    uid = pod["metadata"]["uid"]
    known = operator.reports._answers[KEY][uid]
    operator.reports._answers[KEY] = {uid: dataclasses.replace(known, ready=False)}
    await operator.once()
    assert operator.asked_now == [KEY]
    operator.reports._answers[KEY] = {uid: known}
    await operator.once()
    assert operator.asked_now == [KEY], "it has told"


# The end of an MCPServer


async def test_a_deleted_one_costs_nothing_and_leaves_nothing(operator) -> None:
    await serving(operator)
    operator.cluster.remove("MCPServer", *KEY)
    assert await operator.once() is None
    assert operator.cluster.requests == []
    assert operator.statuses.conditions == {}
    assert (operator.applier._servers, operator.references._known, operator.reconciler._memory) == ({}, {}, {})
    assert operator.turns._applied == {}


async def test_one_whose_deletion_nobody_told_of_is_asked_for_before_anything_is_written(operator) -> None:
    await serving(operator)
    operator.now += 61
    del operator.cluster.objects["MCPServer", *KEY]
    operator.applier.forget(KEY)
    operator.cluster.requests.clear()
    assert await operator.reconciler.reconcile(KEY) is None
    assert operator.cluster.requests == ["get MCPServer search"]
    assert operator.store.get(KEY) is None


async def test_one_whose_deletion_nobody_told_of_is_noticed_by_the_resync(operator) -> None:
    operator.cluster.put(server(http={**HTTP, "path": "no path"}))
    await operator.rest()
    assert operator.condition()[1] == "InvalidSpec"
    del operator.cluster.objects["MCPServer", *KEY]
    operator.now += 1199
    assert await operator.reconciler.reconcile(KEY) is not None
    operator.now += 2
    assert await operator.reconciler.reconcile(KEY) is None
    assert (operator.statuses.conditions, len(operator.store)) == ({}, 0)


async def test_a_successor_of_the_same_name_starts_anew_once_all_of_the_old_one_is_gone(operator) -> None:
    await serving(operator)
    old = operator.cluster.objects.pop(("MCPServer", *KEY))
    operator.cluster.put(server())
    with pytest.raises(BeingReplaced):
        await operator.once()
    assert operator.cluster.writes == []
    operator.cluster.objects["MCPServer", "team", "old"] = old
    operator.cluster.remove("MCPServer", "team", "old")
    await operator.rest()
    uid = operator.object("MCPServer")["metadata"]["uid"]
    assert operator.object("Deployment")["metadata"]["ownerReferences"][0]["uid"] == uid


async def test_a_namespace_that_goes_is_no_failure_and_not_forgotten(operator) -> None:
    gone = Forbidden(403, "Forbidden", "the namespace is being terminated", causes=("NamespaceTerminating",))
    operator.cluster.refusals = {("create", "Secret"): gone}
    assert await operator.once() == Result(60.0)
    assert await operator.once() == Result(60.0)
    assert operator.cluster.requests == [], "what is deleted with its namespace is no drift"
    operator.cluster.remove("MCPServer", "team", "search")
    assert await operator.once() is None


# Refusals


async def test_an_invalid_spec_is_told_and_nothing_applied_until_it_is_right(operator) -> None:
    await serving(operator)
    operator.cluster.put(server(http={"image": "x", "path": "no path"}))
    await operator.once()
    assert operator.cluster.writes == ["status MCPServer search"]
    assert operator.condition()[:2] == ("False", "InvalidSpec")
    assert operator.followed[KEY] is False  # the pods of before still run
    operator.cluster.put(server())
    await operator.rest()
    assert operator.condition()[1] == "Ready"


async def test_a_service_account_is_only_used_where_it_is_allowed(cluster) -> None:
    cluster.put(server(http=HTTP, podTemplate={"serviceAccountName": "admin"}))
    operator = Operator(cluster)
    await operator.rest()
    status, reason, message = operator.condition()
    assert (status, reason) == ("False", "InvalidSpec")
    assert "allowedServiceAccounts allows none" in message
    assert operator.names("Deployment") == []
    allowing = Operator(cluster, allowed_service_accounts=("admin",))
    await allowing.rest()
    assert allowing.object("Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "admin"


@pytest.mark.parametrize(
    "verb, kind",
    [
        ("apply", "Deployment"),
        ("apply", "ConfigMap"),
        ("create", "Secret"),
        ("get", "Secret"),
        ("get", "Service"),
        ("apply", "NetworkPolicy"),
    ],
)
async def test_a_refusal_is_told_backed_off_from_and_heals(operator, verb, kind) -> None:
    operator.cluster.refusals[verb, kind] = Forbidden(403, "Forbidden", "exceeded quota: no more of it")
    result = await operator.once()
    assert result.failed
    assert operator.condition()[:2] == ("False", "ApplyFailed")
    assert "exceeded quota: no more of it" in operator.condition()[2]
    assert ("Warning", "ApplyFailed") in operator.events
    await operator.once()
    assert "status MCPServer search" not in operator.cluster.writes
    operator.cluster.refusals.clear()
    result = await operator.once()
    assert not result.failed
    assert operator.names("Deployment") == ["search"]
    assert operator.condition()[1] == "Progressing"


async def test_what_passes_by_itself_is_not_told(operator) -> None:
    operator.cluster.refusals["apply", "Service"] = Unavailable(503, "ServiceUnavailable", "later")
    with pytest.raises(Unavailable):
        await operator.once()
    assert "status MCPServer search" not in operator.cluster.writes


@pytest.mark.parametrize(
    ("verb", "kind", "object"),
    [("apply", "Service", "Service search"), ("apply", "Deployment", "Deployment search"), ("get", "Secret", "it")],
)
async def test_what_should_pass_by_itself_and_does_not_is_told(operator, verb, kind, object) -> None:
    words = "Internal error occurred: failed to allocate a serviceIP: range is full"
    operator.cluster.refusals[verb, kind] = Unavailable(500, "InternalError", words)
    with pytest.raises(Unavailable):
        await operator.once()
    operator.now += 4.9
    with pytest.raises(Unavailable):
        await operator.once()
    operator.now += 0.2
    result = await operator.once()
    assert result.failed
    assert operator.condition() == ("False", "ApplyFailed", f"the API server refuses {object}: {words}")
    assert operator.condition("Progressing")[1] == "Blocked"
    assert operator.events == [("Warning", "ApplyFailed")]
    await operator.once()
    assert operator.cluster.writes[-1:] != ["status MCPServer search"]
    operator.cluster.refusals.clear()
    result = await operator.once()
    assert not result.failed
    assert operator.condition()[1] == "Progressing"
    # patience begins anew
    operator.cluster.refusals["apply", "Service"] = Unavailable(500, "InternalError", words)
    operator.cluster.put(server(http=HTTP, service={"port": 81}))
    with pytest.raises(Unavailable):
        await operator.once()


@pytest.mark.parametrize(
    "error",
    [Unavailable(0, "Unreachable", "connection refused"), Throttled(429, "TooManyRequests", "less", retry_after=9)],
)
async def test_an_api_server_that_does_not_answer_or_asks_for_less_is_only_asked_again(operator, error) -> None:
    operator.cluster.refusals["apply", "Service"] = error
    for _ in range(3):
        with pytest.raises(type(error)):
            await operator.once()
        operator.now += 60
    assert "status" not in operator.object("MCPServer")


async def test_what_is_left_of_a_predecessor_and_does_not_go_is_told(operator) -> None:
    await serving(operator)
    operator.cluster.objects.pop(("MCPServer", *KEY))
    operator.cluster.put(server())
    with pytest.raises(BeingReplaced):
        await operator.once()
    operator.now += 6
    await operator.once()
    assert operator.condition()[1] == "ApplyFailed"
    assert "of the deleted MCPServer search is not gone yet" in operator.condition()[2]


async def test_a_name_that_is_taken_is_told_and_heals(operator) -> None:
    foreign = {"kind": "Deployment", "metadata": {"namespace": "team", "name": "search"}, "spec": {}}
    operator.cluster.put(foreign)
    result = await operator.once()
    assert result.again == 15.0
    assert operator.condition()[:2] == ("False", "NameConflict")
    assert operator.cluster.writes == ["create Secret search-session", "status MCPServer search"]
    operator.cluster.remove("Deployment", *KEY)
    await operator.rest()
    assert operator.condition()[1] == "Progressing"


# Secrets


async def test_a_missing_secret_is_told_and_heals(operator) -> None:
    variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "value"}}}
    operator.cluster.put(server(http={**HTTP, "env": [variable]}))
    result = await operator.once()
    assert result.again == 10.0
    assert operator.condition("SecretsResolved")[:2] == ("False", "SecretMissing")
    assert operator.condition()[1] == "SecretMissing"
    assert REASONS["SecretsResolved", "SecretMissing"] in operator.statuses.conditions[KEY]
    operator.cluster.put(secret("token", value="a"))
    operator.now += 10
    await operator.once()
    assert operator.condition("SecretsResolved")[:2] == ("True", "Resolved")
    # what is measured: one row for each type, those of the table, so that many MCPServers take little memory
    measured = operator.statuses.conditions[KEY]
    assert [row.type for row in measured] == list(TYPES)
    assert REASONS["SecretsResolved", "Resolved"] in measured
    assert all(row is REASONS[row.type, row.reason] for row in measured)
    told = operator.object("MCPServer")["status"]["secrets"]
    assert [(each["name"], each["key"], len(each["version"])) for each in told] == [("token", "value", 12)]


async def test_pods_that_work_are_not_replaced_while_a_secret_is_missing(operator) -> None:
    variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "value"}}}
    operator.cluster.put(server(http={**HTTP, "env": [variable]}))
    operator.cluster.put(secret("token", value="a"))
    await operator.rest()

    def checksum() -> str:
        return operator.object("Deployment")["spec"]["template"]["metadata"]["annotations"][
            "outrigger.dev/environment-checksum"
        ]

    first = checksum()
    operator.cluster.remove("Secret", "team", "token")
    operator.now += 400
    await operator.rest()
    assert operator.condition("SecretsResolved")[1] == "SecretMissing"
    assert checksum() == first
    operator.cluster.put(secret("token", value="b"))
    operator.now += 400
    await operator.rest()
    assert checksum() != first


async def test_a_changed_secret_of_a_bridged_server_is_a_new_revision_and_no_rollout(operator) -> None:
    """The sidecar does not see the files that the bridge reads, so the config has to tell it."""

    def revision() -> str | None:
        mounted = operator.object("Deployment")["spec"]["template"]["spec"]["volumes"]
        name = next(volume["configMap"]["name"] for volume in mounted if volume["name"] == "config")
        config = json.loads(operator.object("ConfigMap", name)["data"]["config.json"])
        found: str | None = config["servers"]["search"].get("revision")
        return found

    variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "value"}}}
    stdio = {"command": "serve", "image": "example/server:1", "env": [variable]}
    operator.cluster.put(server(stdio=stdio))
    await operator.rest()
    assert revision() is None
    operator.cluster.put(secret("token", value="a"))
    operator.now += 60
    await operator.rest()
    first, template = revision(), operator.object("Deployment")["spec"]["template"]
    assert first
    operator.cluster.remove("Secret", "team", "token")
    operator.now += 400
    await operator.rest()
    assert revision() == first, "processes that work are not replaced by some that cannot start"
    operator.cluster.put(secret("token", value="b"))
    operator.now += 400
    await operator.rest()
    assert revision() not in (first, None)
    assert operator.object("Deployment")["spec"]["template"] == template


async def test_without_the_users_session_key_nothing_is_told_of_values_and_no_pod_replaced(operator) -> None:
    variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "value"}}}
    spec = {"http": {**HTTP, "env": [variable]}, "sessions": {"keySecretRef": {"name": "mine", "key": "k"}}}
    operator.cluster.put(server(**spec))
    operator.cluster.put(secret("token", value="a"))
    operator.cluster.put(secret("mine", k="x" * 32))
    await operator.rest()
    template = copy.deepcopy(operator.object("Deployment")["spec"]["template"])
    operator.cluster.remove("Secret", "team", "mine")
    operator.now += 400
    await operator.rest()
    assert operator.object("Deployment")["spec"]["template"] == template
    assert "secrets" not in operator.object("MCPServer")["status"]
    assert operator.condition("SecretsResolved")[1] == "SecretMissing"


async def test_what_a_spec_refers_to_is_read_anew_when_it_was_edited(operator) -> None:
    variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "value"}}}
    operator.cluster.put(server(http={**HTTP, "env": [variable]}))
    await operator.rest()
    operator.cluster.put(secret("token", value="a"))
    operator.cluster.put(server(http={**HTTP, "env": [variable], "path": "/other"}))
    await operator.once()
    assert operator.condition("SecretsResolved")[1] == "Resolved"


async def test_status_names_no_more_secrets_than_the_crd_allows(operator) -> None:
    operator.cluster.put(server(http={**HTTP, "envFrom": [{"secretRef": {"name": "many"}}]}))
    operator.cluster.put(secret("many", **{f"K{number:04d}": "x" for number in range(600)}))
    await operator.rest()
    assert len(operator.object("MCPServer")["status"]["secrets"]) == 512


# The status


async def test_a_status_in_another_order_is_not_written_again(operator) -> None:
    await serving(operator)
    found = operator.object("MCPServer")
    found["status"]["conditions"].reverse()
    operator.cluster.put(found, same_spec=True)
    await operator.once()
    assert operator.cluster.requests == []


async def test_an_old_word_of_the_watch_does_not_undo_what_is_known_of_the_status(operator) -> None:
    operator.tell()
    stale = copy.deepcopy(operator.object("MCPServer"))
    await operator.once()
    events = list(operator.events)
    operator.store._entries.clear()
    operator.store.put(stale)
    operator.cluster.requests.clear()
    await operator.reconciler.reconcile(KEY)
    assert "status MCPServer search" not in operator.cluster.writes
    assert operator.events == events


async def test_a_status_that_is_refused_is_an_error_and_comes_again(operator) -> None:
    operator.cluster.refusals["status", "MCPServer"] = Invalid(422, "Invalid", "no")
    with pytest.raises(Invalid):
        await operator.once()
    operator.cluster.refusals.clear()
    await operator.once()
    assert operator.cluster.writes == ["status MCPServer search"]


async def test_whoever_changes_their_words_all_the_time_is_not_written_all_the_time(operator) -> None:
    pod = await serving(operator)
    written, waits = 0, []
    for number in range(200):
        operator.answers(pod, f"{number:016x}")
        report = operator.reports._answers[KEY][pod["metadata"]["uid"]]
        refused = {"last_refusal": (f"problem {number}",)}
        fields = {name: getattr(report, name) for name in report.__dataclass_fields__}
        operator.reports._answers[KEY] = {pod["metadata"]["uid"]: SidecarReport(**{**fields, **refused})}
        result = await operator.once()
        written += "status MCPServer search" in operator.cluster.writes
        waits.append(result.again)
        operator.now += 1
    assert written <= 20 + 200 / 5 + 1
    assert min(waits) <= 5.0
    operator.now += 5
    await operator.once()
    assert "problem 199" in operator.condition("ConfigApplied")[2]


async def test_healing_and_failing_are_told_once(operator) -> None:
    pod = await serving(operator)
    assert operator.events[-1] == ("Normal", "Ready")
    operator.events.clear()
    pod["status"]["containerStatuses"] = [{"name": "sidecar", "state": {"waiting": {"reason": "ErrImagePull"}}}]
    pod["status"]["conditions"] = []
    operator.cluster.put(pod, same_spec=True)
    await operator.rest()
    await operator.once()
    assert operator.events.count(("Warning", "ImagePullFailed")) == 1


def kubelet_says(operator: Operator, pod: dict[str, Any], name: str, message: str, when: str, **event: Any) -> None:
    about = {"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    manifest = {"kind": "Event", "metadata": {"namespace": "team", "name": name}, "involvedObject": about}
    told = {"type": "Warning", "reason": "FailedMount", "message": message, "lastTimestamp": when}
    operator.cluster.put({**manifest, **told, **event})


async def test_a_pod_that_its_node_cannot_prepare_is_told_in_the_kubelets_words(operator) -> None:
    await operator.rest()
    operator.roll(serving=False)
    waits = [{"type": "PodReadyToStartContainers", "status": "False"}]
    evicted = operator.pod(ready=False, name="search-0")
    evicted["status"] = {"phase": "Failed", "reason": "Evicted", "conditions": waits}
    operator.cluster.put(evicted, same_spec=True)
    pod = operator.pod(ready=False)
    pod["status"] = {"phase": "Pending", "conditions": waits}
    operator.cluster.put(pod, same_spec=True)
    missing = '(combined from similar events): MountVolume.SetUp failed for volume "data": no such disk'
    kubelet_says(operator, pod, "one", missing, "2026-11-23T12:00:01Z")
    kubelet_says(
        operator, pod, "two", "Unable to attach or mount volumes: unmounted volumes=[data]", "2026-11-23T12:00:09Z"
    )
    kubelet_says(operator, pod, "three", "Back-off", "2026-11-23T12:00:10Z", reason="BackOff")
    result = await operator.once()
    assert "list Event team" not in operator.cluster.requests
    assert operator.condition()[1] == "PodEvicted", "nothing is known of its successor yet"
    assert result.again <= 10.0
    operator.now += 10
    result = await operator.once()
    assert operator.condition()[:2] == ("False", "PodNotPrepared")
    assert "pod search-a: MountVolume.SetUp failed" in operator.condition()[2]
    assert ("Warning", "PodNotPrepared") in operator.events
    assert result.again <= 30.0
    await operator.once()
    assert "list Event team" not in operator.cluster.requests
    # who may not read Events is told nothing of them, and goes on
    operator.cluster.refusals["list", "Event"] = Forbidden(403, "Forbidden", "no")
    operator.now += 30
    await operator.once()
    assert operator.condition()[1] == "PodNotPrepared"
    pod["status"] = {"phase": "Running", "podIP": "10.0.0.9", "conditions": [{"type": "Ready", "status": "True"}]}
    operator.cluster.put(pod, same_spec=True)
    operator.roll()
    await operator.rest()
    assert operator.condition()[1] == "Ready"


# The fleet


async def fleet(cluster: PlayedCluster, count: int, **settings: Any) -> Operator:
    """MCPServers that serve with image 1, and the operator of image 2."""
    keys = [("team", f"s{number}") for number in range(count)]
    for _, name in keys:
        cluster.put(server(name))
    old = Operator(cluster)
    await old.rest(*keys)
    for _, name in keys:
        old.roll(name)
    await old.rest(*keys)
    return Operator(cluster, **{"version": "2", **settings})


def images(operator: Operator) -> list[str]:
    found = [operator.object("Deployment", name) for name in operator.names("Deployment")]
    return [each["spec"]["template"]["spec"]["containers"][0]["image"][-1] for each in found]


async def test_a_new_image_rolls_one_after_the_other(cluster) -> None:
    operator = await fleet(cluster, 3)
    keys = [("team", name) for name in operator.names("Deployment")]
    await operator.rest(*keys)
    assert images(operator) == ["2", "1", "1"]
    assert operator.condition("Progressing", keys[1])[1] == "WaitingForTurn"
    for expected in (["2", "2", "1"], ["2", "2", "2"]):
        for name, image in zip(operator.names("Deployment"), images(operator), strict=True):
            if image == "2":
                operator.roll(name)
        operator.tell()
        await operator.rest(*operator.marked)
        assert images(operator) == expected


async def test_one_that_cannot_use_its_turn_gives_it_back(cluster) -> None:
    operator = await fleet(cluster, 2)
    cluster.put(server("s0", http={"image": "x", "path": "no path"}))
    await operator.rest(("team", "s0"), ("team", "s1"))
    assert images(operator) == ["1", "2"]
    other = await fleet(PlayedCluster(), 2)
    other.cluster.refusals["apply", "Deployment"] = Forbidden(403, "Forbidden", "no")
    await other.once(("team", "s0"))
    other.cluster.refusals.clear()
    await other.once(("team", "s1"))
    assert images(other) == ["1", "2"]


async def test_one_whose_rollout_completes_while_its_spec_is_invalid_lets_the_next_go(cluster) -> None:
    operator = await fleet(cluster, 2)
    await operator.rest(("team", "s0"), ("team", "s1"))
    assert images(operator) == ["2", "1"]
    cluster.put(server("s0", http={"image": "x", "path": "no path"}))
    operator.roll("s0")
    operator.tell()
    await operator.rest(*operator.marked)
    assert images(operator) == ["2", "2"]


async def test_an_image_that_somebody_set_meanwhile_is_not_taken_for_ours(cluster) -> None:
    operator = await fleet(cluster, 2)
    await operator.rest(("team", "s0"), ("team", "s1"))
    changed = operator.object("Deployment", "s1")
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "evil:9"
    changed["metadata"]["managedFields"][0]["fieldsV1"] = {"f:less": {}}
    changed["lastApplied"] = ""
    cluster.put(changed)
    await operator.rest(("team", "s1"))
    assert images(operator) == ["2", "1"]


async def test_another_kind_needs_another_image_at_once(cluster) -> None:
    operator = await fleet(cluster, 2)
    await operator.rest(("team", "s0"), ("team", "s1"))
    cluster.put(server("s1", stdio={"command": "npx"}))
    await operator.rest(("team", "s1"))
    container = operator.object("Deployment", "s1")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "o/sidecar-runtime:2"


async def test_a_paused_or_deleted_deployment_holds_no_place(cluster) -> None:
    operator = await fleet(cluster, 3)
    await operator.rest(*[("team", f"s{number}") for number in range(3)])
    paused = operator.object("Deployment", "s0")
    paused["spec"]["paused"] = True
    cluster.put(paused)
    operator.tell()
    await operator.rest(*operator.marked)
    assert images(operator) == ["2", "2", "1"]
    operator.cluster.remove("MCPServer", "team", "s1")
    operator.tell()
    await operator.rest(*operator.marked)
    assert images(operator)[-1] == "2"


def template(operator: Operator, name: str) -> dict[str, Any]:
    found: dict[str, Any] = operator.object("Deployment", name)["spec"]["template"]
    return found


def policies(operator: Operator) -> list[str]:
    """Of the sidecar in each Deployment."""
    found = [template(operator, name) for name in operator.names("Deployment")]
    return [each["spec"]["containers"][0].get("imagePullPolicy", "") for each in found]


S0, S1 = ("team", "s0"), ("team", "s1")


@pytest.mark.parametrize("version", ["1", "2"])
async def test_one_that_waits_keeps_its_whole_pod_template(cluster, version) -> None:
    """Be the image of the new version another or not: all that the operator alone would change takes turns."""
    operator = await fleet(cluster, 2, version=version, pull_policy="Always")
    before = copy.deepcopy(template(operator, "s1"))
    await operator.rest(S0, S1)
    assert policies(operator) == ["Always", ""]
    assert template(operator, "s1") == before
    assert operator.condition("Progressing", S1)[1] == "WaitingForTurn"
    # everything else of it is applied at once
    cluster.put(server("s1", http=HTTP, replicas=3, timeouts={"timeout": "7s"}))
    await operator.rest(S1)
    assert operator.object("Deployment", "s1")["spec"]["replicas"] == 3
    assert template(operator, "s1") == before
    assert (
        "7s" in operator.object("ConfigMap", before["spec"]["volumes"][0]["configMap"]["name"])["data"]["config.json"]
    )
    # and its turn comes
    operator.roll("s0")
    operator.tell()
    await operator.rest(*operator.marked)
    assert policies(operator) == ["Always", "Always"]
    assert images(operator) == [version, version]


async def test_a_template_of_before_outlives_the_leader_and_is_asked_for_once(cluster) -> None:
    operator = await fleet(cluster, 2, pull_policy="Always")
    before = copy.deepcopy(template(operator, "s1"))
    await operator.rest(S0, S1)
    version = cluster.version
    successor = Operator(cluster, version="2", pull_policy="Always")
    await successor.rest(S0, S1)
    assert cluster.version == version, "nothing to write"
    assert template(successor, "s1") == before
    assert successor.condition("Progressing", S1)[1] == "WaitingForTurn"
    await successor.once(S1)
    assert cluster.requests == []


async def test_another_leader_knows_an_upgrade_that_leaves_the_image(cluster) -> None:
    operator = await fleet(cluster, 2, version="1", pull_policy="Always")
    await operator.rest(S0)
    operator.roll("s0", serving=False)
    successor = Operator(cluster, version="1", pull_policy="Always")
    await successor.rest(S1)
    assert policies(successor) == ["Always", ""]
    assert successor.fleet.running == 1


async def test_a_change_of_the_users_is_not_held_up_and_has_the_image_of_before(cluster) -> None:
    operator = await fleet(cluster, 2, pull_policy="Always")
    await operator.rest(S0, S1)
    cluster.put(server("s1", http={**HTTP, "path": "/other"}, podTemplate={"labels": {"team": "ours"}}))
    await operator.rest(S1)
    assert template(operator, "s1")["metadata"]["labels"]["team"] == "ours"
    assert images(operator) == ["2", "1"]
    rolled = copy.deepcopy(template(operator, "s1"))
    operator.roll("s1")
    await operator.rest(S1)
    assert template(operator, "s1") == rolled
    assert operator.condition("Progressing", S1)[1] == "WaitingForTurn"
    cluster.put(server("s1", http={**HTTP, "path": "/other"}))
    await operator.rest(S1)
    assert "team" not in template(operator, "s1")["metadata"]["labels"]


async def test_a_changed_secret_of_one_that_waits_rolls_it(cluster) -> None:
    variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "value"}}}
    cluster.put(secret("token", value="a"))
    old = Operator(cluster)
    for name in ("s0", "s1"):
        cluster.put(server(name, http={**HTTP, "env": [variable]}))
    await old.rest(S0, S1)
    old.roll("s0")
    old.roll("s1")
    operator = Operator(cluster, version="2", pull_policy="Always")
    await operator.rest(S0, S1)
    before = copy.deepcopy(template(operator, "s1"))
    cluster.put(secret("token", value="b"))
    operator.now += 400
    await operator.rest(S1)
    assert template(operator, "s1")["metadata"]["annotations"] != before["metadata"]["annotations"]
    assert images(operator) == ["2", "1"]


async def test_what_somebody_changes_of_pods_that_wait_is_put_right(cluster) -> None:
    operator = await fleet(cluster, 2, pull_policy="Always")
    await operator.rest(S0, S1)
    before = copy.deepcopy(template(operator, "s1"))
    changed = operator.object("Deployment", "s1")
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "evil:9"
    changed["metadata"]["managedFields"][0]["fieldsV1"] = {"f:less": {}}
    changed["lastApplied"] = ""
    cluster.put(changed)
    await operator.rest(S1)
    assert template(operator, "s1") == before


async def test_pods_of_an_operator_that_did_not_tell_keep_their_image(cluster) -> None:
    operator = await fleet(cluster, 2, pull_policy="Always")
    for name in ("s0", "s1"):
        del operator.object("Deployment", name)["metadata"]["annotations"]
    await operator.rest(S0, S1)
    assert images(operator) == ["2", "1"]
    operator.roll("s1")
    await operator.rest(S1)
    assert operator.condition("Progressing", S1)[1] == "WaitingForTurn"


async def test_pods_that_wait_do_not_see_the_fixed_part_of_a_new_configuration(cluster, monkeypatch) -> None:
    operator = await fleet(cluster, 2)
    name = template(operator, "s1")["spec"]["volumes"][0]["configMap"]["name"]
    before = copy.deepcopy(operator.object("ConfigMap", name))
    module = sys.modules["mcp_operator.desired.config_map"]
    told = module.rolling
    monkeypatch.setattr(module, "rolling", lambda server: told(server) | {"new": True})
    await operator.rest(S0, S1)
    assert operator.object("ConfigMap", name) == before
    assert operator.condition("ConfigApplied", S1)[:2] == ("False", "WaitingForTurn")
    assert operator.condition("Ready", S1)[:2] == ("True", "RolloutWaiting")
    operator.roll("s0")
    operator.tell()
    await operator.rest(*operator.marked)
    assert template(operator, "s1")["spec"]["volumes"][0]["configMap"]["name"] != name
    assert operator.condition("ConfigApplied", S1)[1] != "WaitingForTurn"


async def test_those_that_wait_say_for_whom_the_fleet_stopped(cluster) -> None:
    operator = await fleet(cluster, 4, limit=2)
    keys = [("team", f"s{number}") for number in range(4)]
    await operator.rest(*keys)
    for failing in ("s1", "s0"):
        operator.roll(failing, serving=False)
        found = operator.object("Deployment", failing)
        found["status"]["conditions"] = [
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
        ]
        cluster.put(found, same_spec=True)
    operator.tell()
    await operator.rest(*operator.marked)
    for waiting in keys[2:]:
        assert operator.condition("Progressing", waiting)[1] == "FleetStopped"
        assert "MCPServer team/s0," in operator.condition("Progressing", waiting)[2]
    operator.roll("s0")
    operator.tell()
    await operator.rest(*operator.marked)
    assert "MCPServer team/s1," in operator.condition("Progressing", keys[2])[2]

"""Applying: what is written, what is not, whose objects are left alone, what is pruned."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from mcp_operator.applier import Applier
from mcp_operator.errors import BeingReplaced, Forbidden, NameConflict, Unavailable
from mcp_operator.inventory import Inventory
from mcp_operator.kube.resources import CONFIG_MAPS, DEPLOYMENTS, REPLICA_SETS, SERVICES, Resource
from mcp_operator.observed import ChildView, DeploymentView, ReplicaSetView

KEY = ("team", "search")
UID = "u1"
OWNER = {"apiVersion": "outrigger.dev/v1alpha1", "kind": "MCPServer", "name": "search", "uid": UID, "controller": True}


def manifest(api_version: str, kind: str, name: str = "search", **content: object) -> dict:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "team",
            "labels": {"outrigger.dev/mcpserver": "search"},
            "ownerReferences": [OWNER],
        },
        **content,
    }


CONFIG = manifest("v1", "ConfigMap", "search-abc", data={"config.json": "1"})
SERVICE = manifest("v1", "Service", spec={"ports": []})
DEPLOYMENT = manifest("apps/v1", "Deployment", spec={"replicas": 1})
ALL = [CONFIG, SERVICE, DEPLOYMENT]
VIEWS = {
    "ConfigMap": (CONFIG_MAPS, ChildView),
    "Service": (SERVICES, ChildView),
    "Deployment": (DEPLOYMENTS, DeploymentView),
}


class Cluster:
    """Objects, applies that count, and a watch that is played by hand."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict] = {}
        self.writes: list[str] = []
        self.deleted: list[str] = []
        self.refusals: dict[str, Exception] = {}
        self.marked: list[tuple[str, str]] = []
        self.inventory = Inventory(self.marked.append, lambda *lost: self.applier.lost(*lost))
        self.now = 100.0
        self.applier = Applier(self, clock=lambda: self.now)
        self.views: dict[tuple[str, str], object] = {}
        self.reads: list[str] = []
        self.fields: dict = {"f:all": {}}
        self.uids = 0
        self.confirmed = 0

    async def get(self, resource: Resource, namespace: str, name: str, *, metadata_only: bool = False):
        self.reads.append(resource.kind)
        return copy.deepcopy(self.objects.get((resource.kind, name)))

    async def apply(self, wanted, *, metadata_only: bool = False):
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        if kind in self.refusals:
            raise self.refusals[kind]
        self.writes.append(f"{kind} {name}")
        before = self.objects.get((kind, name))
        self.uids += 1
        made = copy.deepcopy(wanted)
        made["metadata"]["uid"] = before["metadata"]["uid"] if before else f"{kind}-{self.uids}"
        ours = {"manager": "outrigger", "operation": "Apply", "fieldsV1": self.fields}
        made["metadata"]["managedFields"] = [ours]
        if kind == "Service":
            made["spec"] = {**made["spec"], "clusterIPs": ["10.0.0.7"]}
        self.objects[kind, name] = made
        return copy.deepcopy({"metadata": made["metadata"]} if metadata_only else made)

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> bool:
        assert self.objects[resource.kind, name]["metadata"]["uid"] == uid
        self.deleted.append(f"{resource.kind} {name}")
        self.play(resource.kind, name, None)
        return True

    def play(self, kind: str, name: str, now: dict | None) -> None:
        """The watch tells of a change."""
        resource, view = VIEWS[kind]
        seen = self.views.pop((kind, name), None)
        if now is None:
            self.objects.pop((kind, name), None)
        else:
            self.objects[kind, name] = now
            self.views[kind, name] = view.of(now)
        self.inventory.observer(resource)(None, seen, self.views.get((kind, name)))

    def catch_up(self) -> None:
        for (kind, name), found in list(self.objects.items()):
            self.play(kind, name, found)

    async def confirm(self) -> None:
        self.confirmed += 1

    async def run(self, manifests=ALL):
        return await self.applier.apply(KEY, UID, manifests, self.inventory.of(KEY, UID), self.confirm)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def test_everything_is_applied_once_in_order_and_then_nothing(cluster) -> None:
    await cluster.run()
    assert cluster.writes == ["ConfigMap search-abc", "Service search", "Deployment search"]
    assert (await cluster.run()).written == 0  # before the watch told anything
    cluster.catch_up()
    assert (await cluster.run()).written == 0
    assert cluster.confirmed == 1


async def test_only_what_changed_is_applied_and_a_config_changed_in_place_is_told(cluster) -> None:
    assert not (await cluster.run()).config_replaced
    cluster.catch_up()
    cluster.writes.clear()
    outcome = await cluster.run([{**CONFIG, "data": {"config.json": "2"}}, SERVICE, DEPLOYMENT])
    assert cluster.writes == ["ConfigMap search-abc"]
    assert outcome.config_replaced


async def test_a_foreign_change_of_our_fields_is_repaired_and_other_changes_are_not(cluster) -> None:
    await cluster.run()
    cluster.catch_up()
    cluster.writes.clear()
    theirs = copy.deepcopy(cluster.objects["Service", "search"])
    theirs["metadata"]["annotations"] = {"theirs": "yes"}
    cluster.play("Service", "search", theirs)
    assert (await cluster.run()).written == 0
    drifted = copy.deepcopy(theirs)
    drifted["metadata"]["managedFields"][0]["fieldsV1"] = {"f:less": {}}
    cluster.play("Service", "search", drifted)
    await cluster.run()
    assert cluster.writes == ["Service search"]
    assert cluster.applier.repaired == 1


async def test_a_watch_that_lags_behind_our_own_apply_is_no_drift(cluster) -> None:
    await cluster.run()
    cluster.catch_up()
    lagging = cluster.views["Service", "search"]
    cluster.writes.clear()
    cluster.fields = {"f:more": {}}
    changed = [CONFIG, {**SERVICE, "spec": {"ports": [], "type": "NodePort"}}, DEPLOYMENT]
    await cluster.run(changed)
    assert cluster.views["Service", "search"] == lagging
    await cluster.run(changed)
    assert cluster.writes == ["Service search"]
    cluster.catch_up()
    await cluster.run(changed)
    back = copy.deepcopy(cluster.objects["Service", "search"])
    back["metadata"]["managedFields"][0]["fieldsV1"] = {"f:all": {}}
    cluster.play("Service", "search", back)  # somebody put it back to what it was before: that is drift
    await cluster.run(changed)
    assert cluster.writes == ["Service search", "Service search"]
    assert cluster.applier.repaired == 1


async def test_a_deleted_object_comes_back(cluster) -> None:
    await cluster.run()
    cluster.catch_up()
    cluster.writes.clear()
    cluster.play("Service", "search", None)
    assert KEY in cluster.marked
    await cluster.run()
    assert cluster.writes == ["Service search"]


async def test_a_new_process_applies_what_exists_without_asking_whose_it_is(cluster) -> None:
    await cluster.run()
    cluster.catch_up()
    cluster.writes.clear()
    cluster.applier.forget(KEY)
    await cluster.run()
    assert len(cluster.writes) == 3


async def test_the_service_can_be_applied_first_for_its_addresses_and_is_not_applied_again(cluster) -> None:
    owned = cluster.inventory.of(KEY, UID)
    assert await cluster.applier.apply_service(KEY, UID, ALL, owned, cluster.confirm) == ("10.0.0.7",)
    assert cluster.reads == ["ConfigMap", "Service", "Deployment"]
    await cluster.run()
    assert cluster.writes == ["Service search", "ConfigMap search-abc", "Deployment search"]
    assert len(cluster.reads) == 3
    assert await cluster.applier.apply_service(KEY, UID, ALL, owned, cluster.confirm) == ()


@pytest.mark.parametrize(
    "references, owner",
    [
        ([], ""),
        ([{"kind": "Deployment", "name": "web", "uid": "x", "controller": True}], "Deployment web"),
        ([{"kind": "MCPServer", "name": "other", "uid": "x", "controller": True}], "MCPServer other"),
    ],
)
async def test_an_object_of_our_name_that_is_not_ours_stops_everything_untouched(cluster, references, owner) -> None:
    theirs = {"metadata": {"name": "search", "uid": "x", "ownerReferences": references}}
    cluster.objects["Deployment", "search"] = theirs
    with pytest.raises(NameConflict) as caught:
        await cluster.run()
    assert (caught.value.kind, caught.value.name, caught.value.owner) == ("Deployment", "search", owner)
    assert cluster.writes == []
    del cluster.objects["Deployment", "search"]
    assert (await cluster.run()).written == 3


async def test_what_a_deleted_mcpserver_of_the_name_left_behind_is_waited_for(cluster) -> None:
    left = {"kind": "MCPServer", "name": "search", "uid": "u0", "controller": True}
    cluster.objects["Service", "search"] = {"metadata": {"name": "search", "uid": "x", "ownerReferences": [left]}}
    with pytest.raises(BeingReplaced):
        await cluster.run()
    assert cluster.writes == []


async def test_a_refusal_is_told_and_the_rest_applied(cluster) -> None:
    cluster.refusals["Service"] = Forbidden(403, "Forbidden", "exceeded quota")
    outcome = await cluster.run()
    assert (str(outcome.refused), outcome.refused.about) == ("exceeded quota", "Service search")
    assert cluster.writes == ["ConfigMap search-abc", "Deployment search"]
    cluster.refusals.clear()
    outcome = await cluster.run()
    assert (outcome.refused, outcome.written) == (None, 1)


async def test_no_deployment_whose_config_was_refused(cluster) -> None:
    cluster.refusals["ConfigMap"] = Forbidden(403, "Forbidden", "no")
    await cluster.run()
    assert cluster.writes == ["Service search"]


async def test_a_failure_that_passes_by_itself_is_raised(cluster) -> None:
    cluster.refusals["Service"] = Unavailable(503, "ServiceUnavailable", "later")
    with pytest.raises(Unavailable):
        await cluster.run()
    cluster.refusals.clear()
    await cluster.run()
    assert cluster.writes == ["ConfigMap search-abc", "Service search", "Deployment search"]


async def test_what_is_not_wanted_any_more_is_pruned_and_configs_that_replica_sets_use_are_kept(cluster) -> None:
    old = manifest("v1", "ConfigMap", "search-old")
    older = manifest("v1", "ConfigMap", "search-older")
    await cluster.run([old, older, *ALL])
    cluster.catch_up()
    wanted = [CONFIG, DEPLOYMENT]

    async def prune() -> list[str]:
        cluster.deleted.clear()
        await cluster.applier.prune(KEY, wanted, cluster.inventory.of(KEY, UID))
        return cluster.deleted

    assert await prune() == ["Service search"]  # nobody knows yet which ReplicaSets there are
    observe = cluster.inventory.observer(REPLICA_SETS)
    last = replica_set(cluster, "search-1", "search-old")
    observe(None, None, last)
    assert await prune() == []
    observe(None, None, replica_set(cluster, "search-2"))
    assert await prune() == ["ConfigMap search-older"]
    observe(None, last, None)
    assert await prune() == ["ConfigMap search-old"]
    assert cluster.applier.repaired == 0  # what we delete ourselves is no drift


def replica_set(cluster: Cluster, name: str, config_map: str = "") -> ReplicaSetView:
    """One of the Deployment's; of its newest template unless it mounts `config_map`."""
    owner = {"kind": "Deployment", "name": "search", "uid": cluster.inventory.of(KEY, UID).deployment.uid}
    volumes = {"spec": {"volumes": [{"name": "config", "configMap": {"name": config_map}}]}}
    return ReplicaSetView.of(
        {
            "metadata": {
                "name": name,
                "namespace": "team",
                "uid": f"{name}-uid",
                "labels": {"outrigger.dev/mcpserver": "search"},
                "ownerReferences": [{**owner, "controller": True}],
            },
            "spec": {"template": volumes if config_map else {}},
        }
    )


async def test_what_only_bears_our_label_is_not_pruned(cluster) -> None:
    foreign = manifest("v1", "ConfigMap", "notes")
    foreign["metadata"].update(uid="x", ownerReferences=[])
    cluster.play("ConfigMap", "notes", foreign)
    await cluster.run()
    await cluster.applier.prune(KEY, ALL, cluster.inventory.of(KEY, UID))
    assert cluster.deleted == []


def generation(cluster: Cluster, number: int) -> DeploymentView:
    """What a watch tells of the Deployment in this generation."""
    found = copy.deepcopy(cluster.objects["Deployment", "search"])
    found["metadata"]["generation"] = number
    return DeploymentView.of(found)


async def test_a_deployment_is_known_as_it_was_written_until_the_watch_tells_of_it(cluster) -> None:
    """Else a status would say of the new spec what held for the old one."""
    assert cluster.applier.deployment(KEY, None) is None
    await cluster.run()
    before = generation(cluster, 1)
    assert cluster.applier.deployment(KEY, before) is before
    answer = {**DEPLOYMENT, "metadata": {**DEPLOYMENT["metadata"], "generation": 2}, "spec": {"replicas": 5}}
    await cluster.run([CONFIG, SERVICE, answer])
    written = cluster.applier.deployment(KEY, before)
    assert (written.generation, written.wanted) == (2, 5)
    assert cluster.applier.deployment(KEY, None) is written
    later = generation(cluster, 3)
    assert cluster.applier.deployment(KEY, later) is later
    assert cluster.applier.deployment(KEY, before) is before, "and then no more"


async def test_a_deployment_that_is_gone_or_another_is_not_as_it_was_written(cluster) -> None:
    await cluster.run()
    written = cluster.applier.deployment(KEY, None)
    cluster.applier.lost(KEY, "Deployment", "search", written.uid)
    assert cluster.applier.deployment(KEY, None) is None
    await cluster.run()
    other = replace(written, uid="another", generation=0)
    assert cluster.applier.deployment(KEY, other) is other


async def test_one_that_was_replaced_by_a_foreign_one_unseen_is_missed_and_left_alone(cluster) -> None:
    await cluster.run()
    cluster.catch_up()
    foreign = manifest("v1", "Service")
    foreign["metadata"].update(uid="theirs", ownerReferences=[])
    cluster.play("Service", "search", foreign)  # a list after a watch that was broken
    with pytest.raises(NameConflict):
        await cluster.run()


async def test_one_that_was_taken_from_us_is_not_ours_any_more(cluster) -> None:
    await cluster.run()
    cluster.catch_up()
    taken = copy.deepcopy(cluster.objects["Deployment", "search"])
    taken["metadata"]["ownerReferences"] = []
    cluster.play("Deployment", "search", taken)
    with pytest.raises(NameConflict):
        await cluster.run()
    cluster.writes.clear()
    cluster.play("Deployment", "search", None)
    await cluster.run()
    assert cluster.writes == ["Deployment search"]


async def test_who_changes_an_object_again_and_again_is_answered_ever_slower(cluster) -> None:
    await cluster.run()
    cluster.catch_up()
    repairs: list[float] = []
    began = cluster.now
    for number in range(40):
        cluster.fields = {"f:all": {}}
        drifted = copy.deepcopy(cluster.objects["Service", "search"])
        drifted["metadata"]["managedFields"][0]["fieldsV1"] = {f"f:{number}": {}}
        cluster.play("Service", "search", drifted)
        cluster.writes.clear()
        outcome = await cluster.run()
        if cluster.writes:
            repairs.append(cluster.now - began)
            cluster.catch_up()
        else:
            assert 0 < outcome.again <= 60
        cluster.now += 1
    assert repairs[:5] == [0, 1, 2, 4, 8]
    assert len(repairs) == 7
    cluster.now += 301
    cluster.writes.clear()
    await cluster.run()
    assert cluster.writes == ["Service search"]


async def test_what_the_spec_says_anew_is_applied_however_often_somebody_interfered(cluster) -> None:
    await cluster.run()
    for _ in range(9):
        cluster.catch_up()
        cluster.play("Service", "search", None)
        await cluster.run()
    cluster.writes.clear()
    await cluster.run([CONFIG, {**SERVICE, "spec": {"ports": [1]}}, {**DEPLOYMENT, "spec": {"replicas": 2}}])
    assert "Deployment search" in cluster.writes


async def test_whether_the_deployment_is_as_wanted_is_told(cluster) -> None:
    cluster.refusals["Service"] = Forbidden(403, "Forbidden", "no")
    assert (await cluster.run()).deployed
    cluster.refusals["Deployment"] = Forbidden(403, "Forbidden", "no")
    assert not (await cluster.run([CONFIG, {**DEPLOYMENT, "spec": {"replicas": 3}}])).deployed
    cluster.refusals = {"ConfigMap": Forbidden(403, "Forbidden", "no")}
    assert not (await cluster.run([{**CONFIG, "data": {}}, {**DEPLOYMENT, "spec": {"replicas": 4}}])).deployed

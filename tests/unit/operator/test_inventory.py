"""The inventory: what belongs to which MCPServer, by uids and not by labels, and what it tells of a change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kubernetes_objects import NAME, NAMESPACE, deployment, pod, replica_set
from mcp_operator.inventory import Inventory
from mcp_operator.kube.resources import DEPLOYMENTS, PODS, REPLICA_SETS, SERVICES
from mcp_operator.observed import ChildView, DeploymentView, Owner, PodView, ReplicaSetView

KEY = (NAMESPACE, NAME)
UID = "server-uid"


class Seen:
    def __init__(self) -> None:
        self.marked: list[tuple[str, str]] = []
        self.lost: list[tuple[Any, ...]] = []
        self.inventory = Inventory(self.marked.append, lambda *what: self.lost.append(what))

    def play(self, resource: Any, old: Any, new: Any) -> None:
        self.inventory.observer(resource)(None, old, new)


@pytest.fixture
def seen() -> Seen:
    it = Seen()
    it.play(DEPLOYMENTS, None, DeploymentView.of(deployment()))
    it.play(REPLICA_SETS, None, ReplicaSetView.of(replica_set()))
    it.play(PODS, None, PodView.of(pod()))
    it.marked.clear()
    return it


def service(uid: str = "service-uid", owner: str = UID, server: str = NAME) -> ChildView:
    owners = [{"kind": "MCPServer", "name": NAME, "uid": owner, "controller": True}] if owner else []
    labels = {"outrigger.dev/mcpserver": server} if server else {}
    return ChildView.of(
        {
            "metadata": {
                "namespace": NAMESPACE,
                "name": NAME,
                "uid": uid,
                "labels": labels,
                "ownerReferences": owners,
            }
        }
    )


def test_what_is_owned_is_decided_by_uids_along_the_chain(seen) -> None:
    owned = seen.inventory.of(KEY, UID)
    assert owned.deployment is not None
    assert [view.name for view in owned.replica_sets] == ["web-1"]
    assert [view.name for view in owned.pods] == ["web-1-a"]
    stranger = PodView.of(pod("stranger", owner="another"))
    seen.play(PODS, None, stranger)
    assert len(seen.inventory.of(KEY, UID).pods) == 1
    nothing = seen.inventory.of(KEY, "another-uid")
    assert (nothing.deployment, nothing.replica_sets, nothing.pods, nothing.applied) == (None, (), (), {})


def test_a_change_marks_its_mcpserver_and_none_marks_nothing(seen) -> None:
    view = PodView.of(pod())
    seen.play(PODS, view, view)
    assert seen.marked == []
    seen.play(PODS, view, replace(view, ready=False))
    assert seen.marked == [KEY]


def test_an_object_that_changes_its_label_marks_both_and_belongs_to_one(seen) -> None:
    mine = service()
    seen.play(SERVICES, None, mine)
    seen.marked.clear()
    seen.play(SERVICES, mine, service(server="other"))
    assert sorted(seen.marked) == sorted([KEY, (NAMESPACE, "other")])
    assert seen.lost == [(KEY, "Service", NAME, "service-uid")]
    assert ("Service", NAME) not in seen.inventory.of(KEY, UID).applied
    assert ("Service", NAME) in seen.inventory.of((NAMESPACE, "other"), UID).applied


def test_an_object_without_the_label_is_nobodys(seen) -> None:
    mine = service()
    seen.play(SERVICES, None, mine)
    seen.play(SERVICES, mine, service(server=""))
    assert ("Service", NAME) not in seen.inventory.of(KEY, UID).applied


@pytest.mark.parametrize("now", [None, service(uid="anew"), service(owner=""), service(owner="another")])
def test_an_applied_object_is_lost_when_it_is_gone_replaced_or_anothers(seen, now) -> None:
    mine = service()
    seen.play(SERVICES, None, mine)
    assert seen.lost == []
    seen.play(SERVICES, mine, now)
    assert seen.lost == [(KEY, "Service", NAME, "service-uid")]


def test_another_state_of_the_same_object_is_no_loss(seen) -> None:
    mine = service()
    seen.play(SERVICES, None, mine)
    seen.play(SERVICES, mine, replace(mine, applied="else", owner=Owner("MCPServer", NAME, UID)))
    assert seen.lost == []


def test_pods_that_go_are_no_loss(seen) -> None:
    seen.play(PODS, PodView.of(pod()), None)
    assert seen.lost == []
    assert seen.inventory.of(KEY, UID).pods == ()


def test_nothing_is_kept_of_what_is_gone(seen) -> None:
    seen.play(PODS, PodView.of(pod()), None)
    seen.play(REPLICA_SETS, ReplicaSetView.of(replica_set()), None)
    seen.play(DEPLOYMENTS, DeploymentView.of(deployment()), None)
    assert seen.inventory._servers == {}

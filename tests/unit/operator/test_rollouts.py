"""The fleet: how many MCPServers roll to a new sidecar image at once, and what a failure does."""

from __future__ import annotations

import pytest

from kubernetes_objects import deployment, replica_set
from mcp_operator.observed import DeploymentView, ReplicaSetView
from mcp_operator.rollouts import FleetRollout, serving, state_of, upgrading


def fleet_of(limit: int, *keys: str) -> FleetRollout[str]:
    """A fleet in which these have asked for their turn."""
    fleet: FleetRollout[str] = FleetRollout(limit)
    for key in keys:
        fleet.turn(key, serving=True)
    return fleet


def test_no_more_than_the_limit_roll_at_once_and_each_completion_lets_others_go() -> None:
    fleet: FleetRollout[str] = FleetRollout(2)
    assert [fleet.turn(key, serving=True) for key in "abc"] == ["Go", "Go", "Wait"]
    assert fleet.turn("a", serving=True) == "Go"  # asked again
    assert fleet.observe("a", "Rolling", upgrading=True) == ()
    assert fleet.observe("a", "Complete", upgrading=False) == ("c",)
    assert fleet.turn("c", serving=True) == "Go"
    assert fleet.turn("d", serving=True) == "Wait"


def test_one_that_serves_nobody_needs_no_turn_and_stops_nobody() -> None:
    fleet = fleet_of(1, "a")
    assert fleet.turn("broken", serving=False) == "Go"
    assert fleet.observe("broken", "Failed", upgrading=False) == ()
    assert (fleet.running, fleet.failed) == (1, ())


def test_a_failed_rollout_stops_the_others_until_it_heals() -> None:
    fleet = fleet_of(2, "a", "b", "c", "d")
    assert fleet.observe("a", "Failed", upgrading=True) == ("c", "d")  # they are told
    assert fleet.failed == ("a",)
    assert fleet.observe("a", "Failed", upgrading=True) == ()
    assert fleet.observe("b", "Complete", upgrading=False) == ()
    assert fleet.turn("c", serving=True) == "Stopped"
    assert fleet.observe("a", "Rolling", upgrading=True) == ("c", "d")
    assert fleet.turn("c", serving=True) == "Go"
    assert fleet.turn("d", serving=True) == "Wait"


def test_another_leader_finds_what_rolls_and_what_failed() -> None:
    fleet: FleetRollout[str] = FleetRollout(2)
    fleet.observe("a", "Rolling", upgrading=True)
    fleet.observe("b", "Rolling", upgrading=True)
    assert fleet.turn("c", serving=True) == "Wait"
    fleet.observe("b", "Failed", upgrading=True)
    assert fleet.turn("c", serving=True) == "Stopped"


@pytest.mark.parametrize("state", ["Rolling", "Failed"])
def test_what_is_made_or_changed_otherwise_is_no_upgrade(state: str) -> None:
    fleet: FleetRollout[str] = FleetRollout(1)
    fleet.observe("new", state, upgrading=False)  # type: ignore[arg-type]
    assert fleet.turn("a", serving=True) == "Go"


def test_one_that_cannot_go_does_not_hold_up_those_behind_it() -> None:
    fleet = fleet_of(1, "a", *"bcdef")
    asked = fleet.observe("a", "Complete", upgrading=False)
    assert asked == ("b", "c")  # neither of them takes the place
    fleet.turn("z", serving=True)
    assert fleet.forget("z") == ("d", "e")


def test_a_deleted_mcpserver_gives_its_place_back() -> None:
    fleet = fleet_of(1, "a", "b")
    assert fleet.forget("a") == ("b",)
    assert fleet.forget("a") == ()
    assert fleet.turn("b", serving=True) == "Go"
    fleet.turn("c", serving=True)
    fleet.forget("c")
    assert fleet.forget("b") == ()


def view(**how: object) -> DeploymentView:
    sidecar = how.pop("sidecar")
    found = deployment(**how)  # type: ignore[arg-type]
    found["spec"]["template"]["spec"]["containers"][0]["image"] = sidecar
    return DeploymentView.of(found)


def revision(number: int, sidecar: str, available: int, server: str = "server:1") -> ReplicaSetView:
    found = replica_set(f"web-{number}", image=server, revision=number, available=available)
    found["spec"]["template"]["spec"]["containers"][0]["image"] = sidecar
    return ReplicaSetView.of(found)


def test_what_an_upgrade_could_harm() -> None:
    at_rest = view(sidecar="s:1")
    assert serving(at_rest, [revision(1, "s:1", 1)])
    assert serving(at_rest, [])  # its ReplicaSet was not seen yet
    assert not serving(at_rest, [revision(1, "s:1", 0)])
    # a change of the user's that never worked, in front of pods that do
    assert not serving(view(sidecar="s:1", image="bad"), [revision(1, "s:1", 1), revision(2, "s:1", 0, "bad")])


def test_what_an_upgrade_is() -> None:
    upgraded = view(sidecar="s:2", ready=1, updated=0)
    assert upgrading(upgraded, [revision(1, "s:1", 1)])  # its ReplicaSet was not made yet
    assert upgrading(upgraded, [revision(1, "s:1", 1), revision(2, "s:2", 0)])
    assert upgrading(upgraded, [revision(1, "s:0", 0), revision(2, "s:1", 1), revision(3, "s:2", 0)])
    assert not upgrading(upgraded, [revision(2, "s:2", 0)])  # it was just made
    assert not upgrading(upgraded, [revision(1, "s:1", 0), revision(2, "s:2", 0)])  # it served nobody before
    # the image is that of before
    assert not upgrading(view(sidecar="s:2", image="new"), [revision(1, "s:2", 1), revision(2, "s:2", 0, "new")])
    # what the user changed before the upgrade never worked
    stuck = [revision(1, "s:1", 1), revision(2, "s:1", 0, "bad"), revision(3, "s:2", 0, "bad")]
    assert not upgrading(view(sidecar="s:2", image="bad"), stuck)


def test_how_far_it_got() -> None:
    late = ("False", "ProgressDeadlineExceeded")
    assert state_of(view(sidecar="s:2")) == "Complete"
    assert state_of(view(sidecar="s:2", ready=0, updated=0)) == "Rolling"
    assert state_of(view(sidecar="s:2", ready=0, progressing=late)) == "Failed"
    # what the status tells is of the spec before
    assert state_of(view(sidecar="s:2", ready=0, progressing=late, generation=2, observed=1)) == "Rolling"
    assert state_of(view(sidecar="s:2", generation=2, observed=1)) == "Rolling"

"""The fleet: how many MCPServers roll to a new sidecar image at once, and what a failure does."""

from __future__ import annotations

from mcp_operator.rollouts import FleetRollout


def test_no_more_than_the_limit_roll_at_once_and_each_completion_lets_one_more_go() -> None:
    fleet: FleetRollout[str] = FleetRollout(2)
    assert [fleet.turn(key, "old", "new") for key in "abc"] == ["Go", "Go", "Wait"]
    assert fleet.turn("a", "old", "new") == "Go"  # asked again
    assert not fleet.observe("a", "new", "Rolling")
    assert fleet.observe("a", "new", "Complete")
    assert fleet.turn("c", "old", "new") == "Go"
    assert fleet.turn("d", "old", "new") == "Wait"


def test_an_mcpserver_without_pods_or_with_the_image_never_waits() -> None:
    fleet: FleetRollout[str] = FleetRollout(1)
    assert fleet.turn("a", "old", "new") == "Go"
    assert fleet.turn("b", None, "new") == "Go"
    assert fleet.turn("c", "new", "new") == "Go"


def test_a_failed_rollout_stops_the_others_until_it_heals() -> None:
    fleet: FleetRollout[str] = FleetRollout(5)
    fleet.turn("a", "old", "new")
    fleet.observe("a", "new", "Failed")
    assert fleet.turn("b", "old", "new") == "Stopped"
    assert fleet.failed == ("a",)
    assert fleet.observe("a", "new", "Complete")
    assert fleet.turn("b", "old", "new") == "Go"


def test_a_failure_with_one_image_does_not_stop_the_next_image() -> None:
    fleet: FleetRollout[str] = FleetRollout(5)
    fleet.turn("a", "old", "bad")
    fleet.observe("a", "bad", "Failed")
    assert fleet.turn("b", "old", "bad") == "Stopped"
    assert fleet.turn("b", "old", "good") == "Go"


def test_a_rollout_found_under_way_takes_a_place_but_cannot_stop_the_fleet() -> None:
    fleet: FleetRollout[str] = FleetRollout(1)
    fleet.observe("a", "new", "Rolling")
    assert fleet.turn("b", "old", "new") == "Wait"
    fleet.observe("a", "new", "Failed")
    assert fleet.failed == ()
    assert fleet.turn("b", "old", "new") == "Wait"
    assert fleet.observe("a", "new", "Complete")
    assert fleet.turn("b", "old", "new") == "Go"


def test_a_deleted_mcpserver_gives_its_place_back() -> None:
    fleet: FleetRollout[str] = FleetRollout(1)
    fleet.turn("a", "old", "new")
    assert fleet.forget("a")
    assert not fleet.forget("a")
    assert fleet.turn("b", "old", "new") == "Go"

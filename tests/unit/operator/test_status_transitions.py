"""Which changes of a status become Events: what turned bad, once, and that it healed."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_operator.conditions import Event, Finding, condition, transitions
from mcp_operator.reasons import REASONS, TYPES

GOOD = {
    "Ready": "Ready",
    "Available": "ReplicasAvailable",
    "Progressing": "RolloutComplete",
    "ServerReachable": "Reachable",
    "SecretsResolved": "Resolved",
    "ConfigApplied": "Applied",
}


def status(generation: int = 1, /, messages: dict[str, str] | None = None, **reasons: str) -> dict[str, Any]:
    """A good status but for `reasons`. A message is the reason's own name where none is given."""
    found = {**GOOD, **reasons}
    return {
        "conditions": [
            condition(
                Finding(kind, found[kind], (messages or {}).get(kind, f"{kind} {found[kind]}")),
                generation=generation,
                now="2026-11-23T12:00:00Z",
                previous=None,
            )
            for kind in TYPES
        ]
    }


def told(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str]]:
    return [(event.type, event.reason) for event in transitions(before, after)]


def test_at_rest() -> None:
    for row in REASONS.values():
        at_rest = status(**{row.type: row.reason})
        assert transitions(at_rest, at_rest) == []


def test_ready_for_the_first_time() -> None:
    assert told({}, status()) == [("Normal", "Ready")]


def test_bad_from_the_beginning() -> None:
    first = status(Ready="ImagePullFailed", Available="NoReplicasAvailable", Progressing="RollingOut")
    assert transitions({}, first) == [Event("Warning", "ImagePullFailed", "Ready ImagePullFailed")]


def test_starting_is_no_event() -> None:
    starting = status(
        Ready="Progressing", Available="NoReplicasAvailable", Progressing="RollingOut", ServerReachable="NotYetKnown"
    )
    assert told({}, starting) == []
    assert told(status(Ready="Progressing", Available="NotDeployed"), starting) == []


def test_healed() -> None:
    assert told(status(Ready="ImagePullFailed"), status()) == [("Normal", "Ready")]


def test_healed_by_way_of_waiting() -> None:
    waiting = status(Ready="Progressing", Progressing="RollingOut")
    assert told(status(Ready="ImagePullFailed"), waiting) == []
    assert told(waiting, status()) == [("Normal", "Ready")]


def test_another_cause() -> None:
    assert told(status(Ready="ImagePullFailed"), status(Ready="ServerCrashing")) == [("Warning", "ServerCrashing")]


def test_no_replica_left() -> None:
    lost = status(Ready="NoReplicasAvailable", Available="NoReplicasAvailable")
    assert told(status(), lost) == [("Warning", "NoReplicasAvailable"), ("Warning", "NoReplicasAvailable")]


def test_the_same_cause_is_told_once() -> None:
    both = {"Ready": "Secret api does not exist", "SecretsResolved": "Secret api does not exist"}
    missing = status(messages=both, Ready="SecretMissing", SecretsResolved="SecretMissing")
    assert told(status(), missing) == [("Warning", "SecretMissing")]
    assert told(missing, status()) == [("Normal", "Ready"), ("Normal", "Resolved")]


def test_two_causes_are_two_events() -> None:
    two = status(Ready="ImagePullFailed", ServerReachable="Unreachable")
    assert told(status(), two) == [("Warning", "ImagePullFailed"), ("Warning", "Unreachable")]


@pytest.mark.parametrize(
    ("generation", "message", "events"),
    [
        (1, "x:1 not found", []),
        (1, "x:1 not found in other words", []),
        (2, "x:1 not found", []),
        (2, "x:2 not found", [("Warning", "ImagePullFailed")]),
    ],
)
def test_the_same_reason_again(generation: int, message: str, events: list[tuple[str, str]]) -> None:
    before = status(messages={"Ready": "x:1 not found"}, Ready="ImagePullFailed")
    after = status(generation, messages={"Ready": message}, Ready="ImagePullFailed")
    assert told(before, after) == events


def test_turns_of_the_fleet_are_no_events() -> None:
    waiting = status(Ready="RolloutWaiting", Progressing="WaitingForTurn")
    assert told(status(), waiting) == []
    assert told(waiting, status()) == []


@pytest.mark.parametrize("kind", TYPES)
def test_every_bad_reason_is_told_and_its_healing(kind: str) -> None:
    for row in REASONS.values():
        if row.type == kind and row.tone == "Bad":
            bad = status(**{kind: row.reason})
            assert told(status(), bad) == [("Warning", row.reason)]
            healed = [] if row.type == "Ready" and row.status == "True" else [("Normal", GOOD[kind])]
            assert told(bad, status()) == healed


def test_what_is_not_ours_is_left_alone() -> None:
    strange = {"conditions": [{"type": "Ready", "status": "False", "reason": "Odd"}, "x", {"reason": []}]}
    assert told(strange, status()) == [("Normal", "Ready")]
    assert told(status(), strange) == []


def test_long_messages_are_cut() -> None:
    long = condition(Finding("Ready", "Ready", "x" * 5000), generation=1, now="", previous=None)
    assert len(long["message"]) == 1024


def test_events_and_reasons_fit_what_kubernetes_allows() -> None:
    """metav1.Condition: reason is CamelCase and at most 1024 characters; an Event's at most 128."""
    for row in REASONS.values():
        assert row.reason.isalnum()
        assert row.reason[0].isupper()
        assert len(row.reason) <= 128
        assert row.meaning.endswith(".")
        assert row.advice.endswith(".")

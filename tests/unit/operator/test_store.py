"""The store: which events mark an MCPServer, and that an old word never replaces a newer one."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_operator.store import Store

KEY = ("team", "search")


def manifest(version: str, *, uid: str = "u1", generation: int = 1, **metadata: Any) -> dict[str, Any]:
    found = {"namespace": "team", "name": "search", "uid": uid, "generation": generation, "resourceVersion": version}
    return {"metadata": found | metadata, "spec": {}}


class Seen:
    def __init__(self) -> None:
        self.now = 100.0
        self.marked: list[bool] = []
        self.store = Store(lambda _, urgent: self.marked.append(urgent), clock=lambda: self.now)

    @property
    def version(self) -> str:
        entry = self.store.get(KEY)
        assert entry is not None
        return str(entry.manifest["metadata"]["resourceVersion"])


@pytest.fixture
def seen() -> Seen:
    return Seen()


def test_one_that_was_just_made_is_urgent_and_one_that_was_listed_is_not(seen) -> None:
    seen.store.put(manifest("1"), "ADDED")
    other = Seen()
    other.store.put(manifest("1"))
    assert (seen.marked, other.marked) == ([True], [False])


def test_only_what_somebody_else_decides_marks_it(seen) -> None:
    seen.store.put(manifest("1"))
    seen.marked.clear()
    seen.now += 5
    seen.store.put({**manifest("2"), "status": {"url": "x"}}, "MODIFIED")
    assert seen.marked == []
    assert seen.store.get(KEY).seen_at == 105.0
    for number, change in enumerate(({"generation": 2}, {"labels": {"a": "b"}}, {"annotations": {"a": "b"}})):
        seen.store.put(manifest(str(number + 3), **change), "MODIFIED")
    assert seen.marked == [True] * 3


def test_an_event_that_is_older_than_a_read_says_nothing(seen) -> None:
    seen.store.put(manifest("9", generation=1), "ADDED")
    seen.store.put(manifest("11", generation=3))  # our own read
    seen.store.put(manifest("10", generation=2), "MODIFIED")
    assert (seen.version, seen.store.get(KEY).generation) == ("11", 3)
    seen.store.put(manifest("100", generation=4), "MODIFIED")
    assert seen.version == "100"


def test_the_end_of_a_predecessor_of_the_same_name_says_nothing(seen) -> None:
    seen.store.put(manifest("5", uid="u1"))
    seen.store.put(manifest("8", uid="u2"), "ADDED")
    seen.store.put(manifest("6", uid="u1", deletionTimestamp="2026-11-23T12:00:00Z"), "MODIFIED")
    seen.store.put(manifest("7", uid="u1"), "DELETED")
    assert seen.store.get(KEY).uid == "u2"


def test_a_list_is_believed_whatever_its_version(seen) -> None:
    seen.store.put(manifest("50"))
    seen.store.put(manifest("3", generation=2))  # the API server was restored from a backup
    assert seen.version == "3"


def test_versions_that_are_no_numbers_are_never_older(seen) -> None:
    seen.store.put(manifest("b"))
    seen.store.put(manifest("a"), "MODIFIED")
    assert seen.version == "a"


def test_a_deletion_removes_and_marks_it_and_drop_only_that_very_object(seen) -> None:
    seen.store.put(manifest("1"))
    seen.store.put(manifest("2"), "DELETED")
    assert (len(seen.store), seen.marked) == (0, [False, True])
    seen.store.put(manifest("3", uid="u2"), "ADDED")
    seen.store.drop(KEY, "u1")
    assert list(seen.store) == [KEY]
    seen.store.drop(KEY, "u2")
    assert seen.store.get(KEY) is None


def test_managed_fields_are_not_kept(seen) -> None:
    seen.store.put(manifest("1", managedFields=[{"manager": "kubectl"}]))
    assert "managedFields" not in seen.store.get(KEY).manifest["metadata"]

"""The checker of the storms finds every breach it is there for: else a green storm would say nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from storm import Call, Executions, read_calls, violations

OK = Call("write", "k-1", "ok", 200, 0, {}, "")
MAYBE = Call("write", "k-1", "rpc", 502, -31033, {"reason": "child_exited", "maybeExecuted": True}, "…")
SURELY_NOT = Call("write", "k-1", "rpc", 503, -31004, {"reason": "breaker_open", "maybeExecuted": False}, "…")


@pytest.mark.parametrize(
    "calls, ran",
    [
        ([OK], {"k-1": 1}),
        ([MAYBE], {"k-1": 1}),
        ([MAYBE], {}),
        ([SURELY_NOT], {}),
        ([Call("sleep", "k-1", "ok", 200, 0, {}, "")], {"k-1": 3}),
    ],
)
def test_what_is_right_passes(calls: list[Call], ran: dict[str, int]) -> None:
    assert violations(calls, Counter(ran)) == []


@pytest.mark.parametrize(
    "calls, ran, breach",
    [
        ([OK], {"k-1": 2}, "unsafe and ran 2 times"),
        ([OK], {}, "answered and never ran"),
        ([SURELY_NOT], {"k-1": 1}, "told it had not"),
        ([OK, OK], {"k-1": 1}, "answered 2 times"),
        ([], {"k-1": 1}, "never asked for"),
        ([Call("write", "k-1", "hung", 200, 0, {}, "…")], {"k-1": 1}, "got hung"),
        ([Call("write", "k-1", "wrong", 200, 0, {}, "…")], {"k-1": 1}, "got wrong"),
        ([Call("write", "k-1", "rpc", 200, -32603, {}, "…")], {}, "does not say why"),
    ],
)
def test_every_breach_is_found(calls: list[Call], ran: dict[str, int], breach: str) -> None:
    found = violations(calls, Counter(ran))
    assert any(breach in text for text in found), found


def test_reads_both_records(tmp_path: Path) -> None:
    callers = tmp_path / "callers"
    callers.write_text(
        "write k-1 ok \n"
        'write k-2 rpc 502 -31033 {"reason":"child_exited","maybeExecuted":true} The process ended: code 1\n'
        "sleep k-3 lost EOF\n"
    )
    calls = read_calls(callers)
    assert [call.reason for call in calls] == ["ok", "child_exited", "lost"]
    assert (calls[1].status, calls[1].code, calls[1].data["maybeExecuted"]) == (502, -31033, True)
    ran = Executions(tmp_path / "ran")
    with ran.path.open("a") as file:
        file.write("ran k-1 7\nran k-2 7\nran k")
        file.flush()
        ran.read()
        assert ran.pids == {7: 2}
        file.write("-1 8\ncancelled k-2 8\n")
    ran.close()
    assert ran.ran == {"k-1": 2, "k-2": 1}

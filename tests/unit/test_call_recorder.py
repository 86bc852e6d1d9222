"""Each finished call is counted once, under bounded labels, with one log line and, for a tool, one audit line."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.errors import CallError, Delivery, Reason, Rejected, SessionLost, UpstreamError
from mcp_sidecar.pipeline.call import Call, Era, Reply, Source
from mcp_sidecar.telemetry.audit import ArgumentMode, Audit, AuditPolicy
from mcp_sidecar.telemetry.catalogue import METHODS, OTHER_METHOD, OUTCOMES, SOURCES, Catalogue
from mcp_sidecar.telemetry.lines import LineWriter
from mcp_sidecar.telemetry.log import Level, Log
from mcp_sidecar.telemetry.metrics import OTHER, Registry
from mcp_sidecar.telemetry.record import CallRecorder
from mcp_sidecar.telemetry.tool_labels import TOOL_KEPT_SECONDS

OK = Reply(b'{"content":[],"isError":false}')


class Written(LineWriter):
    """A writer that keeps its lines."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.lines: list[bytes] = []
        self.forced = 0

    def write(self, line: bytes, *, force: bool = False) -> bool:
        self.lines.append(line)
        self.forced += force
        return True

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


class Rig:
    """A recorder whose lines and clock are at hand."""

    def __init__(self, **audit: Any) -> None:
        self.now = 0.0
        self.registry = Registry()
        self.catalogue = Catalogue(self.registry)
        self.logged = Written()
        self.audited = Written()
        self.log = Log(self.logged)
        self.recorder = CallRecorder(
            self.catalogue,
            self.log,
            Audit(self.audited, **audit),
            servers=["git"],
            max_tool_labels=3,
            clock=lambda: self.now,
        )
        self.list_tools("commit", "push")

    def list_tools(self, *names: str) -> None:
        self.recorder.tools_listed("git", json.dumps({"tools": [{"name": n, "x": 1} for n in names]}).encode())

    def finish(
        self, reply: Reply | None = None, error: BaseException | None = None, took: float = 0.25, **call: Any
    ) -> Call:
        made = make_call(**call)
        self.recorder.finished(made, reply, error, made.started + took)
        assert self.recorder.failures == 0
        return made

    def counted(self, family: str = "calls") -> dict[tuple[str, ...], float]:
        return {v: c.value for v, c in getattr(self.catalogue, family).children() if c.value}


def make_call(**changes: Any) -> Call:
    values: dict[str, Any] = {
        "server": "git",
        "id": b'"7"',
        "method": "tools/call",
        "params": b'{"name":"commit","arguments":{"message":"s3cret","all":true}}',
        "era": Era.MODERN,
        "version": "2026-07-28",
        "name": "commit",
        "identity": bytes(range(16)),
        "started": 100.0,
        "uid": "c1",
    }
    values.update(changes)
    return Call(**values)


def upstream_error(reason: Reason = Reason.CONNECTION_LOST) -> UpstreamError:
    return UpstreamError(reason, "gone", delivery=Delivery.MAYBE)


@pytest.mark.parametrize(
    ("reply", "error", "outcome", "error_type", "side"),
    [
        (OK, None, "ok", None, None),
        (Reply(b'{"resultType":"input_required"}'), None, "ok", None, None),
        (Reply(detached=True), None, "ok", None, None),
        (Reply(b'{"isError" : true,"content":[]}'), None, "tool_error", "tool_error", "upstream"),
        (Reply(b'{"structuredContent":{"isError":true},"isError":false}'), None, "ok", None, None),
        (Reply(b'{"content":[{"type":"text","text":"\\"isError\\":true"}]}'), None, "ok", None, None),
        (Reply(error=b'{"code":-32602,"message":"no"}'), None, "error", "invalid_params", "caller"),
        (Reply(error=b'{"code":-32603,"message":"no"}'), None, "error", "internal_error", "upstream"),
        (Reply(error=b'{"code":17,"message":"no"}'), None, "error", "other_error", "upstream"),
        (Reply(error=b"[]"), None, "error", "other_error", "upstream"),
        (None, Rejected(Reason.QUEUE_FULL, "x"), "rejected", "queue_full", "sidecar"),
        (None, Rejected(Reason.TOOL_NOT_ALLOWED, "x"), "rejected", "tool_not_allowed", "caller"),
        (None, upstream_error(), "error", "connection_lost", "upstream"),
        (None, SessionLost("x"), "error", "session_lost", "upstream"),
        (None, CallError(Reason.DEADLINE_EXCEEDED, "x"), "error", "deadline_exceeded", "upstream"),
        (None, KeyError("x"), "error", "internal", "sidecar"),
        (None, TimeoutError(), "error", "internal", "sidecar"),
        (None, asyncio.CancelledError(), "cancelled", None, None),
        (None, CallError(Reason.CANCELLED, "x"), "cancelled", None, None),
    ],
)
def test_every_way_to_end_has_one_outcome(
    reply: Reply | None, error: BaseException | None, outcome: str, error_type: str | None, side: str | None
) -> None:
    rig = Rig()
    rig.finish(reply, error)
    source = "upstream" if reply else "sidecar"
    assert rig.counted() == {("git", "tools/call", "commit", outcome, source): 1}
    assert rig.counted("errors") == ({("git", side, error_type): 1} if error_type else {})
    assert rig.counted("rejected") == ({("git", error_type): 1} if outcome == "rejected" else {})
    (line,) = rig.logged.read()
    assert (line["event"], line["outcome"], line["call"], line["duration_ms"]) == ("call", outcome, "c1", 250.0)
    assert line["level"] == ("warning" if outcome in ("error", "rejected") else "info")
    (audit,) = rig.audited.read()
    assert (audit["outcome"], audit["call"], audit["seq"]) == (outcome, "c1", 1)


def test_the_log_line_tells_the_whole_story() -> None:
    rig = Rig()
    call = make_call(
        headers=((b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),), era=Era.LEGACY
    )
    call.attempts, call.queued_for, call.upstream_time, call.delivery = 2, 0.0125, 0.2, Delivery.MAYBE

    class Session:
        log_id = "5e55"

    call.session = Session()
    rig.recorder.finished(call, None, upstream_error(), 100.25)
    (line,) = rig.logged.read()
    del line["ts"]
    assert line == {
        "level": "warning",
        "event": "call",
        "call": "c1",
        "server": "git",
        "era": "legacy",
        "method": "tools/call",
        "tool": "commit",
        "outcome": "error",
        "reason": "connection_lost",
        "code": Reason.CONNECTION_LOST.code,
        "delivery": "maybe",
        "duration_ms": 250.0,
        "queue_ms": 12.5,
        "upstream_ms": 200.0,
        "attempts": 2,
        "source": "sidecar",
        "id": '"7"',
        "session": "5e55",
        "trace": "0af7651916cd43dd8448eb211c80319c",
    }


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20), st.text(max_size=5)), max_size=200))
def test_no_input_of_a_caller_makes_a_series(calls: list[tuple[str, str, str]]) -> None:
    rig = Rig()
    for method, tool, server in calls:
        rig.finish(OK, method=method, name=tool, server=server)
        rig.recorder.attempt(make_call(method=method), 0.1, OK, None)
        rig.recorder.attempt(make_call(server=server), 0.1, OK, None)
        rig.finish(OK, name=tool)
    for server, method, tool, outcome, source in rig.counted():
        assert server in ("git", OTHER)
        assert method in {*METHODS, OTHER_METHOD}
        assert tool in ("", "commit", "push", OTHER)
        assert (outcome, source) == ("ok", "upstream")
    # nor is anything kept by such a name
    assert {(key[0], key[1] in METHODS) for key in rig.recorder._series} <= {("git", True)}
    assert {(key[0], key[1] in METHODS) for key in rig.recorder._attempts} <= {("git", True)}


def test_calls_are_the_sum_of_outcomes() -> None:
    rig = Rig()
    endings: list[tuple[Reply | None, BaseException | None]] = [
        (OK, None),
        (Reply(b"{}", source=Source.CACHE), None),
        (Reply(b"{}", source=Source.STALE), None),
        (Reply(b"{}", source=Source.COALESCED), None),
        (None, asyncio.CancelledError()),
        (None, Rejected(Reason.BREAKER_OPEN, "x")),
    ]
    for reply, error in endings * 3:
        rig.finish(reply, error)
    counted = rig.counted()
    assert sum(counted.values()) == 18
    assert {key[3] for key in counted} <= set(OUTCOMES)
    assert {key[4] for key in counted} <= set(SOURCES)
    duration = rig.catalogue.operation_duration.children()
    assert sum(child.count for _, child in duration) == 18


def test_tool_labels_are_bounded_and_freed_when_tools_are_gone() -> None:
    rig = Rig()
    rig.list_tools("commit", "push", "pull", "fetch", "clone")
    for name in ("commit", "pull", "fetch"):
        rig.finish(OK, name=name)
    assert {key[2] for key in rig.counted()} == {"commit", "pull", OTHER}
    assert rig.registry.overflows.labels("tool").value == 2
    rig.now = TOOL_KEPT_SECONDS + 1
    rig.list_tools("commit", "fetch", "clone")
    rig.finish(OK, name="fetch")
    # `push` and `pull` are no longer listed: their series went with them
    assert {key[2] for key in rig.counted()} == {"commit", OTHER, "fetch"}


def test_overhead_is_what_neither_queue_nor_upstream_took() -> None:
    rig = Rig()
    call = make_call()
    call.attempts, call.queued_for, call.upstream_time, call.paused_for = 1, 0.1, 0.1, 0.049
    rig.recorder.finished(call, OK, None, 100.25)
    assert rig.catalogue.overhead.labels().sum == pytest.approx(0.001)
    call.attempts = 2  # a retry slept: not ours
    rig.recorder.finished(call, OK, None, 100.25)
    assert rig.catalogue.overhead.labels().count == 1
    assert rig.catalogue.queue_wait.labels("git").count == 2


def test_attempts_are_counted_by_what_became_of_them() -> None:
    rig = Rig()
    call = make_call()
    call.attempts = 1
    rig.recorder.attempt(call, 0.1, None, upstream_error())
    call.attempts = 2
    rig.recorder.attempt(call, 0.1, OK, None)
    rig.recorder.attempt(call, 0.1, Reply(error=b"{}"), None)
    rig.recorder.attempt(call, 0.1, None, asyncio.CancelledError())
    assert rig.counted("attempts") == {
        ("git", "failed", "0"): 1,
        ("git", "ok", "1"): 1,
        ("git", "error", "1"): 1,
        ("git", "cancelled", "1"): 1,
    }


def test_what_is_refused_before_a_call_is_counted() -> None:
    rig = Rig()
    rig.recorder.refused("git", Reason.REQUEST_TOO_LARGE)
    rig.recorder.refused("made up", Reason.SHUTTING_DOWN)
    assert rig.counted("rejected") == {("git", "request_too_large"): 1, (OTHER, "shutting_down"): 1}


def test_what_is_watched_is_there_before_it_happens() -> None:
    """A counter that appears with its first event shows no increase in Prometheus: the first fault would be unseen."""
    registry = Registry()
    CallRecorder(Catalogue(registry), None, None, servers=["git"])
    text = registry.render().decode()
    for line in (
        'outrigger_errors_total{server="git",side="upstream",error_type="connection_lost"} 0',
        'outrigger_errors_total{server="git",side="sidecar",error_type="breaker_open"} 0',
        'outrigger_rejected_total{server="git",reason="queue_full"} 0',
        'outrigger_config_reloads_total{result="refused"} 0',
    ):
        assert f"{line}\n" in text


def test_a_removed_server_leaves_no_series() -> None:
    rig = Rig()
    rig.finish(OK)
    rig.recorder.remove_server("git")
    assert b'server="git"' not in rig.registry.render()
    rig.finish(OK)
    assert {key[0] for key in rig.counted()} == {OTHER}


def test_a_quiet_log_still_audits_and_counts() -> None:
    rig = Rig()
    rig.log.level = Level.WARNING
    rig.finish(OK)
    assert rig.logged.lines == []
    assert len(rig.audited.lines) == 1


def test_only_tools_are_audited() -> None:
    rig = Rig()
    rig.finish(OK, method="tools/list", name=None)
    assert (len(rig.logged.lines), len(rig.audited.lines)) == (1, 0)


def test_the_human_form_of_a_call_is_readable() -> None:
    rig = Rig()
    rig.log.human = True
    rig.finish(OK)
    assert b"server=\x1b[0mgit" in rig.logged.lines[0]
    assert b"outcome=\x1b[0mok" in rig.logged.lines[0]


def test_a_defect_in_recording_does_not_reach_the_call() -> None:
    rig = Rig()
    call = make_call()
    call.started = None  # type: ignore[assignment]
    rig.recorder.finished(call, OK, None, 1.0)
    assert rig.recorder.failures == 1


def test_audit_tells_who_what_and_what_was_decided() -> None:
    rig = Rig()
    rig.finish(None, Rejected(Reason.TOOL_NOT_ALLOWED, "x"), principal="ci")
    rig.finish(None, Rejected(Reason.RATE_LIMITED, "x"))
    rig.finish(OK, identity=b"")
    lines = rig.audited.read()
    assert [line["decision"] for line in lines] == ["denied", "refused", "allowed"]
    assert [line["who"] for line in lines] == ["ci", "0001020304050607", "anonymous"]
    assert [line["seq"] for line in lines] == [1, 2, 3]
    assert {line["tool"] for line in lines} == {"commit"}


def test_argument_values_are_never_audited() -> None:
    for mode, shown in ((ArgumentMode.NONE, None), (ArgumentMode.NAMES, ["message", "all"])):
        rig = Rig(arguments=mode)
        rig.finish(OK)
        (line,) = rig.audited.read()
        assert line.get("arguments") == shown
        assert b"s3cret" not in rig.audited.lines[0] + rig.logged.lines[0]


def test_hashes_of_arguments_are_keyed_and_ignore_order() -> None:
    def hashed(params: bytes, key: bytes = b"k") -> str:
        rig = Rig(arguments=ArgumentMode.HASH, key=key)
        rig.finish(OK, params=params)
        return str(rig.audited.read()[0].get("arguments", ""))

    first = hashed(b'{"name":"commit","arguments":{"a":1,"b":{"d":[1,2],"c":"s3cret"}}}')
    assert len(first) == 32
    assert first == hashed(b'{"arguments": {"b": {"c": "s3cret", "d": [1, 2]}, "a": 1}, "name": "commit"}')
    assert first != hashed(b'{"name":"commit","arguments":{"a":2,"b":{"d":[1,2],"c":"s3cret"}}}')
    assert first != hashed(b'{"name":"commit","arguments":{"a":1,"b":{"d":[1,2],"c":"s3cret"}}}', key=b"other")
    assert hashed(b'{"name":"commit"}') == ""
    assert hashed(b'{"arguments":[') == ""


async def test_the_block_policy_holds_new_calls_back_and_loses_no_line() -> None:
    rig = Rig(policy=AuditPolicy.BLOCK)
    rig.finish(OK)
    assert rig.audited.forced == 1
    audit = rig.recorder.audit
    assert audit is not None
    await audit.admit()
    rig.audited._queued = rig.audited._max
    waiting = asyncio.create_task(audit.admit())
    await asyncio.sleep(0)
    assert not waiting.done()
    rig.audited._release(1)
    await asyncio.wait_for(waiting, 5)
    drop = Rig(policy=AuditPolicy.DROP)
    drop.audited._queued = drop.audited._max
    assert drop.recorder.audit is not None
    await drop.recorder.audit.admit()

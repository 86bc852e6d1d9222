"""`isolation: PerSession`: a process for each legacy session, everything it can do, and what its end means to whom."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mcp_callers import Caller, legacy_server, modern_server
from sidecar_process import SidecarProcess, running

LEGACY = "2025-06-18"
UPDATED = "notifications/resources/updated"


def server(**settings: Any) -> dict[str, Any]:
    return legacy_server(isolation="PerSession", **settings)


@pytest.fixture(scope="module")
def sidecar() -> Iterator[SidecarProcess]:
    with running({"servers": {"s": server()}}) as sidecar:
        yield sidecar


def legacy(sidecar: SidecarProcess, **options: Any) -> Caller:
    capabilities = {"sampling": {}, "roots": {"listChanged": True}, "elicitation": {}}
    return Caller(sidecar.url(), version=LEGACY, **options).open(capabilities)


def pid(caller: Caller) -> int:
    """The process that serves a session says its pid as its version."""
    version = caller.initialized({"roots": {}})["serverInfo"]["version"]
    return int(version)


def opened(sidecar: SidecarProcess) -> tuple[Caller, int]:
    caller = Caller(sidecar.url(), version=LEGACY)
    return caller, pid(caller)


def eventually(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + 15
    while not (found := condition()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)
    return found


def own_sessions(sidecar: SidecarProcess) -> int:
    found: int = sidecar.status()["servers"]["s"]["upstream"]["ownSessions"]
    return found


def test_each_session_has_its_process_which_ends_with_it(sidecar: SidecarProcess) -> None:
    before = sidecar.children()
    (one, first), (two, second) = opened(sidecar), opened(sidecar)
    assert len({first, second, *before}) == len(before) + 2
    assert one.delete().status == 200
    eventually(lambda: first not in sidecar.children())
    assert one.send("ping").wait().status == 404
    assert two.result("ping") == {}
    two.delete()


def test_the_process_hears_what_the_caller_said_itself(sidecar: SidecarProcess) -> None:
    caller = legacy(sidecar)
    told = caller.told()
    assert [m["method"] for m in told[:2]] == ["initialize", "notifications/initialized"]
    assert told[0]["params"]["capabilities"] == {"sampling": {}, "roots": {"listChanged": True}, "elicitation": {}}
    assert told[0]["params"]["clientInfo"]["name"] == "raw"
    caller.notify("notifications/roots/list_changed")
    assert caller.told()[-2]["method"] == "notifications/roots/list_changed"
    caller.delete()


@pytest.mark.parametrize("method", ["sampling/createMessage", "elicitation/create", "roots/list"])
def test_the_process_asks_its_caller(sidecar: SidecarProcess, method: str) -> None:
    caller, other = legacy(sidecar), legacy(sidecar)
    exchange = caller.call("ask", method=method, params={"x": "é"})
    question = exchange.next()
    assert (question["method"], question["params"]) == (method, {"x": "é"})
    # another session's answer to the same id goes nowhere
    assert other.respond(question["id"], result={"stolen": True}).status == 202
    assert caller.respond(question["id"], result={"mine": "ü"}).status == 202
    assert json.loads(exchange.answer()["result"]["content"][0]["text"]) == {"answer": {"mine": "ü"}, "error": None}
    exchange = caller.call("ask", method=method)
    caller.respond(exchange.next()["id"], error={"code": -1, "message": "no"})
    assert json.loads(exchange.answer()["result"]["content"][0]["text"])["error"] == {"code": -1, "message": "no"}
    caller.delete()
    other.delete()


def test_notices_log_and_updates_go_to_the_session_alone(sidecar: SidecarProcess) -> None:
    caller, other = legacy(sidecar), legacy(sidecar)
    stream, others = caller.stream(), other.stream()
    log = {"method": "notifications/message", "params": {"level": "info", "data": "mine"}}
    update = {"method": UPDATED, "params": {"uri": "test:a"}}
    changed = {"method": "notifications/tools/list_changed"}
    exchange = caller.call("say", messages=[log, update, changed])
    # over stdio nothing ties a log message to its call: the newest call's stream is where its caller expects it
    assert exchange.next()["params"]["data"] == "mine"
    assert exchange.next()["result"]
    assert [stream.next()["method"] for _ in range(2)] == [UPDATED, changed["method"]]
    other.text("echo", text="x")
    assert others.nothing()
    for each in (stream, others):
        each.disconnect()
    caller.delete()
    other.delete()


def test_what_was_said_before_the_stream_waits_for_it(sidecar: SidecarProcess) -> None:
    caller = legacy(sidecar)
    messages = [{"method": UPDATED, "params": {"uri": f"test:{n}"}} for n in range(300)]
    caller.result("tools/call", {"name": "say", "arguments": {"messages": messages}})
    stream = caller.stream()
    kept = [stream.next()["params"]["uri"] for _ in range(256)]
    assert kept == [f"test:{n}" for n in range(44, 300)], "the oldest give way"
    caller.delete()
    assert stream.wait().over


def test_a_stale_question_stops_no_clock_for_ever() -> None:
    settings = {"timeout": "2s", "totalTimeout": "6s", "retry": {"maxRetries": 0}}
    with running({"servers": {"s": server(**settings)}}) as sidecar:
        caller = legacy(sidecar)
        unasked = [{"id": "stale", "method": "roots/list"}]
        caller.call("say", messages=unasked).wait()
        # the caller never answers the first question; the clock of a later call runs on when its own is answered
        slow = caller.call("ask", method="elicitation/create")
        question = slow.next()
        time.sleep(2.5)
        caller.respond(question["id"], result={})
        assert slow.answer()["result"]
        waiting = caller.call("wait", name="x", meta={"progressToken": 1})
        waiting.until("notifications/progress")
        caller.call("say", messages=[{"id": "fresh", "method": "roots/list"}]).wait()
        caller.respond("fresh", result={})
        assert waiting.answer()["error"]["data"]["reason"] == "attempt_timeout"
        # what the server takes back is passed on, and stops no clock either
        messages = [
            {"id": "q", "method": "roots/list"},
            {"method": "notifications/cancelled", "params": {"requestId": "q"}},
            {"method": "notifications/cancelled", "params": {"requestId": 1}},
        ]
        exchange = caller.call("say", messages=messages).wait()
        assert [m.get("method") for m in exchange.rest()] == ["roots/list", "notifications/cancelled", None]


def test_a_caller_that_left_holds_nothing() -> None:
    settings = {"timeout": "2s", "retry": {"maxRetries": 0}}
    with running({"servers": {"s": server(**settings)}}) as sidecar:
        caller = legacy(sidecar)
        exchange = caller.call("ask", method="sampling/createMessage")
        exchange.next()
        exchange.disconnect()
        in_flight = 'outrigger_bulkhead_in_flight{server="s"}'
        eventually(lambda: sidecar.metrics()[in_flight] == 0)
        assert caller.text("echo", text="x") == "x"


def test_a_process_that_dies_ends_its_session_and_no_other(sidecar: SidecarProcess) -> None:
    caller, other = legacy(sidecar), legacy(sidecar)
    stream = caller.stream()
    assert caller.call("exit").answer()["error"]["data"]["reason"] == "child_exited"
    exchange = caller.call("echo", text="x")
    assert exchange.answer()["error"]["data"]["reason"] == "session_lost"
    assert exchange.status == 404
    assert caller.notify("notifications/roots/list_changed").status == 404
    assert caller.stream().status == 404
    assert stream.wait().over
    assert other.text("echo", text="x") == "x"
    assert caller.open().text("echo", text="anew") == "anew"
    caller.delete()
    other.delete()


def test_modern_callers_share_one_more_process(sidecar: SidecarProcess) -> None:
    before = len(sidecar.children())
    callers = [Caller(sidecar.url()) for _ in range(5)]
    assert [caller.text("echo", text="x") for caller in callers] == ["x"] * 5
    assert len(sidecar.children()) == before


def test_there_are_no_more_processes_than_allowed() -> None:
    with running({"servers": {"s": server(maxSessions=2)}}) as sidecar:
        callers = [legacy(sidecar), legacy(sidecar)]
        third = Caller(sidecar.url(), version=LEGACY)
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        assert third.error("initialize", params)["data"]["reason"] == "too_many_sessions"
        assert own_sessions(sidecar) == 2
        callers[0].delete()
        assert third.open().text("echo", text="x") == "x"


def test_a_session_does_not_outlive_the_sidecar(tmp_path: Any) -> None:
    config = {"servers": {"s": server()}, "sessions": {"stateDirectory": str(tmp_path / "state")}}
    with running(config) as sidecar:
        caller = legacy(sidecar)
    with running(config) as sidecar:
        caller.url = sidecar.url()
        assert caller.send("ping").wait().status == 404, "its process is gone: replay would give wrong answers"


def test_a_lost_session_that_holds_nothing_is_begun_anew(tmp_path: Any) -> None:
    config = {"servers": {"s": server(sessions="Stateless")}, "sessions": {"stateDirectory": str(tmp_path / "state")}}
    with running(config) as sidecar:
        caller, victim = opened(sidecar)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: own_sessions(sidecar) == 0)
        exchanges = [caller.call("echo", text=str(n)) for n in range(4)]
        assert [each.answer()["result"]["content"][0]["text"] for each in exchanges] == list("0123")
        assert own_sessions(sidecar) == 1
        assert caller.told()[0]["params"]["capabilities"] == {"roots": {}}
        assert caller.told()[1]["method"] == "notifications/initialized"
    with running(config) as sidecar:
        caller.url = sidecar.url()
        assert caller.text("echo", text="x") == "x"


def test_an_idle_process_is_ended() -> None:
    with running({"servers": {"s": server()}, "sessions": {"idleTimeout": "1s"}}) as sidecar:
        caller = legacy(sidecar)
        eventually_within(45, lambda: own_sessions(sidecar) == 0)
        assert caller.send("ping").wait().status == 404


def eventually_within(seconds: float, condition: Callable[[], Any]) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


def test_a_modern_only_server_serves_legacy_callers_from_its_shared_process() -> None:
    with running({"servers": {"s": modern_server(isolation="PerSession")}}) as sidecar:
        caller = legacy(sidecar)
        assert caller.text("echo", text="x") == "x"
        exchange = caller.call("ask", requests={"a": {"method": "elicitation/create", "params": {}}})
        caller.respond(exchange.next()["id"], result={"action": "accept"})
        assert exchange.answer()["result"]
        assert own_sessions(sidecar) == 0

"""A shared stdio server, of either era, and callers of both: what each sees, and that nobody sees another's.

The servers are scripts in tests/children that tell what they were sent.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from callers import slots
from mcp_callers import CHILDREN, PREFIX, Caller, legacy_server, modern_server
from raw_mcp import MODERN
from sidecar_process import SidecarProcess, running

LEGACY = "2025-06-18"
TOOLS = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"
NO_CACHE = {"cache": {"enabled": False}}


@pytest.fixture(scope="module")
def on_legacy() -> Iterator[SidecarProcess]:
    """A sidecar in front of the legacy server."""
    with running({"servers": {"s": legacy_server()}}) as sidecar:
        yield sidecar


@pytest.fixture(scope="module")
def on_modern() -> Iterator[SidecarProcess]:
    """A sidecar in front of the modern server."""
    with running({"servers": {"s": modern_server()}}) as sidecar:
        yield sidecar


def modern(sidecar: SidecarProcess, **options: Any) -> Caller:
    return Caller(sidecar.url(), **options)


def legacy(sidecar: SidecarProcess, version: str = LEGACY, **options: Any) -> Caller:
    return Caller(sidecar.url(), version=version, **options).open({"sampling": {}, "roots": {}, "elicitation": {}})


def eventually(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + 15
    while not (found := condition()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)
    return found


def count(told: list[dict[str, Any]], method: str) -> int:
    return sum(message.get("method") == method for message in told)


# --- a modern caller of a legacy server


def test_a_legacy_server_is_discovered(on_legacy: SidecarProcess) -> None:
    result = modern(on_legacy).result("server/discover")
    assert result["supportedVersions"] == [MODERN]
    assert result["capabilities"]["resources"] == {"subscribe": True, "listChanged": True}
    assert result["instructions"] == "be kind"
    assert (result["ttlMs"], result["cacheScope"], result["resultType"]) == (0, "private", "complete")
    assert result["_meta"][PREFIX + "serverInfo"]["name"] == "legacy"


@pytest.mark.parametrize("method", ["tools/list", "resources/list", "resources/read"])
def test_legacy_results_are_made_modern(on_legacy: SidecarProcess, method: str) -> None:
    result = modern(on_legacy).result(method, {"uri": "test:a"} if method == "resources/read" else {})
    assert (result["ttlMs"], result["cacheScope"], result["resultType"]) == (0, "private", "complete")


def test_a_tool_result_is_made_modern_without_freshness(on_legacy: SidecarProcess) -> None:
    exchange = modern(on_legacy).call("echo", text="hi")
    assert exchange.answer()["result"] == {
        "resultType": "complete",
        "content": [{"type": "text", "text": "hi"}],
        "isError": False,
    }


def test_a_missing_resource_is_an_invalid_parameter(on_legacy: SidecarProcess) -> None:
    error = modern(on_legacy).error("resources/read", {"uri": "test:none"})
    assert (error["code"], error["status"]) == (-32602, 400)
    assert error["data"] == {"uri": "test:none"}


@pytest.mark.parametrize("method", ["ping", "logging/setLevel", "resources/subscribe", "initialize", "no/such"])
def test_removed_and_unknown_methods_are_not_found(on_legacy: SidecarProcess, method: str) -> None:
    error = modern(on_legacy).error(method, {"uri": "test:a", "level": "info"})
    assert (error["code"], error["status"]) == (-32601, 404)


def test_the_modern_envelope_does_not_reach_a_legacy_server(on_legacy: SidecarProcess) -> None:
    caller = modern(on_legacy)
    caller.result("tools/call", {"name": "echo", "arguments": {"text": "look"}}, meta={"mine": 1})
    (sent,) = (m for m in caller.told() if m.get("params", {}).get("arguments") == {"text": "look"})
    assert sent["params"]["_meta"] == {"mine": 1}


def test_a_modern_disconnect_cancels_the_call_of_a_legacy_server(on_legacy: SidecarProcess) -> None:
    caller = modern(on_legacy)
    waiting = caller.call("wait", name="gone")
    sent = eventually(lambda: [m for m in caller.told() if m.get("params", {}).get("arguments") == {"name": "gone"}])
    waiting.disconnect()
    cancelled = eventually(lambda: [m for m in caller.told() if m.get("method") == "notifications/cancelled"])
    assert cancelled[-1]["params"]["requestId"] == sent[0]["id"]
    assert caller.text("release", name="gone") == "no"


def test_progress_of_two_callers_with_one_token_is_kept_apart(on_legacy: SidecarProcess) -> None:
    callers = [modern(on_legacy), legacy(on_legacy), modern(on_legacy), legacy(on_legacy)]
    waiting = []
    for number, caller in enumerate(callers):
        waiting.append(caller.call("wait", id=7, meta={"progressToken": "same"}, name=f"p{number}"))
        # the token on the process is ours; each progress reaches the call that it belongs to, and no other
        assert waiting[-1].until("notifications/progress")["params"] == {
            "progressToken": "same",
            "progress": 1,
            "total": 2,
        }
        assert all(each.nothing() for each in waiting)
    for number, exchange in enumerate(waiting):
        callers[0].text("release", name=f"p{number}")
        answer = exchange.next()
        assert (answer["id"], answer["result"]["content"][0]["text"]) == (7, "released")


def test_listening_is_emulated(on_legacy: SidecarProcess) -> None:
    caller = modern(on_legacy)
    stream = caller.listen(toolsListChanged=True, promptsListChanged=True, resourceSubscriptions=["test:a", "test:b"])
    acknowledged = stream.next()
    # prompts are not announced by this server
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"]["notifications"] == {
        "toolsListChanged": True,
        "resourceSubscriptions": ["test:a", "test:b"],
    }
    assert acknowledged["params"]["_meta"] == {PREFIX + "subscriptionId": 1}
    said = [{"method": UPDATED, "params": {"uri": uri}} for uri in ("test:c", "test:b")]
    caller.result("tools/call", {"name": "say", "arguments": {"messages": [*said, {"method": TOOLS}]}})
    assert stream.next()["params"] == {"uri": "test:b", "_meta": {PREFIX + "subscriptionId": 1}}
    changed = stream.next()
    assert (changed["method"], changed["params"]) == (TOOLS, {"_meta": {PREFIX + "subscriptionId": 1}})
    stream.disconnect()
    eventually(lambda: count(caller.told(), "resources/unsubscribe") >= 2)


def test_what_the_server_refuses_to_tell_is_not_acknowledged(on_legacy: SidecarProcess) -> None:
    stream = modern(on_legacy).listen(resourceSubscriptions=["test:a", "test:secret"])
    assert stream.next()["params"]["notifications"] == {"resourceSubscriptions": ["test:a"]}
    stream.disconnect()


def test_a_filter_that_is_none_is_refused(on_legacy: SidecarProcess) -> None:
    error = modern(on_legacy).error("subscriptions/listen", {"notifications": {"toolsListChanged": "yes"}})
    assert (error["code"], error["status"]) == (-32602, 400)


# --- legacy callers of a legacy server


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
def test_every_legacy_version_is_spoken(on_legacy: SidecarProcess, version: str) -> None:
    caller = Caller(on_legacy.url(), version=version)
    assert caller.initialized()["protocolVersion"] == version
    assert caller.text("echo", text="x") == "x"


def test_an_unknown_version_gets_the_latest(on_legacy: SidecarProcess) -> None:
    assert Caller(on_legacy.url(), version="1999-01-01").initialized()["protocolVersion"] == "2025-11-25"


def test_one_initialize_serves_all_sessions(on_legacy: SidecarProcess) -> None:
    caller = legacy(on_legacy)
    legacy(on_legacy)
    told = caller.told()
    assert count(told, "initialize") == 1
    (opened,) = (m for m in told if m.get("method") == "initialize")
    assert opened["params"]["capabilities"] == {}, "what cannot be routed must not be offered"


def test_what_a_shared_process_asks_is_refused(on_legacy: SidecarProcess) -> None:
    answer = json.loads(legacy(on_legacy).text("ask", method="sampling/createMessage"))
    assert answer["error"]["code"] == -32601
    assert json.loads(legacy(on_legacy).text("ask", method="ping"))["answer"] == {}


def test_a_batch_of_the_oldest_revision(on_legacy: SidecarProcess) -> None:
    caller = legacy(on_legacy, "2025-03-26")
    requests = [
        {"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": str(n)}}}
        for n in range(20)
    ]
    notification = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
    exchange = caller.post([*requests, notification, {"jsonrpc": "2.0", "id": "x", "method": "no/such"}, 5]).wait()
    answers = {json.dumps(m.get("id")): m for m in exchange.rest()}
    assert exchange.status == 200
    assert exchange.body.startswith(b"[")
    assert [answers[str(n)]["result"]["content"][0]["text"] for n in range(20)] == [str(n) for n in range(20)]
    assert answers['"x"']["error"]["code"] == -32601
    assert answers["null"]["error"]["code"] == -32600
    only = caller.post([notification]).wait()
    assert (only.status, only.body) == (202, b"")
    assert caller.post([]).wait().status == 400
    assert legacy(on_legacy).post(requests).wait().status == 400


def test_a_legacy_cancel_reaches_the_server_and_answers_the_caller(on_legacy: SidecarProcess) -> None:
    caller, other = legacy(on_legacy), legacy(on_legacy)
    mine = caller.call("wait", id="same", name="cancel-mine")
    theirs = other.call("wait", id="same", name="cancel-theirs")
    find = lambda name: [m for m in caller.told() if m.get("params", {}).get("arguments") == {"name": name}]  # noqa: E731
    sent = eventually(lambda: find("cancel-mine"))
    sent_theirs = eventually(lambda: find("cancel-theirs"))
    # an id that the process knows another's call by cancels nothing
    other.notify("notifications/cancelled", {"requestId": sent[0]["id"]})
    modern(on_legacy).notify("notifications/cancelled", {"requestId": sent[0]["id"]})
    assert caller.notify("notifications/cancelled", {"requestId": "same"}).status == 202
    assert mine.answer()["error"]["data"]["reason"] == "cancelled"
    cancelled = [m["params"]["requestId"] for m in caller.told() if m.get("method") == "notifications/cancelled"]
    assert cancelled.count(sent[0]["id"]) == 1
    assert sent_theirs[0]["id"] not in cancelled
    assert caller.text("release", name="cancel-theirs") == "yes"
    assert theirs.answer()["id"] == "same"


def test_a_duplicate_id_is_refused_while_the_first_is_in_flight(on_legacy: SidecarProcess) -> None:
    caller, other = legacy(on_legacy), legacy(on_legacy)
    first = caller.call("wait", id=5, name="twice")
    eventually(lambda: [m for m in caller.told() if m.get("params", {}).get("arguments") == {"name": "twice"}])
    assert caller.call("echo", id=5, text="x").answer()["error"]["data"]["reason"] == "duplicate_id"
    assert other.call("echo", id=5, text="x").answer()["result"]
    assert caller.text("release", name="twice") == "yes"
    assert first.answer()["result"]
    assert caller.call("echo", id=5, text="x").answer()["result"]


def test_a_legacy_disconnect_is_no_cancel(on_legacy: SidecarProcess) -> None:
    caller = legacy(on_legacy)
    waiting = caller.call("wait", name="left")
    eventually(lambda: [m for m in caller.told() if m.get("params", {}).get("arguments") == {"name": "left"}])
    waiting.disconnect()
    assert caller.text("release", name="left") == "yes"


def test_changes_reach_every_session_and_updates_their_subscribers() -> None:
    with running({"servers": {"s": legacy_server()}}) as sidecar:
        one, two = legacy(sidecar), legacy(sidecar)
        streams = one.stream(), two.stream()
        for caller in (one, two):
            assert caller.result("resources/subscribe", {"uri": "test:both"}) == {}
        one.result("resources/subscribe", {"uri": "test:one"})
        said = [{"method": UPDATED, "params": {"uri": f"test:{name}"}} for name in ("one", "both")]
        say = {"name": "say", "arguments": {"messages": [*said, {"method": TOOLS}]}}
        one.result("tools/call", say)
        uris = [stream.until(UPDATED)["params"]["uri"] for stream in (streams[0], streams[0], streams[1])]
        assert uris == ["test:one", "test:both", "test:both"]
        assert streams[0].next()["method"] == streams[1].next()["method"] == TOOLS
        # the process is told to forget a resource when the last subscriber left, and not before
        assert count(one.told(), "resources/subscribe") == 2
        one.result("resources/unsubscribe", {"uri": "test:both"})
        assert count(one.told(), "resources/unsubscribe") == 0
        one.result("tools/call", say)
        assert streams[1].until(UPDATED)["params"]["uri"] == "test:both"
        two.delete()
        eventually(lambda: count(one.told(), "resources/unsubscribe") == 1)
        assert streams[1].wait().over
        assert one.error("resources/subscribe", {"uri": "test:secret"})["code"] == -32602
        streams[0].disconnect()


def test_log_levels_are_merged_and_nobody_hears_anothers_log() -> None:
    with running({"servers": {"s": legacy_server()}}) as sidecar:
        one = legacy(sidecar)
        stream = one.stream()
        levels = lambda: [m["params"]["level"] for m in one.told() if m.get("method") == "logging/setLevel"]  # noqa: E731
        one.result("logging/setLevel", {"level": "warning"})
        two = legacy(sidecar)
        two.result("logging/setLevel", {"level": "error"})
        assert levels() == ["warning"]
        two.result("logging/setLevel", {"level": "debug"})
        assert levels() == ["warning", "debug"]
        assert one.error("logging/setLevel", {"level": "loud"})["code"] == -32602
        log = {"method": "notifications/message", "params": {"level": "info", "data": "secret"}}
        one.result("tools/call", {"name": "say", "arguments": {"messages": [log, {"method": TOOLS}]}})
        assert stream.next()["method"] == TOOLS, "with two sessions nobody knows whose log it is"
        two.delete()
        one.result("tools/call", {"name": "say", "arguments": {"messages": [log]}})
        assert stream.next()["params"]["data"] == "secret"
        modern(sidecar).result("tools/call", {"name": "say", "arguments": {"messages": [log, {"method": TOOLS}]}})
        assert stream.next()["method"] == TOOLS, "the log of a modern caller's call is not the session's"
        stream.disconnect()


# --- restarts


def kill(sidecar: SidecarProcess, signum: signal.Signals = signal.SIGKILL) -> None:
    before = sidecar.kill_children(signum)
    eventually(lambda: not (sidecar.children().keys() & before.keys()))


def test_sessions_subscriptions_and_listeners_outlive_the_process() -> None:
    with running({"servers": {"s": legacy_server()}}) as sidecar:
        caller = legacy(sidecar)
        caller.result("logging/setLevel", {"level": "info"})
        caller.result("resources/subscribe", {"uri": "test:a"})
        stream, listening = caller.stream(), modern(sidecar).listen(toolsListChanged=True)
        listening.next()
        pid = modern(sidecar).result("server/discover")["_meta"]
        kill(sidecar)
        assert caller.text("echo", text="still here") == "still here"
        assert modern(sidecar).result("server/discover")["_meta"] != pid
        told = caller.told()
        assert [count(told, m) for m in ("initialize", "logging/setLevel", "resources/subscribe")] == [1, 1, 1]
        # whatever was announced may be different now
        assert stream.until(TOOLS)
        assert listening.until(TOOLS)
        caller.result(
            "tools/call", {"name": "say", "arguments": {"messages": [{"method": UPDATED, "params": {"uri": "test:a"}}]}}
        )
        assert stream.until(UPDATED)
        stream.disconnect()
        listening.disconnect()


def test_sessions_outlive_the_sidecar(tmp_path: Any) -> None:
    config = {"servers": {"s": legacy_server()}, "sessions": {"stateDirectory": str(tmp_path / "state")}}
    with running(config) as sidecar:
        caller, ended = legacy(sidecar), legacy(sidecar)
        ended.delete()
    with running(config) as sidecar:
        caller.url = ended.url = sidecar.url()
        assert caller.text("echo", text="still here") == "still here"
        assert ended.send("ping").wait().status == 404


def test_streams_end_in_good_order_at_shutdown() -> None:
    with running({"servers": {"s": legacy_server()}}) as sidecar:
        caller = legacy(sidecar)
        stream, listening = caller.stream(), modern(sidecar).listen(toolsListChanged=True)
        listening.next()
        sidecar.stop()
        assert listening.answer() == {
            "jsonrpc": "2.0",
            "id": 1,
            "result": {"resultType": "complete", "_meta": {PREFIX + "subscriptionId": 1}},
        }
        assert stream.wait().failed is None


def test_a_server_that_exits_on_unknown_methods_is_asked_once() -> None:
    with running({"servers": {"s": legacy_server("--unknown", "exit", **NO_CACHE)}}) as sidecar:
        caller = modern(sidecar)
        assert caller.text("echo", text="x") == "x"
        starts = lambda: sidecar.status()["servers"]["s"]["upstream"]["processes"]["legacy"]["starts"]  # noqa: E731
        assert starts() == 2
        # what its own revision does not have never reaches it
        assert caller.error("tasks/get", {"taskId": "1"})["code"] == -32601
        assert legacy(sidecar).error("no/such")["code"] == -32601
        kill(sidecar)
        assert caller.text("echo", text="x") == "x"
        assert starts() == 3
        assert count(caller.told(), "server/discover") == 0


def test_a_server_that_is_silent_to_discover_is_legacy() -> None:
    with running({"servers": {"s": legacy_server("--unknown", "silent")}}) as sidecar:
        caller = modern(sidecar)
        assert caller.text("echo", text="x") == "x"
        assert [m["method"] for m in caller.told()[:2]] == ["server/discover", "initialize"]
        kill(sidecar)
        began = time.monotonic()
        assert caller.text("echo", text="x") == "x"
        assert time.monotonic() - began < 8, "it was asked again, and 10 s were waited for"


# --- a modern server


def test_a_modern_caller_reaches_a_modern_server_unchanged(on_modern: SidecarProcess) -> None:
    caller = modern(on_modern)
    assert caller.result("server/discover")["ttlMs"] == 60_000
    assert caller.text("echo", text="hi") == "hi"
    assert caller.error("no/such")["status"] == 404


def test_a_legacy_caller_is_served_by_a_modern_server(on_modern: SidecarProcess) -> None:
    caller = Caller(on_modern.url(), version=LEGACY)
    opened = caller.initialized({"sampling": {}})
    assert opened == {
        "protocolVersion": LEGACY,
        "capabilities": {"tools": {"listChanged": True}, "resources": {"subscribe": True, "listChanged": True}},
        "serverInfo": opened["serverInfo"],
        "instructions": "be modern",
    }
    assert opened["serverInfo"]["name"] == "modern"
    assert caller.text("echo", text="hi") == "hi"
    assert caller.result("ping") == {}
    assert caller.error("no/such")["code"] == -32601
    sent = [m for m in caller.told() if m.get("params", {}).get("name") == "echo"][-1]["params"]["_meta"]
    assert sent[PREFIX + "clientCapabilities"] == {"sampling": {}}
    assert sent[PREFIX + "clientInfo"]["name"] == "raw"


def test_a_legacy_caller_hears_of_changes_of_a_modern_server(on_modern: SidecarProcess) -> None:
    caller = legacy(on_modern)
    stream = caller.stream()
    caller.result("resources/subscribe", {"uri": "test:mine"})
    wanted = lambda m: m.get("params", {}).get("notifications", {}).get("resourceSubscriptions") == ["test:mine"]  # noqa: E731
    eventually(lambda: [m for m in caller.told() if wanted(m)])
    messages = [{"method": UPDATED, "params": {"uri": "test:mine"}}, {"method": TOOLS, "params": {}}]
    caller.result("tools/call", {"name": "say", "arguments": {"messages": messages}})
    found = [stream.next() for _ in range(2)]
    assert [m["method"] for m in found] == [UPDATED, TOOLS]
    assert "_meta" not in found[0]["params"], "a subscription of ours means nothing to a legacy caller"
    stream.disconnect()


def test_a_modern_listener_has_its_own_id(on_modern: SidecarProcess) -> None:
    one, two = modern(on_modern), modern(on_modern)
    streams = [
        caller.send("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, id="mine")
        for caller in (one, two)
    ]
    for stream in streams:
        assert stream.next()["params"]["_meta"] == {PREFIX + "subscriptionId": "mine"}
    one.result("tools/call", {"name": "say", "arguments": {"messages": [{"method": TOOLS, "params": {}}]}})
    for stream in streams:
        assert stream.until(TOOLS)["params"]["_meta"] == {PREFIX + "subscriptionId": "mine"}
        stream.disconnect()


def test_a_modern_disconnect_cancels_the_call_of_a_modern_server(on_modern: SidecarProcess) -> None:
    caller = modern(on_modern)
    waiting = caller.call("wait", name="gone")
    sent = eventually(lambda: [m for m in caller.told() if m.get("params", {}).get("arguments") == {"name": "gone"}])
    waiting.disconnect()
    find = lambda: [m for m in caller.told() if m.get("params", {}).get("requestId") == sent[0]["id"]]  # noqa: E731
    assert eventually(find)[0]["method"] == "notifications/cancelled"


def test_mirrored_parameters_are_checked_for_a_server_on_stdio(on_modern: SidecarProcess) -> None:
    caller = modern(on_modern)
    params = {"name": "region", "arguments": {"region": "eu"}}
    assert caller.result("tools/call", params, headers={"Mcp-Param-Region": "eu"})
    for headers in ({}, {"Mcp-Param-Region": "us"}):
        error = caller.error("tools/call", params, headers=headers)
        assert (error["code"], error["status"]) == (-32020, 400)


# --- input of a legacy caller to a modern server

SAMPLING = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
ELICIT = {"method": "elicitation/create", "params": {"message": "name?"}}


def test_input_is_asked_of_a_legacy_caller(on_modern: SidecarProcess) -> None:
    caller = legacy(on_modern)
    exchange = caller.call("ask", requests={"a": SAMPLING, "b": ELICIT})
    asked = [exchange.next(), exchange.next()]
    assert {m["method"] for m in asked} == {"sampling/createMessage", "elicitation/create"}
    # nobody else can answer for the caller
    other = legacy(on_modern)
    for message in asked:
        assert other.respond(message["id"], result={"stolen": True}).status == 202
    for message in asked:
        assert caller.respond(message["id"], result={"answer": message["method"]}).status == 202
    found = json.loads(exchange.answer()["result"]["content"][0]["text"])
    assert found["responses"] == {
        "a": {"answer": "sampling/createMessage"},
        "b": {"answer": "elicitation/create"},
    }
    assert found["state"] == "x"


def test_input_is_asked_in_rounds_and_not_for_ever(on_modern: SidecarProcess) -> None:
    caller = legacy(on_modern)
    exchange = caller.call("ask", requests={"a": ELICIT}, rounds=3)
    for _ in range(3):
        caller.respond(exchange.until("elicitation/create")["id"], result={"action": "accept"})
    assert json.loads(exchange.answer()["result"]["content"][0]["text"])["state"] == "xxx"
    exchange = caller.call("ask", requests={"a": ELICIT}, rounds=99)
    for _ in range(10):
        caller.respond(exchange.until("elicitation/create")["id"], result={"action": "accept"})
    assert exchange.answer()["error"]["data"]["reason"] == "protocol_error"


def test_a_caller_that_refuses_input_gets_its_refusal(on_modern: SidecarProcess) -> None:
    caller = legacy(on_modern)
    exchange = caller.call("ask", requests={"a": SAMPLING})
    question = exchange.until("sampling/createMessage")
    caller.respond(question["id"], error={"code": -1, "message": "User rejected"})
    assert exchange.answer()["error"] == {"code": -1, "message": "User rejected"}


def test_time_stands_still_while_a_caller_thinks_and_runs_when_it_left() -> None:
    config = {"servers": {"s": modern_server(timeout="500ms", totalTimeout="1s", retry={"maxRetries": 0})}}
    with running(config) as sidecar:
        caller = legacy(sidecar)
        exchange = caller.call("ask", requests={"a": ELICIT})
        question = exchange.until("elicitation/create")
        time.sleep(1.5)
        caller.respond(question["id"], result={"action": "accept"})
        assert exchange.answer()["result"]
        gone = caller.call("ask", requests={"a": ELICIT})
        gone.until("elicitation/create")
        in_flight = 'outrigger_bulkhead_in_flight{server="s"}'
        assert sidecar.metrics()[in_flight] == 1
        gone.disconnect()
        eventually(lambda: sidecar.metrics()[in_flight] == 0)


# --- a server that becomes another


class Replaceable:
    """A command whose program can be exchanged, as an upgrade does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(self, server: dict[str, Any]) -> dict[str, Any]:
        """Run this server from the next start on; an entry of `servers`."""
        replacement = self.path.with_suffix(".new")
        replacement.write_text(f"#!/bin/sh\nexec {shlex.join([server['command'], *server['args']])}\n")
        replacement.chmod(0o755)
        replacement.replace(self.path)
        return {**server, "command": str(self.path), "args": []}


def test_the_era_is_found_out_again_after_a_restart(tmp_path: Path) -> None:
    program = Replaceable(tmp_path / "server")
    with running({"servers": {"s": program.install(legacy_server())}}) as sidecar:
        caller, old = modern(sidecar), legacy(sidecar)
        eras = lambda: sidecar.status()["servers"]["s"]["upstream"]["eras"]  # noqa: E731
        assert (caller.text("echo", text="1"), old.text("echo", text="1"), eras()) == ("1", "1", ["legacy"])
        stream = old.stream()
        for server, era in ((modern_server(), "modern"), (legacy_server(), "legacy"), (modern_server(), "modern")):
            program.install(server)
            kill(sidecar)
            assert caller.text("echo", text="2") == "2"
            assert old.text("echo", text="3") == "3"
            assert eras() == [era]
            assert stream.until(TOOLS), "whatever was announced may be different now"
        assert old.error("no/such")["code"] == -32601
        stream.disconnect()


def test_a_server_that_exits_on_discover_is_asked_again_when_it_refuses_initialize(tmp_path: Path) -> None:
    program = Replaceable(tmp_path / "server")
    with running({"servers": {"s": program.install(legacy_server("--unknown", "exit"))}}) as sidecar:
        caller = modern(sidecar)
        assert caller.text("echo", text="1") == "1"
        program.install(modern_server())
        kill(sidecar)
        eventually(lambda: "result" in caller.call("echo", text="2").answer())
        assert sidecar.status()["servers"]["s"]["upstream"]["eras"] == ["modern"]


def test_callers_move_to_the_successor_of_a_replaced_server() -> None:
    config = {"servers": {"s": legacy_server()}}
    with running(config) as sidecar:
        caller = legacy(sidecar)
        caller.result("resources/subscribe", {"uri": "test:a"})
        stream, listening = (
            caller.stream(),
            modern(sidecar).listen(toolsListChanged=True, resourceSubscriptions=["test:b"]),
        )
        listening.next()
        before = sidecar.children()
        sidecar.write_config({"servers": {"s": legacy_server(env={"CHANGED": "1"})}})
        eventually(lambda: not (sidecar.children().keys() & before.keys()))
        assert stream.until(TOOLS)
        assert listening.until(TOOLS)
        told = caller.told()
        assert [m["params"]["uri"] for m in told if m.get("method") == "resources/subscribe"] == ["test:a", "test:b"]
        said = [{"method": UPDATED, "params": {"uri": f"test:{name}"}} for name in "ab"]
        caller.result("tools/call", {"name": "say", "arguments": {"messages": said}})
        assert stream.until(UPDATED)["params"]["uri"] == "test:a"
        assert listening.until(UPDATED)["params"]["uri"] == "test:b"
        listening.disconnect()
        eventually(lambda: count(caller.told(), "resources/unsubscribe") == 1)
        caller.result("tools/call", {"name": "say", "arguments": {"messages": [{"method": TOOLS}]}})
        assert stream.until(TOOLS)
        stream.disconnect()


def test_an_id_may_be_spelled_in_two_ways(on_legacy: SidecarProcess) -> None:
    caller = legacy(on_legacy)
    body = '{"jsonrpc":"2.0","id":"é","method":"tools/call","params":{"name":"wait","arguments":{"name":"spelled"}}}'
    waiting = caller.post(body.encode())
    eventually(lambda: [m for m in caller.told() if m.get("params", {}).get("arguments") == {"name": "spelled"}])
    caller.notify("notifications/cancelled", {"requestId": "é"})  # sent as \u00e9
    assert waiting.answer()["id"] == "é"
    assert caller.text("release", name="spelled") == "no"


@pytest.mark.slow
def test_server_of_both_eras_that_starts_slowly_is_not_given_up() -> None:
    """It reads `server/discover` when `initialize` was sent too: the question that it read first fixed its era."""
    script = "import runpy, time; time.sleep(12); runpy.run_path({path!r}, run_name='__main__')"
    arguments = ["-c", script.format(path=str(CHILDREN / "sdk_server.py"))]
    with running({"servers": {"s": {"command": sys.executable, "args": arguments}}}) as sidecar:
        assert modern(sidecar).text("add", a=1, b=2) == "3"
        upstream = sidecar.status()["servers"]["s"]["upstream"]
        assert upstream["eras"] == ["modern"]
        assert upstream["processes"]["modern"]["starts"] == 1


def test_a_new_process_that_says_nothing_yet_hides_no_last_words(tmp_path: Path) -> None:
    """The process after a crash is silent at first: why the one before ended stays to be read."""
    script = "import pathlib, sys, time\nseen = pathlib.Path(sys.argv[1])\nif seen.exists(): time.sleep(60)\n"
    script += "seen.touch()\nsys.exit('no licence')"
    server = {"command": sys.executable, "args": ["-c", script, str(tmp_path / "seen")]}
    with SidecarProcess({"servers": {"s": server}}) as sidecar:
        eventually(lambda: [slot["lives"] for slot in slots(sidecar, "s") if "pid" in slot] == [2])
        [slot] = slots(sidecar, "s")
        assert slot["stderr"] == ["no licence"]

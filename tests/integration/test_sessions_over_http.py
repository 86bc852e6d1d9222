"""Legacy sessions with a server behind HTTP: passed on, resumed, lost, begun anew; and callers of the era it lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mcp_callers import Caller, HttpServerProcess
from sidecar_process import SidecarProcess, running

LEGACY = "2025-06-18"


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServerProcess]:
    with HttpServerProcess("legacy") as server:
        yield server


@pytest.fixture(scope="module")
def sidecar(server: HttpServerProcess) -> Iterator[SidecarProcess]:
    with running({"servers": {"s": {"url": server.url}}}) as sidecar:
        yield sidecar


@pytest.fixture
def caller(sidecar: SidecarProcess) -> Caller:
    return Caller(sidecar.url(), version=LEGACY).open()


def seen(caller: Caller) -> list[list[str]]:
    found: list[list[str]] = json.loads(caller.text("seen"))
    return found


def test_each_caller_has_a_session_of_its_own_with_the_server(sidecar: SidecarProcess, caller: Caller) -> None:
    other = Caller(sidecar.url(), version=LEGACY).open()
    assert caller.text("echo", text="a") == "a"
    mine, theirs = seen(caller)[-1][1], seen(other)[-1][1]
    assert mine != theirs
    assert mine.startswith("session-")
    assert mine not in str(caller.session)


def test_a_session_cannot_be_used_by_another_identity(sidecar: SidecarProcess) -> None:
    owner = Caller(sidecar.url(), version=LEGACY, token="one").open()
    thief = Caller(sidecar.url(), version=LEGACY, token="two")
    thief.session = owner.session
    exchange = thief.send("tools/list")
    assert exchange.answer()["error"]["data"]["reason"] == "session_lost"
    assert exchange.status == 404
    assert thief.stream().status == 404
    assert thief.delete().status == 404
    assert owner.result("tools/list")["tools"]


def test_the_session_stream_is_relayed(caller: Caller) -> None:
    stream = caller.stream()
    assert stream.status == 200
    caller.text("notices")
    assert stream.until("notifications/tools/list_changed")
    stream.disconnect()


def test_an_answer_is_resumed_by_its_event_id(caller: Caller) -> None:
    first = caller.call("resume", id="mine-7")
    assert first.wait().rest() == []
    (event,) = first.event_ids
    resumed = caller.stream(**{"Last-Event-ID": event})
    answer = resumed.answer()
    assert answer["id"] == "mine-7"
    assert answer["result"]["content"][0]["text"] == "late"


def test_what_the_server_asks_reaches_the_caller_and_the_answer_the_server(caller: Caller) -> None:
    exchange = caller.call("ask")
    question = exchange.until("elicitation/create")
    assert caller.respond(question["id"], result={"action": "decline"}).status == 202
    assert json.loads(exchange.answer()["result"]["content"][0]["text"]) == {"action": "decline"}


def test_delete_ends_the_session_of_the_server_too(sidecar: SidecarProcess, caller: Caller) -> None:
    assert caller.delete().status == 200
    assert caller.send("tools/list").wait().status == 404
    assert seen(Caller(sidecar.url(), version=LEGACY).open())[-4][0] == "DELETE"


def test_a_session_that_the_server_lost_is_404(server: HttpServerProcess, caller: Caller) -> None:
    assert caller.result("tools/list")
    server.forget()
    exchange = caller.call("echo", text="x")
    assert exchange.answer()["error"]["data"]["reason"] == "session_lost"
    assert exchange.status == 404
    assert caller.open().text("echo", text="again") == "again"


def test_a_modern_caller_of_a_legacy_server_is_made_to_fall_back(sidecar: SidecarProcess) -> None:
    error = Caller(sidecar.url()).error("server/discover")
    assert error["status"] == 400
    assert error["code"] not in range(-32099, -32019)
    assert "initialize" in error["message"]


def test_a_session_outlives_the_sidecar(server: HttpServerProcess, tmp_path: object) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as state:
        config = {"servers": {"s": {"url": server.url}}, "sessions": {"stateDirectory": state}}
        with running(config) as sidecar:
            kept, ended = (Caller(sidecar.url(), version=LEGACY).open() for _ in range(2))
            assert kept.text("echo", text="x") == "x"
            assert ended.delete().status == 200
        assert (Path(state) / "session.key").stat().st_mode & 0o077 == 0
        with running(config) as sidecar:
            kept.url = ended.url = sidecar.url()
            assert kept.text("echo", text="y") == "y"
            assert ended.send("tools/list").wait().status == 404


def test_a_lost_session_that_holds_nothing_is_begun_anew_in_silence(server: HttpServerProcess) -> None:
    with running({"servers": {"s": {"url": server.url, "sessions": "Stateless"}}}) as sidecar:
        caller = Caller(sidecar.url(), version=LEGACY).open({"elicitation": {}})
        requests = seen(caller)
        before, opened = requests[-1][1], [method for method, _ in requests].count("initialize")
        server.forget()
        exchanges = [caller.call("echo", text=str(n)) for n in range(5)]
        assert [each.answer()["result"]["content"][0]["text"] for each in exchanges] == list("01234")
        requests = seen(caller)
        after = requests[-1][1]
        assert after != before
        assert requests.count(["notifications/initialized", after]) == 1
        begun = [method for method, session in requests if method == "initialize"]
        assert len(begun) == opened + 1, "five calls lost one session: it is begun anew once"
        server.forget()
        assert caller.notify("notifications/roots/list_changed").status == 202
        server.forget()
        stream = caller.stream()
        assert stream.status == 200
        caller.text("notices")
        assert stream.until("notifications/tools/list_changed")
        stream.disconnect()
        assert [method for method, _ in seen(caller)].count("initialize") == len(begun) + 2
        # a server that is gone is not a session that is lost
        caller.session = "forged"
        assert caller.send("tools/list").wait().status == 404


def test_a_legacy_caller_of_a_modern_server_is_told_the_versions() -> None:
    with HttpServerProcess("modern") as server, running({"servers": {"s": {"url": server.url}}}) as sidecar:
        assert Caller(sidecar.url()).text("echo", text="hi") == "hi"
        legacy = Caller(sidecar.url(), version=LEGACY)
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        error = legacy.error("initialize", params)
        assert error["status"] == 200
        assert error["data"] == {"supported": ["2026-07-28"], "requested": LEGACY}
        assert "2026-07-28" in error["message"]

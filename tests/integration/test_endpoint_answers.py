"""What the endpoint answers to requests that are wrong, forbidden or cached, to raw HTTP before real servers."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_callers import PREFIX, Caller, Exchange, legacy_server, modern_server
from raw_mcp import META, MODERN
from sidecar_process import SidecarProcess, running

LEGACY = "2025-06-18"
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
FRONT = {"front": {"maxRequestBytes": 100_000}}


@pytest.fixture(scope="module")
def sidecar() -> Iterator[SidecarProcess]:
    servers = {
        "old": legacy_server(),
        "new": modern_server(),
        "narrow": legacy_server(allowedTools=["e*", "told"], deniedTools=["exit"]),
    }
    with running({"servers": servers, "readiness": {"require": "All"}, **FRONT}) as sidecar:
        yield sidecar


def modern_headers(method: str = "tools/list", **more: str | None) -> dict[str, str]:
    headers: dict[str, str | None] = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": method,
        **more,
    }
    return {name: value for name, value in headers.items() if value is not None}


@pytest.mark.parametrize("server", ["old", "new"])
@pytest.mark.parametrize(
    "body, headers, status, code",
    [
        (LIST, {}, 200, None),
        (LIST, {"Accept": None}, 200, None),
        (LIST, {"Accept": "application/json"}, 406, -32600),
        (LIST, {"Accept": "text/event-stream"}, 406, -32600),
        (LIST, {"Content-Type": "text/plain"}, 415, -32600),
        (LIST, {"Content-Type": None}, 415, -32600),
        (LIST, {"Mcp-Method": None}, 400, -32020),
        (LIST, {"Mcp-Method": "tools/call"}, 400, -32020),
        (LIST, {"MCP-Protocol-Version": None}, 400, -32020),
        (LIST, {"MCP-Protocol-Version": "2030-01-01"}, 400, -32020),
        (LIST, {"MCP-Protocol-Version": LEGACY}, 400, None),
        ([LIST], {}, 400, -32600),
        (b"", {}, 400, -32700),
        (b"{nonsense", {}, 400, -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"a":"\xff"}}', {}, 400, -32700),
        ({**LIST, "jsonrpc": "1.0"}, {}, 400, -32600),
        ({**LIST, "id": None}, {}, 400, -32600),
        ({**LIST, "id": 1.5}, {}, 400, -32600),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, {}, 400, -32600),
        ({**LIST, "params": {}}, {}, 400, -32602),
        ({**LIST, "params": {"_meta": {PREFIX + "protocolVersion": MODERN}}}, {}, 400, -32602),
        ({**LIST, "params": [1]}, {}, 400, -32602),
        ({**LIST, "method": "no/such"}, {"Mcp-Method": "no/such"}, 404, -32601),
        (
            {**LIST, "method": "tools/call", "params": {"name": "echo", "_meta": META}},
            {"Mcp-Method": "tools/call"},
            400,
            -32020,
        ),
        (b" " * 200_000, {}, 413, None),
    ],
)
def test_modern_requests(
    sidecar: SidecarProcess, server: str, body: Any, headers: dict[str, Any], status: int, code: int | None
) -> None:
    exchange = Caller(sidecar.url(server)).post(body, modern_headers(**headers)).wait()
    assert exchange.status == status, exchange.body
    answer = exchange.next()
    assert answer["jsonrpc"] == "2.0"
    if code is not None:
        assert answer["error"]["code"] == code
        assert "Traceback" not in exchange.body.decode()


def test_a_refusal_carries_the_callers_id(sidecar: SidecarProcess) -> None:
    caller = Caller(sidecar.url("old"))
    for id in (7, "seven"):
        for wrong in ({"jsonrpc": "1.0"}, {"method": 5}, {"params": {}}):
            answer = caller.post({**LIST, "id": id, **wrong}, modern_headers()).answer()
            assert answer["id"] in (id, None)
        assert caller.post({**LIST, "id": id}, modern_headers("x")).answer()["id"] == id


def test_an_unknown_version_is_told_the_known_ones(sidecar: SidecarProcess) -> None:
    meta = {**META, PREFIX + "protocolVersion": "2030-01-01"}
    body = {**LIST, "params": {"_meta": meta}}
    exchange = Caller(sidecar.url("old")).post(body, modern_headers(**{"MCP-Protocol-Version": "2030-01-01"}))
    error = exchange.answer()["error"]
    assert (exchange.status, error["code"]) == (400, -32022)
    assert error["data"] == {"supported": [MODERN], "requested": "2030-01-01"}


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS", "HEAD"])
def test_the_modern_era_has_one_method(sidecar: SidecarProcess, method: str) -> None:
    exchange = Exchange(sidecar.url("old"), method, None, modern_headers()).wait()
    assert (exchange.status, exchange.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("method, status", [("PUT", 405), ("PATCH", 405), ("GET", 400), ("DELETE", 400)])
def test_legacy_methods(sidecar: SidecarProcess, method: str, status: int) -> None:
    headers = {"Accept": "text/event-stream"}
    assert Exchange(sidecar.url("old"), method, None, headers).wait().status == status


def test_a_legacy_stream_must_be_accepted(sidecar: SidecarProcess) -> None:
    caller = Caller(sidecar.url("old"), version=LEGACY).open()
    assert caller.stream(Accept="application/json").status == 406
    assert caller.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, {"Accept": "*/*"}).wait().status == 415


@pytest.mark.parametrize("token", ["", "x", "A" * 5000, "../../etc/passwd", "%00"])
def test_a_forged_session_is_404(sidecar: SidecarProcess, token: str) -> None:
    caller = Caller(sidecar.url("old"), version=LEGACY)
    caller.session = token
    exchange = caller.send("ping")
    assert exchange.answer()["id"] == 1
    assert exchange.status == 404


def test_a_session_is_of_one_server(sidecar: SidecarProcess) -> None:
    caller = Caller(sidecar.url("old"), version=LEGACY).open()
    caller.url = sidecar.url("narrow")
    assert caller.send("ping").wait().status == 404


def test_legacy_errors_of_requests_come_with_200(sidecar: SidecarProcess) -> None:
    caller = Caller(sidecar.url("old"), version=LEGACY).open()
    for method, params, code in (
        ("tools/call", {"name": 5}, -32602),
        ("no/such", {}, -32601),
        ("resources/read", {"uri": "test:none"}, -32002),
    ):
        error = caller.error(method, params)
        assert (error["status"], error["code"]) == (200, code)
    bad = {"protocolVersion": 5}
    assert Caller(sidecar.url("old"), version=LEGACY).error("initialize", bad)["code"] == -32602


def test_unknown_paths_name_the_known_ones(sidecar: SidecarProcess) -> None:
    exchange = Exchange(sidecar.url("none"), "POST", b"{}", modern_headers()).wait()
    assert exchange.status == 404
    assert "/servers/old/mcp" in exchange.next()["error"]["message"]


# --- tools


@pytest.mark.parametrize("version", [None, LEGACY])
def test_tools_that_are_not_allowed_are_neither_seen_nor_called(sidecar: SidecarProcess, version: str | None) -> None:
    caller = Caller(sidecar.url("narrow"), version=version)
    if version is not None:
        caller.open()
    for _ in range(2):  # from the server and from the cache
        assert {tool["name"] for tool in caller.result("tools/list")["tools"]} == {"echo", "told"}
    assert caller.text("echo", text="x") == "x"
    for tool in ("exit", "wait", "no_such_tool"):
        error = caller.error("tools/call", {"name": tool, "arguments": {}})
        assert error["data"]["reason"] == "tool_not_allowed"
        assert error["status"] == (403 if version is None else 200)
    assert "exit" not in str([m for m in caller.told() if m.get("method") == "tools/call"])


def test_a_name_that_is_there_twice_is_the_one_that_was_checked(sidecar: SidecarProcess) -> None:
    caller = Caller(sidecar.url("narrow"), version=LEGACY).open()
    for names, allowed in ((b'"name":"exit","name":"echo"', True), (b'"name":"echo","name":"exit"', False)):
        body = b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{%b,"arguments":{"text":"x"}}}' % names
        assert ("result" in caller.post(body).answer()) is allowed
    assert caller.text("echo", text="alive") == "alive"


# --- the cache, single-flight


def counted(caller: Caller, method: str = "resources/list") -> str:
    """How many messages the server had got when it made the list that the caller is shown."""
    return str(caller.result(method)["resources"][0]["name"])


def eventually(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + 15
    while not (found := condition()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("make, group", [(legacy_server, "legacy"), (modern_server, "modern")])
def test_lists_are_kept_until_the_server_says_that_they_changed(make: Any, group: str) -> None:
    with running({"servers": {"s": make()}}) as sidecar:
        caller = Caller(sidecar.url(), version=LEGACY).open()
        first = counted(caller)
        caller.text("echo", text="x")
        assert counted(caller) == first
        changed = {"method": "notifications/resources/list_changed", "params": {}}
        caller.result("tools/call", {"name": "say", "arguments": {"messages": [changed]}})
        eventually(lambda: counted(caller) != first)


def test_private_answers_are_kept_by_identity() -> None:
    with running({"servers": {"s": legacy_server()}}) as sidecar:
        mine, same, other = (Caller(sidecar.url(), version=LEGACY, token=t).open() for t in ("one", "one", "two"))
        first = counted(mine)
        assert counted(same) == first
        assert counted(other) != first
        assert counted(mine) == first


def test_a_stale_answer_is_better_than_none(tmp_path: Path) -> None:
    command = tmp_path / "server"
    server = modern_server(retry={"maxRetries": 0})
    command.write_text(f"#!/bin/sh\nexec {shlex.join([server['command'], *server['args']])}\n")
    command.chmod(0o755)
    with running({"servers": {"s": {**server, "command": str(command), "args": []}}}) as sidecar:
        caller = Caller(sidecar.url())
        first = counted(caller)
        tools = caller.result("tools/list")["tools"]
        command.unlink()
        sidecar.kill_children()
        eventually(lambda: caller.send("prompts/list").answer().get("error", {}).get("data"))
        assert counted(caller) == first
        assert caller.result("tools/list")["tools"] == tools
        error = caller.error("resources/list", {"cursor": "never seen"})
        assert error["status"] in (502, 503)
        assert error["data"]["retryable"] is True


def test_equal_reads_at_one_time_are_one() -> None:
    with running({"servers": {"s": legacy_server()}}) as sidecar:
        caller = Caller(sidecar.url())
        before = sum(m.get("method") == "resources/read" for m in caller.told())
        # the server is busy with a large answer while they come in
        busy = caller.call("big", size=20_000_000)
        reads = [caller.send("resources/read", {"uri": "test:a"}) for _ in range(10)]
        answers = [read.answer() for read in reads]
        assert sorted(answer["id"] for answer in answers) == sorted({answer["id"] for answer in answers})
        busy.wait()
        asked = sum(m.get("method") == "resources/read" for m in caller.told()) - before
        assert 1 <= asked < 10
        assert len({answer["result"]["contents"][0]["text"] for answer in answers}) == asked

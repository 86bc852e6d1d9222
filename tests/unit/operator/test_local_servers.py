"""Ports, and what a sidecar's own words mean to whoever runs it on one machine."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from mcp_operator.local_servers import LocalServers, Ports, PortsTakenError, Refused, is_free
from mcp_operator.local_sidecar import State, fetch, readable, state_of
from sidecar_process import free_ports

A, B, C = ("n", "a"), ("n", "b"), ("n", "c")


def test_ports_in_a_row_around_what_is_taken() -> None:
    ports = Ports(8080, exact=False, free=lambda port: port != 8081)
    assert [ports.of(key) for key in (A, B, C, A)] == [8080, 8082, 8083, 8080]
    ports.release(B)
    assert ports.of(("n", "d")) == 8082


def test_first_port_that_was_asked_for_must_be_free() -> None:
    ports = Ports(8080, exact=True, free=lambda port: port != 8080)
    with pytest.raises(PortsTakenError, match="port 8080 is taken; choose another with --port"):
        ports.of(A)
    assert Ports(8080, exact=False, free=lambda port: port != 8080).of(A) == 8081


def test_ports_that_follow_need_not_be_in_a_row() -> None:
    ports = Ports(8080, exact=True, free=lambda port: port != 8081)
    assert [ports.of(A), ports.of(B)] == [8080, 8082]


def test_no_port_at_all() -> None:
    with pytest.raises(PortsTakenError, match="no port from 65000 on is free"):
        Ports(65000, exact=False, free=lambda port: False).of(A)


def test_port_with_a_listener_is_not_free() -> None:
    [port] = free_ports(1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert not is_free(port)
    assert is_free(port)


STARTING = State("Starting")


def status(ready: bool = True, refusal: list[str] | None = None, **server: Any) -> dict[str, Any]:
    return {"ready": ready, "config": {"lastRefusal": refusal or []}, "servers": {"notes": server}}


UPSTREAM = {"serverInfo": {"name": "notes", "version": "1.0"}, "eras": ["Modern", "Legacy"]}
SLOTS = {"modern": {"slots": [{"stderr": ["first", "no database here "]}]}}


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (status(up=True, upstream=UPSTREAM), State("Ready", "ready: notes 1.0, modern and legacy")),
        (status(up=True, upstream={}), State("Ready", "ready: it answers")),
        (status(ready=False, up=False), STARTING),
        (status(up=False, problem="the tool is gone"), State("Failing", "the tool is gone")),
        (status(up=False, secrets={"problem": "no file"}), State("Failing", "no file")),
        (status(up=False, health={"lastError": "refused"}), State("Failing", "refused")),
        (
            status(up=False, health={"lastError": "exited"}, upstream={"processes": SLOTS}),
            State("Failing", "exited: no database here"),
        ),
        (status(up=True, refusal=["a: b", "c: d"]), State("Failing", "the new config was refused: a: b; c: d")),
        ({}, STARTING),
        ({"servers": {"notes": {"upstream": None, "health": None}}}, STARTING),
    ],
)
def test_what_a_status_means(found: dict[str, Any], state: State) -> None:
    assert state_of(found, before=STARTING) == state


class Told(list[str]):
    """A reporter that keeps what it is to show."""

    def server(self, plan: Any, url: str, state: State) -> None:
        self.append(state.text or state.phase)


def shown(tmp_path: Path, *states: State) -> list[str]:
    """What people see of a server with these states."""
    told = Told()
    servers = LocalServers(
        load=dict,
        look=lambda: 0,
        folder=tmp_path,
        ports=Ports(1, exact=False),
        reporter=told,  # type: ignore[arg-type]
        session_key=bytes,
    )
    for state in states:
        servers._show(Refused("web", "team", "stdio", ""), "", state)
    return told


CRASHED, WAITS = State("Failing", "it ended with 1"), State("Failing", "it is started again")
ENDS = [State("Ended", f"ended; again in {wait} s") for wait in (1, 2, 4, 30)]


def test_a_server_that_fails_for_ever_says_it_once(tmp_path: Path) -> None:
    assert shown(tmp_path, STARTING, *[CRASHED, WAITS] * 50) == ["Starting", CRASHED.text, WAITS.text]
    rounds = [state for end in (*ENDS, ENDS[-1], ENDS[-1]) for state in (STARTING, end)]
    assert shown(tmp_path, *rounds) == ["Starting", *(end.text for end in ENDS)]


def test_every_change_between_well_and_failing_is_shown(tmp_path: Path) -> None:
    ready = State("Ready", "ready")
    states = [STARTING, ready, CRASHED, ready, CRASHED, WAITS, ready, STARTING, ready]
    assert shown(tmp_path, *states) == [state.text or state.phase for state in states]
    refused = [State("Refused", text) for text in "aba"]
    assert shown(tmp_path, *refused) == list("aba")


def test_log_lines_are_for_people() -> None:
    entry = {"ts": "2026-11-23T00:50:51.273Z", "level": "info", "event": "serving", "url": "http://x", "n": 1}
    assert readable(entry) == "00:50:51 info serving url=http://x n=1"


def answer(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n") -> bytes:
    return (head % len(body) if b"%d" in head else head) + body


@pytest.mark.parametrize(
    ("sent", "good"),
    [
        (answer(b'{"a": 1}'), True),
        (answer(b"[1]"), False),
        (answer(b"no"), False),
        (answer(b"{}", b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n"), False),
        (answer(b"{}", b"HTTP/1.1 200 OK\r\n\r\n"), False),
        (answer(b"{}", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"), False),
        (answer(b"{}", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), False),
        (b"", False),
    ],
)
async def test_page_that_is_no_status_is_an_error(sent: bytes, good: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        if good:
            assert await fetch(port, "/status") == json.loads(b'{"a": 1}')
        else:
            with pytest.raises((ValueError, OSError, asyncio.IncompleteReadError)):
                await fetch(port, "/status")

"""The admin port: probes, metrics, status."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from front_client import Answer, Front, on_both_loops
from mcp_sidecar.front.admin import AdminHandler, loop_turns


class State:
    """What the port tells."""

    def __init__(self) -> None:
        self.checks = {"live": (True, ""), "started": (True, "since 1 s"), "ready": (True, "")}
        self.renders = 0
        self.may_render = asyncio.Event()
        self.may_render.set()

    def live(self) -> tuple[bool, str]:
        return self.checks["live"]

    def started(self) -> tuple[bool, str]:
        return self.checks["started"]

    def ready(self) -> tuple[bool, str]:
        return self.checks["ready"]

    def status(self) -> dict[str, Any]:
        return {"servers": {"a": {"tools": 3}}}

    async def metrics(self) -> bytes:
        self.renders += 1
        rendered = f"renders {self.renders}\n".encode()
        await self.may_render.wait()
        return rendered


async def _ask(front: Front, line: str) -> Answer:
    async with await front.caller() as caller:
        caller.send(f"{line} HTTP/1.1\r\nHost: 10.0.0.1:9090\r\n\r\n".encode())
        return await caller.answer(head_only=line.startswith("HEAD"))


@on_both_loops
async def test_probes_say_yes_or_no_and_why() -> None:
    state = State()
    async with Front(AdminHandler(state)) as front:
        for path, check in (("/livez", "live"), ("/startupz", "started"), ("/readyz", "ready")):
            state.checks[check] = (True, "")
            answer = await _ask(front, f"GET {path}")
            assert (answer.status, answer.body) == (200, b"ok\n")
            state.checks[check] = (False, "not yet")
            answer = await _ask(front, f"GET {path}?")
            assert (answer.status, answer.body) == (503, b"not ok: not yet\n")
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            state.checks[check] = (True, "")
        state.checks["ready"] = (False, "draining")
        answer = await _ask(front, "GET /livez?verbose")
        assert answer.status == 200
        assert answer.body == b"ok\n[+] live\n[+] started\n[-] ready: draining\n"


@on_both_loops
async def test_other_methods_and_paths() -> None:
    async with Front(AdminHandler(State())) as front:
        head = await _ask(front, "HEAD /livez")
        assert (head.status, head.headers["content-length"]) == (200, "3")
        index = await _ask(front, "GET /")
        assert b"/readyz" in index.body
        missing = await _ask(front, "GET /mcp")
        assert missing.status == 404
        assert b"/readyz" in missing.body
        for method in ("POST", "DELETE", "PUT", "OPTIONS"):
            answer = await _ask(front, f"{method} /status")
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@on_both_loops
async def test_status_is_json() -> None:
    async with Front(AdminHandler(State())) as front:
        answer = await _ask(front, "GET /status")
        assert json.loads(answer.body) == {"servers": {"a": {"tools": 3}}}
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"


@on_both_loops
async def test_metrics_are_rendered_once_a_second_however_many_ask() -> None:
    now = 100.0
    state = State()
    state.may_render.clear()
    async with Front(AdminHandler(state, clock=lambda: now)) as front:
        asked = [asyncio.create_task(_ask(front, "GET /metrics")) for _ in range(20)]
        while front.listener.open_requests < 20:
            await asyncio.sleep(0.001)
        state.may_render.set()
        answers = await asyncio.gather(*asked)
        assert {answer.body for answer in answers} == {b"renders 1\n"}
        assert answers[0].headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        now = 100.9
        assert (await _ask(front, "GET /metrics")).body == b"renders 1\n"
        now = 101.1
        assert (await _ask(front, "GET /metrics")).body == b"renders 2\n"


class Lag:
    """A loop's lag."""

    def __init__(self, last: float, turned: float) -> None:
        self.last = last
        self.turned = turned


@pytest.mark.parametrize(
    ("last", "turned", "alive"),
    [(0.001, 99.5, True), (29.0, 99.5, True), (31.0, 99.5, False), (0.0, 71.0, True), (0.0, 69.0, False)],
)
def test_only_a_long_stall_is_death(last: float, turned: float, alive: bool) -> None:
    passed, reason = loop_turns(Lag(last, turned), now=100.0)
    assert passed is alive
    assert reason

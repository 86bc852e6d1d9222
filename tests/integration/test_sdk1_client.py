"""A client on SDK 1.30, as most of today's are, keeps its session over every error of ours.

Such clients end their whole session on a 5xx, so that errors of calls reach them as HTTP 200 (design.md, "Errors of our
own"). The client is a real one, in a process and an environment of its own.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conformance import fetched
from echo_server import build
from mcp_callers import legacy_server
from mcp_sidecar.errors import Reason
from replicas import Spread, replicas
from sidecar_process import SidecarProcess, running

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

ANSWER_TIMEOUT = 45.0
CLIENT = Path(__file__).with_name("sdk1_client.py")


class Sdk1:
    """A session of the client in its own process."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [str(fetched.sdk1_python()), str(CLIENT), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._errors: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._read_errors, daemon=True).start()
        self.opened: Any = self._answer()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)

    def _answer(self) -> Any:
        line = self._lines.get(timeout=ANSWER_TIMEOUT)
        assert line, "the client ended:\n" + "".join(self._errors)[-4000:]
        return json.loads(line)

    def send(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def do(self, **command: Any) -> Any:
        """Carry out one command: its answer, or all of them where there are several."""
        self.send(**command)
        answers = self._answer()
        return answers if command.get("times", 1) > 1 else answers[0]

    def call(self, tool: str, **arguments: Any) -> Any:
        return self.do(do="call", tool=tool, arguments=arguments)

    def answers(self) -> Any:
        """The answers to what `send` asked."""
        return self._answer()

    def assert_alive(self) -> None:
        """The session still works, once the server is up again."""
        until = time.monotonic() + 30
        while True:
            answer = self.call("echo", text="still here")
            if answer == {"text": "still here", "isError": False} or time.monotonic() > until:
                break
            time.sleep(0.1)
        assert answer == {"text": "still here", "isError": False}

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def echo(**settings: Any) -> dict[str, Any]:
    """The echo server on stdio, restarted at once."""
    return {"command": str(build()), "args": ["stdio"], "restart": {"backoffBase": "10ms"}, **settings}


@contextmanager
def session(config: dict[str, Any]) -> Iterator[tuple[SidecarProcess, Sdk1]]:
    with running(config) as sidecar:
        client = Sdk1(sidecar.url())
        try:
            yield sidecar, client
        finally:
            client.close()


def reason(answer: Any) -> str:
    """The reason of an error of ours, checked for its code."""
    found = str(answer["data"]["reason"])
    assert answer["code"] == Reason[found.upper()].code, answer
    return found


@pytest.mark.parametrize("isolation", ["Shared", "PerSession"])
def test_it_opens_lists_calls_and_closes(isolation: str) -> None:
    with session({"servers": {"echo": echo(isolation=isolation)}}) as (_, client):
        assert client.opened == {"server": "echo", "version": "2025-11-25"}
        assert "echo" in client.do(do="list")["tools"]
        assert client.do(do="ping") == {"pong": True}
        answers = client.do(do="call", tool="echo", arguments={"text": "hi"}, times=20)
        assert answers == [{"text": "hi", "isError": False}] * 20


def test_the_session_survives_errors_of_the_server() -> None:
    with session({"servers": {"echo": echo()}}) as (_, client):
        unknown = client.call("no_such_tool")
        assert unknown.get("isError") or unknown["code"] in (-32602, -32601)
        assert client.call("fail", code=-32603)["code"] == -32603
        assert client.call("fail")["isError"] is True
        client.assert_alive()


def test_the_session_survives_time_outs() -> None:
    with session({"servers": {"echo": echo(timeout="300ms", retry={"maxRetries": 0})}}) as (_, client):
        assert reason(client.call("sleep", ms=5000)) in ("attempt_timeout", "deadline_exceeded")
        client.assert_alive()


def test_the_session_survives_the_death_of_a_shared_process() -> None:
    with session({"servers": {"echo": echo()}}) as (sidecar, client):
        client.assert_alive()
        assert reason(client.call("exit")) in ("child_exited", "connection_lost")
        client.assert_alive()
        client.send(do="call", tool="sleep", arguments={"ms": 5000}, times=5)
        wait_for_calls(sidecar, 5)
        sidecar.kill_children()
        for answer in client.answers():
            # a sleep may have been executed: it is not tried again
            assert reason(answer) in ("child_exited", "connection_lost")
        client.assert_alive()


def test_the_session_survives_an_open_breaker() -> None:
    server = echo(
        retry={"maxRetries": 0},
        # without the probe, which may close it again between two calls
        circuitBreaker={"consecutiveFailures": 3, "openDuration": "2s", "probeInterval": 0},
    )
    with session({"servers": {"echo": server}}) as (_, client):
        client.assert_alive()
        reasons = {reason(client.call("exit")) for _ in range(10)}
        assert "breaker_open" in reasons
        client.assert_alive()


def test_the_session_survives_refusals() -> None:
    server = echo(
        limits={"maxConcurrent": 1, "maxQueue": 1, "rate": {"requestsPerSecond": 1, "burst": 20}},
        deniedTools=["write"],
    )
    with session({"servers": {"echo": server}}) as (_, client):
        assert reason(client.call("write", text="x")) == "tool_not_allowed"
        crowd = client.do(do="call", tool="sleep", arguments={"ms": 2000, "text": "z"}, times=5)
        refused = [reason(answer) for answer in crowd if "code" in answer]
        assert refused == ["queue_full"] * 3
        crowd = client.do(do="call", tool="echo", arguments={"text": "z"}, times=40)
        refused = [reason(answer) for answer in crowd if "code" in answer]
        assert "rate_limited" in refused
        client.assert_alive()


def test_the_session_survives_requests_and_results_that_are_too_large() -> None:
    server = echo(limits={"maxResponseBytes": 20_000})
    with session({"servers": {"echo": server}, "front": {"maxRequestBytes": 100_000}}) as (_, client):
        assert reason(client.call("echo", text={"repeat": 200_000})) == "request_too_large"
        client.assert_alive()
        assert reason(client.call("echo", text={"repeat": 50_000})) == "result_too_large"
        client.assert_alive()


def test_the_session_survives_a_server_that_cannot_start(tmp_path: Path) -> None:
    command = tmp_path / "server"

    def install(script: str) -> None:
        replacement = tmp_path / "new"
        replacement.write_text(f"#!/bin/sh\n{script}\n")
        replacement.chmod(0o755)
        replacement.replace(command)

    install(f"exec {build()} stdio")
    server = echo(command=str(command), args=[], retry={"maxRetries": 0})
    with session({"servers": {"echo": server}}) as (sidecar, client):
        client.assert_alive()
        install("exit 3")
        sidecar.kill_children()
        seen = {reason(answer) for answer in (client.call("echo", text="x") for _ in range(12)) if "code" in answer}
        assert seen
        assert seen <= {"start_failed", "child_exited", "server_not_ready", "breaker_open", "connection_lost"}
        install(f"exec {build()} stdio")
        client.assert_alive()


def test_a_session_over_replicas_and_a_new_one_after_its_pod_is_gone() -> None:
    config = {"servers": {"s": legacy_server(isolation="PerSession")}}
    messages = [{"role": "user", "content": {"type": "text", "text": "?"}}]
    sampling = {"messages": messages, "maxTokens": 7}
    elicitation = {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}}
    with replicas(config, 3) as found, Spread(found) as front:
        client = Sdk1(front.url)
        try:
            answers = client.do(do="call", tool="echo", arguments={"text": "hi"}, times=20)
            assert answers == [{"text": "hi", "isError": False}] * 20
            for _ in range(3):
                said = json.loads(client.call("ask", method="sampling/createMessage", params=sampling)["text"])
                assert said["answer"]["content"]["text"] == "said by 7"
                said = json.loads(client.call("ask", method="elicitation/create", params=elicitation)["text"])
                assert said["answer"] == {"action": "accept", "content": {"name": "me"}}
            assert sum(replica.forwarded() for replica in found) >= 15
            (holder,) = (each for each in found if each.status()["servers"]["s"]["upstream"]["ownSessions"])
            holder.kill()
            assert "terminated" in client.call("echo", text="x")["message"], "what SDK 1.x makes of a 404"
        finally:
            client.close()
        anew = Sdk1(front.url)
        try:
            assert anew.call("echo", text="anew") == {"text": "anew", "isError": False}
        finally:
            anew.close()


def wait_for_calls(sidecar: SidecarProcess, count: int) -> None:
    """Wait until so many calls are in flight."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        metrics = sidecar.metrics()
        if any(name.startswith("outrigger_bulkhead_in_flight") and v >= count for name, v in metrics.items()):
            return
        time.sleep(0.02)
    raise AssertionError(f"never {count} calls in flight")

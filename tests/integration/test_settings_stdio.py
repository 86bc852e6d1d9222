"""The settings of a server over stdio, each by what it does. One sidecar with a server for each of them."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from callers import TOOL_SERVER, Caller, Callers, all_ready, eventually, log_lines, slots, stdio
from sidecar_process import SidecarProcess, running

RETRIES_OFF: dict[str, Any] = {"maxRetries": 0}
QUICK = {"backoffBase": "10ms", "backoffMax": "10ms"}


def crashing(journal: Path, **restart: str) -> dict[str, Any]:
    """A server that is to die again and again; no breaker keeps calls from it."""
    return stdio("--journal", str(journal), restart=restart, circuitBreaker={"enabled": False})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stdio")


@pytest.fixture(scope="module")
def sidecar(place: Path) -> Iterator[SidecarProcess]:
    held = str(place / "never")
    (place / "secret").mkdir()
    (place / "secret" / "USER").write_text("user-of-the-file\n")
    (place / "secret" / "HOST").write_text("from-the-file")
    imported = [{"directory": str(place / "secret"), "prefix": "DB_"}]
    servers = {
        "plain": stdio("--say", "hello", env={"COLOUR": "blue"}, workingDir=str(place)),
        "imported": stdio(envFrom=imported, env={"DB_HOST": "from-env"}),
        "filtered": stdio(allowedTools=["e*", "pid"], deniedTools=["env", "exit"]),
        "two": stdio(processes=2),
        "own": stdio(isolation="PerSession"),
        "bounded-own": stdio(isolation="PerSession", maxSessions=2),
        "unstarted": stdio("--hold", held, startTimeout="200ms", restart=QUICK),
        "hurried": stdio(timeout="1s", retry=RETRIES_OFF),
        "bounded": stdio(timeout="10s", totalTimeout="10s"),
        "backoff": crashing(place / "backoff", backoffBase="50ms", backoffMax="50ms"),
        "reset": crashing(place / "reset", backoffBase="50ms", backoffMax="60s", resetAfter="0s"),
        "small": stdio(limits={"maxResponseBytes": "4KiB"}, retry=RETRIES_OFF),
        "single": stdio(limits={"maxConcurrent": 1, "maxQueue": 1, "queueTimeout": "30s"}),
        "impatient": stdio(limits={"maxConcurrent": 1, "queueTimeout": "100ms"}),
        "rated": stdio(limits={"rate": {"requestsPerSecond": 0.01, "burst": 3}}),
        "rated-tool": stdio(limits={"rate": {"requestsPerSecond": 0.01, "burst": 1, "per": "Tool"}}),
        "refilled": stdio(limits={"rate": {"requestsPerSecond": 20, "burst": 1}}),
        "announcing": stdio("--list-changed", "--journal", str(place / "announcing")),
        "unkept": stdio("--list-changed", "--journal", str(place / "unkept"), cache={"listTtl": "0s"}),
    }
    servers["bounded"]["timeout"] = servers["bounded"]["totalTimeout"] = "300ms"
    config = {
        "servers": servers,
        "maxConcurrentStarts": 8,
        "log": {"stderrLinesPerSecond": 5},
        "sessions": {"stateDirectory": str(place)},
    }
    with running(config) as sidecar:

        def all_answered() -> bool:
            status = sidecar.status()["servers"]
            counted = all(one["tools"]["count"] for name, one in status.items() if name != "unstarted")
            return counted and all_ready(sidecar, "two", 2)

        eventually(all_answered, 30)
        yield sidecar


def test_command_and_args_are_run(sidecar: SidecarProcess) -> None:
    assert json.loads(Caller(sidecar, "plain").text("args"))[0] == str(TOOL_SERVER)
    executable = os.readlink(f"/proc/{Caller(sidecar, 'plain').text('pid')}/exe")
    assert os.path.realpath(sys.executable) == executable


def test_env_reaches_the_process(sidecar: SidecarProcess) -> None:
    assert Caller(sidecar, "plain").text("env", name="COLOUR") == '"blue"'


def test_env_from_reaches_the_process(sidecar: SidecarProcess) -> None:
    def value(name: str) -> str:
        return Caller(sidecar, "imported").text("env", name=name)

    assert value("DB_USER") == '"user-of-the-file"'
    assert value("DB_HOST") == '"from-env"', "env wins"
    assert value("USER_NAME") == value("USER") == "null"


def test_working_dir_is_where_it_runs(sidecar: SidecarProcess, place: Path) -> None:
    assert Caller(sidecar, "plain").text("cwd") == str(place)


def test_allowed_tools_alone_are_seen_and_called(sidecar: SidecarProcess) -> None:
    caller = Caller(sidecar, "filtered")
    assert caller.list() == ["echo", "pid"]
    assert caller.reason("cwd") == "tool_not_allowed"
    assert caller.text("echo", a=1) == '{"a": 1}'


def test_denied_tools_are_neither_seen_nor_called(sidecar: SidecarProcess) -> None:
    caller = Caller(sidecar, "filtered")
    assert "env" not in caller.list()
    assert caller.reason("env", name="HOME") == "tool_not_allowed"


def test_processes_serve_beside_each_other(sidecar: SidecarProcess, place: Path) -> None:
    path = place / "two-release"
    with Callers(sidecar, "two") as callers:
        held = callers.call("wait", path=str(path))
        eventually(lambda: sidecar.status()["servers"]["two"]["bulkhead"]["inFlight"] == 1)
        pids = {Caller(sidecar, "two").text("pid") for _ in range(3)}
        path.touch()
        held.result()
    assert len({slot["pid"] for slot in slots(sidecar, "two")}) == 2
    assert len(pids) == 1, "the idle process takes the calls"


def test_isolation_gives_each_session_its_process(sidecar: SidecarProcess) -> None:
    one, other = Caller(sidecar, "own", modern=False).open(), Caller(sidecar, "own", modern=False).open()
    assert len({one.text("pid"), one.text("pid"), other.text("pid")}) == 2
    shared = [Caller(sidecar, "plain", modern=False).open().text("pid") for _ in range(2)]
    assert shared[0] == shared[1]


def test_max_sessions_bounds_processes_of_sessions(sidecar: SidecarProcess) -> None:
    for _ in range(2):
        Caller(sidecar, "bounded-own", modern=False).open()
    assert sidecar.status()["servers"]["bounded-own"]["upstream"]["ownSessions"] == 2
    refused = Caller(sidecar, "bounded-own", modern=False).client
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    assert refused.request("initialize", client).answer["error"]["data"]["reason"] == "too_many_sessions"


def test_start_timeout_gives_a_start_up(sidecar: SidecarProcess) -> None:
    status = eventually(
        lambda: status if (status := sidecar.status()["servers"]["unstarted"])["health"]["failed"] else None
    )
    errors = json.dumps(status["lastErrors"])
    assert "no answer within 0.2 s" in errors
    assert not status["answered"]


def test_timeout_bounds_an_attempt(sidecar: SidecarProcess, place: Path) -> None:
    began = time.monotonic()
    assert Caller(sidecar, "hurried").reason("wait", path=str(place / "never")) == "attempt_timeout"
    assert time.monotonic() - began < 5


def test_timeout_is_extended_by_progress(sidecar: SidecarProcess, place: Path) -> None:
    path = place / "progress"

    def release() -> None:
        for step in ("0", "1", "2", "3", "4", "end"):
            time.sleep(0.3)  # together longer than the time-out
            Path(f"{path}{step}").touch()

    caller = Caller(sidecar, "hurried", modern=False).open()
    params = {"name": "progress", "arguments": {"path": str(path), "times": 5}, "_meta": {"progressToken": "p"}}
    threading.Thread(target=release).start()
    assert "result" in caller.client.request("tools/call", params).answer


def test_total_timeout_bounds_the_call(sidecar: SidecarProcess, place: Path) -> None:
    reason = Caller(sidecar, "bounded").reason("wait", path=str(place / "never"))
    assert reason in ("deadline_exceeded", "attempt_timeout")


def waits(journal: Path) -> list[float]:
    """Seconds from the end of a process to the begin of the next one."""
    events = [line.split() for line in journal.read_text().splitlines()]
    times = [(event, float(when)) for event, when, _ in events if event in ("start", "exiting")]
    return [begin - end for (_, end), (_, begin) in zip(times[1::2], times[2::2], strict=False)]


def crash(sidecar: SidecarProcess, server: str, times: int) -> None:
    for _ in range(times):
        Caller(sidecar, server).answer("exit")
        eventually(lambda: "result" in Caller(sidecar, server).answer("echo").answer)


def test_backoff_base_is_the_first_wait(sidecar: SidecarProcess, place: Path) -> None:
    crash(sidecar, "backoff", 3)
    assert min(waits(place / "backoff")) < 0.5, "by default they are at least half a second, one, two"


def test_backoff_max_is_the_longest_wait(sidecar: SidecarProcess, place: Path) -> None:
    crash(sidecar, "backoff", 8)
    assert min(waits(place / "backoff")[-2:]) < 1.5, "without a bound they would be at least 1.6 s and 3.2 s by now"


def test_reset_after_begins_the_waits_anew(sidecar: SidecarProcess, place: Path) -> None:
    crash(sidecar, "reset", 8)
    assert min(waits(place / "reset")[-2:]) < 1.5, "without it they would be at least 1.6 s and 3.2 s by now"


def test_max_response_bytes_bounds_a_message(sidecar: SidecarProcess) -> None:
    caller = Caller(sidecar, "small")
    assert caller.reason("big", bytes=10_000) == "result_too_large"
    assert len(caller.text("big", bytes=1000)) == 1000


def test_max_concurrent_and_max_queue_bound_calls(sidecar: SidecarProcess, place: Path) -> None:
    path = place / "single-release"
    with Callers(sidecar, "single") as callers:
        first = callers.call("wait", path=str(path))
        bulkhead = lambda: sidecar.status()["servers"]["single"]["bulkhead"]  # noqa: E731
        eventually(lambda: bulkhead()["inFlight"] == 1)
        second = callers.call("echo")
        eventually(lambda: bulkhead()["queued"] == 1)
        assert Caller(sidecar, "single").reason("echo") == "queue_full"
        path.touch()
        assert "result" in first.result().answer
        assert "result" in second.result().answer


def test_queue_timeout_ends_a_wait(sidecar: SidecarProcess, place: Path) -> None:
    path = place / "impatient-release"
    with Callers(sidecar, "impatient") as callers:
        first = callers.call("wait", path=str(path))
        eventually(lambda: sidecar.status()["servers"]["impatient"]["bulkhead"]["inFlight"] == 1)
        assert Caller(sidecar, "impatient").reason("echo") == "queue_timeout"
        path.touch()
        first.result()


def test_rate_burst_is_let_through_at_once(sidecar: SidecarProcess) -> None:
    caller = Caller(sidecar, "rated")
    for _ in range(3):
        caller.text("echo")
    assert caller.reason("echo") == "rate_limited"


def test_rate_is_refilled(sidecar: SidecarProcess) -> None:
    caller = Caller(sidecar, "refilled")
    eventually(lambda: "result" in caller.answer("echo").answer)
    eventually(lambda: "result" in caller.answer("echo").answer, 2)


def test_rate_per_tool(sidecar: SidecarProcess) -> None:
    caller = Caller(sidecar, "rated-tool")
    caller.text("echo")
    caller.text("pid")
    assert caller.reason("echo") == "rate_limited"


def listed(place: Path, server: str) -> int:
    return (place / server).read_text().count("list ")


def test_list_ttl_keeps_lists_of_a_legacy_server(sidecar: SidecarProcess, place: Path) -> None:
    caller, asked = Caller(sidecar, "announcing", modern=False).open(), []
    for _ in range(3):
        caller.list()
        asked.append(listed(place, "announcing"))
    assert asked[0] == asked[2], "answered from memory"
    other = Caller(sidecar, "unkept", modern=False).open()
    before = listed(place, "unkept")
    other.list()
    other.list()
    assert listed(place, "unkept") == before + 2, "listTtl 0 asks each time"


def test_stderr_lines_per_second_bounds_what_is_passed_on(sidecar: SidecarProcess) -> None:
    Caller(sidecar, "plain").text("stderr", text="flood {number}", lines=200)
    eventually(lambda: sidecar.metrics()['outrigger_child_stderr_dropped_total{server="plain"}'] > 100)
    passed = lambda: [line for line in log_lines(sidecar, "stderr") if "flood" in line["line"]]  # noqa: E731
    assert 1 <= len(eventually(passed)) <= 40


def test_socket_is_a_process_for_each_connection(tmp_path: Path) -> None:
    path = f"/tmp/outrigger-{os.getpid()}.sock"  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        try:
            listener.listen()
            threading.Thread(target=serve_socket, args=(listener,), daemon=True).start()
            with running({"servers": {"s": {"socket": path}}}) as sidecar:
                assert Caller(sidecar).text("echo", by="socket") == '{"by": "socket"}'
        finally:
            os.unlink(path)


def serve_socket(listener: socket.socket) -> None:
    import subprocess

    connection, _ = listener.accept()
    with connection:
        subprocess.run([sys.executable, "-S", "-E", str(TOOL_SERVER)], stdin=connection, stdout=connection, timeout=30)


def test_a_new_revision_begins_a_new_process_and_drains_the_old(tmp_path: Path) -> None:
    path = tmp_path / "release"
    poll = {"secrets": {"pollInterval": "50ms"}}
    with running({"servers": {"s": stdio(revision="1")}, **poll}) as sidecar, Callers(sidecar, "s") as callers:
        before = Caller(sidecar).text("pid")
        held = callers.call("wait", path=str(path))
        eventually(lambda: sidecar.status()["servers"]["s"]["bulkhead"]["inFlight"] == 1)
        sidecar.write_config({"servers": {"s": stdio(revision="2")}, **poll})
        eventually(lambda: Caller(sidecar).text("pid") != before)
        assert not held.done()
        path.touch()
        assert "result" in held.result().answer
        eventually(lambda: not Path(f"/proc/{before}").exists())


@pytest.mark.parametrize("ignore", ["--ignore-eof", "--stubborn"])
def test_stop_graces_are_the_time_between_the_steps(tmp_path: Path, ignore: str) -> None:
    journal = tmp_path / "journal"
    server = stdio(ignore, "--journal", str(journal), stop={"stdinGrace": "3s", "termGrace": "4s"})
    with running({"servers": {"s": server}}) as sidecar:
        pid = int(Caller(sidecar).text("pid"))
    ended = time.monotonic()
    times = {event: float(when) for event, when, _ in map(str.split, journal.read_text().splitlines())}
    assert 2.4 < times["term"] - times["eof"] < 6, "stdinGrace, by default 2 s"
    killed_after = ended - times["term"]
    assert killed_after > 3.6 if ignore == "--stubborn" else killed_after < 3.6, "termGrace, by default 2 s"
    assert killed_after < 9
    assert not Path(f"/proc/{pid}").exists()


def test_max_concurrent_starts_is_a_bound(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    journals = [tmp_path / "one", tmp_path / "two"]
    servers = {path.name: stdio("--hold", str(hold), "--journal", str(path)) for path in journals}
    with SidecarProcess({"servers": servers, "maxConcurrentStarts": 1}) as sidecar:
        eventually(lambda: any(path.exists() for path in journals))
        assert sum(slot["lives"] for server in servers for slot in slots(sidecar, server)) == 1
        hold.touch()
        sidecar.wait_for("/readyz")
        eventually(lambda: all(path.exists() for path in journals))

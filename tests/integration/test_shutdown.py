"""The end of the sidecar: in good order after SIGTERM, at once after a second one, and nothing left in either case."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from callers import Caller, Callers, Load, eventually, log_lines, stdio
from raw_mcp import META, MODERN
from sidecar_process import SidecarProcess, descendants, running, survivors


def terminate(sidecar: SidecarProcess) -> None:
    sidecar.process.send_signal(signal.SIGTERM)


def in_flight(sidecar: SidecarProcess, count: int = 1) -> None:
    eventually(lambda: sidecar.status()["servers"]["s"]["bulkhead"]["inFlight"] == count)


def test_calls_in_flight_finish_and_new_ones_are_sent_away(tmp_path: Path) -> None:
    release = tmp_path / "release"
    with SidecarProcess({"servers": {"s": stdio()}}) as sidecar:
        sidecar.wait_for("/readyz")
        kept_alive = Caller(sidecar)
        legacy = Caller(sidecar, modern=False).open()
        with Callers(sidecar) as callers:
            held = callers.call("wait", path=str(release))
            in_flight(sidecar)
            terminate(sidecar)
            _, body = eventually(lambda: answer if (answer := sidecar.admin("/readyz"))[0] == 503 else None)
            assert b"shutting down" in body
            assert sidecar.admin("/livez")[0] == 200
            last = kept_alive.answer("echo")
            assert (last.status, last.headers["connection"]) == (200, "close")
            refused = eventually(lambda: one if (one := Caller(sidecar).answer("echo")).status != 200 else None)
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["connection"] == "close"
            assert refused.answer["error"]["data"]["reason"] == "shutting_down"
            told = legacy.answer("echo")
            assert (told.status, told.answer["error"]["data"]["reason"]) == (200, "shutting_down")
            release.touch()
            assert "result" in held.result().answer
        assert sidecar.process.wait(20) == 0
    assert [line["event"] for line in log_lines(sidecar)][-1] == "stopped"
    audited = [json.loads(line) for line in sidecar.stdout]
    assert {line["tool"] for line in audited} == {"wait", "echo"}


def test_rest_is_cancelled_with_an_answer(tmp_path: Path) -> None:
    never = str(tmp_path / "never")
    with SidecarProcess({"servers": {"s": stdio()}, "shutdown": {"gracePeriod": "200ms"}}) as sidecar:
        sidecar.wait_for("/readyz")
        answers: list[Any] = []
        legacy = Caller(sidecar, modern=False).open()
        thread = threading.Thread(target=lambda: answers.append(legacy.answer("wait", path=never)))
        thread.start()
        with Callers(sidecar) as callers:
            held = callers.call("wait", path=never)
            in_flight(sidecar, 2)
            terminate(sidecar)
            answer = held.result()
        thread.join(10)
        assert sidecar.process.wait(20) == 0
    assert answer.status == 503
    assert answer.answer["id"] == 1
    assert answer.answer["error"]["data"] == {
        "reason": "shutting_down",
        "retryable": answer.answer["error"]["data"]["retryable"],
        "maybeExecuted": True,
        "attempts": 1,
        "retryAfterMs": 1000,
    }
    assert (answers[0].status, answers[0].answer["error"]["data"]["reason"]) == (200, "shutting_down")


def test_listeners_get_their_graceful_end() -> None:
    with SidecarProcess({"servers": {"s": stdio("--list-changed")}}) as sidecar:
        sidecar.wait_for("/readyz")
        params = {"notifications": {"toolsListChanged": True}, "_meta": META}
        body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "subscriptions/listen", "params": params})
        head = [
            "POST /mcp HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"MCP-Protocol-Version: {MODERN}",
            "Mcp-Method: subscriptions/listen",
            f"Content-Length: {len(body)}",
        ]
        with socket.create_connection(("127.0.0.1", sidecar.port), timeout=10) as sock:
            sock.sendall("\r\n".join([*head, "", body]).encode())
            data = b""
            while b"acknowledged" not in data:
                data += sock.recv(65536)
            terminate(sidecar)
            while piece := sock.recv(65536):
                data += piece
        assert sidecar.process.wait(20) == 0
    last = [line[6:] for line in data.decode().splitlines() if line.startswith("data: ")][-1]
    answer = json.loads(last)
    assert answer["id"] == 7
    assert answer["result"]["resultType"] == "complete"


def test_under_load_every_caller_is_answered() -> None:
    with SidecarProcess({"servers": {"s": stdio()}}) as sidecar:
        sidecar.wait_for("/readyz")
        with Load(sidecar, callers=8) as load:
            terminate(sidecar)
            sidecar.process.wait(20)
    broken = [one for one in load.failures if "shutting_down" not in one and "Refused" not in one]
    # a request may cross the close of a connection that was just made: then the server never saw it
    assert not [one for one in broken if "Disconnected" not in one and "Reset" not in one and "Pipe" not in one]


def test_callers_that_go_elsewhere_when_told_lose_no_call() -> None:
    """As behind a Service, which sends new connections to other pods by the time of SIGTERM."""

    answers: list[Any] = []

    def call_until_told(caller: Caller) -> Any:
        while (answer := caller.answer("echo", text="x")).headers.get("connection") != "close":
            answers.append(answer.result)
            time.sleep(0.01)  # as somebody who thinks between calls: the connection rests
        return answer

    with SidecarProcess({"servers": {"s": stdio()}}) as sidecar:
        sidecar.wait_for("/readyz")
        with ThreadPoolExecutor(8) as pool:
            last = [pool.submit(call_until_told, Caller(sidecar)) for _ in range(8)]
            eventually(lambda: len(answers) > 50)
            terminate(sidecar)
            began = time.monotonic()
            assert all("result" in one.result(20).answer for one in last)
        assert sidecar.process.wait(20) == 0
        assert time.monotonic() - began < 5, "nobody is connected any more"


def test_second_signal_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    servers = {"s": stdio("--stubborn", stop={"stdinGrace": "10m", "termGrace": "10m"}), "t": stdio("--stubborn")}
    sidecar = SidecarProcess({"servers": servers}).start()
    sidecar.wait_for("/readyz")
    eventually(lambda: len(sidecar.children()) == 2)
    below = sidecar.children()
    terminate(sidecar)
    eventually(lambda: sidecar.process.poll() is not None or log_lines(sidecar, "shutting down"))
    began = time.monotonic()
    terminate(sidecar)
    assert sidecar.process.wait(10) == 1
    assert time.monotonic() - began < 8
    assert survivors(below) == {}


def test_signal_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    config = {"servers": {"s": stdio("--hold", str(tmp_path / "never"), "--stubborn"), "t": stdio()}}
    for delay in (0.0, 0.05, 0.1, 0.2):
        sidecar = SidecarProcess(config).start()
        threading.Event().wait(delay)  # at different points of the servers' start
        below = descendants(sidecar.pid)
        began = time.monotonic()
        sidecar.stop()
        assert time.monotonic() - began < 15
        assert survivors(below) == {}


def test_processes_of_sessions_end_too() -> None:
    with running({"servers": {"s": stdio(isolation="PerSession")}}) as sidecar:
        callers = [Caller(sidecar, modern=False).open() for _ in range(3)]
        assert len({caller.text("pid") for caller in callers}) == 3
    # `stop` has checked that none is left


def test_orphans_of_servers_end_too(tmp_path: Path) -> None:
    script = tmp_path / "server.sh"
    child = stdio()
    script.write_text(f"#!/bin/sh\n(setsid sleep 300 &)\nexec {child['command']} {' '.join(child['args'])}\n")
    script.chmod(0o755)
    with running({"servers": {"s": {"command": str(script)}}}) as sidecar:
        eventually(lambda: any(_command(pid) == "sleep" for pid in sidecar.children()))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""

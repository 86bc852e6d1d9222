"""A sidecar in front of the bridge in front of a stdio server: what holds for a child holds over the socket too."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge_process import Bridge, Volume
from callers import TOOL_SERVER, Caller, Callers, Load, all_ready, eventually
from process_table import alive
from raw_mcp import HttpClient
from sidecar_process import ROOT, SidecarProcess, running

pytestmark = pytest.mark.timeout(120)

QUICK = {"backoffBase": "10ms", "backoffMax": "50ms"}
TOOLS = [sys.executable, "-S", "-E", str(TOOL_SERVER)]
CANARY = "canary-5d1c7e90ab34f826"


def config(bridge: Bridge, **settings: Any) -> dict[str, Any]:
    """Of a sidecar whose one server is behind the bridge."""
    return {"servers": {"s": {"socket": str(bridge.socket), "restart": QUICK, **settings}}}


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Bridge]:
    with Bridge(tmp_path / "s", TOOLS) as bridge:
        yield bridge


@pytest.mark.parametrize("isolation", ["Shared", "PerSession"])
@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_notes_server_behind_the_bridge(tmp_path: Path, isolation: str, era: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / "notes_server.py"), "--file", str(tmp_path / "notes.db")]
    with (
        Bridge(tmp_path / "s", command) as bridge,
        running(config(bridge, isolation=isolation)) as sidecar,
        HttpClient(sidecar.url(), modern=era == "modern") as client,
    ):
        client.open()
        client.call("add_note", {"title": "Outrigger", "text": "A float beside a canoe", "tags": ["sea"]})
        found = client.call("search_notes", {"query": "cano"}).result
        assert found["structuredContent"]["result"][0]["title"] == "Outrigger"
        assert sidecar.children() == {}, "the server is the bridge's"


def test_many_callers_share_one_process(tools: Bridge) -> None:
    with running(config(tools)) as sidecar, Callers(sidecar) as callers:
        answers = [callers.call("echo", number=number) for number in range(300)]
        texts = [answer.result().result["content"][0]["text"] for answer in answers]
        assert [json.loads(text) for text in texts] == [{"number": number} for number in range(300)]
        assert len(tools.servers()) == 1


def test_each_session_has_a_process_that_ends_with_it(tools: Bridge) -> None:
    with running({**config(tools, isolation="PerSession"), "sessions": {"idleTimeout": "3s"}}) as sidecar:
        one, other = Caller(sidecar, modern=False).open(), Caller(sidecar, modern=False).open()
        pids = {int(one.text("pid")), int(other.text("pid"))}
        assert len(pids) == 2
        assert pids <= set(tools.servers())
        eventually(lambda: not any(alive(pid) for pid in pids), 20)
        tools.said("exited with status 0")


def test_large_answer_crosses(tools: Bridge) -> None:
    with running(config(tools)) as sidecar:
        assert len(Caller(sidecar).text("big", bytes=5_000_000)) == 5_000_000


def test_kill_storm_leaves_nothing(tmp_path: Path) -> None:
    with Bridge(tmp_path / "s", TOOLS) as bridge, running(config(bridge)) as sidecar:
        Caller(sidecar).text("echo")
        baseline = bridge.descriptors()
        with Load(sidecar) as load:
            for _ in range(20):
                for pid in bridge.servers():
                    os.kill(pid, signal.SIGKILL)
                before = load.answers
                eventually(lambda before=before: load.answers >= before + 10)
        assert all('"reason"' in failure for failure in load.failures), load.failures
        eventually(lambda: len(bridge.servers()) == 1)
        assert Caller(sidecar).text("echo", a=1) == '{"a": 1}'
        assert len(bridge.log("was killed by SIGKILL")) == 20
        eventually(lambda: bridge.descriptors() <= baseline)


def test_crash_loop_backs_off_and_heals(tmp_path: Path) -> None:
    good = tmp_path / "good"
    script = tmp_path / "server"
    body = f"import os, runpy, sys\nif not os.path.exists({str(good)!r}):\n    sys.exit('no licence')\n"
    script.write_text(f"#!{sys.executable}\n{body}sys.argv = [{str(TOOL_SERVER)!r}]\nrunpy.run_path(sys.argv[0])\n")
    script.chmod(0o755)
    slow = {"backoffBase": "100ms", "backoffMax": "400ms"}
    with (
        Bridge(tmp_path / "s", [str(script)]) as bridge,
        SidecarProcess(config(bridge, restart=slow)) as sidecar,
    ):
        bridge.until(lambda: len(bridge.log("exited with status 1")) >= 4)
        assert bridge.log("no licence"), "its last words are in the container's log"
        assert sidecar.admin("/readyz")[0] == 503
        assert len(bridge.log("started")) < 40, "the sidecar waits longer and longer"
        good.touch()
        sidecar.wait_for("/readyz")
        assert Caller(sidecar).text("echo", a=1) == '{"a": 1}'


def test_next_process_has_the_rotated_secret(tmp_path: Path) -> None:
    token = Volume(tmp_path / "token", key=f"{CANARY}-1\n")
    more = Volume(tmp_path / "more", USER="one", **{"not.a.variable": "x"})
    options = ["--env", f"API_TOKEN={token.directory}/key", "--env-from", f"{more.directory}=DB_"]
    with Bridge(tmp_path / "s", TOOLS, options=options) as bridge, running(config(bridge)) as sidecar:

        def variables() -> list[str | None]:
            return [json.loads(Caller(sidecar).text("env", name=name)) for name in ("API_TOKEN", "DB_USER", "USER")]

        user = os.environ.get("USER")
        assert variables() == [f"{CANARY}-1", "one", user]
        token.write(key=f"{CANARY}-2\n")
        more.write(USER="two")
        assert variables() == [f"{CANARY}-1", "one", user], "a process keeps what it was started with"
        for pid in bridge.servers():
            os.kill(pid, signal.SIGTERM)
        bridge.said("process 2 (pid")
        assert variables() == [f"{CANARY}-2", "two", user]
        Caller(sidecar).text("stderr", text=f"the token is {CANARY}-2")
        bridge.said("the token is ***")
        for place in (bridge.pid, sidecar.pid):
            for name in ("cmdline", "environ"):
                assert CANARY.encode() not in Path(f"/proc/{place}/{name}").read_bytes()
        assert CANARY not in json.dumps(sidecar.status())
        assert bridge.log(CANARY) == []
        assert not any(CANARY.encode() in line for line in sidecar.stderr)


def test_missing_secret_is_told_and_heals(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "token")
    options = ["--env", f"API_TOKEN={volume.directory}/key"]
    with (
        Bridge(tmp_path / "s", TOOLS, options=options) as bridge,
        SidecarProcess(config(bridge)) as sidecar,
    ):
        bridge.said(f"--env API_TOKEN: cannot read the file {volume.directory}/key: no such file or directory")
        assert sidecar.admin("/readyz")[0] == 503
        volume.write(key="here")
        sidecar.wait_for("/readyz")
        assert Caller(sidecar).text("env", name="API_TOKEN") == '"here"'


def test_killed_bridge_is_followed_by_another(tools: Bridge) -> None:
    with running(config(tools)) as sidecar:
        Caller(sidecar).text("echo")
        tools.kill()
        assert tools.socket.is_socket(), "it had no time to remove it"
        tools.start()
        eventually(lambda: "result" in Caller(sidecar).answer("echo", a=1).answer)
        assert len(tools.servers()) == 1


def test_term_ends_stubborn_servers_too(tmp_path: Path) -> None:
    options = ["--stdin-grace", "100ms", "--term-grace", "100ms"]
    bridge = Bridge(tmp_path / "s", [*TOOLS, "--stubborn"], options=options).start()
    with running(config(bridge, processes=3)) as sidecar:
        Caller(sidecar).text("echo")
        eventually(lambda: all_ready(sidecar, "s", 3))
        bridge.stop()  # checks that none is left
        assert len(bridge.log("was killed by SIGKILL")) == 3
        assert not bridge.socket.exists()
        eventually(lambda: Caller(sidecar).reason("echo") in {"connect_failed", "start_failed", "circuit_open"})


def test_sidecar_that_ends_leaves_no_process(tools: Bridge) -> None:
    with running(config(tools, processes=3)) as sidecar:
        Caller(sidecar).text("echo")
        eventually(lambda: all_ready(sidecar, "s", 3))
    eventually(lambda: tools.servers() == {})
    tools.until(lambda: len(tools.log("exited with status 0")) == 3)


def test_killed_sidecar_leaves_no_process(tools: Bridge) -> None:
    with SidecarProcess(config(tools, processes=2)) as sidecar:
        sidecar.wait_for("/readyz")
        eventually(lambda: len(tools.servers()) == 2)
        sidecar.process.kill()
        sidecar.process.wait()
        eventually(lambda: tools.servers() == {})
        sidecar.kill()

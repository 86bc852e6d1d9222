"""A new config under load: no call is dropped, a bad one is refused, and nothing of the old one stays behind."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from callers import Caller, Callers, Load, eventually, logged, stdio
from mcp_sidecar.app import Sidecar
from mcp_sidecar.config.apart import load_apart
from mcp_sidecar.telemetry.lines import LineWriter
from mcp_sidecar.telemetry.log import open_log
from raw_mcp import HttpClient
from sidecar_process import SidecarProcess, running
from tool_http_server import Answer, ToolHttpServer

FAST = {"secrets": {"pollInterval": "50ms"}}


def reloaded(sidecar: SidecarProcess, count: int = 1) -> None:
    eventually(lambda: sidecar.status()["config"]["reloads"] >= count)


def file_hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def test_the_hash_is_that_of_the_text_in_use_and_stays_after_a_refused_reload() -> None:
    config: dict[str, Any] = {"servers": {"s": stdio()}, **FAST}
    with running(config) as sidecar:

        def shown() -> str:
            found: str = sidecar.status()["config"]["fileHash"]
            return found

        def write(text: bytes) -> None:
            replacement = sidecar.config_path.with_suffix(".new")
            replacement.write_bytes(text)
            replacement.replace(sidecar.config_path)

        first = sidecar.config_path.read_bytes()
        assert shown() == file_hash(first)
        write(b'{"servers": {"s": {"command": ""}}, "nonsense": 1}')
        eventually(lambda: sidecar.status()["config"]["refusedReloads"] == 1)
        assert shown() == file_hash(first)
        same = first + b"\n// the same settings in another text\n"
        write(same)
        eventually(lambda: shown() == file_hash(same))
        assert sidecar.status()["config"]["lastRefusal"] == []
        other = json.dumps({**config, "globalTimeout": "31s"}).encode()
        write(other)
        eventually(lambda: shown() == file_hash(other))


def config_map(directory: Path, config: dict[str, Any]) -> tuple[Path, Callable[[dict[str, Any]], bytes]]:
    """The volume of a ConfigMap as the kubelet keeps it: the path of its file, and what writes a new version."""
    versions = itertools.count(1)
    path = directory / "config.json"

    def write(config: dict[str, Any]) -> bytes:
        fresh = directory / f"..2026_11_23_00_00_{next(versions)}"
        fresh.mkdir()
        text = json.dumps(config).encode()
        (fresh / "config.json").write_bytes(text)
        data = directory / "..data"
        old = directory / os.readlink(data) if data.is_symlink() else None
        (directory / "..data_tmp").symlink_to(fresh.name)
        (directory / "..data_tmp").rename(data)
        if not path.is_symlink():
            path.symlink_to("..data/config.json")
        if old is not None:
            shutil.rmtree(old)
        return text

    write(config)
    return path, write


def test_the_kubelets_swap_of_a_config_map_is_seen_soon(tmp_path: Path) -> None:
    """With the default interval: what the operator writes must not wait for long after the kubelet brought it."""
    config: dict[str, Any] = {"servers": {"s": stdio()}}
    volume = tmp_path / "volume"
    volume.mkdir()
    mounted = SidecarProcess(config)
    mounted.config_path, write = config_map(volume, config)
    with mounted:
        mounted.wait_for("/readyz")
        took = []
        for number in range(4):
            began = time.monotonic()
            text = write({**config, "globalTimeout": f"{31 + number}s"})
            eventually(lambda text=text: mounted.status()["config"]["fileHash"] == file_hash(text), 20)
            took.append(time.monotonic() - began)
        # the first may come just before a look, the others come right after one
        assert min(took[1:]) < 4.5, "2 s, and a second to check it"
        write({"servers": {}})
        eventually(lambda: mounted.status()["config"]["refusedReloads"] == 1)
        assert mounted.status()["config"]["fileHash"] == file_hash(text)


def test_tunables_change_under_load_without_a_dropped_call() -> None:
    with ToolHttpServer() as server:
        config: dict[str, Any] = {"servers": {"h": {"url": server.url}, "s": stdio()}, **FAST}
        with running(config) as sidecar, Load(sidecar, "h") as http, Load(sidecar, "s") as child:
            for number in range(1, 6):
                changed = {"timeout": f"{20 + number}s", "limits": {"maxConcurrent": 50 + number}}
                config["servers"] = {name: {**one, **changed} for name, one in config["servers"].items()}
                sidecar.write_config(config)
                reloaded(sidecar, number)
                for name in ("h", "s"):
                    assert sidecar.status()["servers"][name]["bulkhead"]["limit"] == 50 + number
            http.more()
            child.more()
        assert http.failures == []
        assert child.failures == []


def test_replaced_command_takes_over_without_a_dropped_call() -> None:
    config: dict[str, Any] = {"servers": {"s": stdio(env={"N": "1"})}, **FAST}
    with running(config) as sidecar:
        before = Caller(sidecar).text("pid")
        with Load(sidecar) as load:
            for number in range(2, 5):
                config["servers"] = {"s": stdio(env={"N": str(number)})}
                sidecar.write_config(config)
                eventually(lambda number=number: Caller(sidecar).text("env", name="N") == f'"{number}"')
            load.more()
        assert load.failures == []
        assert Caller(sidecar).text("pid") != before
        eventually(lambda: len(sidecar.children()) == 1)


def test_replaced_url_takes_over_without_a_dropped_call() -> None:
    with ToolHttpServer() as one, ToolHttpServer() as two:
        config: dict[str, Any] = {"servers": {"h": {"url": one.url}}, **FAST}
        with running(config) as sidecar, Load(sidecar) as load:
            config["servers"] = {"h": {"url": two.url}}
            sidecar.write_config(config)
            two.wait_until(lambda: bool(two.calls()))
            load.more()
            calls = len(one.calls())
            load.more()
            assert len(one.calls()) == calls
        assert load.failures == []


def test_successor_that_does_not_answer_never_takes_over(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    config: dict[str, Any] = {"servers": {"s": stdio()}, **FAST}
    with running(config) as sidecar, Load(sidecar) as load:
        config["servers"] = {"s": stdio("--hold", str(hold), env={"NEW": "yes"}, startTimeout="2s")}
        sidecar.write_config(config)
        status = eventually(lambda: sidecar.status()["servers"]["s"].get("replacement"))
        assert "does not answer" in eventually(
            lambda: (sidecar.status()["servers"]["s"].get("replacement") or {}).get("problem")
        ), status
        load.more()
        assert Caller(sidecar).text("env", name="NEW") == "null"
        hold.touch()
        eventually(lambda: Caller(sidecar).text("env", name="NEW") == '"yes"', 20)
        assert "replacement" not in sidecar.status()["servers"]["s"]
    assert load.failures == []


@pytest.mark.parametrize("how", ["poll", "SIGHUP"])
def test_bad_config_is_refused_and_the_old_one_kept(how: str) -> None:
    interval = "50ms" if how == "poll" else "1h"
    config: dict[str, Any] = {"servers": {"s": stdio()}, "secrets": {"pollInterval": interval}}
    with running(config) as sidecar:
        digest = sidecar.status()["config"]["hash"]
        sidecar.write_config({**config, "servers": {"s": stdio(tiemout="3s")}})
        if how == "SIGHUP":
            sidecar.process.send_signal(signal.SIGHUP)
        status = eventually(lambda: found if (found := sidecar.status()["config"])["refusedReloads"] else None)
        assert "servers.s.tiemout" in status["lastRefusal"][0]
        assert "timeout" in status["lastRefusal"][0]
        assert status["hash"] == digest
        assert sidecar.metrics()['outrigger_config_reloads_total{result="refused"}'] == 1
        eventually(lambda: sidecar.metrics()["outrigger_config_refused"] == 1)
        assert Caller(sidecar).text("echo") == "{}"
        assert logged(sidecar, "the new config is refused; the old one stays in use")
        sidecar.write_config({**config, "servers": {"s": stdio(timeout="3s")}})
        if how == "SIGHUP":
            sidecar.process.send_signal(signal.SIGHUP)
        reloaded(sidecar)
        status = sidecar.status()["config"]
        assert status["lastRefusal"] == []
        assert status["hash"] != digest
        eventually(lambda: sidecar.metrics()["outrigger_config_refused"] == 0)  # rendered once a second


def test_servers_come_and_go() -> None:
    config: dict[str, Any] = {"servers": {"one": stdio()}, **FAST}
    with running(config) as sidecar:
        assert HttpClient(sidecar.url(), modern=True).request("tools/list").status == 200
        with Load(sidecar, "one") as load:
            sidecar.write_config({**config, "servers": {"one": stdio(), "two": stdio()}})
            eventually(lambda: HttpClient(sidecar.url("two"), modern=True).request("tools/list").status == 200)
            assert HttpClient(sidecar.url(), modern=True).request("tools/list").status == 404, (
                "with two it is ambiguous"
            )
            load.more()
            sidecar.write_config({**config, "servers": {"one": stdio(), "two": stdio(disabled=True)}})
            eventually(lambda: HttpClient(sidecar.url("two"), modern=True).request("tools/list").status == 404)
            load.more()
        assert load.failures == []
        eventually(lambda: len(sidecar.children()) == 1)
        time.sleep(1.1)  # /metrics is rendered once a second
        assert not [name for name in sidecar.metrics() if 'server="two"' in name]


def test_calls_in_flight_end_when_their_server_is_taken_out(tmp_path: Path) -> None:
    release = tmp_path / "release"
    config: dict[str, Any] = {"servers": {"one": stdio(), "two": stdio()}, **FAST}
    with running(config) as sidecar, Callers(sidecar, "two") as callers:
        held = callers.call("wait", path=str(release))
        eventually(lambda: sidecar.status()["servers"]["two"]["bulkhead"]["inFlight"] == 1)
        sidecar.write_config({**config, "servers": {"one": stdio()}})
        reloaded(sidecar)
        release.touch()
        assert "result" in held.result().answer
        eventually(lambda: len(sidecar.children()) == 1)


def test_broken_server_leaves_the_others_alone() -> None:
    with ToolHttpServer() as bad, ToolHttpServer() as good:
        bad.behave = lambda seen: Answer(drop=True)
        quick = {"retry": {"maxRetries": 0}, "circuitBreaker": {"consecutiveFailures": 2}}
        with running({"servers": {"bad": {"url": bad.url, **quick}, "good": {"url": good.url, **quick}}}) as sidecar:
            with Load(sidecar, "good") as load:
                for _ in range(20):
                    assert "error" in Caller(sidecar, "bad").answer("echo").answer
                load.more()
            assert load.failures == []
            status = sidecar.status()["servers"]
            assert (status["bad"]["breaker"]["state"], status["good"]["breaker"]["state"]) == ("open", "closed")


def test_restart_is_named_where_one_is_needed() -> None:
    config: dict[str, Any] = {"servers": {"s": stdio()}, **FAST}
    with running(config) as sidecar:
        sidecar.write_config({**config, "maxConcurrentStarts": 7})
        reloaded(sidecar)
        assert sidecar.status()["config"]["needsRestart"] == ["maxConcurrentStarts"]
        assert logged(sidecar, "new config in use")["needs_restart"] == ["maxConcurrentStarts"]
        sidecar.write_config(config)
        reloaded(sidecar, 2)
        assert sidecar.status()["config"]["needsRestart"] == []


async def test_reloads_leave_no_watch_behind(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first-token")
    path = tmp_path / "config.json"
    secret = {"TOKEN": {"valueFrom": {"file": str(tmp_path / "token")}}}
    tokens = [{"name": "one", "file": str(tmp_path / "token")}]

    def write(number: int) -> None:
        front = {"port": 0, "adminPort": 0, "tokens": tokens, "maxSessions": number}
        path.write_text(json.dumps({"servers": {"s": stdio(env=secret)}, "front": front}))

    write(1)
    log, _ = open_log(fd=os.open(os.devnull, os.O_WRONLY), human=False)
    loaded = await asyncio.to_thread(load_apart, path, environ=dict(os.environ))
    sidecar = Sidecar(loaded, log, LineWriter(os.open(os.devnull, os.O_WRONLY)))
    await sidecar.start()
    try:
        watched = len(sidecar.watcher._entries)
        for number in range(2, 5):
            write(number)
            await sidecar.reload()
        assert sidecar.config.front.max_sessions == 4
        assert len(sidecar.watcher._entries) - watched in (0, 1), "the config's own watch begins with the first look"
        (tmp_path / "token").write_text("second-token")
        await sidecar.watcher.look()
        assert dict(sidecar.store.servers["s"].values().env) == {"TOKEN": "second-token"}
        assert sidecar.store.servers["s"].generation == 2, "one store reads, whatever was reloaded"
    finally:
        await sidecar.stop()

"""`outrigger up` with real sidecars and servers: calls go through, secrets stay where they belong, nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from mcp import Client

from mcp_callers import HttpServerProcess
from sidecar_process import ROOT, descendants, free_ports, survivors
from tool_http_server import ToolHttpServer
from up_process import PATIENCE, UpProcess

pytestmark = pytest.mark.timeout(120)

TOOL_SERVER = ROOT / "tests" / "children" / "tool_server.py"
SECRET = "canary-c0ffee42-of-up"


def server(name: str = "tools", **spec: Any) -> dict[str, Any]:
    """An MCPServer: a `tool_server` unless `spec` says what else."""
    if not spec.keys() & {"stdio", "http", "remote"}:
        spec["stdio"] = command()
    return {"apiVersion": "outrigger.dev/v1alpha1", "kind": "MCPServer", "metadata": {"name": name}, "spec": spec}


def command(*options: str, **more: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-S", "-E", str(TOOL_SERVER), *options], **more}


def secret(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def settings(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def from_secret(name: str, key: str) -> dict[str, Any]:
    return {"valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


def written(tmp_path: Path, *objects: dict[str, Any], name: str = "servers.yaml") -> Path:
    """A file with these objects, replaced in one step."""
    path = tmp_path / name
    new = tmp_path / f".{name}"
    new.write_text(yaml.safe_dump_all(objects))
    new.replace(path)
    return path


async def test_example_answers_a_client(runtime: Path) -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    example = ROOT / "examples" / "mcpservers" / "notes.yaml"
    with UpProcess(example, runtime=runtime, env=environment) as up:
        assert up.row("notes", "starting") == "starting"
        assert up.row("notes", "ready").startswith("ready: notes 1.0.0")
        assert up.url("notes") == f"http://127.0.0.1:{up.port}/mcp"
        async with Client(up.url("notes")) as client:
            assert "search_notes" in [tool.name for tool in (await client.list_tools()).tools]


def test_secrets_reach_the_server_and_nobody_else(tmp_path: Path, runtime: Path) -> None:
    variables = [
        {"name": "TOKEN", **from_secret("tokens", "token")},
        {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "mode"}}},
        {"name": "PLAIN", "value": "a ${HOME} that is meant as it is"},
    ]
    sources = [{"prefix": "P_", "secretRef": {"name": "tokens"}}]
    path = written(
        tmp_path,
        server(stdio=command(env=variables, envFrom=sources)),
        secret("tokens", token=SECRET, OTHER=f"{SECRET}-2"),
        secret("unused", token=f"{SECRET}-3"),
        settings("settings", mode="test"),
    )
    with UpProcess(path, runtime=runtime) as up:
        up.row("tools", "ready")
        assert up.call("tools", "env", name="TOKEN") == f'"{SECRET}"'
        assert up.call("tools", "env", name="P_OTHER") == f'"{SECRET}-2"'
        assert up.call("tools", "env", name="MODE") == '"test"'
        assert up.call("tools", "env", name="PLAIN") == '"a ${HOME} that is meant as it is"'
        [folder] = runtime.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        holding = {file.name for file in folder.rglob("*") if file.is_file() and SECRET in file.read_text("latin-1")}
        assert holding == {"token", "OTHER"}  # and not what nobody needs
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.rglob("*") if file.is_file()} == {0o600}
        sidecar, child = (process_named(up.process.pid, name) for name in ("mcp_sidecar.cli", "tool_server.py"))
        for pid in (up.process.pid, sidecar, child):
            assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in (up.process.pid, sidecar):
            assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        assert SECRET.encode() in Path(f"/proc/{child}/environ").read_bytes()
    assert SECRET not in up.said()


def process_named(parent: int, name: str) -> int:
    """The process below `parent` whose command line ends with a program of that name."""
    for pid in descendants(parent):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if any(argument.endswith(name) for argument in arguments):
            return pid
    raise AssertionError(f"no {name}")


def test_bearer_token_and_headers_reach_the_remote(tmp_path: Path, runtime: Path) -> None:
    with ToolHttpServer() as remote:
        headers = [{"name": "X-Key", **from_secret("tokens", "key")}, {"name": "X-Plain", "value": "plain"}]
        target = {
            "url": remote.url,
            "headers": headers,
            "bearerToken": {"secretKeyRef": {"name": "tokens", "key": "t"}},
        }
        path = written(tmp_path, server("docs", remote=target), secret("tokens", key=f"{SECRET}-key", t=SECRET))
        with UpProcess(path, runtime=runtime) as up:
            up.row("docs", "ready")
            up.call("docs", "echo", text="x")
        sent = next(seen.headers for seen in remote.requests if seen.tool == "echo")
        lowered = {name.lower(): value for name, value in sent.items()}
        assert lowered["authorization"] == f"Bearer {SECRET}"
        assert (lowered["x-key"], lowered["x-plain"]) == (f"{SECRET}-key", "plain")
    assert SECRET not in up.said()


def test_variables_for_another_sidecar_are_not_passed_on(tmp_path: Path, runtime: Path) -> None:
    foreign = {"MCP_CONFIG_JSON": "{", "MCP_TOKEN_OTHER": SECRET, "OUTRIGGER__FRONT__PORT": "1"}
    path = written(tmp_path, server())
    with UpProcess(path, runtime=runtime, env=foreign) as up:
        up.row("tools", "ready")
        sidecar = process_named(up.process.pid, "mcp_sidecar.cli")
        assert not [name for name in foreign if name.encode() in Path(f"/proc/{sidecar}/environ").read_bytes()]


def test_several_servers_have_ports_in_a_row(tmp_path: Path, runtime: Path) -> None:
    written(tmp_path, server("first"), name="a.yaml")
    written(tmp_path, server("second"), server("third"), name="b.yaml")
    with UpProcess(tmp_path, runtime=runtime) as up:
        pids = set()
        for name in ("first", "second", "third"):
            up.row(name, "ready")
            pids.add(up.call(name, "pid"))
        assert len(pids) == 3
        ports = [int(up.url(name).rpartition(":")[2].removesuffix("/mcp")) for name in ("first", "second", "third")]
        assert ports[0] == up.port
        assert ports == sorted(ports)


def test_image_needs_a_stand_in(tmp_path: Path, runtime: Path) -> None:
    path = written(tmp_path, server("web", http={"image": "example/web:1", "path": "/rpc"}), server("tools"))
    with UpProcess(path, runtime=runtime) as up:
        up.row("tools", "ready")
        assert up.row("web", "cannot run here").endswith("add --server web=http://127.0.0.1:8000/rpc")
    only = written(tmp_path, server("web", http={"image": "example/web:1"}), name="only.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "mcp_operator.cli", "up", "-f", str(only)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "web: its image cannot run here" in done.stderr
    with (
        HttpServerProcess("modern") as mine,
        UpProcess(only, runtime=runtime, arguments=("--server", f"web={mine.url}")) as up,
    ):
        up.row("web", "ready")
        assert up.call("web", "echo", text="through") == "through"


def test_command_of_an_image_runs_where_it_is_asked_for(tmp_path: Path, runtime: Path) -> None:
    spec = {
        "stdio": command(image="example/tools:1", workingDir="/srv"),
        "podTemplate": {"server": {"env": [{"name": "FROM", "value": "template"}]}},
    }
    path = written(tmp_path, server("tools", **spec))
    done = subprocess.run(
        [sys.executable, "-m", "mcp_operator.cli", "up", "-f", str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "add --without-images" in done.stderr
    assert "--server tools=http://127.0.0.1:8000/mcp" in done.stderr
    with UpProcess(path, runtime=runtime, arguments=("--without-images",)) as up:
        up.row("tools", "ready")
        assert up.call("tools", "env", name="FROM") == '"template"'


def test_what_fails_says_why(tmp_path: Path, runtime: Path) -> None:
    broken = {"command": sys.executable, "args": ["-c", "import sys; sys.exit('no database here')"]}
    path = written(tmp_path, server("broken", stdio=broken), server("tools"))
    with UpProcess(path, runtime=runtime) as up:
        up.row("tools", "ready")
        assert up.row("broken", "exited with status 1").endswith("no database here")


def test_second_signal_does_not_wait_for_calls(tmp_path: Path, runtime: Path) -> None:
    path = written(tmp_path, server("tools"))
    with UpProcess(path, runtime=runtime) as up:
        up.row("tools", "ready")
        call = subprocess.Popen(
            [sys.executable, "-m", "mcp_sidecar.cli", "call", up.url("tools"), "wait", '{"path": "/nonexistent/x"}'],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + PATIENCE
        while not up.status("tools")["servers"]["tools"]["bulkhead"]["inFlight"]:
            assert time.monotonic() < until
            time.sleep(0.05)
        began = time.monotonic()
        up.process.send_signal(signal.SIGINT)
        up.log("shutting down")
        up.end()
        assert time.monotonic() - began < 10
        call.wait(PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ends_as_well_when_it_is_told_to(tmp_path: Path, runtime: Path, number: signal.Signals) -> None:
    up = UpProcess(written(tmp_path, server("tools")), runtime=runtime)
    up.row("tools", "ready")
    up.end(number)


def test_sidecars_end_with_a_killed_parent_and_the_next_run_cleans_up(tmp_path: Path, runtime: Path) -> None:
    path = written(
        tmp_path, server("tools", stdio=command(env=[{"name": "T", **from_secret("s", "k")}])), secret("s", k="v")
    )
    killed = UpProcess(path, runtime=runtime)
    killed.row("tools", "ready")
    below = descendants(killed.process.pid)
    assert len(below) >= 2
    killed.kill()
    until = time.monotonic() + PATIENCE
    while survivors(below):
        assert time.monotonic() < until, survivors(below)
        time.sleep(0.05)
    assert len(list(runtime.iterdir())) == 1
    with UpProcess(path, runtime=runtime) as up:
        up.row("tools", "ready")
        assert len(list(runtime.iterdir())) == 1


def test_port_that_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path, server("tools"))
    [port] = free_ports(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "mcp_operator.cli", "up", "-f", str(path), "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == f"outrigger: port {port} is taken; choose another with --port\n"

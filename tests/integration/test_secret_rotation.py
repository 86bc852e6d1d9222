"""Secrets rotate under load without a failed call, wrong ones keep their server from starting, and none ever leaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from callers import Caller, Load, eventually, logged, stdio
from raw_mcp import HttpClient
from sidecar_process import SidecarProcess, running
from tool_http_server import Answer, Seen, ToolHttpServer

FAST = {"secrets": {"pollInterval": "50ms"}}
CANARY = "canary-7f3b9d51c2e84a60"


def command_line(*arguments: str, given: str = "", env: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-m", "mcp_sidecar.cli", *arguments]
    done = subprocess.run(
        command, input=given.encode(), capture_output=True, check=True, env={**os.environ, **(env or {})}
    )
    return done.stdout.decode().strip()


def test_header_secret_rotates_under_load(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("Bearer token-0")
    valid = {"Bearer token-0"}

    def check(seen: Seen) -> Answer | None:
        return None if seen.headers.get("authorization") in valid else Answer(status=401)

    with ToolHttpServer() as server:
        server.behave = check
        header = {"Authorization": {"valueFrom": {"file": str(token)}}}
        with running({"servers": {"h": {"url": server.url, "headers": header}}, **FAST}) as sidecar:
            with Load(sidecar) as load:
                for number in range(1, 4):
                    new = f"Bearer token-{number}"
                    valid.add(new)
                    token.write_text(new)
                    server.wait_until(lambda new=new: server.requests[-1].headers.get("authorization") == new)
                    valid -= {f"Bearer token-{number - 1}"}
                    load.more()
            assert load.failures == []


def test_environment_secret_rotates_under_load(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("token-0")
    env = {"API_TOKEN": {"valueFrom": {"file": str(token)}}}
    with running({"servers": {"s": stdio(env=env)}, **FAST}) as sidecar, Load(sidecar) as load:
        for number in range(1, 4):
            token.write_text(f"token-{number}")
            eventually(lambda number=number: Caller(sidecar).text("env", name="API_TOKEN") == f'"token-{number}"')
            load.more()
        assert sidecar.metrics()['outrigger_secret_reloads_total{source="s",result="ok"}'] >= 1
    assert load.failures == []


def test_kubelet_style_swap_is_seen(tmp_path: Path) -> None:
    for version, value in (("..v1", "first"), ("..v2", "second")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "token").write_text(value)
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "token").symlink_to("..data/token")
    env = {"API_TOKEN": {"valueFrom": {"file": str(tmp_path / "token")}}}
    with running({"servers": {"s": stdio(env=env)}, **FAST}) as sidecar:
        assert Caller(sidecar).text("env", name="API_TOKEN") == '"first"'
        (tmp_path / "..data_tmp").symlink_to("..v2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        eventually(lambda: Caller(sidecar).text("env", name="API_TOKEN") == '"second"')


def test_a_directory_of_variables_rotates_under_load(tmp_path: Path) -> None:
    """As the kubelet changes the volume of a Secret: all keys at once, some new, some gone."""
    volume, versions = tmp_path / "volume", iter(range(1, 100))
    volume.mkdir()

    def write(**keys: str) -> None:
        version = volume / f"..v{next(versions)}"
        version.mkdir()
        for name, text in keys.items():
            (version / name).write_text(text)
        (volume / "..data_tmp").symlink_to(version.name)
        (volume / "..data_tmp").rename(volume / "..data")
        for name in keys:
            if not (volume / name).is_symlink():
                (volume / name).symlink_to(f"..data/{name}")
        for link in list(volume.iterdir()):
            if link.is_symlink() and not link.name.startswith("..") and link.name not in keys:
                link.unlink()

    write(TOKEN=f"{CANARY}-1", OLD="old-value")
    config = {"servers": {"s": stdio(envFrom=[{"directory": str(volume)}])}, **FAST}
    with running(config) as sidecar, Load(sidecar) as load:
        caller = Caller(sidecar)
        assert caller.text("env", name="OLD") == '"old-value"'
        for number in (2, 3):
            write(TOKEN=f"{CANARY}-{number}", NEW=f"new-value-{number}")
            eventually(lambda number=number: caller.text("env", name="NEW") == f'"new-value-{number}"')
            assert caller.text("env", name="TOKEN") == f'"{CANARY}-{number}"'
            assert caller.text("env", name="OLD") == "null"
            caller.text("stderr", text=f"my token is {CANARY}-{number}!")
            load.more()
        eventually(lambda: len(sidecar.children()) == 1)
        status = sidecar.admin("/status")[1]
        pages = status + sidecar.admin("/metrics")[1]
        assert json.loads(status)["servers"]["s"]["secrets"]["generation"] == 3
    assert load.failures == []
    assert CANARY.encode() not in pages + b"".join([*sidecar.stdout, *sidecar.stderr])
    assert b"my token is ***!" in b"".join(sidecar.stderr)


def test_missing_directory_of_variables_is_never_ready_and_heals(tmp_path: Path) -> None:
    volume = tmp_path / "later"
    with SidecarProcess({"servers": {"s": stdio(envFrom=[{"directory": str(volume)}])}, **FAST}) as sidecar:
        problem = eventually(lambda: sidecar.status()["servers"]["s"]["problem"])
        assert f"there is no directory {volume}" in problem
        assert str(volume) in sidecar.admin("/readyz")[1].decode()
        assert Caller(sidecar).reason("echo") == "server_not_ready"
        assert not sidecar.children(), "never started without its variables"
        volume.mkdir()
        (volume / "TOKEN").write_text("here-it-is")
        sidecar.wait_for("/readyz")
        assert Caller(sidecar).text("env", name="TOKEN") == '"here-it-is"'


def test_bad_new_secret_keeps_the_old_one(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("good-token")
    header = {"X-Key": {"valueFrom": {"file": str(token)}}}
    with (
        ToolHttpServer() as server,
        running({"servers": {"h": {"url": server.url, "headers": header}}, **FAST}) as sidecar,
    ):
        token.unlink()
        problem = eventually(lambda: sidecar.status()["servers"]["h"]["secrets"]["problem"])
        assert str(token) in problem
        assert json.loads(Caller(sidecar).text("headers"))["x-key"] == "good-token"
        assert logged(sidecar, "the new secrets cannot be used; the old ones stay in use")["server"] == "h"
        assert sidecar.metrics()['outrigger_secret_reloads_total{source="h",result="error"}'] >= 1


def test_missing_secret_is_never_ready_and_heals(tmp_path: Path) -> None:
    token = tmp_path / "token"
    config: dict[str, Any] = {
        "servers": {"broken": stdio(env={"API_TOKEN": {"valueFrom": {"file": str(token)}}}), "fine": stdio()},
        "readiness": {"require": "All"},
        **FAST,
    }
    with SidecarProcess(config) as sidecar:
        eventually(lambda: sidecar.status()["servers"]["fine"]["up"])
        status, body = sidecar.admin("/readyz")
        assert status == 503
        assert str(token) in body.decode()
        assert Caller(sidecar, "fine").text("echo") == "{}"
        refused = Caller(sidecar, "broken").answer("echo")
        assert (refused.status, refused.answer["error"]["data"]["reason"]) == (503, "server_not_ready")
        assert sidecar.admin("/livez")[0] == sidecar.admin("/startupz")[0] == 200
        assert len(sidecar.children()) == 1, "never started without its secret"
        token.write_text("here-it-is")
        sidecar.wait_for("/readyz")
        assert Caller(sidecar, "broken").text("env", name="API_TOKEN") == '"here-it-is"'


@pytest.mark.parametrize("sealed", [False, True])
def test_token_variable_of_a_server(sealed: bool) -> None:
    env = {"MCP_TOKEN_MY_SERVER": "token-of-my-server"}
    if sealed:
        env["MCP_ENCRYPTION_KEY"] = command_line("keygen")
        env["MCP_TOKEN_MY_SERVER"] = command_line("seal", "--for", "my-server", given="token-of-my-server", env=env)
    with ToolHttpServer() as server, running({"servers": {"my-server": {"url": server.url}}}, env=env) as sidecar:
        assert json.loads(Caller(sidecar).text("headers"))["authorization"] == "Bearer token-of-my-server"


@pytest.mark.parametrize("key", ["missing", "wrong", "truncated"])
def test_sealed_value_that_cannot_be_opened(key: str, tmp_path: Path) -> None:
    good = command_line("keygen")
    sealed = command_line("seal", "--for", "s", given="plain-text-secret", env={"MCP_ENCRYPTION_KEY": good})
    env = {"MCP_ENCRYPTION_KEY": {"missing": "", "wrong": command_line("keygen"), "truncated": good}[key]}
    if key == "truncated":
        sealed = sealed[:-10]
    with ToolHttpServer() as server:
        config = {"servers": {"s": {"url": server.url, "headers": {"X-Key": sealed}}}}
        with SidecarProcess(config, env=env) as sidecar:
            problem = eventually(lambda: sidecar.status()["servers"]["s"]["problem"])
            assert "headers.X-Key" in problem
            assert sidecar.admin("/readyz")[0] == 503
            assert Caller(sidecar).reason("echo") == "server_not_ready"
            assert server.requests == [], "never anonymous"


def test_no_secret_leaves_its_file(tmp_path: Path) -> None:
    """The canary: whatever server and sidecar say, the marker is not in it."""
    (tmp_path / "token").write_text(CANARY)
    value = {"valueFrom": {"file": str(tmp_path / "token")}}
    with ToolHttpServer() as server:

        def echo_back(seen: Seen) -> Answer | None:
            return Answer(status=500, headers={"X-Debug": CANARY}) if seen.tool == "fail" else None

        server.behave = echo_back
        servers = {
            "child": stdio("--say", "at the start", env={"API_TOKEN": value}),
            "bad": {"command": sys.executable, "args": ["-c", "import os,sys; sys.exit(os.environ['API_TOKEN'])"]},
            "http": {"url": server.url, "headers": {"Authorization": value}, "retry": {"maxRetries": 0}},
        }
        servers["bad"]["env"] = {"API_TOKEN": value}
        with SidecarProcess(
            {"servers": servers, "log": {"level": "Debug"}, "audit": {"arguments": "Names"}}
        ) as sidecar:
            child = Caller(sidecar, "child")
            child.text("stderr", text=f"my token is {CANARY}!")
            child.text("stderr", text=f"https://user:{CANARY}@host/?token={CANARY}")
            failed = Caller(sidecar, "http").answer("fail")
            bad = Caller(sidecar, "bad").answer("echo")
            pages = b"".join(sidecar.admin(page)[1] for page in ("/status", "/metrics", "/readyz?verbose"))
            eventually(lambda: b"***" in b"".join(list(sidecar.stderr)))
            arguments = b"".join(
                Path(f"/proc/{pid}/cmdline").read_bytes() for pid in [sidecar.pid, *sidecar.children()]
            )
            environment = Path(f"/proc/{sidecar.pid}/environ").read_bytes()
        said = b"".join([*sidecar.stdout, *sidecar.stderr])
        for text in (failed.body, bad.body, pages, arguments, environment, said):
            assert CANARY.encode() not in text
        assert "error" in failed.answer
        assert "error" in bad.answer
        assert b"my token is ***!" in said


def test_memory_is_kept_private() -> None:
    with running({"servers": {"s": stdio()}}) as sidecar:
        limits = Path(f"/proc/{sidecar.pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4] == "0"
        if os.getuid() != 0:
            assert Path(f"/proc/{sidecar.pid}/environ").stat().st_uid == 0, "not dumpable"
        assert HttpClient(sidecar.url(), modern=True).request("tools/list").status == 200

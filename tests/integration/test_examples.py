"""What is in examples/ really runs: every config, the notes server in both eras, the demo."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raw_mcp import META, MODERN, HttpClient
from sidecar_process import ROOT, SidecarProcess, free_ports, running

pytestmark = pytest.mark.timeout(120)

EXAMPLES = ROOT / "examples"
CONFIGS = sorted(EXAMPLES.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_text())
    return config


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    notes, archive = str(tmp_path / "notes.db"), str(tmp_path / "archive.db")
    return {"PYTHON": sys.executable, "NOTES_FILE": notes, "ARCHIVE_FILE": archive}


def add_and_search(sidecar: SidecarProcess, era: str, server: str | None = None) -> None:
    with HttpClient(sidecar.url(server), modern=era == "modern") as client:
        client.open()
        client.call("add_note", {"title": "Outrigger", "text": "A float beside a canoe", "tags": ["sea"]})
        found = client.call("search_notes", {"query": "cano"}).result
        assert found["structuredContent"]["result"][0]["title"] == "Outrigger"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_good(path: Path) -> None:
    command = [sys.executable, "-m", "mcp_sidecar.cli", "check", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_stdio(environment: dict[str, str], era: str) -> None:
    with running(load("stdio"), env=environment) as sidecar:
        add_and_search(sidecar, era)


@pytest.fixture
def notes_over_http(environment: dict[str, str], tmp_path: Path) -> Iterator[int]:
    [port] = free_ports(1)
    command = [sys.executable, str(EXAMPLES / "notes_server.py"), "--http", str(port)]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=log)
    yield port
    process.kill()
    process.wait()


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_http(notes_over_http: int, era: str) -> None:
    # readiness waits for the server: it starts after the sidecar, as it may in a pod, and is asked less and less often
    with SidecarProcess(load("http"), env={"NOTES_PORT": str(notes_over_http)}) as sidecar:
        sidecar.wait_for("/readyz", timeout=80)
        add_and_search(sidecar, era)


def test_several_servers_each_at_its_path(environment: dict[str, str]) -> None:
    with running(load("several"), env=environment) as sidecar:
        add_and_search(sidecar, "modern", "notes")
        add_and_search(sidecar, "legacy", "archive")
        with HttpClient(sidecar.url("archive"), modern=True) as client:
            assert "delete_note" not in [tool["name"] for tool in client.request("tools/list").result["tools"]]
            assert "error" in client.call("delete_note", {"id": 1}).answer
        with HttpClient(sidecar.url(), modern=True) as client:
            assert client.request("tools/list").status == 404


def test_desktop_file_as_it_is(environment: dict[str, str]) -> None:
    config = load("desktop")
    config["mcpServers"]["notes"]["command"] = sys.executable
    config["mcpServers"]["notes"]["env"] = {"NOTES_FILE": environment["NOTES_FILE"]}
    with running(config) as sidecar:
        add_and_search(sidecar, "legacy", "notes")


def test_secure(environment: dict[str, str], tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    subprocess.run([sys.executable, str(EXAMPLES / "make_secrets.py"), str(secrets)], check=True, timeout=30)
    with running(load("secure"), env=environment, directory=tmp_path) as sidecar:
        context = ssl.create_default_context(cafile=str(secrets / "tls.crt"))

        def tools(token: str | None) -> tuple[int, list[str]]:
            connection = http.client.HTTPSConnection("127.0.0.1", sidecar.port, context=context, timeout=30)
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
            headers = {
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                "MCP-Protocol-Version": MODERN,
                "Mcp-Method": "tools/list",
            }
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            connection.request("POST", "/mcp", json.dumps(body), headers)
            response = connection.getresponse()
            answer = json.loads(response.read() or b"{}")
            connection.close()
            return response.status, [tool["name"] for tool in answer.get("result", {}).get("tools", [])]

        assert tools(None)[0] == 401
        assert tools("guessed")[0] == 401
        assert tools((secrets / "reader").read_text()) == (200, ["search_notes", "list_notes"])
        # `delete_*` is denied to everybody
        assert tools((secrets / "writer").read_text()) == (200, ["add_note", "search_notes", "list_notes"])


def test_demo() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tried again on the new process" in done.stdout
    assert "maybeExecuted: true" in done.stdout
    assert "\033" not in done.stdout

"""The MCPServers of examples/ really run, and the examples of `--help` are what the commands take."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_operator.cli import _parser
from mcp_operator.cli_help import EPILOGS, MAIN_EPILOG
from mcp_operator.yaml_text import load_all
from raw_mcp import HttpClient
from readme import shown
from sidecar_process import ROOT, free_ports
from tool_http_server import ToolHttpServer
from up_process import UpProcess

pytestmark = pytest.mark.timeout(120)

EXAMPLES = ROOT / "examples" / "mcpservers"
EVERYTHING = ROOT / "examples" / "everything.yaml"
FILES = [EVERYTHING, *sorted(EXAMPLES.glob("*.yaml"))]
PATHS = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


def add_and_search(up: UpProcess, name: str, *, modern: bool) -> None:
    with HttpClient(up.url(name), modern=modern) as client:
        client.open()
        client.call("add_note", {"title": "Outrigger", "text": "A float beside a canoe", "tags": ["sea"]})
        found = client.call("search_notes", {"query": "cano"}).result
        assert found["structuredContent"]["result"][0]["title"] == "Outrigger"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_example_is_rendered(path: Path) -> None:
    command = [sys.executable, "-m", "mcp_operator.cli", "render", "-f", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Deployment" in {content["kind"] for _, content in load_all(done.stdout)}


def test_examples_use_names_of_their_own() -> None:
    """So that all of them can be applied, or run, together."""
    seen: set[tuple[Any, Any]] = set()
    for path in FILES:
        for _, content in load_all(path.read_text()):
            key = content["kind"], content["metadata"]["name"]
            assert key not in seen
            seen.add(key)


@pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
def test_notes(runtime: Path, modern: bool, tmp_path: Path) -> None:
    text = (EXAMPLES / "notes.yaml").read_text().replace("/tmp/outrigger-notes.db", str(tmp_path / "notes.db"))
    file = tmp_path / "notes.yaml"
    file.write_text(text)
    with UpProcess(file, runtime=runtime, env=PATHS) as up:
        up.row("notes", "ready")
        add_and_search(up, "notes", modern=modern)


def test_guide_shows_what_it_prints(runtime: Path) -> None:
    path, page = EXAMPLES / "notes.yaml", "docs/guides/local.md"
    in_guide = "\n".join(line for line in shown("cat examples/mcpservers/notes.yaml", page) if line != "…")
    assert in_guide in path.read_text()
    with UpProcess(path, runtime=runtime, env=PATHS) as up:
        up.row("notes", "ready")
    url = f"http://127.0.0.1:{up.port}/mcp"
    expected = [
        re.split(r"  +", line) for line in shown("outrigger up -f examples/mcpservers/notes.yaml", page) if line
    ]
    assert up.rows == [[url if cell == "http://127.0.0.1:8080/mcp" else cell for cell in row] for row in expected[1:]]


def test_command_of_an_image(runtime: Path, tmp_path: Path) -> None:
    text = (EXAMPLES / "stdio-image.yaml").read_text().replace("/tmp/", f"{tmp_path}/")
    file = tmp_path / "image.yaml"
    file.write_text(text)
    with UpProcess(file, runtime=runtime, env=PATHS, arguments=("--without-images",)) as up:
        up.row("image-notes", "ready")
        add_and_search(up, "image-notes", modern=False)


@pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
def test_everything(runtime: Path, modern: bool, tmp_path: Path) -> None:
    """With the command that its own comment says to make."""
    command = [sys.executable, "-m", "images.everything", "--output", str(tmp_path / "bin")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    with UpProcess(EVERYTHING, runtime=runtime, env=path) as up:
        up.row("everything", "ready")
        with HttpClient(up.url("everything"), modern=modern) as client:
            client.open()
            assert client.call("test_simple_text", {}).result["content"][0]["type"] == "text"


@pytest.fixture
def notes_over_http(tmp_path: Path) -> Iterator[int]:
    [port] = free_ports(1)
    command = [sys.executable, str(ROOT / "examples" / "notes_server.py"), "--http", str(port)]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, "NOTES_FILE": str(tmp_path / "notes.db")}, stderr=log)
    yield port
    process.kill()
    process.wait()


def test_stand_in_for_a_container(runtime: Path, notes_over_http: int) -> None:
    stand_in = ("--server", f"web-notes=http://127.0.0.1:{notes_over_http}/mcp")
    with UpProcess(EXAMPLES / "http.yaml", runtime=runtime, arguments=stand_in) as up:
        up.row("web-notes", "ready")
        add_and_search(up, "web-notes", modern=True)


def test_remote_gets_its_token(runtime: Path) -> None:
    with ToolHttpServer() as remote:
        stand_in = ("--server", f"docs={remote.url}")
        with UpProcess(EXAMPLES / "remote.yaml", runtime=runtime, arguments=stand_in) as up:
            up.row("docs", "ready")
            up.call("docs", "echo", text="x")
        [sent] = [seen.headers for seen in remote.requests if seen.tool == "echo"]
    lowered = {name.lower(): value for name, value in sent.items()}
    assert (lowered["authorization"], lowered["x-team"]) == ("Bearer example", "research")


# --help

SHOWN = sorted(
    {
        line.strip()
        for text in (MAIN_EPILOG, *EPILOGS.values())
        for line in text.splitlines()
        if re.match(r"  (\S+=\S+ )?outrigger ", line)
    }
)


@pytest.mark.parametrize("line", SHOWN)
def test_example_of_the_help_is_what_the_command_takes(line: str) -> None:
    words = shlex.split(re.split(r" [|&]+ ", line)[0])
    arguments = _parser().parse_args(words[words.index("outrigger") + 1 :])
    for file in getattr(arguments, "file", None) or ():
        assert file == "notes.yaml" or (ROOT / file).exists()


@pytest.mark.parametrize("line", [line for line in SHOWN if re.match(r"outrigger (crds|rbac|render|version)", line)])
def test_example_of_the_help_that_needs_no_cluster_runs(line: str, tmp_path: Path) -> None:
    for name, text in (("outrigger", f'exec {sys.executable} -m mcp_operator.cli "$@"'), ("kubectl", "grep -q kind:")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    line = line.replace("-f notes.yaml", "-f examples/mcpservers/notes.yaml")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr

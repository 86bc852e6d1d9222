"""The commands `tools` and `call` against a real server of the SDK."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar_process import free_ports

pytestmark = pytest.mark.timeout(180)  # each process imports the SDK

SERVER = '''
import sys
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

server = MCPServer("demo")

@server.tool()
def echo(text: str, times: int = 1) -> str:
    """Say it again.

    More than one line.
    """
    return text * times

@server.tool()
def broken() -> str:
    """Always fails."""
    raise ValueError("it broke")

@server.tool()
async def header(context: Context) -> str:
    """The header X-Key."""
    return context.request_context.request.headers.get("x-key", "none")

server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
'''


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    script = tmp_path_factory.mktemp("server") / "server.py"
    script.write_text(SERVER)
    [port] = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, str(script), str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None, "the server ended"
            with contextlib.suppress(OSError), contextlib.closing(socket.create_connection(("127.0.0.1", port), 1)):
                break
            assert time.monotonic() < until, "the server does not listen"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait(10)


def cli(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mcp_sidecar.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
    )


@pytest.mark.parametrize("era", [[], ["--legacy"], ["--modern"]])
def test_tools(url: str, era: list[str]) -> None:
    done = cli("tools", url, *era)
    assert done.returncode == 0, done.stderr
    assert "echo    Say it again.\n        text, [times]" in done.stdout
    assert "More than" not in done.stdout


def test_tools_as_json(url: str) -> None:
    found = json.loads(cli("tools", url, "--json").stdout)
    assert [tool["name"] for tool in found] == ["echo", "broken", "header"]
    assert "inputSchema" in found[0]


def test_call(url: str) -> None:
    assert cli("call", url, "echo", '{"text": "hi", "times": 2}').stdout == "hihi\n"
    assert cli("call", url, "echo", "-", stdin='{"text": "piped"}').stdout == "piped\n"
    assert json.loads(cli("call", url, "echo", '{"text": "x"}', "--json").stdout)["content"][0]["text"] == "x"


def test_headers_come_from_the_environment(url: str) -> None:
    done = cli("call", url, "header", "--header", "X-Key: <${KEY_OF_TEST}>", KEY_OF_TEST="value")
    assert done.stdout == "<value>\n", done.stderr


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_a_tool_that_fails_is_one(url: str, json_flag: list[str]) -> None:
    done = cli("call", url, "broken", *json_flag)
    assert done.returncode == 1
    assert "broke" in (done.stdout if json_flag else done.stderr)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["call", "{url}", "nope"], 1, "nope"),
        (["call", "{url}", "echo", "[1]"], 2, "must be a JSON object"),
        (["call", "{url}", "echo", "{"], 2, "are no JSON"),
        (["tools", "ftp://x"], 2, "must begin with http"),
        (["tools", "{url}", "--header", "nocolon"], 2, "--header must be"),
        (["tools", "{url}", "--header", "X: ${NO_SUCH_VARIABLE}"], 2, "NO_SUCH_VARIABLE is not set"),
        (["tools", "{url}", "--header", "Bad Name: x"], 2, "no name of a header"),
        (["tools", "{url}", "--timeout", "0"], 2, "above 0"),
        (["tools", "{url}", "--legacy", "--modern"], 2, "not allowed with"),
        (["tools", "http://127.0.0.1:1/mcp"], 1, "http://127.0.0.1:1/mcp: "),
        (["tools", "{url}/other"], 1, "/mcp/other: "),
    ],
)
def test_what_goes_wrong_is_said_in_a_line(url: str, arguments: list[str], code: int, message: str) -> None:
    done = cli(*(argument.replace("{url}", url) for argument in arguments))
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert "Traceback" not in done.stderr


def test_time_is_bounded() -> None:
    with contextlib.closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        done = cli("tools", f"http://127.0.0.1:{silent.getsockname()[1]}/mcp", "--timeout", "500ms")
    assert done.returncode == 1
    assert "no answer within 0.5 seconds" in done.stderr


def test_only_one_module_imports_the_sdk() -> None:
    package = Path(__file__).resolve().parents[2] / "sidecar/mcp_sidecar"
    importers = [
        path.name
        for path in package.rglob("*.py")
        if any(line.startswith(("import mcp\n", "from mcp.", "from mcp ", "import mcp.")) for line in path.open())
    ]
    assert importers == ["cli_client.py"]

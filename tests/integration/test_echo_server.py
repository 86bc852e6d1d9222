"""The compiled echo server that benchmark and chaos rest on: its shapes in both eras, its record, its faults."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import echo_server
from raw_mcp import META, HttpClient, StdioClient
from sidecar_process import free_ports

pytestmark = pytest.mark.timeout(120)  # the first run compiles


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    [port] = free_ports(1)
    command = [str(echo_server.build()), "http", "--addr", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert b"listening" in process.stderr.readline()
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()
    process.stderr.close()


@pytest.mark.parametrize("modern", [True, False])
def test_over_http_in_both_eras(base: str, modern: bool) -> None:
    with HttpClient(f"{base}/mcp", modern=modern) as client:
        client.open()
        assert [tool["name"] for tool in client.request("tools/list").result["tools"]][:2] == ["echo", "write"]
        answer = client.call("echo", {"text": 'grüße "x"', "key": f"http-{modern}"})
        assert answer.result["content"] == [{"type": "text", "text": 'grüße "x"'}]
        assert answer.result.get("resultType") == ("complete" if modern else None)
        assert client.request("no/such").status == (404 if modern else 200)
        assert client.call("fail", {"code": -32603}).answer["error"]["code"] == -32603
    with urllib.request.urlopen(f"{base}/executions", timeout=5) as response:
        assert json.load(response)[f"http-{modern}"] == 1


def test_over_http_a_lost_session_is_404(base: str) -> None:
    with HttpClient(f"{base}/mcp", modern=False) as client:
        client.session = "gone"
        assert client.request("tools/list").status == 404


def test_over_stdio_it_is_dual_era_and_records_before_it_answers(tmp_path: Path) -> None:
    log = tmp_path / "ran"
    with StdioClient([str(echo_server.build()), "stdio", "--log", str(log)]) as client:
        assert client.request("server/discover", {"_meta": META})["result"]["supportedVersions"] == ["2026-07-28"]
        assert client.initialize()["result"]["protocolVersion"] == "2025-06-18"
        client.request("tools/call", {"name": "write", "arguments": {"key": "a", "ms": 1}})
        assert log.read_text() == f"ran a {client.process.pid}\n"


def test_it_exits_instead_of_the_last_answer(tmp_path: Path) -> None:
    log = tmp_path / "ran"
    command = [str(echo_server.build()), "stdio", "--exit-after", "2", "--log", str(log), "--era", "legacy"]
    with StdioClient(command) as client:
        client.initialize()
        client.request("tools/call", {"name": "write", "arguments": {"key": "a"}})
        with pytest.raises(EOFError):
            client.request("tools/call", {"name": "write", "arguments": {"key": "b"}})
    assert [line.split()[1] for line in log.read_text().splitlines()] == ["a", "b"]


def test_the_load_generator_sees_what_is_wrong(base: str) -> None:
    load = str(echo_server.build("load"))
    command = [load, "--url", f"{base}/mcp", "--calls", "40", "--connections", "4", "--tools", "echo,fail,nothing"]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    report = json.loads(done.stdout)
    assert time.monotonic() - begun < 5
    assert report["calls"] == 40
    assert report["ok"] == 13
    assert report["errors"] == {"tool_error": 14, "rpc": 13}


def test_the_load_generator_sends_to_this_machine_only() -> None:
    command = [str(echo_server.build("load")), "--url", "http://192.0.2.1/mcp"]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert done.returncode == 2
    assert b"not on this machine" in done.stderr

"""The examples in docs/errors.md are what a sidecar really answers."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from echo_server import build
from raw_mcp import HttpAnswer, HttpClient
from sidecar_process import SidecarProcess, running

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
SHOWN = ("content-type", "retry-after")


@pytest.fixture(scope="module")
def sidecar() -> Iterator[SidecarProcess]:
    echo = {"command": str(build()), "args": ["stdio"]}
    servers = {
        "echo": {**echo, "timeout": "300ms", "deniedTools": ["write"]},
        "locked": {**echo, "env": {"KEY": {"valueFrom": {"file": "/nowhere/key"}}}},
    }
    with running({"servers": servers}) as process:
        yield process


def shown(status: int, headers: dict[str, str], body: bytes) -> str:
    """An answer as the page writes it."""
    head = [f"{name}: {headers[name]}" for name in SHOWN if name in headers]
    return "\n".join([f"HTTP/1.1 {status}", *head, "", body.decode()])


def of(answer: HttpAnswer) -> str:
    return shown(answer.status, dict(answer.headers), answer.body)


def examples() -> list[str]:
    """The blocks of the page."""
    return re.findall(r"```http\n(.*?)\n```", PAGE.read_text(), re.S)


def answers(sidecar: SidecarProcess) -> list[str]:
    """The same, asked of a sidecar now."""
    found = []
    with (
        HttpClient(sidecar.url("echo"), modern=True) as modern,
        HttpClient(sidecar.url("echo"), modern=False) as legacy,
    ):
        found.append(of(modern.call("sleep", {"ms": 5000})))
        legacy.open()
        found.append(of(legacy.call("sleep", {"ms": 5000})))
        with HttpClient(sidecar.url("locked"), modern=True) as locked:
            found.append(of(locked.call("echo", {})))
        with HttpClient(sidecar.url("echo"), modern=True) as other:
            found.append(of(other.call("write", {})))
        with HttpClient(sidecar.url("echo"), modern=False) as stranger:
            stranger.session = "of-another-life"
            found.append(of(stranger.call("echo", {})))
    connection = http.client.HTTPConnection("127.0.0.1", sidecar.port, timeout=10)
    connection.request("POST", "/servers/echo/mcp", "{}", {"Host": "evil.example", "Content-Type": "application/json"})
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    found.append(shown(response.status, headers, response.read()))
    connection.close()
    with HttpClient(sidecar.url("echo"), modern=True) as again, HttpClient(sidecar.url("echo"), modern=False) as old:
        found.append(of(again.call("no_such_tool", {})))
        old.open()
        found.append(of(old.call("no_such_tool", {})))
    return found


def test_the_examples_are_what_a_sidecar_answers(sidecar: SidecarProcess) -> None:
    assert examples() == answers(sidecar)

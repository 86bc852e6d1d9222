"""Published servers by other authors behind the sidecar, over stdio, in both eras.

What a caller gets is compared with what the server says itself. The quick servers run with every `make test`; all of
them with OUTRIGGER_ALL_SERVERS=1. They are installed on first use, which needs the registries.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from published_servers import PublishedServer, catalogue
from raw_mcp import META, HttpClient, StdioClient, raw_result
from sidecar_process import SidecarProcess, running

pytestmark = pytest.mark.timeout(240)

ALL = bool(os.environ.get("OUTRIGGER_ALL_SERVERS"))
CHOSEN = [server for server in catalogue() if server.quick or ALL]


def config(server: PublishedServer, work: Path) -> dict[str, Any]:
    program, *arguments = server.ready(work)
    return {
        "servers": {
            server.name: {
                "command": program,
                "args": arguments,
                "env": server.environment(work),
                "workingDir": str(work),
                "restart": {"backoffBase": "50ms"},
            }
        }
    }


def own_tools(server: PublishedServer, work: Path, *, modern: bool) -> bytes:
    """The tools as the server itself lists them: in the modern era where it speaks it, else in the legacy one."""
    command = server.ready(work)
    if modern:
        # a server on an old SDK ends on a method it does not know, or falls silent
        with (
            StdioClient(command, server.environment(work), str(work)) as client,
            contextlib.suppress(EOFError, OSError, queue.Empty),
        ):
            if "result" in client.request("server/discover", {"_meta": META}, timeout=8):
                client.request("tools/list", {"_meta": META})
                return raw_result(client.last, "tools")
    with StdioClient(command, server.environment(work), str(work)) as client:
        client.initialize()
        client.request("tools/list")
        return raw_result(client.last, "tools")


@pytest.fixture(scope="module", params=CHOSEN, ids=lambda server: server.name)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    server: PublishedServer = request.param
    work = tmp_path_factory.mktemp(server.name)
    with running(config(server, work)) as sidecar:
        yield Published(server, work, sidecar)


class Published:
    """A published server, its directory, and the sidecar before it."""

    def __init__(self, server: PublishedServer, work: Path, sidecar: SidecarProcess) -> None:
        self.server, self.work, self.sidecar = server, work, sidecar

    def client(self, era: str) -> HttpClient:
        return HttpClient(self.sidecar.url(), modern=era == "modern")

    def call(self, client: HttpClient) -> dict[str, Any]:
        """The call of the catalogue; the whole answer."""
        server = self.server
        assert server.tool is not None
        if server.first is not None:
            first: dict[str, Any] = server.filled(server.first, self.work)
            client.call(first["tool"], first["arguments"])
        return client.call(server.tool, server.filled(server.arguments, self.work)).answer


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_lists_the_tools_as_the_server_does(published: Published, era: str) -> None:
    expected = own_tools(published.server, published.work, modern=era == "modern")
    with published.client(era) as client:
        opened = client.open()
        listed = client.request("tools/list")
    assert "result" in opened.answer, opened.answer
    assert raw_result(listed.parts[-1], "tools") == expected
    assert (listed.result.get("resultType") == "complete") == (era == "modern")


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_calls_a_tool(published: Published, era: str) -> None:
    if published.server.tool is None:
        pytest.skip("nothing to call without a network")
    with published.client(era) as client:
        client.open()
        assert published.server.expect in json.dumps(published.call(client), ensure_ascii=False)


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_recovers_when_the_server_is_killed(published: Published, era: str) -> None:
    if published.server.tool is None:
        pytest.skip("nothing to call without a network")
    with published.client(era) as client:
        client.open()
        published.call(client)
        before = published.sidecar.children()
        assert before
        for pid in before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 60
        while True:
            answer = published.call(client)
            if published.server.expect in json.dumps(answer, ensure_ascii=False):
                break
            # until it is back: an error of ours that says why, never a dropped connection or a hang
            assert "reason" in answer["error"]["data"], answer
            assert time.monotonic() < until, answer
            time.sleep(0.05)
    until = time.monotonic() + 10
    while before.keys() & published.sidecar.children().keys():
        assert time.monotonic() < until, "what was killed is still there, or was not reaped"
        time.sleep(0.05)

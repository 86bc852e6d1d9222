"""The SDK's own client, in every mode, before servers of both eras over stdio: nothing in between may show."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from mcp import types
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from mcp_callers import CHILDREN, legacy_server, modern_server
from sidecar_process import SidecarProcess

MODES = ("legacy", "auto", "2026-07-28")
SDK = {"command": sys.executable, "args": [str(CHILDREN / "sdk_server.py")]}
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def sidecar() -> Iterator[SidecarProcess]:
    servers = {
        "sdk": SDK,
        "own": {**SDK, "isolation": "PerSession"},
        "legacy": legacy_server(),
        "exits": legacy_server("--unknown", "exit"),
        "modern": modern_server(),
    }
    with SidecarProcess({"servers": servers, "readiness": {"require": "All"}}) as sidecar:
        sidecar.wait_for("/readyz")
        yield sidecar


def text(result: Any) -> str:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("server", ["sdk", "own"])
async def test_everything_of_a_dual_era_server(sidecar: SidecarProcess, server: str, mode: str) -> None:
    async with Client(sidecar.url(server), mode=mode) as client:
        if mode != "2026-07-28":  # pinned, it asks for nothing
            assert client.server_info is not None
            assert client.server_info.name == "sdk"
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools == {"add", "fail", "pid", "ask", "steps"}
        added = await asyncio.gather(*(client.call_tool("add", {"a": n, "b": 1}) for n in range(50)))
        assert [text(result) for result in added] == [str(n + 1) for n in range(50)]
        assert (await client.call_tool("fail", {})).is_error
        seen: list[float] = []

        async def progressed(progress: float, total: float | None, message: str | None) -> None:
            seen.append(progress)

        assert text(await client.call_tool("steps", {"count": 3}, progress_callback=progressed)) == "done"
        assert seen == [1, 2, 3]
        content = (await client.read_resource("note://x")).contents[0]
        assert isinstance(content, types.TextResourceContents)
        assert content.text == "note x"
        assert (await client.get_prompt("greet", {"name": "you"})).messages
        with pytest.raises(MCPError) as caught:
            await client.read_resource("unknown://x")
        assert caught.value.error.code in (-32602, -32002)


async def test_a_session_of_its_own_can_be_asked(sidecar: SidecarProcess) -> None:
    async def answer(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async with Client(sidecar.url("own"), mode="legacy", elicitation_callback=answer) as client:
        assert text(await client.call_tool("ask", {})) == "accept: Ada"
        assert text(await client.call_tool("add", {"a": 1, "b": 1})) == "2"


async def test_a_shared_process_is_not_offered_what_cannot_be_routed(sidecar: SidecarProcess) -> None:
    async with Client(sidecar.url("sdk"), mode="legacy") as client:
        with pytest.raises(MCPError, match="not offered"):
            await client.call_tool("ask", {})


async def test_a_legacy_client_answers_what_a_modern_server_needs(sidecar: SidecarProcess) -> None:
    async def answer(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    question = {"message": "name?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}}
    requests = {"who": {"method": "elicitation/create", "params": question}}
    async with Client(sidecar.url("modern"), mode="legacy", elicitation_callback=answer) as client:
        found = json.loads(text(await client.call_tool("ask", {"requests": requests, "rounds": 2})))
    assert found["responses"]["who"]["content"] == {"name": "Ada"}
    assert found["meta"]["io.modelcontextprotocol/clientCapabilities"]["elicitation"] is not None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("server", ["legacy", "exits", "modern"])
async def test_servers_of_one_era_serve_clients_of_both(sidecar: SidecarProcess, server: str, mode: str) -> None:
    async with Client(sidecar.url(server), mode=mode) as client:
        assert "echo" in {tool.name for tool in (await client.list_tools()).tools}
        results = await asyncio.gather(*(client.call_tool("echo", {"text": str(n)}) for n in range(30)))
        assert [text(result) for result in results] == [str(n) for n in range(30)]
        with pytest.raises(MCPError):
            await client.call_tool("no_such_tool", {})
        assert text(await client.call_tool("echo", {"text": "after"})) == "after"


async def test_an_auto_client_speaks_modern_to_every_server(sidecar: SidecarProcess) -> None:
    for server in ("sdk", "legacy", "exits", "modern"):
        async with Client(sidecar.url(server), mode="auto") as client:
            assert client.protocol_version == "2026-07-28"


async def test_the_eras_of_a_dual_era_server_are_processes_of_their_own(sidecar: SidecarProcess) -> None:
    async with Client(sidecar.url("sdk"), mode="legacy") as old, Client(sidecar.url("sdk"), mode="2026-07-28") as new:
        pids = {text(await client.call_tool("pid", {})) for client in (old, new)}
    assert len(pids) == 2
    upstream = sidecar.status()["servers"]["sdk"]["upstream"]
    assert upstream["eras"] == ["modern", "legacy"]
    assert set(upstream["processes"]) == {"modern", "legacy"}


async def test_a_listening_client_hears_of_a_change(sidecar: SidecarProcess) -> None:
    for server in ("legacy", "modern"):
        async with (
            Client(sidecar.url(server), mode="2026-07-28") as client,
            client.listen(tools_list_changed=True) as subscription,
            asyncio.timeout(20),
        ):
            say = {"messages": [{"method": "notifications/tools/list_changed", "params": {}}]}
            await client.call_tool("say", say)
            async for event in subscription:
                assert "tool" in type(event).__name__.lower()
                break

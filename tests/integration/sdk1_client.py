"""A client on SDK 1.30 that does what it is told: one JSON command a line in, one JSON answer a line out.

Runs in an environment of its own (tests/conformance/fetched.py), without anything of this project. One session is held
from the first line to the last, so that whoever drives it sees which errors the session survives.

    {"do": "call", "tool": "echo", "arguments": {…}, "times": 3}   several calls at once
    {"do": "list"}   {"do": "ping"}

What the server asks it (sampling, elicitation), it answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

from mcp import ClientSession, McpError, types
from mcp.client.streamable_http import streamablehttp_client

READ_TIMEOUT = timedelta(seconds=30)


async def one(session: ClientSession, command: dict[str, Any]) -> dict[str, Any]:
    """Carry out one command; an error of the protocol is an answer."""
    try:
        if command["do"] == "list":
            return {"tools": [tool.name for tool in (await session.list_tools()).tools]}
        if command["do"] == "ping":
            await session.send_ping()
            return {"pong": True}
        result = await session.call_tool(command["tool"], command.get("arguments", {}))
        text = result.content[0].text if result.content and result.content[0].type == "text" else ""
        return {"text": text[:200], "isError": bool(result.isError)}
    except McpError as error:
        return {"code": error.error.code, "message": error.error.message, "data": error.error.data}


async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    """What a model would say."""
    content = types.TextContent(type="text", text=f"said by {params.maxTokens}")
    return types.CreateMessageResult(role="assistant", content=content, model="none")


async def elicit(context: Any, params: Any) -> types.ElicitResult:
    """What a person would fill in."""
    return types.ElicitResult(action="accept", content={"name": "me"})


async def main(url: str) -> None:
    """Open the session and serve commands until the input ends."""
    loop = asyncio.get_running_loop()
    async with (
        streamablehttp_client(url) as (read, write, _),
        ClientSession(
            read, write, read_timeout_seconds=READ_TIMEOUT, sampling_callback=sample, elicitation_callback=elicit
        ) as session,
    ):
        opened = await session.initialize()
        print(json.dumps({"server": opened.serverInfo.name, "version": opened.protocolVersion}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(line)
            command["arguments"] = {
                name: "x" * value["repeat"] if isinstance(value, dict) and "repeat" in value else value
                for name, value in command.get("arguments", {}).items()
            }
            answers = await asyncio.gather(*(one(session, command) for _ in range(command.get("times", 1))))
            print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

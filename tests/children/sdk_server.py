"""A server on the MCP SDK 2.x, both eras, over stdio: `sdk_server.py`. Tools: `add`, `ask` (elicitation), `steps`."""

import os

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel

server = MCPServer("sdk")


class Name(BaseModel):
    name: str


@server.tool()
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@server.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("as asked")


@server.tool()
def pid() -> int:
    """Who answers."""
    return os.getpid()


@server.tool()
async def ask(ctx: Context) -> str:
    """Ask the caller for a name."""
    answer = await ctx.elicit("your name?", Name)
    return f"{answer.action}: {answer.data.name if answer.action == 'accept' else ''}"


@server.tool()
async def steps(count: int, ctx: Context) -> str:
    """Report progress."""
    for step in range(count):
        await ctx.report_progress(step + 1, count)
    return "done"


@server.resource("note://{name}")
def note(name: str) -> str:
    """A note."""
    return f"note {name}"


@server.prompt()
def greet(name: str) -> str:
    """Greet."""
    return f"hello {name}"


server.run("stdio")

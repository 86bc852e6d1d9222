"""The commands `tools` and `call`: a plain MCP client on the official SDK.

The only module that imports the SDK (1.2 s and 64 MiB): nothing that runs in the sidecar imports this one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mcp
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from mcp_sidecar import __version__
from mcp_sidecar.config.headers import header_problem
from mcp_sidecar.config.urls import url_problem
from mcp_sidecar.config.values import Text
from mcp_sidecar.errors import ConfigError, OutriggerError, Problem
from mcp_sidecar.secrets.keyring import KeySource
from mcp_sidecar.secrets.resolving import ValueSource

if TYPE_CHECKING:
    import httpx2

MODERN_VERSION = "2026-07-28"
_MAX_TOOLS_PAGES = 1000


class ClientFailed(OutriggerError):
    """The endpoint did not answer, or not well."""


@dataclass(frozen=True)
class Connection:
    """Where and how to connect."""

    url: str
    headers: dict[str, str] = field(repr=False)
    mode: str = "auto"
    timeout: float = 300.0

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Connection:
        """From the command line. Raises ConfigError."""
        if problem := url_problem(arguments.url):
            raise ConfigError([Problem("", f"the URL {problem}")])
        headers = {}
        for given in arguments.header:
            name, colon, value = given.partition(":")
            if not colon:
                raise ConfigError([Problem("", "--header must be 'NAME: VALUE'")])
            headers[name.strip()] = _expanded(name.strip(), value.strip())
        mode = "legacy" if arguments.legacy else MODERN_VERSION if arguments.modern else "auto"
        return cls(arguments.url, headers, mode, arguments.timeout)


def _expanded(name: str, value: str) -> str:
    try:
        source = ValueSource(Text.parse(value), "", environ=os.environ, keys=KeySource({}), directory=Path.cwd())
    except ValueError as error:
        raise ConfigError([Problem("", f"--header {name}: {error}")]) from None
    text = source.resolve().reveal()
    if problem := header_problem(name, text):
        raise ConfigError([Problem("", f"--header {problem}")])
    return text


def tools(connection: Connection, *, as_json: bool) -> int:
    """Print the tools. Raises OutriggerError."""
    found = _with_client(connection, _list)
    if as_json:
        print(json.dumps([tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in found], indent=2))
        return 0
    if not found:
        print("no tools", file=sys.stderr)
    width = min(40, max((len(tool.name) for tool in found), default=0))
    for tool in found:
        arguments = _arguments(tool.input_schema)
        summary = (tool.description or tool.title or "").strip().partition("\n")[0]
        print(f"{_printable(tool.name):<{width}}  {_printable(summary)}".rstrip())
        if arguments:
            print(f"{'':<{width}}  {_printable(arguments)}")
    return 0


def call(connection: Connection, tool: str, text: str, *, as_json: bool) -> int:
    """Call a tool and print its result. 1 when the tool reports an error. Raises OutriggerError."""
    try:
        arguments = json.loads(sys.stdin.read() if text == "-" else text)
    except ValueError as error:
        raise ConfigError([Problem("", f"the arguments are no JSON: {error}")]) from None
    if not isinstance(arguments, dict):
        raise ConfigError([Problem("", 'the arguments must be a JSON object, such as {"text": "hello"}')])

    async def use(client: mcp.Client) -> Any:
        return await client.call_tool(tool, arguments)

    result = _with_client(connection, use)
    if as_json:
        print(json.dumps(result.model_dump(mode="json", by_alias=True, exclude_none=True), indent=2))
        return 1 if result.is_error else 0
    out = sys.stderr if result.is_error else sys.stdout
    for block in result.content:
        shown = getattr(block, "text", None)
        if shown is None:
            shown = json.dumps(block.model_dump(mode="json", by_alias=True, exclude_none=True))
        print(shown, file=out)
    if not result.content and result.structured_content is not None:
        print(json.dumps(result.structured_content), file=out)
    return 1 if result.is_error else 0


async def _list(client: mcp.Client) -> list[Any]:
    found: list[Any] = []
    cursor: str | None = None
    for _ in range(_MAX_TOOLS_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    return found


def _with_client(connection: Connection, use: Any) -> Any:
    """Connect, run `use`, disconnect. Raises ClientFailed with one line that says what happened."""
    return asyncio.run(_bounded(connection, use))


async def _bounded(connection: Connection, use: Any) -> Any:
    try:
        async with asyncio.timeout(connection.timeout):
            return await _connected(connection, use)
    except TimeoutError:
        raise ClientFailed(f"{connection.url}: no answer within {connection.timeout:g} seconds") from None
    except Exception as error:  # noqa: BLE001 - the SDK raises anything, and a person wants one line
        raise ClientFailed(f"{connection.url}: {_reason(error)}") from None


async def _connected(connection: Connection, use: Any) -> Any:
    http: httpx2.AsyncClient
    async with create_mcp_http_client(headers=connection.headers) as http:
        transport = streamable_http_client(connection.url, http_client=http)
        client_info = mcp.Implementation(name="outrigger-sidecar", version=__version__)
        async with mcp.Client(transport, mode=connection.mode, client_info=client_info) as client:
            return await use(client)


def _reason(error: BaseException) -> str:
    """One line out of what may be a tree of exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, mcp.MCPError):
        data = getattr(error.error, "data", None)
        reason = f" ({data['reason']})" if isinstance(data, dict) and "reason" in data else ""
        return _printable(f"error {error.error.code}: {error.error.message}{reason}")
    return _printable(str(error) or type(error).__name__)


def _arguments(schema: Any) -> str:
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        return ""
    required = schema.get("required") or []
    return ", ".join(name if name in required else f"[{name}]" for name in schema["properties"])


def _printable(text: str) -> str:
    """Without control characters: a server must not write to somebody's terminal."""
    return "".join(character if character.isprintable() else " " for character in text)

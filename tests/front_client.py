"""A listener on a real socket and a caller that says exactly the bytes it is told to, for the tests of the front.

`on_both_loops` runs an async test on the stdlib loop and on uvloop. `Front` is a running listener with a handler that
notes what it executed; `Caller` is a raw connection. Waiting is for events, bounded by `PATIENCE`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any

import pytest
import uvloop

from mcp_sidecar.front.limits import ListenerSettings
from mcp_sidecar.front.listener import Listener, RequestHandler
from mcp_sidecar.front.request import Request

PATIENCE = 10.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test once on each loop; what the loop's exception handler hears of fails the test."""

    @functools.wraps(test)
    def run(loop_name: str, **arguments: Any) -> None:
        heard: list[dict[str, Any]] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
            async with asyncio.timeout(PATIENCE * 3):
                await test(**arguments)

        with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
            runner.run(main())
        assert not heard

    signature = inspect.signature(test)
    loop_parameter = inspect.Parameter("loop_name", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(parameters=[loop_parameter, *signature.parameters.values()])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop_name", list(LOOPS))(run)  # type: ignore[no-any-return]


class Answer:
    """One HTTP answer as received."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def reason(self) -> str:
        """The `data.reason` of the JSON-RPC error."""
        error = json.loads(self.body)
        assert error["jsonrpc"] == "2.0"
        assert error["id"] is None
        return str(error["error"]["data"]["reason"])


class Caller:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, **options: Any) -> Caller:
        """Open one."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, **options))

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self.writer.close()

    def send(self, data: bytes) -> None:
        """Write."""
        self.writer.write(data)

    async def line(self) -> bytes:
        """The next line, or what there was before the end."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readline()

    async def exactly(self, size: int) -> bytes:
        """So many bytes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(size)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        status_line = await self.line()
        assert status_line.startswith(b"HTTP/1.1 "), status_line
        headers: dict[str, str] = {}
        while (line := await self.line()) != b"\r\n":
            name, _, value = line.decode("latin-1").partition(":")
            assert name.lower() not in headers
            headers[name.lower()] = value.strip()
        return int(status_line.split()[1]), headers

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer with a length."""
        status, headers = await self.head()
        length = int(headers.get("content-length", "0"))
        return Answer(status, headers, b"" if head_only else await self.exactly(length))

    async def chunk(self) -> bytes:
        """The next chunk of a chunked answer; empty for the last one."""
        size = int(await self.line(), 16)
        data = await self.exactly(size)
        assert await self.line() == b"\r\n"
        return data

    async def last_chunk(self) -> None:
        """Read to the end of a chunked answer."""
        while await self.chunk():
            pass

    async def rest(self) -> bytes:
        """Everything up to the end of the connection, which must come."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def only_answer(self) -> Answer:
        """The next answer, which must be the last thing on the connection."""
        answer = await self.answer()
        assert await self.rest() == b""
        return answer


class Front:
    """A running listener. Without a handler of the test's it echoes bodies and notes paths in `executed`."""

    def __init__(
        self, handler: RequestHandler | None = None, *, tls: Any = None, port: int = 0, **settings: Any
    ) -> None:
        self.executed: list[str] = []
        self.failures: list[BaseException | None] = []
        self._handler = handler
        self._tls = tls
        self.listener = Listener(
            self._note,
            ListenerSettings(**settings),
            handler_failed=lambda _, error: self.failures.append(error),
        )
        self.port = port

    async def __aenter__(self) -> Front:
        _, self.port = await self.listener.start("127.0.0.1", self.port, self._tls)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.listener.close()
            await until(lambda: self.listener.open_connections == 0)
        assert self.listener.open_requests == 0

    async def _note(self, request: Request) -> None:
        self.executed.append(request.path)
        if self._handler is None:
            request.respond(200, request.body)
        else:
            await self._handler(request)

    async def caller(self, **options: Any) -> Caller:
        """A new connection to it."""
        return await Caller.connect(self.port, **options)

    async def ask(self, data: bytes) -> Answer:
        """One answer on a connection of its own, which the listener must close after it."""
        async with await self.caller() as caller:
            caller.send(data)
            return await caller.only_answer()


async def until(condition: Callable[[], bool]) -> None:
    """Turn the loop until something is so; for state that no event tells of."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


async def within(awaitable: Awaitable[Any]) -> Any:
    """Await with a bound."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


def get(path: str = "/", *headers: str) -> bytes:
    """A GET."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def post(body: bytes, path: str = "/", *headers: str) -> bytes:
    """A POST with its length."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body

"""What the tests of the pipeline share: calls, replies, and transports that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.call import Call, CallKind, Era, Event, Handler, Reply
from virtual_clock import VirtualLoop

RESULT = b'{"ok":true}'


def make_call(method: str = "tools/call", **fields: Any) -> Call:
    """A call of a modern caller; every field can be given."""
    fields.setdefault("server", "s")
    fields.setdefault("id", b"1")
    fields.setdefault("params", None)
    fields.setdefault("era", Era.MODERN)
    fields.setdefault("version", "2026-07-28")
    fields.setdefault("kind", CallKind.SAFE if method != "tools/call" else CallKind.UNSAFE)
    return Call(method=method, **fields)


def failure(
    reason: Reason = Reason.CONNECTION_LOST, delivery: Delivery = Delivery.MAYBE, **fields: Any
) -> UpstreamError:
    """A failed attempt."""
    return UpstreamError(reason, "it failed", delivery=delivery, **fields)


def clock() -> float:
    """The time of the running loop."""
    return asyncio.get_running_loop().time()


class Events:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def open(self) -> None:
        """Nothing to begin."""

    def emit(self, event: Event) -> None:
        """Keep it."""
        self.seen.append(event.data)


class Script:
    """A transport that does the next thing of a list at each attempt, and the last one ever after.

    A reply is given, an error raised, a number slept for before answering, a handler called.
    """

    def __init__(self, *steps: Reply | BaseException | float | Handler) -> None:
        self.steps = list(steps) or [0.0]
        self.at: list[float] = []
        self.running = 0
        self.most = 0

    async def __call__(self, call: Call) -> Reply:
        """One attempt."""
        self.at.append(clock())
        step = self.steps[min(len(self.at), len(self.steps)) - 1]
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if isinstance(step, Reply):
                return step
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, (int, float)):
                call.written = True
                await asyncio.sleep(step)
                return Reply(RESULT)
            return await step(call)
        finally:
            self.running -= 1

    @property
    def attempts(self) -> int:
        """How often it was called."""
        return len(self.at)


class Gate:
    """A transport that holds every call until it is told what becomes of it. For loops stepped by hand."""

    def __init__(self) -> None:
        self.held: dict[Call, asyncio.Future[Reply]] = {}
        self.most = 0
        self.began: list[Call] = []

    async def __call__(self, call: Call) -> Reply:
        """Wait to be told."""
        self.began.append(call)
        self.held[call] = asyncio.get_running_loop().create_future()
        self.most = max(self.most, len(self.held))
        try:
            return await self.held[call]
        finally:
            del self.held[call]

    def answer(self, call: Call, reply: Reply | None = None) -> None:
        """Let it succeed."""
        if not self.held[call].done():
            self.held[call].set_result(reply or Reply(RESULT))

    def fail(self, call: Call, error: BaseException | None = None) -> None:
        """Let it fail."""
        if not self.held[call].done():
            self.held[call].set_exception(error or failure())


def start(loop: VirtualLoop, handler: Handler, call: Call) -> asyncio.Task[Reply]:
    """Begin a call on a loop that is stepped by hand."""

    async def pass_on() -> Reply:
        return await handler(call)

    return loop.create_task(pass_on())


def outcome(task: asyncio.Task[Reply]) -> str:
    """`pending`, `cancelled`, `ok`, or the label of the reason it failed for."""
    if not task.done():
        return "pending"
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is None:
        return "ok"
    reason = getattr(error, "reason", None)
    return repr(error) if reason is None else str(reason.label)


def fixed(value: float) -> Callable[[], float]:
    """A generator of random numbers that always gives the same."""
    return lambda: value

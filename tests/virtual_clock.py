"""An event loop whose time is a number: hours pass in microseconds, and a test can never be slow or flaky.

`VirtualLoop` is the stdlib selector loop with two changes: `time()` returns a field, and when nothing is ready the loop
does not sleep but moves the field to the next timer. A test that waits for something that can never happen gets
`NothingLeft` instead of hanging. Use it in one of three ways:

    @on_virtual_loop                      # an async test; asyncio.sleep(3600) costs nothing
    async def test_x() -> None: ...

    run(coroutine)                        # the same, inside a sync test (hypothesis)

    loop = VirtualLoop()                  # stepped by hand: state machines that interleave at every await
    task = loop.create_task(…); loop.turn(); loop.settle(); loop.advance(2.5)

Real sockets and processes do not obey virtual time: use fakes with it. uvloop cannot be driven this way.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

START = 1000.0
"""Virtual seconds at the start: not zero, so that a forgotten initial value shows."""


class NothingLeft(RuntimeError):
    """No timer, no ready callback, no event: the test waits for something that cannot happen."""


class _Selector(selectors.BaseSelector):
    """Polls the real selector; where it would sleep, moves the loop's time instead."""

    def __init__(self, patience: float) -> None:
        self.real = selectors.DefaultSelector()
        self.patience = patience
        self.loop: VirtualLoop | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self.real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self.real.get_map()

    def close(self) -> None:
        self.real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self.real.select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is not None:
            assert self.loop is not None
            self.loop.jump(timeout)
            return []
        ready = self.real.select(self.patience)  # a thread may still call back
        if not ready:
            raise NothingLeft("nothing is scheduled, and nothing called back")
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. `patience`: real seconds to wait for threads before `NothingLeft`."""

    def __init__(self, start: float = START, patience: float = 0.5) -> None:
        self.now = start
        selector = _Selector(patience)
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self.now

    def jump(self, timeout: float) -> None:
        """Move the time to the next timer, exactly: `now + timeout` may round to just before it."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        when = scheduled[0].when() if scheduled else self.now + timeout
        self.now = max(self.now, min(when, self.now + timeout + 1e-9))

    def timers(self) -> int:
        """Timers that will fire. A quiet pipeline has none."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return sum(not handle.cancelled() for handle in scheduled)

    def turn(self, count: int = 1) -> None:
        """Run what is ready now, `count` times; time does not move."""
        for _ in range(count):
            self.call_soon(self.stop)
            self.run_forever()

    def settle(self, limit: int = 10_000) -> None:
        """Turn until nothing is ready; time does not move."""
        ready: Any = self._ready  # type: ignore[attr-defined]
        self.turn()
        for _ in range(limit):
            if not ready:
                return
            self.turn()
        raise RuntimeError(f"still busy after {limit} turns")

    def idle(self) -> bool:
        """Whether nothing is ready: only time or the outside can bring something."""
        ready: Any = self._ready  # type: ignore[attr-defined]
        return not ready

    def skip(self) -> bool:
        """Move the time to the next timer, without running it; False where there is none."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        due = [handle.when() for handle in scheduled if not handle.cancelled()]
        if due:
            self.now = max(self.now, min(due))
        return bool(due)

    def advance(self, seconds: float) -> None:
        """Let virtual time pass, firing the timers on the way, each at its own time."""
        end = self.now + seconds
        while True:
            self.settle()
            scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
            due = [handle.when() for handle in scheduled if not handle.cancelled()]
            when = min(due, default=end)
            if when > end:
                break
            self.now = max(self.now, when)
            if not due:
                break
        self.now = end
        self.settle()


def run(coroutine: Coroutine[Any, Any, T], *, limit: float = 7 * 86_400.0) -> T:
    """Run a coroutine on a new virtual loop, at most `limit` virtual seconds; what it left running is cancelled."""
    loop = VirtualLoop()

    def too_long() -> None:
        task.cancel("the virtual time limit passed")

    try:
        asyncio.set_event_loop(loop)
        task = loop.create_task(coroutine)
        guard = loop.call_at(loop.now + limit, too_long)
        try:
            return loop.run_until_complete(task)
        finally:
            guard.cancel()
            left = asyncio.all_tasks(loop)
            for other in left:
                other.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def on_virtual_loop(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Decorate an async test: it runs on a new virtual loop, fixtures and hypothesis arguments included."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        return run(test(*args, **kwargs))

    return wrapper

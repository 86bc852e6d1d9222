"""The workers: what becomes of the outcomes of a reconcile, and that none of them loses an MCPServer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mcp_operator.config import OperatorConfig
from mcp_operator.errors import Throttled, Unavailable
from mcp_operator.kube.client import Page
from mcp_operator.metrics import OperatorMetrics
from mcp_operator.operation import Operation
from mcp_operator.queue import WorkQueue
from mcp_operator.reconciler import Result
from virtual_clock import on_virtual_loop

KEY = ("team", "search")
Reconcile = Callable[[Any], Awaitable[Result | None]]


@contextlib.asynccontextmanager
async def working(reconcile: Reconcile):
    """One worker of an operation whose reconciler is `reconcile`."""
    loop = asyncio.get_running_loop()
    operation = Operation(OperatorConfig(), SimpleNamespace(), OperatorMetrics())
    operation._clock = loop.time
    operation.queue = WorkQueue(clock=loop.time, rng=lambda: 1.0, backoff_base=1.0)
    operation.reconciler = SimpleNamespace(reconcile=reconcile)
    worker = asyncio.ensure_future(operation._work())
    try:
        yield operation
    finally:
        operation.queue.close()
        await worker


def script(*outcomes: Result | Exception | None) -> tuple[list[float], Reconcile]:
    """A reconciler that ends as told, the last outcome for ever; and when it was asked."""
    left, asked = list(outcomes), []

    async def reconcile(_: Any) -> Result | None:
        asked.append(asyncio.get_running_loop().time())
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return asked, reconcile


@pytest.mark.parametrize(
    "outcome, wait, result",
    [
        (Result(70.0), 70.0, "success"),
        (Result(70.0, failed=True), 1.0, "refused"),
        (Throttled(429, "TooManyRequests", "slowly", retry_after=9.0), 9.0, "retry"),
        (ZeroDivisionError(), 1.0, "error"),
    ],
)
@on_virtual_loop
async def test_every_outcome_leads_to_another_look(outcome, wait, result) -> None:
    asked, reconcile = script(outcome, None)
    async with working(reconcile) as operation:
        operation.queue.add(KEY)
        await asyncio.sleep(3600)
        assert asked[1] - asked[0] == wait
        assert len(asked) == 2
        assert operation._metrics.results[result] == 1
        assert operation._metrics.results["gone"] == 1


@on_virtual_loop
async def test_one_that_is_made_anew_while_the_old_one_is_found_gone_is_not_lost() -> None:
    asked: list[int] = []

    async def reconcile(key: Any) -> Result | None:
        asked.append(1)
        if len(asked) == 1:
            operation.queue.add(key)  # its successor
            return None
        return Result(600.0)

    async with working(reconcile) as operation:
        operation.queue.add(KEY)
        await asyncio.sleep(1)
        assert len(asked) == 2


class Pages:
    """An API server with MCPServers of one namespace each, two on a page, that fails first."""

    def __init__(self, *names: str, failures: int = 0) -> None:
        self.names = names
        self.failures = failures
        self.asked: list[tuple[str | None, str]] = []

    async def page(self, resource: Any, namespace: str | None = None, *, token: str = "") -> Page:
        self.asked.append((namespace, token))
        if self.failures:
            self.failures -= 1
            raise Unavailable(503, "ServiceUnavailable", "later")
        start = int(token or 0)
        found = [{"metadata": {"namespace": namespace or "team", "name": name, "uid": name}} for name in self.names]
        return Page(found[start : start + 2], "7", str(start + 2) if start + 2 < len(found) else "")


@on_virtual_loop
async def test_everything_is_listed_before_it_is_ready() -> None:
    pages = Pages("a", "b", "c", failures=2)
    operation = Operation(OperatorConfig(), pages, OperatorMetrics())  # type: ignore[arg-type]
    listed = asyncio.Event()
    await asyncio.wait_for(operation._list_servers(listed), 10)
    assert listed.is_set()
    assert sorted(operation.store) == [("team", name) for name in "abc"]
    assert len(operation.queue) == 3
    assert operation.store.get(("team", "a")).manifest["kind"] == "MCPServer"  # type: ignore[union-attr]
    assert pages.asked == [(None, ""), (None, ""), (None, ""), (None, "2")]


@on_virtual_loop
async def test_only_the_namespaces_that_are_watched_are_listed() -> None:
    pages = Pages("a")
    operation = Operation(OperatorConfig(watch_namespaces=("x", "y")), pages, OperatorMetrics())  # type: ignore[arg-type]
    await operation._list_servers(asyncio.Event())
    assert sorted(operation.store) == [("x", "a"), ("y", "a")]

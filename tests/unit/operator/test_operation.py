"""The workers: what becomes of the outcomes of a reconcile, and that none of them loses an MCPServer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mcp_operator.config import OperatorConfig
from mcp_operator.errors import Throttled
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

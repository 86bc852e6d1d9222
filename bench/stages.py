"""CPU time that each stage of the pipeline adds to a call, and all of them together.

    python -m bench.stages [--calls N] [--rounds N] [--json FILE]

In process, on uvloop: calls pass through the stage to a transport that answers at once (`bare`), so that only the stage
is measured. Variants are interleaved and the least of all rounds is kept: noise only adds. "All stages, future" answers
from a callback of the loop, as a real transport does, and so does its bare counterpart.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from mcp_sidecar.pipeline.attempt import AttemptSettings, AttemptTimeout
from mcp_sidecar.pipeline.breaker import Breaker, BreakerSettings
from mcp_sidecar.pipeline.bulkhead import Bulkhead, BulkheadSettings
from mcp_sidecar.pipeline.cache import Cache
from mcp_sidecar.pipeline.cache_policy import CacheSettings, ServerPolicy
from mcp_sidecar.pipeline.call import Call, CallKind, Era, Handler, Reply, Stage
from mcp_sidecar.pipeline.deadline import Deadline, DeadlineSettings
from mcp_sidecar.pipeline.rate_limit import Per, RateLimit, RateLimitSettings
from mcp_sidecar.pipeline.retry import Retry, RetrySettings
from mcp_sidecar.pipeline.singleflight import SingleFlight, SingleFlightSettings
from mcp_sidecar.pipeline.stack import Pipeline, PipelineSettings, Tasks, compose

META = (
    b'{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    b'"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"},'
    b'"io.modelcontextprotocol/clientCapabilities":{}}'
)
TOOL_CALL = META + b',"name":"echo","arguments":{"text":"hello"}}'
LIST = META + b"}"
ECHO = b'{"content":[{"type":"text","text":"hello"}],"resultType":"complete"}'
TOOLS = b'{"tools":[{"name":"echo","inputSchema":{"type":"object"}}],"ttlMs":3600000,"cacheScope":"public"}'

Make = Callable[[], Handler]


def tool_call() -> Call:
    """A call as the front makes it."""
    now = time.monotonic()
    return Call(
        server="echo",
        id=b"7",
        method="tools/call",
        params=TOOL_CALL,
        era=Era.MODERN,
        version="2026-07-28",
        name="echo",
        started=now,
        deadline=now + 300.0,
        uid="0123456789abcdef",
    )


def list_call() -> Call:
    """A call that the cache answers."""
    now = time.monotonic()
    return Call(
        server="echo",
        id=b"7",
        method="tools/list",
        params=LIST,
        era=Era.MODERN,
        version="2026-07-28",
        kind=CallKind.SAFE,
        started=now,
        deadline=now + 300.0,
    )


async def bare(call: Call) -> Reply:
    """The transport: answers at once."""
    return Reply(TOOLS if call.method == "tools/list" else ECHO)


async def future(call: Call) -> Reply:
    """The transport: answers from a callback of the loop."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Reply] = loop.create_future()
    call.written = True
    loop.call_soon(answer.set_result, Reply(ECHO))
    return await answer


def policy(settings: CacheSettings) -> ServerPolicy:
    """Modern calls only: nothing is asked of sessions."""
    return ServerPolicy(settings, legacy_scope=lambda call: None, announces=lambda call, method: False)


def pipeline(exchange: Handler, *, rate: bool = True) -> Handler:
    """Everything on."""
    limit = RateLimitSettings(1e9, 1_000_000, Per.CALLER) if rate else None
    return Pipeline(PipelineSettings(rate_limit=limit), exchange, policy).handle


def variants() -> list[tuple[str, Make, Callable[[], Call], str]]:
    """Label, what makes the handler, what makes a call, and the label of what it is compared with."""

    def one(stage: Stage) -> Handler:
        return compose([stage], bare)

    def flight() -> Handler:
        cache = Cache(CacheSettings(), policy(CacheSettings()))
        return one(SingleFlight(SingleFlightSettings(), cache.flight, spawn=Tasks()))

    return [
        ("bare", lambda: bare, tool_call, ""),
        ("cache, not kept", lambda: one(Cache(CacheSettings(), policy(CacheSettings()))), tool_call, "bare"),
        ("single-flight, not shared", flight, tool_call, "bare"),
        ("rate limit", lambda: one(RateLimit(RateLimitSettings(1e9, 1_000_000, Per.CALLER))), tool_call, "bare"),
        ("bulkhead", lambda: one(Bulkhead(BulkheadSettings())), tool_call, "bare"),
        ("deadline", lambda: one(Deadline(DeadlineSettings())), tool_call, "bare"),
        ("retry", lambda: one(Retry(RetrySettings())), tool_call, "bare"),
        ("breaker", lambda: one(Breaker(BreakerSettings())), tool_call, "bare"),
        ("attempt time-out", lambda: one(AttemptTimeout(AttemptSettings())), tool_call, "bare"),
        ("all stages", lambda: pipeline(bare), tool_call, "bare"),
        ("all stages but rate limit", lambda: pipeline(bare, rate=False), tool_call, "bare"),
        ("bare future", lambda: future, tool_call, ""),
        ("all stages, future", lambda: pipeline(future), tool_call, "bare future"),
        ("bare list", lambda: bare, list_call, ""),
        ("cache hit", lambda: pipeline(bare), list_call, "bare list"),
        ("single-flight, alone", flight, list_call, "bare list"),
    ]


async def cpu(handler: Handler, call: Callable[[], Call], calls: int) -> float:
    """Seconds of CPU for so many calls, one after the other; making the calls is not counted."""
    made = [call() for _ in range(calls)]
    began = time.process_time()
    for each in made:
        await handler(each)
    return time.process_time() - began


def measure(calls: int, rounds: int) -> dict[str, float]:
    """Microseconds of CPU per call by label: the least of the rounds."""
    best: dict[str, float] = {}
    cases = variants()

    async def run() -> None:
        handlers = {label: make() for label, make, _, _ in cases}
        for label, _, call, _ in cases:
            await cpu(handlers[label], call, calls // 4)
        for _ in range(rounds):
            for label, _, call, _ in cases:
                taken = await cpu(handlers[label], call, calls)
                best[label] = min(best.get(label, taken), taken)

    gc.disable()
    try:
        uvloop.run(run())
    finally:
        gc.enable()
    return {label: taken / calls * 1e6 for label, taken in best.items()}


def table(figures: dict[str, float]) -> str:
    """The figures for people."""
    lines = [f"{'':28}{'µs/call':>9}{'added':>9}"]
    for label, _, _, reference in variants():
        added = f"{figures[label] - figures[reference]:9.2f}" if reference else ""
        lines.append(f"{label:28}{figures[label]:9.2f}{added}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    figures = measure(options.calls, options.rounds)
    print(
        f"CPython {sys.version.split()[0]}, uvloop {version('uvloop')}: CPU per call, least of {options.rounds} rounds"
    )
    print(table(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


if __name__ == "__main__":
    main()

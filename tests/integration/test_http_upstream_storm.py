"""After a storm of faults and cancellations nothing is left: no lease, no task, no timer of ours, no descriptor."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path

from fault_server import LAST_CHUNK, STREAM_HEAD, FaultServer, SeenRequest, Wire, answer, answer_ok, echo, event
from http_upstreams import HeldSession, RecordingSink, http_upstream, make_call
from mcp_sidecar.errors import CallError
from mcp_sidecar.pipeline.call import Era
from mcp_sidecar.upstream.pool import PoolSettings

LOOPS = ("asyncio", "uvloop")
LOG = b'{"jsonrpc":"2.0","method":"notifications/message"}'


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


async def test_after_a_storm_everything_is_back() -> None:
    rng = random.Random(7)
    executed: dict[str, int] = {}

    async def script(request: SeenRequest, wire: Wire) -> None:
        if b'"id"' not in request.body:
            await answer_ok(request, wire)
            return
        mark = request.json["params"]["arguments"]
        executed[mark] = executed.get(mark, 0) + 1
        kind = rng.randrange(12)
        if kind == 0:
            wire.reset()
        elif kind == 1:
            wire.close()
        elif kind == 2:
            await wire.write(answer(b"", 503))
        elif kind == 3:
            await wire.write(answer(echo(request)) + b"junk")
        elif kind == 4:
            await wire.gone()
        elif kind == 5:
            await wire.write(STREAM_HEAD + b"\r\n" + event(LOG) + event(echo(request)))
            await wire.gone()
        elif kind == 6:
            await wire.write(STREAM_HEAD + b"\r\n" + event(LOG, id=b"1"))
            wire.reset()
        elif kind < 9:
            await wire.write(STREAM_HEAD + b"\r\n" + event(LOG) + event(echo(request)) + LAST_CHUNK)
        else:
            await answer_ok(request, wire)

    async with FaultServer(script) as server:
        pool = PoolSettings(max_size=5, min_size=2, idle_timeout=0.2)
        async with http_upstream(server.url, pool=pool) as upstream:
            outcomes = {"ok": 0, "error": 0, "cancelled": 0, "detached": 0}

            async def caller(number: int) -> None:
                for i in range(40):
                    mark = f"{number}-{i}"
                    era = rng.choice(list(Era))
                    call = make_call(
                        params=b'{"name":"echo","arguments":"%b"}' % mark.encode(),
                        era=era,
                        session=HeldSession("s") if era is Era.LEGACY else None,
                        sink=RecordingSink(),
                    )
                    try:
                        async with asyncio.timeout(rng.choice([0.001, 0.02, 0.1])):
                            reply = await upstream.exchange(call)
                    except TimeoutError:
                        outcomes["cancelled"] += 1
                    except CallError:
                        outcomes["error"] += 1
                    else:
                        outcomes["detached" if reply.detached else "ok"] += 1
                        if not reply.detached:
                            assert json.loads(reply.result or b"")["echo"]["arguments"] == mark

            before = len(asyncio.all_tasks()), descriptors()
            async with asyncio.timeout(50):
                await asyncio.gather(*(caller(n) for n in range(12)))
                while upstream.pool.size or server.open:
                    await asyncio.sleep(0.01)
            assert min(outcomes.values()) > 0
            assert max(executed.values()) == 1
            assert upstream.pool.in_use == upstream.pool.waiting == upstream.pool.leaks == 0
            assert set(upstream.pool.counts().values()) == {0}
            while len(asyncio.all_tasks()) > before[0]:  # messages of cancellation on their way
                await asyncio.sleep(0.01)
            assert descriptors() <= before[1]

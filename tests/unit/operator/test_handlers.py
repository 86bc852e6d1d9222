"""kopf's thread: what it says arrives in our loop, whatever ends it it begins anew, and it never holds up the end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from mcp_operator import handlers
from mcp_operator.store import Store

SERVER = {"metadata": {"namespace": "team", "name": "search", "uid": "u1", "resourceVersion": "1"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_BACKOFF_BASE", 0.01)


class Kopf:
    """Plays `kopf.operator`: fails as often as told, then runs until its stop flag."""

    def __init__(self, *failures: BaseException | None) -> None:
        self.failures = list(failures)
        self.starts = 0
        self.ended = 0
        self.deaf = False
        self.release = threading.Event()
        self.settings: Any = None

    async def operator(self, *, registry, settings, ready_flag, stop_flag, **scope: Any) -> None:
        self.starts += 1
        self.settings, self.scope = settings, scope
        waiting = asyncio.create_task(stop_flag.wait())  # as kopf does, which leaves it behind when it fails
        await asyncio.sleep(0)
        if self.failures:
            failure = self.failures.pop(0)
            if failure is not None:
                raise failure
            return
        handler = next(iter(registry._watching.get_all_handlers())).fn
        await handler(event={"type": "ADDED", "object": SERVER})
        ready_flag.set_result(None)
        await waiting
        if self.deaf:
            await asyncio.to_thread(self.release.wait)
        self.ended += 1


@contextlib.asynccontextmanager
async def watching(kopf: Kopf, namespaces: tuple[str, ...] = ()):
    marked: asyncio.Queue[Any] = asyncio.Queue(10)
    where: list[threading.Thread] = []

    def changed(key: Any, urgent: bool) -> None:
        where.append(threading.current_thread())
        marked.put_nowait((key, urgent))

    async def connect() -> Any:
        raise AssertionError("nobody logs in here")

    ready = asyncio.Event()
    store = Store(changed, clock=asyncio.get_running_loop().time)
    task = asyncio.create_task(handlers.watch(store, connect, namespaces, ready=ready, operate=kopf.operator))
    try:
        yield SimpleNamespace(task=task, ready=ready, marked=marked, where=where, store=store)
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_what_kopf_sees_arrives_in_our_loop() -> None:
    kopf = Kopf()
    async with watching(kopf) as it, asyncio.timeout(10):
        assert await it.marked.get() == (("team", "search"), True)
        await it.ready.wait()
        assert it.where == [threading.main_thread()]
        assert kopf.scope == {"clusterwide": True, "namespaces": (), "standalone": True}
        assert kopf.settings.process.ultimate_exiting_timeout is None
    assert kopf.ended == 1  # it was waited for


async def test_named_namespaces_are_watched_alone() -> None:
    kopf = Kopf()
    async with watching(kopf, ("a", "b")) as it, asyncio.timeout(10):
        await it.ready.wait()
        assert kopf.scope["clusterwide"] is False
        assert kopf.scope["namespaces"] == ("a", "b")


async def test_whatever_ends_kopf_it_begins_anew_at_once() -> None:
    kopf = Kopf(RuntimeError("403"), None, asyncio.CancelledError(), SystemExit(1))
    async with watching(kopf) as it, asyncio.timeout(10):
        await it.ready.wait()
        assert kopf.starts == 5
        assert not it.task.done()


async def test_one_that_does_not_end_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_STOP_GRACE", 0.05)
    kopf = Kopf()
    kopf.deaf = True
    try:
        async with watching(kopf) as it, asyncio.timeout(10):
            await it.ready.wait()
        assert it.task.cancelled()
        assert kopf.ended == 0
    finally:
        kopf.release.set()

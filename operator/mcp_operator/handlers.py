"""kopf and nothing else: watches MCPServers and says which of them changed.

One `on.event` handler: kopf lists and watches, the store keeps what was last seen and marks the MCPServer in our queue.
No create or update handler, no index, no timer, no daemon: those write annotations or finalizers, or cost a lock for
each object. The objects we own are watched by `kube.informer` (docs/adr/0004-informers.md).

kopf runs in a thread and an event loop of its own. It takes the process's signals and cancels every task it finds when
it ends, and it ends at the first answer of the API server that it does not expect; here it is started again.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import kopf

from mcp_operator.kube.connection import Connection
from mcp_operator.kube.resources import MCP_SERVERS
from mcp_operator.store import Store

log = logging.getLogger(__name__)

_PAGE = 250
_WATCH_SECONDS = 290
_BACKOFF_BASE = 1.0
_BACKOFF_MAX = 30.0
_LIVED = 60.0
"""Seconds after which kopf counts as having worked."""
_STOP_GRACE = 3.0
"""Seconds that kopf gets to end."""

Seen = Callable[[Mapping[str, Any], str | None], None]
"""Takes an object and the type of its event, None where it was listed."""
Operate = Callable[..., Coroutine[Any, Any, None]]
"""`kopf.operator`."""


def registry_of(seen: Seen, connect: Callable[[], Awaitable[Connection]]) -> kopf.OperatorRegistry:
    """The handlers, in a registry of their own, and the credentials of our client."""
    registry = kopf.OperatorRegistry()

    async def on_event(event: Mapping[str, Any], **_: object) -> None:
        seen(event["object"], event.get("type"))

    async def login(**_: object) -> kopf.AiohttpSession:
        # A connection of this loop; its sessions renew their credentials themselves.
        connection = await connect()
        return kopf.AiohttpSession(server=connection.server, aiohttp_session=connection.session())

    resource = (MCP_SERVERS.group, MCP_SERVERS.version, MCP_SERVERS.plural)
    kopf.on.event(*resource, registry=registry, id="seen")(on_event)
    kopf.on.login(registry=registry, id="login", errors=kopf.ErrorsMode.TEMPORARY)(login)
    return registry


def settings() -> kopf.OperatorSettings:
    """kopf's settings: nothing posted, nothing stored in objects, no scan of the cluster."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.peering.standalone = True
    chosen.watching.chunk_size = _PAGE
    chosen.watching.server_timeout = _WATCH_SECONDS
    chosen.queueing.idle_timeout = 0.5
    chosen.process.ultimate_exiting_timeout = None  # it would kill the whole process
    return chosen


async def watch(
    store: Store,
    connect: Callable[[], Awaitable[Connection]],
    namespaces: tuple[str, ...],
    *,
    ready: asyncio.Event,
    operate: Operate = kopf.operator,
) -> None:
    """Keep the store current until this is cancelled. No namespaces means all.

    `ready` is set once kopf runs; what exists arrives from then on. `operate` runs kopf, in the thread's loop.
    """
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def tell(callback: Callable[..., object], *arguments: object) -> None:
        try:
            loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # our loop has ended, so nobody wants to know
            pass

    def seen(manifest: Mapping[str, Any], kind: str | None) -> None:
        tell(store.put, manifest, kind)

    thread = _Thread(
        operate,
        lambda: registry_of(seen, connect),
        namespaces,
        ready=lambda: tell(ready.set),
        over=lambda: tell(over.set),
    )
    thread.start()
    ending = asyncio.create_task(over.wait(), name="kopf ends")
    try:
        await asyncio.shield(ending)
        raise RuntimeError("the thread that watches MCPServers ended")
    finally:
        thread.stop()
        await asyncio.wait({ending}, timeout=_STOP_GRACE)
        ending.cancel()


class _Thread(threading.Thread):
    """Runs kopf again and again until `stop`."""

    def __init__(
        self,
        operate: Operate,
        registry: Callable[[], kopf.OperatorRegistry],
        namespaces: tuple[str, ...],
        *,
        ready: Callable[[], None],
        over: Callable[[], None],
    ) -> None:
        super().__init__(name="kopf", daemon=True)
        self._kopf = operate
        self._registry = registry
        self._namespaces = namespaces
        self._ready = ready
        self._over = over
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        """kopf's loop, and what ends kopf."""

    def stop(self) -> None:
        """Make it end, soon."""
        self._stopped.set()
        with self._lock:
            if self._running is not None:
                loop, flag = self._running
                loop.call_soon_threadsafe(flag.set)

    def run(self) -> None:
        """The thread."""
        failures = 0
        try:
            while not self._stopped.is_set():
                began, why = time.monotonic(), "it ended"
                try:
                    asyncio.run(self._operate())
                except BaseException as problem:  # noqa: BLE001 - whatever ended it, it must go on
                    why = f"{type(problem).__name__}: {problem}"
                if self._stopped.is_set():
                    return
                failures = failures + 1 if time.monotonic() - began < _LIVED else 1
                log.warning("the watch of MCPServers begins anew: %s", why)
                wait = min(_BACKOFF_BASE * 2 ** min(failures - 1, 10), _BACKOFF_MAX)
                self._stopped.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311
        finally:
            self._over()

    async def _operate(self) -> None:
        # A flag of this loop: one of `threading` would keep a thread of the loop waiting after kopf has failed.
        flag = asyncio.Event()
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        started.add_done_callback(lambda _: self._ready())
        with self._lock:
            self._running = asyncio.get_running_loop(), flag
        try:
            if self._stopped.is_set():
                return
            await self._kopf(
                registry=self._registry(),
                settings=settings(),
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                standalone=True,
                ready_flag=started,
                stop_flag=flag,
            )
        finally:
            with self._lock:
                self._running = None

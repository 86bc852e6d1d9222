"""kopf and nothing else: watches MCPServers and says which of them changed.

One `on.event` handler: kopf lists and watches, the store keeps what was last seen and marks the MCPServer in our queue.
No create or update handler, no index, no timer, no daemon: those write annotations or finalizers, or cost a lock for
each object. The objects we own are watched by `kube.informer` (docs/adr/0004-informers.md).

kopf runs in a thread and an event loop of its own. It takes the process's signals and cancels every task it finds when
it ends, and it ends at the first answer of the API server that it does not expect; here it is started again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Mapping
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

Seen = Callable[[Mapping[str, Any], str | None], None]
"""Takes an object and the type of its event, None where it was listed."""


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
    return chosen


async def watch(
    store: Store,
    connect: Callable[[], Awaitable[Connection]],
    namespaces: tuple[str, ...],
    *,
    ready: asyncio.Event,
) -> None:
    """Keep the store current until this is cancelled. No namespaces means all.

    `ready` is set once kopf runs; what exists arrives from then on.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def seen(manifest: Mapping[str, Any], kind: str | None) -> None:
        loop.call_soon_threadsafe(_put, store, manifest, kind)

    def run() -> None:
        failures = 0
        while not stop.is_set():
            try:
                asyncio.run(_operate(registry_of(seen, connect), namespaces, started, stop))
                failures = 0
            except Exception as problem:  # noqa: BLE001 - whatever ended it, it must go on
                log.warning("the watch of MCPServers ended: %s: %s", type(problem).__name__, problem)
            failures += 1
            stop.wait(min(_BACKOFF_BASE * 2 ** min(failures - 1, 10), _BACKOFF_MAX) * random.uniform(0.5, 1.0))  # noqa: S311

    started = threading.Event()
    thread = threading.Thread(target=run, name="kopf", daemon=True)
    thread.start()
    try:
        await asyncio.to_thread(started.wait)
        ready.set()
        await asyncio.to_thread(thread.join)
    finally:
        stop.set()
        started.set()


async def _operate(
    registry: kopf.OperatorRegistry, namespaces: tuple[str, ...], started: threading.Event, stop: threading.Event
) -> None:
    await kopf.operator(
        registry=registry,
        settings=settings(),
        clusterwide=not namespaces,
        namespaces=namespaces,
        standalone=True,
        ready_flag=started,
        stop_flag=stop,
    )


def _put(store: Store, manifest: Mapping[str, Any], kind: str | None) -> None:
    store.put(manifest, new=kind == "ADDED", deleted=kind == "DELETED")

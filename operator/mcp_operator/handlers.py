"""kopf and nothing else: watches MCPServers and says which of them changed.

One `on.event` handler: kopf lists and watches, the store keeps what was last seen, and `changed` marks the MCPServer in
our queue. No create or update handler, no index, no timer, no daemon: those write annotations or finalizers, or cost
a lock per object (notes in docs/adr/0004-informers.md). The objects we own are watched by `kube.informer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import kopf

from mcp_operator.kube.connection import Connection
from mcp_operator.kube.resources import MCP_SERVERS
from mcp_operator.store import Store

_PAGE = 250


def registry_of(store: Store) -> kopf.OperatorRegistry:
    """The handlers, in a registry of their own."""
    registry = kopf.OperatorRegistry()

    async def seen(event: Mapping[str, Any], **_: object) -> None:
        kind = event.get("type")
        store.put(event["object"], new=kind == "ADDED", deleted=kind == "DELETED")

    kopf.on.event(MCP_SERVERS.group, MCP_SERVERS.version, MCP_SERVERS.plural, registry=registry, id="seen")(seen)
    return registry


def login(registry: kopf.OperatorRegistry, connection: Connection) -> None:
    """Let kopf use our credentials, which renew themselves: its session is one of the connection's."""

    async def credentials(**_: object) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=connection.server, aiohttp_session=connection.session())

    kopf.on.login(registry=registry, id="credentials", errors=kopf.ErrorsMode.TEMPORARY)(credentials)


def settings() -> kopf.OperatorSettings:
    """kopf's settings: nothing posted, nothing stored in objects, no scan of the cluster."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.peering.standalone = True
    chosen.watching.chunk_size = _PAGE
    chosen.watching.server_timeout = 290.0
    chosen.queueing.idle_timeout = 0.5
    return chosen


async def watch(
    store: Store,
    connection: Connection,
    namespaces: Iterable[str],
    *,
    ready: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    """Watch MCPServers until `stop`; no namespaces means all. `ready` is set once kopf runs, not once it has listed."""
    registry = registry_of(store)
    login(registry, connection)
    names = tuple(namespaces)
    await kopf.operator(
        registry=registry,
        settings=settings(),
        clusterwide=not names,
        namespaces=names,
        standalone=True,
        ready_flag=ready,
        stop_flag=stop,
    )

"""Reads every MCPServer once, before they are watched: who says that it is ready has seen all there is.

kopf does not tell when it has listed everything, only that it runs. What changes from here on it lists and watches
itself (`handlers`); an MCPServer that is read twice and did not change is no work.
"""

from __future__ import annotations

from typing import Protocol

from mcp_operator.kube.client import Page
from mcp_operator.kube.resources import MCP_SERVERS, Resource
from mcp_operator.store import Store


class Lister(Protocol):
    """What is needed of the API."""

    async def page(self, resource: Resource, namespace: str | None = None, *, token: str = "") -> Page:
        """Part of a list."""


async def read_all(client: Lister, store: Store, namespaces: tuple[str, ...]) -> int:
    """Put all MCPServers into the store; no namespaces means all. How many there are. Raises KubeError."""
    count = 0
    for namespace in namespaces or (None,):
        token = ""
        while True:
            page = await client.page(MCP_SERVERS, namespace, token=token)
            for found in page.items:  # in a list they do not say what they are
                store.put({"apiVersion": MCP_SERVERS.api_version, "kind": MCP_SERVERS.kind, **found})
            count += len(page.items)
            token = page.token
            if not token:
                break
    return count

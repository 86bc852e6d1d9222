"""A fleet of MCPServers on an API server: made in parallel, counted, changed one at a time.

The kinds take turns, so that a number is about the mixture. Knows nothing of the operator but what the API shows.
"""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cluster.api import Api, path

NAMESPACE = "fleet"
KINDS: tuple[dict[str, Any], ...] = (
    {"stdio": {"command": "uvx", "args": ["mcp-server-time"]}},
    {"stdio": {"command": "serve", "image": "registry.example/server:1", "env": [{"name": "MODE", "value": "fast"}]}},
    {"http": {"image": "registry.example/server:1", "port": 8000}, "replicas": 2},
    {"remote": {"url": "https://mcp.example/mcp"}, "timeouts": {"timeout": "10s"}},
)
MAKERS = 4
"""Threads that apply MCPServers."""


class Fleet:
    """`size` MCPServers in a namespace of their own."""

    def __init__(self, api: Api, size: int) -> None:
        self.api = api
        self.size = size
        self._versions = itertools.count(1)

    def create(self) -> float:
        """Make all of them; when the first was sent (monotonic)."""
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        began = time.monotonic()
        with ThreadPoolExecutor(MAKERS) as makers:
            for _ in makers.map(lambda number: self.api.create(self._manifest(number)), range(self.size)):
                pass
        return began

    def count(self, resource: str) -> int:
        """How many objects of a resource there are in the namespace, asked for one only."""
        found = self.api.request("GET", f"{path(resource, NAMESPACE)}?limit=1")
        return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))

    def applied(self) -> bool:
        """Whether every Deployment and Service is there."""
        return all(self.count(resource) >= self.size for resource in ("deployments", "services"))

    def change_one(self, number: int) -> float:
        """Change one MCPServer's pods; seconds from the API server's answer until its Deployment has changed."""
        name = self._name(number)
        version = self.api.request("GET", f"{path('deployments', NAMESPACE)}?limit=1")["metadata"]["resourceVersion"]
        events = self.api.watch(
            "deployments", NAMESPACE, resourceVersion=version, fieldSelector=f"metadata.name={name}", seconds=30
        )
        marker = str(next(self._versions))
        change = {"spec": {"podTemplate": {"labels": {"change": marker}}}}
        self.api.patch("mcpservers", NAMESPACE, name, change)
        began = time.monotonic()
        for _, deployment in events:
            if deployment["spec"]["template"]["metadata"]["labels"].get("change") == marker:
                return time.monotonic() - began
        raise TimeoutError(f"{name} was not applied within 30 s")

    @staticmethod
    def _name(number: int) -> str:
        return f"server-{number:05d}"

    def _manifest(self, number: int) -> dict[str, Any]:
        return {
            "apiVersion": "outrigger.dev/v1alpha1",
            "kind": "MCPServer",
            "metadata": {"name": self._name(number), "namespace": NAMESPACE},
            "spec": KINDS[number % len(KINDS)],
        }

"""MCPServers for tests, and what is waited for in them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cluster.api import Api, eventually

Object = dict[str, Any]

CHILD = str(Path(__file__).resolve().parents[1] / "children" / "tool_server.py")
KINDS: dict[str, Object] = {
    "stdio": {"stdio": {"command": sys.executable, "args": ["-S", "-E", CHILD]}},
    "stdio-image": {"stdio": {"command": "serve", "image": "test.local/server:1"}},
    "http": {"http": {"image": "test.local/server:1", "port": 8000}},
    "remote": {"remote": {"url": "http://127.0.0.1:9/mcp"}},
}
"""A minimal spec of each kind. `stdio` really runs on this machine."""
CHILDREN = (
    "configmaps",
    "deployments",
    "horizontalpodautoscalers",
    "networkpolicies",
    "poddisruptionbudgets",
    "secrets",
    "serviceaccounts",
    "services",
)
"""Resources that an MCPServer has objects of."""


def mcp_server(namespace: str, name: str = "one", kind: str = "stdio", **spec: Any) -> Object:
    """A manifest: the kind's minimal spec, with `spec` over it."""
    return {
        "apiVersion": "outrigger.dev/v1alpha1",
        "kind": "MCPServer",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**KINDS[kind], **spec},
    }


def condition(server: Object | None, kind: str) -> Object:
    """The condition of this type, or one that is Absent."""
    for one in ((server or {}).get("status") or {}).get("conditions", ()):
        if one["type"] == kind:
            found: Object = one
            return found
    return {"type": kind, "status": "Absent", "reason": "", "message": ""}


def wait_for(
    api: Api, namespace: str, name: str, kind: str, status: str, reason: str | None = None, timeout: float = 30.0
) -> Object:
    """Wait until the condition is so, for the generation that there is; the MCPServer."""

    def look() -> Object:
        server = api.get("mcpservers", namespace, name)
        found = condition(server, kind)
        assert server is not None, "no such MCPServer"
        assert found.get("observedGeneration") == server["metadata"]["generation"], f"old: {found}"
        assert (found["status"], found["reason"] if reason else None) == (status, reason), found
        return server

    return eventually(look, f"{kind}={status} {reason or ''} of {name}", timeout)


def owned(api: Api, namespace: str, server: str) -> set[tuple[str, str]]:
    """(resource, name) of every object that this MCPServer controls."""
    found = set()
    for resource in CHILDREN:
        for one in api.list(resource, namespace):
            for owner in one["metadata"].get("ownerReferences", ()):
                if (owner["kind"], owner["name"]) == ("MCPServer", server) and owner.get("controller"):
                    found.add((resource, one["metadata"]["name"]))
    return found


def settled(api: Api, namespace: str, name: str = "one", timeout: float = 30.0) -> Object:
    """Wait until the Deployment is there and the status is of this generation; the MCPServer."""

    def look() -> Object:
        server = api.get("mcpservers", namespace, name)
        assert server is not None, "no such MCPServer"
        seen = (server.get("status") or {}).get("observedGeneration")
        assert seen == server["metadata"]["generation"], f"observedGeneration {seen}"
        assert api.get("deployments", namespace, name), "no Deployment"
        return server

    return eventually(look, f"{name} settled", timeout)

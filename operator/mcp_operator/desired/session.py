"""The Secret with the key that seals legacy session ids, shared by the replicas of one MCPServer.

The manifest has no data: the key is made once by the reconciler and never applied again, so that nothing that renders
manifests ever holds it.
"""

from __future__ import annotations

from mcp_operator.api.v1alpha1 import MCPServer
from mcp_operator.desired.metadata import Manifest, manifest

SESSION_KEY = "key"
"""Key of the Secret that we make; 32 random bytes."""


def session_secret_name(server: MCPServer) -> str:
    """Name of the Secret with the session key: the user's, else `<name>-session`."""
    own = server.spec.sessions.key_secret_ref if server.spec.sessions is not None else None
    return own.name if own is not None else f"{server.metadata.name}-session"


def session_secret_key(server: MCPServer) -> str:
    """The key of that Secret."""
    own = server.spec.sessions.key_secret_ref if server.spec.sessions is not None else None
    return own.key if own is not None else SESSION_KEY


def session_secret(server: MCPServer) -> Manifest:
    """The Secret `<name>-session` without its data. It is not wanted where the user named one."""
    return {**manifest(server, "v1", "Secret", f"{server.metadata.name}-session"), "type": "Opaque"}

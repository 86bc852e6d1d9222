"""The gate of the MCP port: the allow-lists of hosts and origins, and bearer tokens where configured, as one object.

The endpoint asks it before it looks at a request (`endpoint.Gate`); the rules are in `hosts` and `tokens`.
"""

from __future__ import annotations

from collections import Counter

from mcp_sidecar.front.hosts import HostPolicy
from mcp_sidecar.front.refusal import Refusal
from mcp_sidecar.front.request import Request
from mcp_sidecar.front.tokens import BearerTokens, ToolFilter, challenge

_ANYBODY: tuple[str, ToolFilter | None] = ("", None)


class FrontGate:
    """Swapped piece by piece on a reload: both attributes may be assigned at any time."""

    def __init__(self, hosts: HostPolicy, tokens: BearerTokens | None = None) -> None:
        self.hosts = hosts
        self.tokens = tokens
        """None: anybody may call."""
        self.refusals: Counter[str] = Counter()
        """Refusals by reason."""

    def refusal(self, request: Request) -> Refusal | None:
        """Why a request is not looked at; None where host and origin are allowed."""
        return self._counted(self.hosts.refusal(request))

    def principal(self, request: Request) -> tuple[str, ToolFilter | None] | Refusal:
        """Name and tool filter of who asks; a refusal where a token is needed and missing, wrong or repeated."""
        if self.tokens is None:
            return _ANYBODY
        shown = None if b"authorization" in request.repeated else request.headers.get(b"authorization")
        principal = self.tokens.authenticate(shown)
        if principal is None:
            refusal = challenge(shown)
            self._counted(refusal)
            return refusal
        return principal.name, principal.tools

    def _counted(self, refusal: Refusal | None) -> Refusal | None:
        if refusal is not None:
            self.refusals[refusal.fault.label] += 1
        return refusal

"""When a failure that should pass by itself is told: not at once, and not never.

An API server that is busy, or changes its leader, answers so for a moment; nobody needs to know. A webhook that is down
or a range of addresses that is used up answers so until somebody does something (a 500 to us), and then it must be seen
in the status. What is tried again, and how often, is the queue's business.
"""

from __future__ import annotations

from collections.abc import Callable

from mcp_operator.errors import BeingReplaced, KubeError, Throttled
from mcp_operator.store import Key

PATIENCE = 5.0
"""Seconds of failures without a success between them, after which they are told."""


class Patience:
    """With all MCPServers. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[Key, float] = {}

    def is_over(self, key: Key, error: KubeError | BeingReplaced) -> bool:
        """Whether this failure is to be told. At once, where it will not pass by itself."""
        if isinstance(error, KubeError):
            if error.terminating or not error.transient:
                return not error.terminating
            if not error.status or isinstance(error, Throttled):
                return False  # it does not answer at all, or asks for less; a status would be one request more
        now = self._clock()
        return now - self._since.setdefault(key, now) >= PATIENCE

    def renew(self, key: Key) -> None:
        """It went well, or the MCPServer is gone."""
        self._since.pop(key, None)

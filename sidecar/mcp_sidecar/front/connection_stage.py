"""The stages of a caller's connection. What moves it from one to the next is the connection's business.

    IDLE ─► HEAD ─► BODY ─► HANDLER ─► (STREAM) ─► IDLE …        any ─► LINGER ─► CLOSED
                                          └► UNSENT ─► IDLE

A request that arrives in one piece goes from IDLE to HANDLER.
"""

from __future__ import annotations

import enum


class Stage(enum.IntEnum):
    """What a connection waits for. Up to BODY it reads requests; from HANDLER on it keeps what comes for later."""

    IDLE = 0
    """The first byte of a request."""
    HEAD = 1
    BODY = 2
    HANDLER = 3
    """The answer of the handler."""
    STREAM = 4
    """The end of an open event stream."""
    UNSENT = 5
    """The caller must read answers before its next request is looked at."""
    LINGER = 6
    """The last answer is written: what comes is discarded until the caller closes."""
    CLOSED = 7

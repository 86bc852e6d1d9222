"""The two neighbours of the multiplexer: below it a channel to one server process, above it the server's peer.

A channel (stdio child, socket of the bridge, legacy SSE) carries messages both ways, in order, and knows of each
whether its last byte was handed to the kernel, which decides what may be retried (notes/resilience.md B.7). It knows
nothing of ids, calls or eras.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.protocol.lines import Oversized


class Sent(Protocol):
    """What became of one message."""

    @property
    def delivered(self) -> bool:
        """Its last byte, the newline, was handed to the kernel: perhaps it was, or will be, read."""

    def withdraw(self) -> bool:
        """Take it back. False when a part of it may have been handed over already."""


class Channel(Protocol):
    """One connection to one server process. The three callbacks are set by the multiplexer before `open`."""

    on_message: Callable[[bytes], None]
    """One line or event, not empty, without its newline; not known to be JSON."""
    on_oversized: Callable[[Oversized], None]
    on_closed: Callable[[UpstreamError], None]
    """Called once, after the last message, whoever closed it. The error's `delivery` says nothing about any call."""

    @property
    def congested(self) -> bool:
        """So much is waiting to be written that a sender should `drain` first."""

    async def open(self) -> None:
        """Connect. Raises UpstreamError with Delivery.NOT_SENT; then nothing is left behind."""

    def send(self, message: bytes) -> Sent:
        """Queue one JSON message (no newline in it). Raises UpstreamError(NOT_SENT) when closed or hopelessly full."""

    async def drain(self) -> None:
        """Wait until it is not congested. Raises UpstreamError(NOT_SENT) when it closes meanwhile."""

    async def close(self, reason: str) -> None:
        """End it in good order, within bounded time. Safe to call twice; cancelled, it ends at once and by force."""


class Peer(Protocol):
    """Takes what a server says on its own account."""

    def on_notification(self, method: str, message: bytes) -> None:
        """A notification that names no request of ours."""

    def on_request(self, id_raw: bytes, method: str, params: bytes | None, message: bytes) -> None:
        """A request of the server (legacy: sampling, elicitation, roots, ping); answer with `Multiplexer.respond`."""

    def on_closed(self, error: UpstreamError) -> None:
        """The channel is gone; every waiting request has been failed."""


class StartError(UpstreamError):
    """A server could not be started or reached. `kind` is one of a closed set, fit for a metric label."""

    def __init__(self, kind: str, message: str, *, reason: Reason, counted: bool = True) -> None:
        super().__init__(reason, message, delivery=Delivery.NOT_SENT, counted=counted)
        self.kind = kind

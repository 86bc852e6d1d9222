"""The server's own headers, credentials mostly, as they are now and as they were.

Read at the start, at a rotation, and when the server refuses what it got. Where they cannot be read at first nothing
may be sent, never anonymously; where a later value is bad the one before stays in use (notes/resilience.md F.3).
"""

from __future__ import annotations

import logging

from mcp_sidecar.errors import SecretError
from mcp_sidecar.upstream.http_request import Headers, HeaderSource, RequestHeads, not_ready

_log = logging.getLogger(__name__)


class OwnHeaders:
    """Keeps `heads` up to date with `source`."""

    def __init__(self, source: HeaderSource, heads: RequestHeads, name: str) -> None:
        self._source = source
        self._heads = heads
        self._name = name
        self.value: Headers | None = None
        """Those in use; None while there never were good ones."""
        self.problem: str | None = None
        """Why they cannot be used as they are now, None where they can."""
        self.renew()

    def heads(self) -> RequestHeads:
        """The heads to use now. Raises UpstreamError(SERVER_NOT_READY) while there are no headers for them."""
        if self.value is None and not self.renew():
            raise not_ready(self.problem or "the server's headers cannot be read")
        return self._heads

    def renew(self) -> bool:
        """Read them again. False where they are bad."""
        try:
            value = tuple(self._source())
            if value != self.value:
                self._heads.renew(value)
            self.value = value
            self.problem = None
        except (SecretError, ValueError) as error:
            if self.problem != str(error):
                kept = "; the ones read before stay in use" if self.value is not None else ""
                _log.error("the headers of %s cannot be used: %s%s", self._name, error, kept)
            self.problem = str(error)
            return False
        return True

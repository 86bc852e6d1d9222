"""What a caller is told whose era the server behind HTTP, or HTTP+SSE, does not speak.

There nothing is translated (design.md, "Eras"): a modern caller gets what makes it fall back to `initialize`, a legacy
caller, which has nothing to fall back to, the versions that the server has.
"""

from __future__ import annotations

from typing import Final

from mcp_sidecar.pipeline.call import Reply, Source
from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.revisions import LATEST_MODERN, LEGACY_VERSIONS
from mcp_sidecar.upstream.http_probe import Found

NOT_UNDERSTOOD: Final = frozenset({400, 404, 405, 406, 415})
"""Statuses by which servers refuse a request of an era they do not know."""
_NOT_UNDERSTOOD: Final = frozenset(
    {
        envelope.METHOD_NOT_FOUND,
        envelope.HEADER_MISMATCH,
        envelope.MISSING_CLIENT_CAPABILITY,
        envelope.UNSUPPORTED_PROTOCOL_VERSION,
    }
)


def refuses_initialize(reply: Reply) -> bool:
    """Whether an answer to `initialize` looks as if the server did not know the method at all."""
    if reply.error is None:
        return False
    return reply.status in NOT_UNDERSTOOD or envelope.error_head(reply.error).code in _NOT_UNDERSTOOD


def fall_back() -> Reply:
    """What makes a conforming modern client fall back to `initialize`: a 400 whose body is no modern error."""
    message = "this server speaks legacy revisions only: send initialize"
    return Reply(error=envelope.error_object(envelope.INVALID_REQUEST, message), status=400, source=Source.SIDECAR)


def modern_only(found: Found, requested: str) -> Reply | None:
    """The answer to `initialize` of a server that names no legacy version; None where it names one.

    HTTP status 200, because SDK 1.x clients show the message of such an error and of no other.
    """
    versions = found.versions or (LATEST_MODERN,)
    if any(version in LEGACY_VERSIONS for version in versions):
        return None
    message = f"unsupported protocol version: this server speaks {', '.join(versions)} only, which has no initialize"
    data = {"supported": list(versions), "requested": requested}
    return Reply(error=envelope.error_object(envelope.INVALID_PARAMS, message, data), source=Source.SIDECAR)

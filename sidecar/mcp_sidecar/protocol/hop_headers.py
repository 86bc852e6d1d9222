"""Headers that are about one connection or one message on it, so that a request that is passed on never carries them.

Those of RFC 9110 7.6.1 and what HTTP/1.1 knows beside (RFC 9112), in lower case. What else is not passed on is left to
whoever passes it on.
"""

from __future__ import annotations

from typing import Final

HOP_HEADERS: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

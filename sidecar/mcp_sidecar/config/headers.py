"""What may stand in `headers`: names and values as HTTP allows them, and not what the protocol sets itself."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")

USELESS_HEADERS = frozenset({"accept", "content-type"})
"""Desktop clients' files name them; what MCP wants is sent anyway."""

MANAGED_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""They belong to the message or the connection; a fixed value would break one or the other."""


def header_problem(name: str, value: str) -> str | None:
    """What is wrong with a header, or None. RFC 9110 5.1 and 5.5; never echoes the value."""
    if not _TOKEN.fullmatch(name):
        return "is no name of a header"
    if any((character < " " and character != "\t") or character == "\x7f" for character in value):
        return "has a control character in its value"
    if any(character > "\xff" for character in value):
        return "has a character in its value that HTTP cannot carry"
    return None

"""Names that are made of a server's name."""

from __future__ import annotations

import re


def token_name(server: str) -> str:
    """What stands for a server's name in `MCP_TOKEN_<SERVER>`: `brave-search` is `BRAVE_SEARCH`."""
    return re.sub(r"[^A-Z0-9]", "_", server.upper())

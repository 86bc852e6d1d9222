#!/opt/everything/bin/python
"""The MCP SDK's everything server on stdio: its own entry point serves HTTP only.

`mcp-everything-server` in the sidecar-runtime image, where the first line is right; elsewhere it is run by a Python
that finds the module. The era is that of the first request (SDK 2.3.0, `serve_dual_era_loop`).
"""

from __future__ import annotations

import logging
import sys

from mcp_everything_server.server import mcp  # type: ignore[import-not-found,unused-ignore]

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    mcp.run("stdio")

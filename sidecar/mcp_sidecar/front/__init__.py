"""The caller's side: HTTP in, MCP endpoint, sessions."""

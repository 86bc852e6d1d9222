"""Outrigger's sidecar: a pooled, resilient MCP endpoint in front of any MCP server."""

__version__ = "0.1.0"

"""The vocabulary of others: the seed's names, and what desktop clients are known to write into their files.

Tables only. `RENAMED` has an effect here; `FOREIGN` has none and loads with a warning (an empty text: silently).
Sources: the clients' documentation in 2026 (Claude Desktop and Code, VS Code, Cursor, Windsurf, Cline, Roo, Gemini).
"""

from __future__ import annotations

from mcp_sidecar.config.document import Config
from mcp_sidecar.config.resilience import Cache, CircuitBreaker, Pool, Retry
from mcp_sidecar.config.scalars import Section
from mcp_sidecar.config.server import Server

RENAMED: dict[type[Section], dict[str, tuple[str, ...]]] = {
    Config: {
        "mcpServers": ("servers",),
        "mcp_servers": ("servers",),
        "metrics_enabled": ("metrics", "enabled"),
        "metricsEnabled": ("metrics", "enabled"),
        "health_check_enabled": ("healthCheckEnabled",),
        "healthCheckEnabled": ("healthCheckEnabled",),
    },
    Server: {
        "cwd": ("workingDir",),
        "type": ("transport",),
        "transportType": ("transport",),
        "serverUrl": ("url",),
        "httpUrl": ("url",),
        "enabled": ("disabled",),
        "includeTools": ("allowedTools",),
        "excludeTools": ("deniedTools",),
        "disabledTools": ("deniedTools",),
        "retry_attempts": ("retry", "maxRetries"),
        "retryAttempts": ("retry", "maxRetries"),
        "health_check_interval": ("health", "interval"),
        "healthCheckInterval": ("health", "interval"),
    },
    Retry: {"base_delay": ("backoff", "base"), "max_delay": ("backoff", "max")},
    CircuitBreaker: {"failure_threshold": ("consecutiveFailures",), "recovery_timeout": ("openDuration",)},
    Pool: {
        "max_connections": ("max",),
        "min_connections": ("min",),
        "connection_timeout": ("acquireTimeout",),
    },
    Cache: {"default_ttl": ("listTtl",)},
}
"""Other names of our settings, with the path from the section they are written in."""

_ASK = "has no effect: nobody is asked before a tool runs; allowedTools bounds what may be called"
_CLIENT = "has no effect: it belongs to the client this file was written for"

FOREIGN: dict[type[Section], dict[str, str]] = {
    Config: {
        "$schema": "",
        "inputs": "has no effect: there is nobody to ask; ${input:…} is refused where it is used",
        **dict.fromkeys(
            (
                "globalShortcut",
                "preferences",
                "isUsingBuiltInNodeForMcp",
                "isDxtAutoUpdatesEnabled",
                "theme",
                "userThemeMode",
                "scale",
                "locale",
                "sandbox",
                "selectedAuthType",
                "security",
                "general",
                "ui",
                "ide",
            ),
            _CLIENT,
        ),
    },
    Server: {
        "autoApprove": _ASK,
        "alwaysAllow": _ASK,
        "trust": _ASK,
        "envFile": 'is not read; name the variables in env, with {"valueFrom": {"file": PATH}} or ${NAME}',
        "dev": "has no effect: it is for developing the server in an editor",
        "watchPaths": "has no effect: it is for developing the server in an editor",
        "headersHelper": "is not run; name the headers in headers",
        "oauth": "has no effect: the sidecar starts no login; give an Authorization header",
        "auth": "has no effect: the sidecar starts no login; give an Authorization header",
        "sandboxEnabled": _CLIENT,
        "sandbox": _CLIENT,
        "gallery": _CLIENT,
        "version": _CLIENT,
        "name": "",
        "description": "",
        "icon": "",
        "note": "",
    },
}
"""Keys that load without effect, with what is said about it."""

TRANSPORTS = {
    "auto": "Auto",
    "stdio": "Stdio",
    "http": "StreamableHTTP",
    "streamable": "StreamableHTTP",
    "streamablehttp": "StreamableHTTP",
    "sse": "SSE",
}
"""Spellings of a transport, lower case and letters only."""

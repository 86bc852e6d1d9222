"""The config: its models, how it is loaded, its JSON Schema, every default in one place.

This is the one contract between sidecar and operator; the operator imports nothing else of the sidecar. It needs
pydantic and the standard library only. What settings do is left to the parts they configure.


The names below are imported when they are asked for: the running sidecar uses a snapshot of the config (`apart`) and
never loads the models.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_sidecar.config.document import SERVER_NAME_PATTERN, Config
    from mcp_sidecar.config.front import (
        Audit,
        Front,
        FrontTls,
        Log,
        Metrics,
        Readiness,
        Secrets,
        Sessions,
        Shutdown,
        Token,
    )
    from mcp_sidecar.config.headers import MANAGED_HEADERS
    from mcp_sidecar.config.json_schema import schema
    from mcp_sidecar.config.loaded import LoadedConfig
    from mcp_sidecar.config.loader import load, load_text
    from mcp_sidecar.config.parsing import Parsed, parse
    from mcp_sidecar.config.patterns import NamePatterns
    from mcp_sidecar.config.resilience import (
        Backoff,
        Budget,
        Cache,
        CircuitBreaker,
        Health,
        Limits,
        Pool,
        Rate,
        Restart,
        Retry,
        Stop,
        UpstreamTls,
    )
    from mcp_sidecar.config.scalars import (
        DURATION_PATTERN,
        SIZE_PATTERN,
        ByteSize,
        Duration,
        Percent,
        Section,
        parse_duration,
        parse_size,
        setting,
        show_duration,
        show_size,
    )
    from mcp_sidecar.config.server import EnvFrom, Server
    from mcp_sidecar.config.values import SEALED_PREFIX, Reference, Text, Value
    from mcp_sidecar.errors import ConfigError, Problem

_PLACES = {
    "Audit": "config.front",
    "Backoff": "config.resilience",
    "Budget": "config.resilience",
    "ByteSize": "config.scalars",
    "Cache": "config.resilience",
    "CircuitBreaker": "config.resilience",
    "Config": "config.document",
    "ConfigError": "errors",
    "DURATION_PATTERN": "config.scalars",
    "Duration": "config.scalars",
    "EnvFrom": "config.server",
    "Front": "config.front",
    "FrontTls": "config.front",
    "Health": "config.resilience",
    "Limits": "config.resilience",
    "LoadedConfig": "config.loaded",
    "Log": "config.front",
    "MANAGED_HEADERS": "config.headers",
    "Metrics": "config.front",
    "NamePatterns": "config.patterns",
    "Parsed": "config.parsing",
    "Percent": "config.scalars",
    "Pool": "config.resilience",
    "Problem": "errors",
    "Rate": "config.resilience",
    "Readiness": "config.front",
    "Reference": "config.values",
    "Restart": "config.resilience",
    "Retry": "config.resilience",
    "SEALED_PREFIX": "config.values",
    "SERVER_NAME_PATTERN": "config.document",
    "SIZE_PATTERN": "config.scalars",
    "Secrets": "config.front",
    "Section": "config.scalars",
    "Server": "config.server",
    "Sessions": "config.front",
    "Shutdown": "config.front",
    "Stop": "config.resilience",
    "Text": "config.values",
    "Token": "config.front",
    "UpstreamTls": "config.resilience",
    "Value": "config.values",
    "load": "config.loader",
    "load_text": "config.loader",
    "parse": "config.parsing",
    "parse_duration": "config.scalars",
    "parse_size": "config.scalars",
    "schema": "config.json_schema",
    "setting": "config.scalars",
    "show_duration": "config.scalars",
    "show_size": "config.scalars",
}


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"mcp_sidecar.{place}"), name)


__all__ = [
    "DURATION_PATTERN",
    "MANAGED_HEADERS",
    "SEALED_PREFIX",
    "SERVER_NAME_PATTERN",
    "SIZE_PATTERN",
    "Audit",
    "Backoff",
    "Budget",
    "ByteSize",
    "Cache",
    "CircuitBreaker",
    "Config",
    "ConfigError",
    "Duration",
    "EnvFrom",
    "Front",
    "FrontTls",
    "Health",
    "Limits",
    "LoadedConfig",
    "Log",
    "Metrics",
    "NamePatterns",
    "Parsed",
    "Percent",
    "Pool",
    "Problem",
    "Rate",
    "Readiness",
    "Reference",
    "Restart",
    "Retry",
    "Secrets",
    "Section",
    "Server",
    "Sessions",
    "Shutdown",
    "Stop",
    "Text",
    "Token",
    "UpstreamTls",
    "Value",
    "load",
    "load_text",
    "parse",
    "parse_duration",
    "parse_size",
    "schema",
    "setting",
    "show_duration",
    "show_size",
]

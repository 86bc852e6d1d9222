"""The config: its models, how it is loaded, its JSON Schema, every default in one place.

This is the one contract between sidecar and operator; the operator imports nothing else of the sidecar. It needs
pydantic and the standard library only. What settings do is left to the parts they configure.
"""

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
from mcp_sidecar.config.loader import LoadedConfig, load, load_text
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
from mcp_sidecar.config.schema import schema
from mcp_sidecar.config.server import Server
from mcp_sidecar.config.values import SEALED_PREFIX, Reference, Text, Value
from mcp_sidecar.errors import ConfigError, Problem

__all__ = [
    "DURATION_PATTERN",
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

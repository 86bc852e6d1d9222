"""`Mcp-Param-*` headers: parameters that a tool's schema asks to be mirrored into headers, and whether they agree.

2026-07-28 `basic/transports/streamable-http`, "Custom Headers from Tool Parameters". Whoever reads the body must check
the headers against it; behind HTTP the server itself does, in front of stdio nobody but the sidecar can. A schema with
an annotation that the specification forbids has none: conforming clients do not use such a tool.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from mcp_sidecar.protocol.revisions import decode_header

ANNOTATION: Final = "x-mcp-header"
_ANNOTATION_BYTES: Final = ANNOTATION.encode()
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")
_INTEGER: Final = re.compile(r"-?[0-9]{1,16}(?:\.0{1,16})?\Z")
_PRIMITIVE: Final = frozenset({"integer", "string", "boolean"})
_DATA: Final = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are instances, not schemas."""

Paths = Mapping[bytes, tuple[str, ...]]
"""Header name in lower case → where its value is in the arguments."""


class _Forbidden(ValueError):
    """An annotation where or as none may be."""


def mirrored(schema: bytes) -> Paths:
    """The headers that an `inputSchema` asks for; empty where it asks for none, or in a way that is not allowed."""
    if _ANNOTATION_BYTES not in schema:
        return {}
    found: dict[bytes, tuple[str, ...]] = {}
    try:
        _walk(msgspec.json.decode(schema), (), found)
    except (_Forbidden, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found


def _walk(node: Any, path: tuple[str, ...] | None, found: dict[bytes, tuple[str, ...]]) -> None:
    """Collect below a schema; `path` is None where properties are no longer reachable by `properties` alone."""
    if isinstance(node, list):
        for item in node:
            _walk(item, None, found)
        return
    if not isinstance(node, dict):
        return
    if ANNOTATION in node:
        token = node[ANNOTATION]
        if not path or not isinstance(token, str) or not _TOKEN.match(token) or node.get("type") not in _PRIMITIVE:
            raise _Forbidden
        header = b"mcp-param-" + token.lower().encode()
        if header in found:
            raise _Forbidden
        found[header] = path
    for keyword, value in node.items():
        if keyword == "properties" and isinstance(value, dict):
            for name, schema in value.items():
                _walk(schema, (*path, name) if path is not None else None, found)
        elif keyword not in _DATA and keyword != ANNOTATION:
            _walk(value, None, found)


def disagreement(
    paths: Paths, headers: Mapping[bytes, bytes], repeated: Collection[bytes], arguments: Mapping[str, Any]
) -> str | None:
    """What is wrong between headers (lower-case names, trimmed values) and arguments; None where they agree."""
    for header, path in paths.items():
        sent = headers.get(header)
        value = _value(arguments, path)
        name = header.decode("ascii")
        if header in repeated:
            return f"{name} appears more than once"
        if value is None:
            if sent is not None:
                return f"{name} is there, its value in the arguments is not"
        elif sent is None:
            return f"{name} is missing"
        elif not _same(decode_header(sent), value):
            return f"{name} does not match the arguments"
    return None


def _value(arguments: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(arguments, dict) or name not in arguments:
            return None
        arguments = arguments[name]
    return arguments


def _same(sent: str | None, value: Any) -> bool:
    """Whether a decoded header is the text of a value; integers are compared as numbers."""
    if sent is None:
        return False
    if isinstance(value, bool):
        return sent == ("true" if value else "false")
    if isinstance(value, (int, float)):
        return _INTEGER.match(sent) is not None and int(sent.partition(".")[0]) == value
    return isinstance(value, str) and sent == value

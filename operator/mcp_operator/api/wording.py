"""Says in words what a field of the CRD takes, and what stands there instead, unless that may be a secret."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from mcp_operator.api.v1alpha1.base import (
    DATA_KEY_PATTERN,
    LABEL_NAME_PATTERN,
    NAME_PATTERN,
    QUANTITY_PATTERN,
    VARIABLE_PATTERN,
)
from mcp_operator.api.v1alpha1.kinds import URL_PATTERN
from mcp_sidecar.config import DURATION_PATTERN, SIZE_PATTERN
from mcp_sidecar.config.describe import shape

Schema = Mapping[str, Any]

PATTERNS = {
    DURATION_PATTERN: "a duration such as 250ms, 30s, 5m or 1h",
    SIZE_PATTERN: "a size such as 512KiB or 4MiB",
    NAME_PATTERN: "the name of an object: a-z, 0-9, - and ., beginning and ending with a letter or digit",
    LABEL_NAME_PATTERN: "a name of a-z, 0-9 and -, beginning and ending with a letter or digit",
    DATA_KEY_PATTERN: "a key of a Secret or ConfigMap: A-Z, a-z, 0-9, -, _ and .",
    VARIABLE_PATTERN: "the name of an environment variable",
    QUANTITY_PATTERN: "an amount such as 500m or 1Gi",
    URL_PATTERN: "a URL that begins with http:// or https://, without user, password and #fragment",
}
_KINDS = {"array": "a list", "boolean": "true or false", "integer": "a whole number", "number": "a number"}
_KINDS |= {"object": "an object", "string": "a string"}
# Literals of env and headers, and what people put tokens into although they should not.
_SECRET = re.compile(r"\.value$|\.(args|command)(\[\d+\])?$|\.url$|\.annotations\b")
_MAX_SHOWN = 64


def wanted(schema: Schema) -> str:
    """What a field takes, with its bounds: `a whole number from 1 to 64`."""
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return PATTERNS.get(schema.get("pattern", ""), "a whole number or a percentage such as 50%")
    pattern = schema.get("pattern")
    if pattern is not None:
        text = PATTERNS.get(pattern, f"a string like {pattern}")
        most = schema.get("maxLength")
        return text + (
            f", at most {most} characters" if most and pattern not in (DURATION_PATTERN, SIZE_PATTERN) else ""
        )
    text = _KINDS[schema.get("type", "object")]
    if schema.get("minLength"):
        text = "a string that is not empty"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        above = schema.get("exclusiveMinimum")
        text += f" above {low:.10g} and at most {high:.10g}" if above else f" from {low:.10g} to {high:.10g}"
    elif low is not None:
        text += f", at least {low:.10g}"
    return text


def is_secret(path: str) -> bool:
    """Whether the text at a path may be a secret."""
    return _SECRET.search(path) is not None


def shown(value: Any, *, secret: bool = False) -> str:
    """What stands there: `"blue"`, `the number 3`, `a list of 2`."""
    if not secret and isinstance(value, int | float) and not isinstance(value, bool):
        return f"the number {value}"[:_MAX_SHOWN]
    if not secret and isinstance(value, str) and 0 < len(value) <= _MAX_SHOWN and value.isprintable():
        return f'"{value}"'
    return shape(value, secret=secret)


def nearest(name: str, path: str, properties: Mapping[str, Any]) -> str:
    """`; did you mean …?` for an unknown field, or nothing: a sibling that is spelled alike, else the one field of
    that name further down or elsewhere in the spec."""
    flat = {_flat(known): known for known in properties}
    close = difflib.get_close_matches(_flat(name)[:64], flat, n=1, cutoff=0.75)
    if close:
        return f"; did you mean {flat[close[0]]}?"
    below = [
        f"{known}.{inner}"
        for known in properties
        for inner in _inside(properties[known])
        if _flat(inner) == _flat(name)
    ]
    if below:
        return f"; did you mean {below[0]}?"
    return _elsewhere(_flat(name)) if path.startswith("spec") else ""


def _inside(schema: Schema) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schema.get("properties", {})
    return found


@cache
def _elsewhere(flat: str) -> str:
    from mcp_operator.api.crd import schema  # which imports the models; here only for a message

    places: list[str] = []

    def walk(node: Schema, path: str) -> None:
        for name, inner in _inside(node).items():
            if _flat(name) == flat:
                places.append(f"{path}.{name}")
            walk(inner, f"{path}.{name}")

    walk(schema()["properties"]["spec"], "spec")
    return f"; did you mean {places[0]}?" if len(places) == 1 else ""


def _flat(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

"""Checks data against the CRD's schema and its rules, and says everything that is wrong, each with what would be right.

An API server does the same before it stores an MCPServer; here it is done for files that no API server has seen. Text
is shown unless it may be a secret. Which data, and what is made of it, is left to `parsing`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mcp_operator.api.cel import compiled
from mcp_operator.api.cel_functions import CelError, expression
from mcp_operator.api.wording import is_secret, nearest, shown, wanted
from mcp_operator.errors import Problem

Schema = Mapping[str, Any]

_TYPES: dict[str, type | tuple[type, ...]] = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "object": dict,
    "string": str,
}


def check(value: Any, schema: Schema, path: str = "") -> Iterator[Problem]:
    """Everything that is wrong with `value`, which stands at `path`: first its shape, then its rules."""
    wrong = list(_shape(value, schema, path))
    yield from wrong
    if not any(problem.path == path for problem in wrong):
        yield from _rules(value, schema, path, wrong)


def _shape(value: Any, schema: Schema, path: str) -> Iterator[Problem]:
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, int | str):
            yield Problem(path, f"must be {wanted(schema)}; it is {shown(value)}")
            return
    elif not _is(value, schema.get("type", "object")):
        # text where an object belongs is most often the secret that a reference was to name
        secret = is_secret(path) or schema.get("type") in ("array", "object")
        yield Problem(path, f"must be {wanted(schema)}; it is {shown(value, secret=secret)}")
        return
    match value:
        case dict():
            yield from _object(value, schema, path)
        case list():
            yield from _array(value, schema, path)
        case str():
            yield from _text(value, schema, path)
        case bool():
            pass
        case int() | float():
            low, high = schema.get("minimum"), schema.get("maximum")
            under = low is not None and (value <= low if schema.get("exclusiveMinimum") else value < low)
            if under or (high is not None and value > high):
                yield Problem(path, f"must be {wanted(schema)}; it is {value:.10g}")


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[Problem]:
    if len(value) > schema.get("maxProperties", len(value)):
        yield Problem(path, f"must have at most {schema['maxProperties']} entries; it has {len(value)}")
    if "additionalProperties" in schema:
        for key, item in value.items():
            yield from check(item, schema["additionalProperties"], f"{path}[{key}]" if "." in key else f"{path}.{key}")
        return
    properties = schema.get("properties")
    if properties is None or schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    for name in schema.get("required", ()):
        if name not in value:
            yield Problem(f"{path}.{name}", f"is missing; it must be {wanted(properties[name])}")
    for key, item in value.items():
        if key in properties:
            yield from check(item, properties[key], f"{path}.{key}")
        else:
            yield Problem(f"{path}.{key[:64]}", "unknown field" + nearest(key, path, properties))


def _array(value: list[Any], schema: Schema, path: str) -> Iterator[Problem]:
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not least <= len(value) <= most:
        bound = f"at least {least}" if len(value) < least else f"at most {most}"
        yield Problem(path, f"must have {bound} items; it has {len(value)}")
    for index, item in enumerate(value):
        yield from check(item, schema["items"], f"{path}[{index}]")
    keys = schema.get("x-kubernetes-list-map-keys", ())
    if not keys and schema.get("x-kubernetes-list-type") != "set":
        return
    seen: dict[Any, int] = {}
    for index, item in enumerate(value):
        if isinstance(item, dict) or not keys:
            same = tuple(repr(item.get(key)) for key in keys) if keys else repr(item)
            first = seen.setdefault(same, index)
            if first != index:
                what = f"the same {' and '.join(keys)} as" if keys else "the same as"
                yield Problem(f"{path}[{index}]", f"has {what} [{first}]" if keys else f"is {what} [{first}]")


def _text(value: str, schema: Schema, path: str) -> Iterator[Problem]:
    if "enum" in schema:
        if value not in schema["enum"]:
            close = next((f"; did you mean {name}?" for name in schema["enum"] if name.lower() == value.lower()), "")
            yield Problem(path, f"must be {wanted(schema)}; it is {shown(value)}{close}")
        return
    least, most = schema.get("minLength", 0), schema.get("maxLength", len(value))
    pattern = schema.get("pattern")
    if len(value) > most and pattern is None:
        yield Problem(path, f"must be at most {most} characters; it has {len(value)}")
    elif not least <= len(value) <= most or (pattern is not None and not expression(pattern).search(value)):
        yield Problem(path, f"must be {wanted(schema)}; it is {shown(value, secret=is_secret(path))}")


def _rules(value: Any, schema: Schema, path: str, wrong: list[Problem]) -> Iterator[Problem]:
    for rule in schema.get("x-kubernetes-validations", ()):
        place = path + rule.get("fieldPath", "")
        try:
            holds = compiled(rule["rule"])(value)
        except CelError as error:
            if not wrong:  # else it stumbled over what has been said already
                yield Problem(place, f"{rule['message']} (the rule {error})")
            continue
        if not holds and not any(_looks_at(rule["rule"], problem, path) for problem in wrong):
            it_is = f"; it is {shown(value)}" if isinstance(value, str) and not is_secret(place) else ""
            yield Problem(place, rule["message"] + it_is)


def _looks_at(rule: str, problem: Problem, path: str) -> bool:
    """Whether a rule about `path` reads a field that is wrong already: then that it fails says nothing."""
    steps = re.findall(r"[A-Za-z]+", problem.path[len(path) :])
    return bool(steps) and all(re.search(rf"\b{step}\b", rule) for step in steps)

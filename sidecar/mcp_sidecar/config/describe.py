"""Says in words what a field takes, and what shape a wrong value has. Never shows a text value.

Used by the error messages and by the reference, so that both say the same.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from mcp_sidecar.config.scalars import DURATION_HELP, SIZE_HELP, Section, Unit, show_duration, show_size
from mcp_sidecar.config.values import VALUE_HELP, Text, Value


def field_type(field: FieldInfo) -> str:
    """What `field` takes, with its bounds: `a whole number from 1 to 64`."""
    return described(field.annotation, list(field.metadata))


def described(annotation: Any, metadata: list[Any] | None = None) -> str:
    """What `annotation` takes, in words."""
    metadata = metadata or []
    if get_origin(annotation) is typing.Annotated:
        inner, *more = get_args(annotation)
        return described(inner, [*_flat(more), *metadata])
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return described(kinds[0], metadata) + " or null"
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(get_args(annotation))
    unit = next((entry.name for entry in metadata if isinstance(entry, Unit)), None)
    if unit == "duration":
        return DURATION_HELP + _bounds(metadata, show_duration)
    if unit == "size":
        return SIZE_HELP + _bounds(metadata, lambda size: show_size(int(size)))
    if unit == "percent":
        return "a whole percent" + _bounds(metadata, "{:.10g}".format)
    origin = get_origin(annotation)
    if origin is tuple:
        return "a list, each item " + described(get_args(annotation)[0])
    if origin is dict:
        return "an object, each value " + described(get_args(annotation)[1])
    return _plain(annotation) + _bounds(metadata, "{:.10g}".format)


def _plain(annotation: Any) -> str:
    if isinstance(annotation, type):
        if issubclass(annotation, Text):
            return "a string"
        if issubclass(annotation, Value):
            return VALUE_HELP
        if issubclass(annotation, Section):
            return "an object"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}.get(annotation, "a value")


def _flat(metadata: list[Any]) -> list[Any]:
    flat: list[Any] = []
    for entry in metadata:
        flat.extend(entry.metadata if isinstance(entry, FieldInfo) else [entry])
    return flat


def _bounds(metadata: list[Any], show: Any) -> str:
    low = high = longest = None
    above = False
    for entry in metadata:
        match entry:
            case annotated_types.Ge():
                low = show(entry.ge)
            case annotated_types.Gt():
                low, above = show(entry.gt), True
            case annotated_types.Le():
                high = show(entry.le)
            case annotated_types.MaxLen():
                longest = entry.max_length
    if longest is not None:
        return f" of at most {longest} characters"
    if low is None and high is None:
        return ""
    if low is None:
        return f", at most {high}"
    if high is None:
        return f", {'above' if above else 'at least'} {low}"
    return f", above {low} and at most {high}" if above else f", from {low} to {high}"


def shape(value: object, *, secret: bool = False) -> str:
    """What a wrong value is like: `a string of 7 characters`. Numbers are shown unless `secret`."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return "a number" if secret or len(str(value)) > 20 else f"the number {value}"
        case str():
            return "an empty string" if not value else f"a string of {len(value)} character{'s'[: len(value) > 1]}"
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
    return "something else"

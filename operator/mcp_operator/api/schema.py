"""Makes the structural schema (OpenAPI v3, as CustomResourceDefinitions take it) of the models.

Not pydantic's own JSON Schema: that has `$ref`, `anyOf` and `null`, which a structural schema may not have, and knows
neither list types nor CEL. Rules across fields come from `declared`; bounds of durations and sizes become CEL rules
here, since they are strings in the API.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mcp_operator.api.declared import rules_of
from mcp_operator.api.rule import bound_rule
from mcp_operator.api.v1alpha1.base import Change, Format, IntOrString, Raw
from mcp_sidecar.config import DURATION_PATTERN, SIZE_PATTERN, Cache, Retry, show_duration, show_size

MAX_UNIT_LENGTH = 12
"""Characters of a duration or size: nine decimals at most, and no size in GiB that overflows CEL's 64 bits."""

_ENTRIES: dict[tuple[type[BaseModel], str], int] = {(Retry, "tools"): 128, (Cache, "tools"): 128}
"""Bounds of the sidecar's maps that its own config does not need: an API server has to estimate what CEL costs."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A field where it stands: its path (`spec.stdio.env[].name`), its model and attribute, what a change does."""

    path: str
    owner: type[BaseModel]
    name: str
    info: FieldInfo
    change: Change


def places(model: type[BaseModel], path: str, change: Change = "Live") -> Iterator[Place]:
    """Every field of `model`, which stands at `path`, and of what is below, sections before their fields."""
    for name, info in model.model_fields.items():
        here = f"{path}.{info.alias or name}"
        now = _extra(info).get("x-change") or change
        yield Place(here, model, name, info, now)
        inner, step = inner_model(info.annotation)
        if inner is not None:
            yield from places(inner, here + step, now)


def inner_model(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The model that an annotation holds, and the step to it: nothing, `[]` or `.NAME`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType, typing.Annotated):
        return inner_model(arguments[0])
    if origin in (tuple, dict):
        return inner_model(arguments[origin is dict])[0], ".NAME" if origin is dict else "[]"
    return None, ""


def schema_of(model: type[BaseModel], change: Change = "Live") -> Json:
    """The structural schema of an object that `model` describes."""
    properties: Json = {}
    required = []
    for name, info in model.model_fields.items():
        alias = info.alias or name
        properties[alias] = field_schema(model, name, info, change)
        if info.is_required():
            required.append(alias)
    schema: Json = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    rules = [rule.validation() for rule in rules_of(model)]
    return {**schema, **({"x-kubernetes-validations": rules} if rules else {})}


def field_schema(model: type[BaseModel], name: str, info: FieldInfo, inherited: Change) -> Json:
    """The schema of one field: its type and bounds, default, list type, description."""
    extra = _extra(info)
    change: Change = extra.get("x-change") or inherited
    schema = _typed(info.annotation, list(info.metadata), change)
    if (model, name) in _ENTRIES:
        schema["maxProperties"] = _ENTRIES[model, name]
    if extra.get("x-list-type"):
        schema["x-kubernetes-list-type"] = extra["x-list-type"]
    if extra.get("x-keys"):
        schema["x-kubernetes-list-map-keys"] = list(extra["x-keys"])
    value = stored_default(info)
    if value is not None:
        schema["default"] = value
    return {"description": describe(info, change), **schema}


def describe(info: FieldInfo, change: Change) -> str:
    """What is said of a field: what it is, a default that is computed, and whether a change rolls the pods."""
    text = info.description or ""
    if said := said_bounds(info):
        text += f" {said[0].upper()}{said[1:]}."
    if (value := said_default(info)) is not None:
        text += f" Default: {value}."
    return text + (" Rolls the pods." if change == "Rolls" else "")


def _size(size: float) -> str:
    return show_size(int(size))


_SHOWN: dict[str, Callable[[float], str]] = {"duration": show_duration, "size": _size}


def said_bounds(info: FieldInfo) -> str:
    """The bounds of a number, duration or size in words, nothing where it has none."""
    annotation, metadata = info.annotation, list(info.metadata)
    unit = unit_of(annotation, metadata)
    if unit is None and not _is_number(annotation):
        return ""
    show = _SHOWN.get(unit or "", "{:.10g}".format)
    low, high, above = bounds(metadata)
    mark = " %" if unit == "percent" else ""
    if low is not None and high is not None:
        return f"above {show(low)} and at most {show(high)}{mark}" if above else f"{show(low)} to {show(high)}{mark}"
    return f"at least {show(low)}" if low else ""


def _is_number(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = get_args(annotation)[0]
    return annotation in (int, float)


def said_default(info: FieldInfo) -> str | None:
    """The default in words, be it in the CRD or computed; None where there is none worth saying."""
    shown = _extra(info).get("x-default")
    if shown:
        return str(shown) if shown != "{}" else None
    value = stored_default(info)
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return json.dumps(value) if isinstance(value, bool) else None if value is None or value == "" else str(value)


def stored_default(info: FieldInfo) -> Any:
    """The default of a field that goes into the CRD, as JSON data; None where it has none or one that is computed."""
    extra = _extra(info)
    if info.is_required() or info.default_factory is not None or not extra.get("x-stored", True):
        return None
    if info.default is None or info.default == ():
        return None
    unit = unit_of(info.annotation, list(info.metadata))
    if unit == "duration":
        return show_duration(info.default)
    if unit == "size":
        return show_size(info.default)
    return list(info.default) if isinstance(info.default, tuple) else info.default


def flattened(annotation: Any) -> tuple[Any, list[Any]]:
    """A type and its metadata, whatever it is wrapped in."""
    metadata: list[Any] = []
    while get_origin(annotation) is typing.Annotated:
        annotation, *more = get_args(annotation)
        metadata = [*_flat(more), *metadata]
    return annotation, metadata


def unit_of(annotation: Any, metadata: list[Any]) -> str | None:
    """`duration`, `size`, `percent` or None."""
    metadata = [*flattened(annotation)[1], *metadata]
    return next((str(entry.name) for entry in metadata if type(entry).__name__ == "Unit"), None)


def _typed(annotation: Any, metadata: list[Any], change: Change) -> Json:
    """The schema of a type, with the bounds in `metadata`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _typed(arguments[0], [*_flat(arguments[1:]), *metadata], change)
    if any(isinstance(entry, IntOrString) for entry in metadata):
        halves = _typed(arguments[0], [], change) | _typed(arguments[1], [], change)
        return {"x-kubernetes-int-or-string": True} | {k: halves[k] for k in halves if k not in ("type", "format")}
    if origin in (Union, types.UnionType):
        return _typed(arguments[0], metadata, change)
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if annotation == Raw:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    unit = unit_of(annotation, metadata)
    if unit in ("duration", "size"):
        pattern = DURATION_PATTERN if unit == "duration" else SIZE_PATTERN
        text = {"type": "string", "pattern": pattern, "maxLength": MAX_UNIT_LENGTH}
        rule = bound_rule(unit, bounds(metadata))
        return {**text, "x-kubernetes-validations": [rule.validation()]} if rule else text
    if origin is tuple:
        return {"type": "array", "items": _items(arguments[0], change), **_lengths(metadata, "Items")}
    if origin is dict:
        inner = _typed(arguments[1], [], change)
        return {"type": "object", "additionalProperties": inner, **_lengths(metadata, "Properties")}
    return _plain(annotation, metadata, change)


def _items(annotation: Any, change: Change) -> Json:
    inner = _typed(annotation, [], change)
    model = inner_model(annotation)[0]
    return {"description": (model.__doc__ or "").strip(), **inner} if model is not None else inner


def _plain(annotation: Any, metadata: list[Any], change: Change) -> Json:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return schema_of(annotation, change)
    low, high, above = bounds(metadata)
    limits: Json = {}
    if low is not None:
        limits["minimum"] = low
    if above:
        limits["exclusiveMinimum"] = True
    if high is not None:
        limits["maximum"] = high
    if annotation is bool:
        return {"type": "boolean"}
    if annotation is int:
        return {"type": "integer", "format": "int32" if high is not None and high < 1 << 31 else "int64", **limits}
    if annotation is float:
        return {"type": "number", **limits}
    if annotation is str:
        pattern = next((entry.pattern for entry in metadata if getattr(entry, "pattern", None)), None)
        form = next((entry.name for entry in metadata if isinstance(entry, Format)), None)
        given = {key: value for key, value in (("pattern", pattern), ("format", form)) if value}
        return {"type": "string", **_lengths(metadata, "Length"), **given}
    raise TypeError(f"no schema for {annotation!r}")


def bounds(metadata: list[Any]) -> tuple[float | None, float | None, bool]:
    """Least, most, and whether the least itself is excluded."""
    low = high = None
    above = False
    for entry in metadata:
        low = getattr(entry, "ge", None) if getattr(entry, "ge", None) is not None else low
        high = getattr(entry, "le", None) if getattr(entry, "le", None) is not None else high
        if getattr(entry, "gt", None) is not None:
            low, above = entry.gt, True
    return low, high, above


def _lengths(metadata: list[Any], what: str) -> Json:
    found: Json = {}
    for entry in metadata:
        if getattr(entry, "min_length", None) is not None:
            found["min" + what] = entry.min_length
        if getattr(entry, "max_length", None) is not None:
            found["max" + what] = entry.max_length
    return found


def _flat(metadata: typing.Iterable[Any]) -> list[Any]:
    flat: list[Any] = []
    for entry in metadata:
        flat.extend(entry.metadata if isinstance(entry, FieldInfo) else [entry])
    return flat


def _extra(info: FieldInfo) -> Json:
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}

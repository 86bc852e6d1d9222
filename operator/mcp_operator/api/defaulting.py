"""Fills in the defaults of the CRD as an API server does, so that a manifest means the same with and without one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def defaulted(value: Any, schema: Mapping[str, Any]) -> Any:
    """A copy of `value` with the defaults of a structural schema. A `null` counts as not given, since no field is
    nullable; what does not fit the schema stays as it is."""
    if isinstance(value, list) and "items" in schema:
        return [defaulted(item, schema["items"]) for item in value]
    if not isinstance(value, dict):
        return copy.deepcopy(value)
    if "additionalProperties" in schema:
        inner = schema["additionalProperties"]
        return {key: defaulted(item, inner) for key, item in value.items() if item is not None}
    properties = schema.get("properties")
    if properties is None:
        return copy.deepcopy(value)
    filled: dict[str, Any] = {}
    for key, item in value.items():
        if item is not None or key not in properties:
            filled[key] = defaulted(item, properties.get(key, {}))
    for key, property_schema in properties.items():
        if key not in filled and "default" in property_schema:
            filled[key] = copy.deepcopy(property_schema["default"])
    return filled

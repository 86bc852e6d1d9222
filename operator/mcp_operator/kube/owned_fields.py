"""What of an object a field manager owns: the manifest that it applied, found again in the object itself.

Applying what is found changes nothing, whatever others have added to the object or taken from it: so a controller can
leave a part of an object as it stands and go on applying the rest. As client-go's `Extract…` functions do, from
`metadata.managedFields` (the format is that of structured-merge-diff's `FieldsV1`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def owned_fields(obj: Mapping[str, Any], manager: str) -> dict[str, Any]:
    """The fields of `obj` that `manager` owns by server-side apply, subresources left out; empty where it has none."""
    for entry in (obj.get("metadata") or {}).get("managedFields") or ():
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            found = _owned(obj, entry.get("fieldsV1") or {})
            return found if isinstance(found, dict) else {}
    return {}


def _owned(value: Any, fields: Mapping[str, Any]) -> Any:
    if not fields:
        return value  # a scalar, or a list or map that is owned as a whole
    if isinstance(value, Mapping):
        out = {}
        for place, inner in fields.items():
            name = place.removeprefix("f:")
            if name != place and name in value:
                out[name] = _owned(value[name], inner)
        return out
    if isinstance(value, list):
        return [item for each in value for item in _owned_item(each, fields)]
    return value


def _owned_item(item: Any, fields: Mapping[str, Any]) -> list[Any]:
    """An item of a list that is merged by keys (`k:`) or is a set (`v:`); none where it is somebody else's."""
    for place, inner in fields.items():
        mark, _, text = place.partition(":")
        if mark == "v" and json.loads(text) == item:
            return [item]
        if mark == "k" and isinstance(item, Mapping):
            keys = json.loads(text)
            if all(item.get(name) == key for name, key in keys.items()):
                return [{**keys, **_owned(item, inner)}]
    return []

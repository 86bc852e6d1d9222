"""What every view of an object begins with: whose it is, and which of its fields are ours by the last apply.

Also how the API's dicts are read: what is not there, or is not what the API writes, reads as empty, since an object
that somebody else made must not stop the operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from sys import intern
from typing import Any

import msgspec

MESSAGE_LIMIT = 512
FIELD_MANAGER = "outrigger"
SERVER_LABEL = "outrigger.dev/mcpserver"

Object = Mapping[str, Any]
"""An object of the Kubernetes API, or a part of one, as decoded JSON."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller among an object's ownerReferences."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class ConditionView:
    """One of the conditions of an object that is not ours."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ChildView:
    """Any object we apply, from its metadata alone: a metadata-only watch is enough."""

    namespace: str
    name: str
    uid: str
    server: str
    """The MCPServer its label names; empty where it has none."""
    owner: Owner | None
    generation: int
    applied: str
    """See `applied`."""
    deleting: bool

    @classmethod
    def of(cls, obj: Object) -> ChildView:
        """The view of any object with metadata."""
        meta = mapping(obj, "metadata")
        return cls(**identity(meta), generation=number(meta, "generation"), applied=applied(meta))


def identity(meta: Object) -> dict[str, Any]:
    """The fields that every view of an object has, by their names."""
    return {
        "namespace": word(meta, "namespace"),
        "name": text(meta, "name"),
        "uid": word(meta, "uid"),
        "server": word(mapping(meta, "labels"), SERVER_LABEL),
        "owner": owner_of(meta),
        "deleting": "deletionTimestamp" in meta,
    }


def applied(meta: Object) -> str:
    """A short hash of the fields that are ours by the last apply; empty where there are none.

    The API server takes a field out of the set of a manager when another changes or removes it (server-side apply,
    "Field management"), so this hash changes with every foreign change of what we apply: status updates, fields of
    others and applies without an effect leave it as it is. The entry's time is part of it, since an apply under our
    own name (another replica's, an older one's) may change values and leave the set as it was. It does not tell whether
    the fields are those of the newest manifest: compare it with that of the answer to the last apply.
    """
    for entry in items(meta, "managedFields"):
        if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply" and not entry.get("subresource"):
            found = msgspec.json.encode([entry.get("fieldsV1"), entry.get("time")], order="sorted")
            return blake2b(found, digest_size=8).hexdigest()
    return ""


def conditions_of(status: Object) -> tuple[ConditionView, ...]:
    """The conditions in a status."""
    return tuple(
        ConditionView(word(each, "type"), word(each, "status"), word(each, "reason"), start(each, "message"))
        for each in items(status, "conditions")
    )


def owner_of(meta: Object) -> Owner | None:
    """The controller in an object's metadata."""
    for each in items(meta, "ownerReferences"):
        if each.get("controller") is True:
            return Owner(word(each, "kind"), word(each, "name"), word(each, "uid"))
    return None


def mapping(value: Object, key: str) -> Object:
    """The object under `key`, an empty one where there is none."""
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def items(value: Object, key: str) -> list[Object]:
    """The objects in the list under `key`."""
    found = value.get(key)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def number(value: Object, key: str, default: int = 0) -> int:
    """The integer under `key`."""
    found = value.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) else default


def text(value: Object, key: str) -> str:
    """The string under `key`."""
    found = value.get(key)
    return found if isinstance(found, str) else ""


def word(value: Object, key: str) -> str:
    """A string that many objects have in common."""
    return intern(text(value, key))


def start(value: Object, key: str) -> str:
    """The beginning of a message."""
    found = text(value, key)
    return found if len(found) <= MESSAGE_LIMIT else found[: MESSAGE_LIMIT - 1] + "…"


def end(value: Object, key: str) -> str:
    """The end of a message."""
    found = text(value, key).strip()
    return found if len(found) <= MESSAGE_LIMIT else "…" + found[1 - MESSAGE_LIMIT :]

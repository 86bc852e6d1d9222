"""Where a pod template comes from: what in it the user decides, and what the operator made of that.

A new version of the operator may render the same MCPServer otherwise. Then the fleet takes turns (`turns`), while a
change of the user's rolls at once; so a template must tell whose change it would be. Two digests say so, in an
annotation of the Deployment: nothing has to be remembered, and another leader knows as much. Kubernetes copies the
annotation to the ReplicaSet of the template, where it tells what the one before was.

The user's digest must stay the same from version to version for the same MCPServer: it is made of what was written, not
of what is rendered, and a field that has its default counts as not written. A test pins it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from pydantic import BaseModel

from mcp_operator.api.v1alpha1 import Change, MCPServer
from mcp_operator.desired.needs import environment_references

PROVENANCE_ANNOTATION = "outrigger.dev/pod-template"
"""On a Deployment: `Provenance.text` of its pod template."""

_DIGITS = 12


class Provenance(NamedTuple):
    """Of a pod template. Both are hex digits."""

    user: str
    """Of the fields that roll, and of the values that containers have in their environment."""
    template: str
    """Of the whole template, as it was rendered."""

    @property
    def text(self) -> str:
        """As the annotation has it."""
        return f"{self.user}-{self.template}"

    @classmethod
    def parse(cls, text: str) -> Provenance | None:
        """Of the annotation's value; None where it is none."""
        user, _, template = text.partition("-")
        return cls(user, template) if user and template else None


def provenance(server: MCPServer, template: dict[str, Any], checksum: str) -> Provenance:
    """Of a template that was rendered for `server`. `checksum` stands for values in the environment."""
    used = checksum if environment_references(server) else ""
    return Provenance(_digest({"spec": _rolling(server.spec, "Live"), "environment": used}), _digest(template))


def _rolling(part: BaseModel, inherited: Change) -> dict[str, Any]:
    """What is written of the fields that roll the pods, as JSON data."""
    out: dict[str, Any] = {}
    for name, info in type(part).model_fields.items():
        value = getattr(part, name)
        if name not in part.model_fields_set or value is None or value == info.default:
            continue
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        change: Any = extra.get("x-change") or inherited
        found = _plain(value, change)
        if found is not None:
            out[info.alias or name] = found
    return out


def _plain(value: Any, change: Change) -> Any:
    """JSON data; None where nothing of it rolls."""
    rolls = change == "Rolls"
    match value:
        case BaseModel():
            return _rolling(value, change) or ({} if rolls else None)
        case dict():
            entries = {key: _plain(item, change) for key, item in value.items()}
            return entries if rolls else {key: item for key, item in entries.items() if item is not None} or None
        case tuple() | list():
            entries_of = [_plain(item, change) for item in value]
            # Of a list that may change under running pods it only counts which parts there are that may not.
            return entries_of if rolls else _distinct(entries_of) or None
    return value if rolls else None


def _distinct(items: list[Any]) -> list[str]:
    return sorted({json.dumps(item, sort_keys=True) for item in items if item is not None})


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]

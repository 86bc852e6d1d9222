"""`parse` and a real API server agree on every field: what one refuses the other refuses, and defaults are the same.

So `outrigger render` and `up` say before a cluster does what is wrong with a manifest, and nothing else.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.api import Api, ApiError
from mcp_operator.api.cel_functions import expression
from mcp_operator.api.crd import schema
from mcp_operator.api.rules import placed
from mcp_operator.api.v1alpha1 import default, parse
from mcp_operator.errors import SpecError

SPEC = schema()["properties"]["spec"]
TEXTS = ("a", "1s", "1MiB", "/a", "10.0.0.0/8", "https://a.example", "A")


def nodes(node: dict[str, Any], path: str, seen: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field, each shape that stands in several places once."""
    shape = path.rpartition(".")[2] + json.dumps(node)
    if shape in seen:
        return
    seen.add(shape)
    yield path, node
    for name, inner in node.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}", seen)
    for key, step in (("items", "[]"), ("additionalProperties", ".NAME")):
        if key in node:
            yield from nodes(node[key], path + step, seen)


def good(node: dict[str, Any]) -> Any:
    """Something that fits the shape (rules may refuse it)."""
    if "default" in node or "enum" in node:
        return node.get("default", node.get("enum", [None])[0])
    match node.get("type"):
        case None:
            return 1
        case "string":
            return next((text for text in TEXTS if expression(node.get("pattern", "")).search(text)), "a")
        case "integer" | "number":
            return node["minimum"] + (1 if node.get("exclusiveMinimum") else 0)
        case "boolean":
            return True
        case "array":
            return [good(node["items"])]
    if "additionalProperties" in node:
        return {"a": good(node["additionalProperties"])}
    return {name: good(node["properties"][name]) for name in node.get("required", ())}


def candidates(node: dict[str, Any]) -> Iterator[Any]:
    fits = good(node)
    yield fits
    yield None
    yield [] if node.get("type") == "object" else {}
    if "maximum" in node:
        yield from (node["maximum"], node["maximum"] + 1, node["minimum"] - 1)
    if node.get("type") == "string":
        yield from ("", "a b\n", 5, "a" * (node.get("maxLength", 63) + 1))
    if node.get("x-kubernetes-int-or-string"):
        yield from ("100%", "101%", "1.5Gi", -1, True)
    if node.get("type") == "array":
        item = good(node["items"])
        yield from ([item, item], [None], [item] * (node["maxItems"] + 1))
    if "additionalProperties" in node:
        item = good(node["additionalProperties"])
        yield from ({f"k{number}": item for number in range(node["maxProperties"] + 1)}, {"a/b/c": item}, {"a": None})
    if "properties" in node:
        yield {**fits, "unknownField": 1}


@pytest.mark.parametrize("section", sorted(SPEC["properties"]))
def test_same_verdict(api: Api, section: str) -> None:
    tried = 0
    for path, node in nodes(SPEC["properties"][section], f"spec.{section}", set()):
        for value in candidates(node):
            manifest = placed(path)(copy.deepcopy(value))
            manifest["metadata"]["namespace"] = "default"
            tried += 1
            ours, filled = verdict_of_parse(manifest)
            theirs, stored = verdict_of(api, manifest)
            assert (ours is None) == (theirs is None), (path, value, ours, theirs)
            assert stored == filled, (path, value)
    assert tried > 2


def verdict_of_parse(manifest: dict[str, Any]) -> tuple[SpecError | None, Any]:
    """The refusal, or the spec with its defaults."""
    try:
        parse(manifest)
    except SpecError as error:
        return error, None
    return None, default(manifest)["spec"]


def verdict_of(api: Api, manifest: dict[str, Any]) -> tuple[ApiError | None, Any]:
    """The same of the API server."""
    try:
        stored = api.create(copy.deepcopy(manifest), dryRun="All", fieldValidation="Strict")
    except ApiError as error:
        if error.status not in (400, 422):
            raise
        return error, None
    return None, stored["spec"]

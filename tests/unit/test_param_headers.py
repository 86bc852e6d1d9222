"""`Mcp-Param-*`: which headers a schema asks for, and whether what was sent agrees with the arguments."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.protocol.param_headers import disagreement, mirrored


def schema(**properties: Any) -> bytes:
    return json.dumps({"type": "object", "properties": properties}).encode()


REGION = {"type": "string", "x-mcp-header": "Region"}


def test_annotated_properties_are_found_at_their_paths() -> None:
    nested = {"type": "object", "properties": {"limit": {"type": "integer", "x-mcp-header": "Limit"}}}
    assert mirrored(schema(region=REGION, options=nested, other={"type": "string"})) == {
        b"mcp-param-region": ("region",),
        b"mcp-param-limit": ("options", "limit"),
    }


@pytest.mark.parametrize(
    "raw",
    [
        schema(a={"type": "string"}),
        schema(**{"x-mcp-header": {"type": "string"}}),  # a property of that name is no annotation
        schema(a={"type": "string", "default": {"x-mcp-header": "A"}}),
        b"not json x-mcp-header",
        b'{"x-mcp-header":"Root"}',
        b"[" * 5000 + b'"x-mcp-header"' + b"]" * 5000,
    ],
)
def test_there_may_be_none(raw: bytes) -> None:
    assert mirrored(raw) == {}


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "number", "x-mcp-header": "A"},
        {"type": "object", "x-mcp-header": "A"},
        {"type": ["string", "null"], "x-mcp-header": "A"} | {"type": "array"},
        {"type": "string", "x-mcp-header": ""},
        {"type": "string", "x-mcp-header": "a b"},
        {"type": "string", "x-mcp-header": "a\r\nb"},
        {"type": "string", "x-mcp-header": 7},
        {"type": "string", "x-mcp-header": "REGION"},  # the same as Region
        {"type": "array", "items": {"type": "string", "x-mcp-header": "A"}},
        {"oneOf": [{"type": "string", "x-mcp-header": "A"}]},
        {"not": {"properties": {"b": {"type": "string", "x-mcp-header": "A"}}}},
    ],
)
def test_a_forbidden_annotation_voids_all(bad: dict[str, Any]) -> None:
    assert mirrored(schema(region=REGION, bad=bad)) == {}


PATHS = {b"mcp-param-region": ("region",), b"mcp-param-limit": ("options", "limit"), b"mcp-param-dry": ("dry",)}


@pytest.mark.parametrize(
    ("headers", "arguments", "agree"),
    [
        ({}, {}, True),
        ({b"mcp-param-region": b"eu"}, {"region": "eu"}, True),
        ({b"mcp-param-region": b"eu"}, {"region": "us"}, False),
        ({b"mcp-param-region": b"EU"}, {"region": "eu"}, False),
        ({b"mcp-param-region": b"eu"}, {}, False),
        ({b"mcp-param-region": b"eu"}, {"region": None}, False),
        ({}, {"region": None}, True),
        ({}, {"region": "eu"}, False),
        ({b"mcp-param-region": b"\xff"}, {"region": "\xff"}, False),
        ({b"mcp-param-region": b"=?base64?SGVsbG8sIOS4lueVjA==?="}, {"region": "Hello, 世界"}, True),
        ({b"mcp-param-region": b"=?base64?!!!?="}, {"region": "x"}, False),
        ({b"mcp-param-limit": b"42"}, {"options": {"limit": 42}}, True),
        ({b"mcp-param-limit": b"42.0"}, {"options": {"limit": 42}}, True),
        ({b"mcp-param-limit": b"42"}, {"options": {"limit": 42.0}}, True),
        ({b"mcp-param-limit": b"42.5"}, {"options": {"limit": 42}}, False),
        ({b"mcp-param-limit": b"-7"}, {"options": {"limit": -7}}, True),
        ({b"mcp-param-limit": b"1e3"}, {"options": {"limit": 1000}}, False),
        ({b"mcp-param-limit": b"1"}, {"options": "no object"}, False),
        ({b"mcp-param-limit": b"1"}, {"options": {"limit": True}}, False),
        ({b"mcp-param-dry": b"true"}, {"dry": True}, True),
        ({b"mcp-param-dry": b"True"}, {"dry": True}, False),
        ({b"mcp-param-dry": b"[]"}, {"dry": []}, False),
        ({b"mcp-param-unknown": b"x"}, {}, True),
    ],
)
def test_headers_and_arguments_agree_or_not(headers: Any, arguments: Any, agree: bool) -> None:
    assert (disagreement(PATHS, headers, (), arguments) is None) is agree


def test_a_repeated_header_never_agrees() -> None:
    headers = {b"mcp-param-region": b"eu"}
    assert disagreement(PATHS, headers, {b"mcp-param-region"}, {"region": "eu"}) is not None


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_agrees_with_its_sentinel_form_only(value: str) -> None:
    encoded = b"=?base64?" + base64.b64encode(value.encode()) + b"?="
    paths = {b"mcp-param-region": ("region",)}
    assert disagreement(paths, {b"mcp-param-region": encoded}, (), {"region": value}) is None
    assert disagreement(paths, {b"mcp-param-region": encoded}, (), {"region": value + "x"}) is not None

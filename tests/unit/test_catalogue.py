"""What is learned of a server's tools, and what a second execution of a call would do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcp_sidecar.catalogue import Catalogue, KindSettings
from mcp_sidecar.pipeline.call import CallKind

SAFE, IDEMPOTENT, UNSAFE = CallKind.SAFE, CallKind.IDEMPOTENT, CallKind.UNSAFE


def page(*tools: dict[str, Any], cursor: str | None = None) -> bytes:
    return json.dumps({"tools": tools, **({"nextCursor": cursor} if cursor else {})}).encode()


def tool(name: str, **annotations: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {}, **({"annotations": annotations} if annotations else {})}


READ, SET = tool("read", readOnlyHint=True), tool("set", idempotentHint=True)


@pytest.mark.parametrize(
    "method, kind",
    [
        ("tools/list", SAFE),
        ("resources/read", SAFE),
        ("prompts/get", SAFE),
        ("ping", SAFE),
        ("logging/setLevel", IDEMPOTENT),
        ("resources/subscribe", IDEMPOTENT),
        ("initialize", UNSAFE),
        ("tools/call", UNSAFE),
        ("no/such", UNSAFE),
    ],
)
def test_methods_have_a_kind_of_their_own(method: str, kind: CallKind) -> None:
    assert Catalogue(KindSettings()).kind(method, None) is kind


def test_hints_count_only_where_they_are_trusted() -> None:
    for settings, expected in (
        (KindSettings(), (UNSAFE, UNSAFE)),
        (KindSettings(trust_read_only=True), (SAFE, UNSAFE)),
        (KindSettings(trust_read_only=True, trust_idempotent=True), (SAFE, IDEMPOTENT)),
    ):
        catalogue = Catalogue(settings)
        catalogue.learn(page(READ, SET))
        assert tuple(catalogue.kind("tools/call", name) for name in ("read", "set")) == expected
        assert catalogue.kind("tools/call", "unknown") is UNSAFE


def test_the_config_wins_over_hints_and_needs_no_list() -> None:
    catalogue = Catalogue(KindSettings(tools={"read": UNSAFE, "other": SAFE}, trust_read_only=True))
    catalogue.learn(page(READ))
    assert catalogue.kind("tools/call", "read") is UNSAFE
    assert catalogue.kind("tools/call", "other") is SAFE


def test_new_rules_and_new_lists_count_at_once() -> None:
    catalogue = Catalogue(KindSettings())
    catalogue.learn(page(READ))
    assert catalogue.kind("tools/call", "read") is UNSAFE
    catalogue.reconfigure(KindSettings(trust_read_only=True))
    assert catalogue.kind("tools/call", "read") is SAFE
    catalogue.learn(page(tool("read")))
    assert catalogue.kind("tools/call", "read") is UNSAFE


def test_callers_cannot_make_it_grow() -> None:
    catalogue = Catalogue(KindSettings())
    catalogue.learn(page(READ))
    for number in range(1000):
        catalogue.kind("tools/call", f"made up {number}")
    assert len(catalogue._kinds) <= 1


def test_pages_are_put_together() -> None:
    catalogue = Catalogue(KindSettings(trust_read_only=True))
    assert catalogue.learn(page(READ, cursor="2"))
    assert (catalogue.complete, catalogue.next_cursor) == (False, "2")
    assert not catalogue.learn(page(SET), first_page=False)
    assert catalogue.complete
    assert catalogue.tools == {"read", "set"}
    assert "set" in catalogue
    assert len(catalogue) == 2
    catalogue.learn(page(tool("new")))
    assert catalogue.tools == {"new"}


@pytest.mark.parametrize("bad", [b"", b"[]", b'{"tools":5}', b'{"tools":[{"name":1}]}', b'{"tools":[{}]}'])
def test_what_cannot_be_read_changes_nothing(bad: bytes) -> None:
    catalogue = Catalogue(KindSettings())
    catalogue.learn(page(READ))
    assert not catalogue.learn(bad)
    assert catalogue.tools == {"read"}


def test_mirrored_headers_are_kept_by_tool() -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    catalogue = Catalogue(KindSettings())
    catalogue.learn(page({"name": "query", "inputSchema": schema}, READ))
    assert catalogue.mirrored("query") == {b"mcp-param-region": ("region",)}
    assert catalogue.mirrored("read") == catalogue.mirrored("unknown") == {}
    catalogue.learn(page(tool("query")))
    assert catalogue.mirrored("query") == {}

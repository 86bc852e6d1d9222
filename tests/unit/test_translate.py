"""Messages of one era made into the other's: what is added, what is taken away, and that the rest stays as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mcp_sidecar.protocol import translate
from mcp_sidecar.protocol.revisions import CACHEABLE_METHODS

META = {
    translate.VERSION_KEY: "2026-07-28",
    translate.CAPABILITIES_KEY: {"sampling": {}},
    translate.CLIENT_INFO_KEY: {"name": "x", "version": "1"},
    translate.LOG_LEVEL_KEY: "info",
}
names = st.text(st.characters(codec="utf-8"), max_size=6)
objects: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    names, st.none() | st.integers() | names | st.lists(st.integers(), max_size=3), max_size=4
)


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


@given(objects, objects)
def test_a_legacy_server_sees_nothing_modern(params: dict[str, Any], own: dict[str, Any]) -> None:
    own = {name: value for name, value in own.items() if not name.startswith("io.modelcontextprotocol/")}
    params.pop("_meta", None)
    sent = translate.legacy_params(dumped({**params, "_meta": {**META, **own}}))
    expected = {**params, **({"_meta": own} if own else {})}
    assert (json.loads(sent) if sent is not None else {}) == expected


@pytest.mark.parametrize("params", [None, b"{}", b'{"a" : 1}', b'{"a":"io.modelcontextprotocol/x"}'])
def test_legacy_params_without_modern_meta_stay(params: bytes | None) -> None:
    assert translate.legacy_params(params) == params


@given(objects)
def test_a_modern_server_learns_who_asks(params: dict[str, Any]) -> None:
    params.pop("_meta", None)
    sent = json.loads(
        translate.modern_params(
            dumped({**params, "_meta": {"progressToken": 7, translate.VERSION_KEY: "forged"}}),
            capabilities=b'{"roots":{}}',
            client_info=b'{"name":"y"}',
            log_level="debug",
        )
    )
    assert sent.pop("_meta") == {
        "progressToken": 7,
        translate.VERSION_KEY: "2026-07-28",
        translate.CAPABILITIES_KEY: {"roots": {}},
        translate.CLIENT_INFO_KEY: {"name": "y"},
        translate.LOG_LEVEL_KEY: "debug",
    }
    assert sent == params
    bare = json.loads(translate.modern_params(None, capabilities=b"{}", client_info=None))
    assert bare == {"_meta": {translate.VERSION_KEY: "2026-07-28", translate.CAPABILITIES_KEY: {}}}


@given(
    objects,
    st.sampled_from([*sorted(CACHEABLE_METHODS), "tools/call", "prompts/get"]),
    st.sampled_from(["", " ", "\n"]),
)
def test_a_modern_result_has_what_its_era_requires(result: dict[str, Any], method: str, blank: str) -> None:
    raw = blank.encode() + dumped(result).replace(b"{", b"{" + blank.encode(), 1)
    made = json.loads(translate.modern_result(method, raw))
    expected = {"resultType": "complete"}
    if method in CACHEABLE_METHODS:
        expected |= {"ttlMs": 0, "cacheScope": "private"}
    assert made == {**expected, **result}


@pytest.mark.parametrize("present", ["resultType", "ttlMs", "cacheScope"])
def test_what_a_result_has_is_kept(present: str) -> None:
    made = translate.modern_result("tools/list", dumped({present: "own", "tools": []}))
    assert made.count(present.encode()) == 1
    assert json.loads(made)[present] == "own"
    # a word inside a string is no member
    assert json.loads(translate.modern_result("tools/call", dumped({"a": present})))["resultType"] == "complete"


@pytest.mark.parametrize("odd", [b"null", b"[]", b"5"])
def test_a_result_that_is_no_object_is_left(odd: bytes) -> None:
    assert translate.modern_result("tools/list", odd) == odd


def test_resource_not_found_has_another_code() -> None:
    made = json.loads(translate.modern_error(dumped({"code": -32002, "message": "m", "data": {"uri": "u"}})))
    assert made == {"code": -32602, "message": "m", "data": {"uri": "u"}}
    for other in ({"code": -32001, "message": "-32002"}, {"code": -32601, "message": "x"}):
        assert json.loads(translate.modern_error(dumped(other))) == other


def test_initialize_and_discover_are_told_by_each_other() -> None:
    initialized = {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "s", "version": "1"},
        "instructions": "i",
    }
    discovered = translate.discover_result(dumped(initialized))
    assert json.loads(discovered) == {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {}},
        "instructions": "i",
        "_meta": {translate.SERVER_INFO_KEY: {"name": "s", "version": "1"}},
        "ttlMs": 0,
        "cacheScope": "private",
    }
    assert json.loads(translate.initialize_result(discovered, "2025-06-18")) == initialized
    # a server that says nothing of itself
    assert json.loads(translate.initialize_result(b"{}", "2025-11-25"))["serverInfo"] == {
        "name": "unknown",
        "version": "0",
    }
    assert json.loads(translate.with_version(dumped(initialized), "2025-11-25")) == {
        **initialized,
        "protocolVersion": "2025-11-25",
    }


def test_a_request_is_repeated_with_input() -> None:
    first = dumped({"name": "t", "inputResponses": {"old": 1}, "requestState": "old"})
    again = translate.input_params(first, {"k": b'{"v":1}'}, Raw(b'"new"'))
    assert json.loads(again) == {"name": "t", "inputResponses": {"k": {"v": 1}}, "requestState": "new"}
    assert json.loads(translate.input_params(None, {}, None)) == {}


@given(objects, objects, st.integers() | names)
def test_a_subscription_is_put_in_and_taken_out(params: dict[str, Any], meta: dict[str, Any], id: Any) -> None:
    params.pop("_meta", None)
    meta.pop(translate.SUBSCRIPTION_KEY, None)
    plain = {**params, **({"_meta": meta} if meta else {})}
    framed = translate.with_subscription("notifications/x", dumped(plain), dumped(id))
    assert json.loads(framed)["params"]["_meta"] == {**meta, translate.SUBSCRIPTION_KEY: id}
    bare = json.loads(translate.without_subscription(framed))
    assert bare["method"] == "notifications/x"
    assert bare.get("params", {}) == plain


def test_a_stream_ends_with_its_subscription() -> None:
    assert json.loads(translate.listen_result(b'"mine"')) == {
        "resultType": "complete",
        "_meta": {translate.SUBSCRIPTION_KEY: "mine"},
    }

"""Who asks, how, and what may be passed on: the checks every request meets before it is a call."""

from __future__ import annotations

import json

import pytest

from mcp_sidecar.errors import Reason, UpstreamError
from mcp_sidecar.front import admission
from mcp_sidecar.front.admission import ToolPolicy, accepts, forwarded, identity_of, is_json


@pytest.mark.parametrize(
    "accept, expected",
    [
        (None, (True, True)),
        (b"*/*", (True, True)),
        (b"application/json, text/event-stream", (True, True)),
        (b"text/event-stream;q=0.5 , Application/JSON; charset=utf-8", (True, True)),
        (b"application/*", (True, False)),
        (b"text/*", (False, True)),
        (b"application/json", (True, False)),
        (b"text/event-stream", (False, True)),
        (b"text/html", (False, False)),
        (b"", (False, False)),
        (b"application/jsonx", (False, False)),
    ],
)
def test_what_a_caller_accepts(accept: bytes | None, expected: tuple[bool, bool]) -> None:
    assert accepts(accept) == expected
    assert accepts(accept) == expected


@pytest.mark.parametrize(
    "content_type, expected",
    [
        (b"application/json", True),
        (b"Application/JSON; charset=utf-8", True),
        (b"application/json;charset=utf-8", True),
        (None, False),
        (b"", False),
        (b"text/plain", False),
        (b"application/json-patch+json", False),
        (b"text/plain; application/json", False),
    ],
)
def test_what_is_declared_as_json(content_type: bytes | None, expected: bool) -> None:
    assert is_json(content_type) is expected


def test_an_identity_is_a_hash_of_the_credentials() -> None:
    assert identity_of(None) == b""
    one, two = identity_of(b"Bearer one"), identity_of(b"Bearer two")
    assert one == identity_of(b"Bearer one") != two
    assert b"one" not in one
    assert identity_of(b"") != b"", "an empty header is not the absence of one"


def test_callers_do_not_fill_the_memory() -> None:
    for number in range(1000):
        identity_of(b"Bearer %d" % number)
        accepts(b"x/%d" % number)
    assert len(admission._identities) <= 256
    assert len(admission._accepts) <= 256


def test_only_an_allow_list_of_headers_goes_on() -> None:
    headers = {
        b"authorization": b"Bearer x",
        b"cookie": b"y",
        b"host": b"h",
        b"mcp-param-region": b"eu",
        b"mcp-session-id": b"t",
        b"traceparent": b"00-1",
        b"x-forwarded-for": b"z",
    }
    passed = {b"mcp-param-region": b"eu", b"traceparent": b"00-1"}
    assert dict(forwarded(headers, authorization=False)) == passed
    assert dict(forwarded(headers, authorization=True)) == {**passed, b"authorization": b"Bearer x"}
    assert forwarded({}, authorization=True) == ()


def test_a_tool_must_pass_every_filter() -> None:
    policy = ToolPolicy(lambda tool: tool != "a", None, lambda tool: tool != "b")
    assert [policy.allows(tool) for tool in "abc"] == [False, False, True]
    assert ToolPolicy(None, None).allows("anything")


def test_a_list_shows_allowed_tools_only_and_as_they_were() -> None:
    policy = ToolPolicy(lambda tool: tool in ("keep", "kéep"))
    odd = '{"$defs" : {"x":1.50}, "name":"keep"}'
    others = b'{"name":"drop"},{"noname":1},{"name":"k\\u00e9ep"},{"name":"drop","name":"keep"}'
    listed = b'{"tools":[%b,' + others + b'],"nextCursor":"n"}'
    narrowed = policy.narrow(listed % odd.encode())
    assert odd.encode() in narrowed
    found = json.loads(narrowed)
    assert [tool["name"] for tool in found["tools"]] == ["keep", "kéep", "keep"]
    assert found["nextCursor"] == "n"
    assert policy.narrow(b'{"nothing":1}') == b'{"nothing":1}'


@pytest.mark.parametrize("tool", [b"5", b'{"name":1}', b"{}", b"null", b'{"name":"x","uri":5}'])
def test_a_tool_that_cannot_be_read_is_not_shown(tool: bytes) -> None:
    assert ToolPolicy(lambda tool: True).narrow(b'{"tools":[%b]}' % tool) == b'{"tools":[]}'


@pytest.mark.parametrize("listed", [b'{"tools":5}', b"[]", b"null", b'{"tools":{}}'])
def test_a_list_that_cannot_be_read_shows_nothing(listed: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        ToolPolicy(lambda tool: True).narrow(listed)
    assert caught.value.reason is Reason.PROTOCOL_ERROR

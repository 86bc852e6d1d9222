"""protocol/correlation.py: no spelling of a caller's token gets past us."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.protocol.correlation import number, replace_progress_token, restore_subscription, subscription_of


def first_wins(raw: bytes) -> dict[str, object]:
    """How a server reads that takes the first of equal names."""

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        out: dict[str, object] = {}
        for name, value in items:
            out.setdefault(name, value)
        return out

    read: dict[str, object] = json.loads(raw, object_pairs_hook=pairs)
    return read


@pytest.mark.parametrize(
    ("params", "own"),
    [
        (b'{"_meta":{"progressToken":7}}', b"7"),
        (b'{"_meta":{"progressToken":"x"},"a":1}', b'"x"'),
        (b'{"_meta":{"progress\\u0054oken":7}}', b"7"),
        (b'{"\\u005fmeta":{"progressToken":7}}', b"7"),
        (b'{"_meta":{"progressToken":5,"progressToken":7}}', b"7"),
        (b'{"_meta":{"progressToken":5},"_meta":{"progressToken":7}}', b"7"),
        (b'{"_meta":{"progressToken":5},"_meta":{}}', None),
        (b'{"_meta":{"progressToken":5},"_meta":3}', None),
        (b'{"arguments":{"progressToken":5}}', None),
        (b'{"arguments":{"_meta":{"progressToken":5}}}', None),
        (b"[1]", None),
        (b'"progressToken"', None),
    ],
)
def test_every_spelling_of_the_token_is_replaced(params: bytes, own: bytes | None) -> None:
    sent, found = replace_progress_token(params, b"99")
    assert found == own
    if params[:1] == b"{":
        for read in (json.loads(sent), first_wins(sent)):
            meta = read.get("_meta")
            token = meta.get("progressToken") if isinstance(meta, dict) else None
            assert token == (None if own is None else 99)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.integers())), st.integers(0, 10**9))
def test_nothing_else_changes(rest: dict[str, object], token: int) -> None:
    meta = {**rest, "progressToken": "mine"}
    params = json.dumps({**rest, "_meta": meta}).encode()
    sent, own = replace_progress_token(params, b"%d" % token)
    assert own == b'"mine"'
    assert json.loads(sent) == {**rest, "_meta": {**meta, "progressToken": token}}


@pytest.mark.parametrize(
    ("raw", "value"),
    [(b"7", 7), (b'"7"', 7), (b"-7", -1), (b"7.0", -1), (b"1e3", -1), (b'"a"', -1), (b"", -1), (b"9" * 5000, -1)],
)
def test_number(raw: bytes, value: int) -> None:
    assert number(raw) == value


def test_subscription_id_is_found_and_put_back() -> None:
    params = b'{"uri":"x","_meta":{"a":1,"io.modelcontextprotocol\\/subscriptionId":12}}'
    assert subscription_of(params) == 12
    back = json.loads(restore_subscription(params, b'"own"'))
    assert back == {"uri": "x", "_meta": {"a": 1, "io.modelcontextprotocol/subscriptionId": "own"}}
    for other in (b"{}", b"[]", b'{"_meta":{}}', b'{"_meta":1}'):
        assert subscription_of(other) == -1

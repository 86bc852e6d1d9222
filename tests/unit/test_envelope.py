"""The envelope: what is a message, whose id it has, and that nothing is lost or invented on the way through."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.protocol import envelope
from mcp_sidecar.protocol.envelope import INVALID_REQUEST, PARSE_ERROR, EnvelopeError

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
ids = st.integers() | st.text(st.characters(codec="utf-8"))


@pytest.mark.parametrize(
    "body, code",
    [
        (b"", PARSE_ERROR),
        (b"{", PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"x"} {}', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":01,"method":"x"}', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":NaN}}', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"\xff"}}', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":"\xc3","method":"x"}', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}", PARSE_ERROR),
        (b"5", INVALID_REQUEST),
        (b"[]", INVALID_REQUEST),
        (b'{"id":1,"method":"x"}', INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":1,"method":"x"}', INVALID_REQUEST),
        (b'{"jsonrpc":2.0,"id":1,"method":"x"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":null,"result":{}}', INVALID_REQUEST),
    ],
)
def test_what_is_no_message_is_refused(body: bytes, code: int) -> None:
    with pytest.raises(EnvelopeError) as caught:
        envelope.parse(body)
    assert caught.value.code == code


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(body: bytes) -> None:
    try:
        envelope.parse(body)
    except EnvelopeError:
        return
    assert json.loads(body)["jsonrpc"] == "2.0"


@given(values, ids, st.booleans())
def test_what_passes_is_what_any_parser_reads(params: Any, id: Any, ascii_only: bool) -> None:
    body = json.dumps({"params": params, "jsonrpc": "2.0", "id": id, "method": "a/b"}, ensure_ascii=ascii_only).encode()
    message = envelope.parse(body)
    again = envelope.request(envelope.request_id(message), str(message.method), bytes(message.params))  # type: ignore[arg-type]
    assert json.loads(again) == json.loads(body)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), values, max_size=5))
def test_members_put_together_are_what_was_taken_apart(value: dict[str, Any]) -> None:
    parts = envelope.members(json.dumps(value).encode())
    assert json.loads(envelope.compose({**parts})) == value


def test_of_equal_members_both_ends_see_the_last() -> None:
    body = (
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list","method":"tools/call","params":{"name":"a","name":"b"}}'
    )
    message = envelope.parse(body)
    assert (bytes(message.id), message.method) == (b"2", "tools/call")  # type: ignore[arg-type]
    params = bytes(message.params)  # type: ignore[arg-type]
    assert envelope.params_head(params).name == "b"
    assert envelope.compose({**envelope.members(params)}) == b'{"name":"b"}'


@pytest.mark.parametrize("raw", [b"1", b"-1", b"0", b'"x"', b'""', b"123456789012345678901234567890"])
def test_strings_and_integers_are_ids(raw: bytes) -> None:
    message = envelope.parse(b'{"jsonrpc":"2.0","id":%b,"method":"x"}' % raw)
    assert envelope.request_id(message) == envelope.legible_id(message) == raw


@pytest.mark.parametrize("raw", [b"null", b"1.5", b"1e3", b"true", b"{}", b"[1]"])
def test_nothing_else_is_an_id(raw: bytes) -> None:
    message = envelope.parse(b'{"jsonrpc":"2.0","id":%b,"method":"x"}' % raw)
    with pytest.raises(EnvelopeError) as caught:
        envelope.request_id(message)
    assert caught.value.code == INVALID_REQUEST
    assert envelope.legible_id(message) == b"null"


@given(st.text(st.characters(codec="utf-8")))
def test_one_id_has_one_canonical_spelling(id: str) -> None:
    escaped, plain = json.dumps(id).encode(), json.dumps(id, ensure_ascii=False).encode()
    assert envelope.canonical_id(escaped) == envelope.canonical_id(plain)
    assert json.loads(envelope.canonical_id(escaped)) == id


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_two_ids_stay_two(one: str, two: str) -> None:
    same = envelope.canonical_id(json.dumps(one).encode()) == envelope.canonical_id(json.dumps(two).encode())
    assert same == (one == two)


@pytest.mark.parametrize("raw", [b"1", b"null", b'"plain"', b'"\\ud800"'])
def test_what_needs_no_spelling_is_left(raw: bytes) -> None:
    assert envelope.canonical_id(raw) == raw


@given(ids, st.integers(0, 2**60))
def test_a_sealed_id_opens_to_the_callers_own(id: Any, counter: int) -> None:
    raw = json.dumps(id).encode()
    sealed = envelope.seal_id(counter, raw)
    assert isinstance(json.loads(sealed), str)
    assert envelope.open_id(sealed) == raw


@pytest.mark.parametrize(
    "raw", [b"1", b'"1"', b'":1"', b'"x:1"', b'"1:"', b'"1:null"', b'"1:1.5"', b'"\xff:1"', b'"1:{}"']
)
def test_what_is_not_sealed_by_us_does_not_open(raw: bytes) -> None:
    assert envelope.open_id(raw) is None


def test_batches_are_split_into_raw_messages() -> None:
    assert envelope.split_batch(b' [ {"a" : 1} ,5,"x" ] ') == [b'{"a" : 1}', b"5", b'"x"']
    assert envelope.is_batch(b" \n[1]")
    assert not envelope.is_batch(b'{"a":[1]}')
    with pytest.raises(EnvelopeError) as caught:
        envelope.split_batch(b"[1")
    assert caught.value.code == PARSE_ERROR


@pytest.mark.parametrize("params", [b'{"name":1}', b'{"uri":null}', b'{"_meta":[]}', b"[]", b"5"])
def test_a_member_of_a_wrong_type_is_invalid_params(params: bytes) -> None:
    with pytest.raises(EnvelopeError) as caught:
        envelope.params_head(params)
    assert caught.value.code == envelope.INVALID_PARAMS


@pytest.mark.parametrize("result", [b"null", b"[]", b'{"resultType":7}', b'{"ttlMs":"x"}', b"5"])
def test_an_odd_result_counts_as_a_plain_one(result: bytes) -> None:
    assert envelope.result_head(result) == envelope.ResultHead()


@pytest.mark.parametrize("error", [b"null", b"{}", b'{"code":"x"}', b"5"])
def test_an_odd_error_counts_as_internal(error: bytes) -> None:
    assert envelope.error_head(error).code == envelope.INTERNAL_ERROR


def test_messages_are_composed_of_raw_parts() -> None:
    assert envelope.request(b'"a"', "x/y", None) == b'{"jsonrpc":"2.0","id":"a","method":"x/y"}'
    assert envelope.notification("x", b"{}") == b'{"jsonrpc":"2.0","method":"x","params":{}}'
    assert envelope.result_response(b"1", b"[]") == b'{"jsonrpc":"2.0","id":1,"result":[]}'
    error = envelope.error_object(-1, 'quo"te', {"a": 1})
    assert json.loads(envelope.error_response(b"null", error)) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -1, "message": 'quo"te', "data": {"a": 1}},
    }


def test_many_methods_do_not_fill_the_memory() -> None:
    for number in range(2000):
        assert msgspec.json.decode(envelope.request(b"1", f'm"{number}', None))["method"] == f'm"{number}'
    assert len(envelope._METHODS) <= 256

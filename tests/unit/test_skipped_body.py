"""The id of a request that is too large to keep: found at either end, or not at all, never a wrong one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.front.limits import ListenerSettings
from mcp_sidecar.front.reader import RequestReader
from mcp_sidecar.front.refusal import Refusal
from mcp_sidecar.front.skipped_body import SkippedBody

BIG = "x" * 5000


def skipped(body: bytes, step: int = 1000) -> bytes | None:
    seen = SkippedBody(body[:step])
    for start in range(step, len(body), step):
        seen.pass_by(body[start : start + step])
    return seen.request_id()


@pytest.mark.parametrize("id", [1, -7, "abc", "", "ü"])
@pytest.mark.parametrize("step", [1, 7, 1000, 10_000])
def test_the_id_is_found_where_clients_put_it(id: Any, step: int) -> None:
    raw = json.dumps(id, ensure_ascii=False).encode()
    last = json.dumps(
        {"method": "tools/call", "params": {"a": BIG, "id": 99}, "jsonrpc": "2.0", "id": id}, ensure_ascii=False
    )
    first = json.dumps({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"a": BIG}}, ensure_ascii=False)
    swapped = json.dumps({"params": {"a": BIG}, "id": id, "jsonrpc": "2.0"}, indent=2, ensure_ascii=False)
    for text in (last, first, swapped, last.replace(" ", "")):
        assert skipped(text.encode(), step) == raw


@pytest.mark.parametrize(
    "body",
    [
        {"jsonrpc": "2.0", "method": "tools/call", "id": 5, "params": {"a": BIG}},  # in the middle
        {"jsonrpc": "2.0", "method": "tools/call", "params": {"a": BIG, "id": 99}},  # of something else
        {"jsonrpc": "2.0", "method": "x", "params": {"a": BIG + '","id":99}'}},  # within a string
        {"jsonrpc": "2.0", "method": "x", "params": BIG, "id": 1.5},
        {"jsonrpc": "2.0", "method": "x", "params": BIG, "id": None},
        [{"jsonrpc": "2.0", "params": BIG, "id": 1}],
        BIG,
    ],
)
def test_no_wrong_id_is_found(body: Any) -> None:
    assert skipped(json.dumps(body, separators=(",", ":")).encode()) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("id") | st.just("jsonrpc"), inner),
        max_leaves=20,
    ),
    st.integers(1, 50),
)
def test_whatever_is_found_is_the_id_of_the_message(body: Any, step: int) -> None:
    found = skipped(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"), step)
    if found is not None:
        assert isinstance(body, dict)
        assert json.loads(found) == body["id"]


class Owner:
    """Takes requests."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def request_read(self, request: Any) -> None:
        self.requests.append(request)


def read(*headers: str, body: bytes, chunked: bool = False) -> Refusal | None:
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = "\r\n".join(["POST /mcp HTTP/1.1", "Host: localhost", length, *headers]) + "\r\n\r\n"
    if chunked:
        middle = len(body) // 2
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:middle], body[middle:])) + b"0\r\n\r\n"
    reader = RequestReader(Owner(), ListenerSettings(max_body_bytes=1000))  # type: ignore[arg-type]
    message = head.encode() + body
    for start in range(0, len(message), 700):
        refusal = reader.feed(message[start : start + 700])
        if refusal is not None:
            return refusal
    return None


MESSAGE = json.dumps({"method": "tools/call", "params": {"a": BIG}, "jsonrpc": "2.0", "id": 41}).encode()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_legacy_session_gets_an_answer_and_everybody_else_413(chunked: bool) -> None:
    answered = read("Mcp-Session-Id: s", body=MESSAGE, chunked=chunked)
    assert answered is not None
    assert answered.status == 200
    assert json.loads(answered.body)["id"] == 41
    assert json.loads(answered.body)["error"]["data"]["reason"] == "request_too_large"
    for refused in (
        read(body=MESSAGE, chunked=chunked),
        read("Mcp-Session-Id: s", body=b"no json" + MESSAGE, chunked=chunked),
        read("Mcp-Session-Id: s", "Expect: 100-continue", body=MESSAGE, chunked=chunked),
    ):
        assert refused is not None
        assert (refused.status, json.loads(refused.body)["id"]) == (413, None)


def test_what_is_skipped_is_bounded() -> None:
    reader = RequestReader(Owner(), ListenerSettings(max_body_bytes=1000))  # type: ignore[arg-type]
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: s\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert reader.feed(head) is None
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    for _ in range(70):
        refusal = reader.feed(chunk)
        if refusal is not None:
            break
    assert refusal is not None
    assert refusal.status == 413

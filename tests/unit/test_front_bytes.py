"""Targets in, response heads and events out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.front import target
from mcp_sidecar.front.refusal import Fault, Refusal
from mcp_sidecar.front.response import answer_head, encode_event, encode_headers
from mcp_sidecar.front.target import BadTarget, split_target


@pytest.mark.parametrize(
    ("raw", "path", "query"),
    [
        (b"/", "/", ""),
        (b"/mcp?a=b?c", "/mcp", "a=b?c"),
        (b"/%7Ea%2Fb", "/~a/b", ""),
        (b"/%c3%bc", "/ü", ""),
        (b"//x", "//x", ""),
        (b"/a%zz", "/a%zz", ""),
        (b"*", "*", ""),
        (b"http://host:80/a", "/a", ""),
        (b"HTTPS://HOST:80?q", "/", "q"),
        (b"http://host:80", "/", ""),
    ],
)
def test_targets(raw: bytes, path: str, query: str) -> None:
    assert split_target(raw, b"Host:80") == (path, query)


@pytest.mark.parametrize("raw", [b"a", b"", b"ftp://host/", b"http://other/", b"/a#b", b"/%00", b"/%ff", b"http:/host"])
def test_bad_targets(raw: bytes) -> None:
    with pytest.raises(BadTarget):
        split_target(raw, b"host")


def test_known_targets_are_bounded() -> None:
    for number in range(2000):
        split_target(b"/%d" % number, b"host")
    assert len(target._known) <= 256


def test_a_header_cannot_bring_another() -> None:
    assert encode_headers(((b"A", b"b"), (b"C", b"d"))) == b"A: b\r\nC: d\r\n"
    for value in (b"a\r\nb: c", b"a\nb", b"a\rb", b"a\0"):
        with pytest.raises(ValueError):
            encode_headers(((b"A", value),))


def test_heads() -> None:
    assert answer_head(200, b"application/json", close=False) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    )
    assert answer_head(799, b"", close=True) == b"HTTP/1.1 799 Status\r\nConnection: close\r\nContent-Length: "


def test_every_refusal_has_a_code_of_its_own() -> None:
    codes = [fault.code for fault in Fault]
    assert len(set(codes)) == len(codes)
    assert not any(-32768 <= code <= -32000 for code in codes)
    assert b'"reason":"malformed_http"' in Refusal(Fault.MALFORMED_HTTP, 'with "quotes"').body


_line = st.binary(max_size=20).map(lambda data: data.translate(None, b"\r\n"))


@given(
    lines=st.lists(_line, min_size=1, max_size=4), breaks=st.sampled_from([b"\n", b"\r\n", b"\r"]), id=_line | st.none()
)
def test_events_can_be_read_again(lines: list[bytes], breaks: bytes, id: bytes | None) -> None:
    encoded = encode_event(breaks.join(lines), id, None)
    fields = [line.partition(b": ") for line in encoded.split(b"\n")]
    assert encoded.endswith(b"\n\n")
    assert b"\r" not in encoded
    assert [value for name, _, value in fields if name == b"data"] == lines
    ids = [value for name, _, value in fields if name == b"id"]
    assert ids == ([] if id is None or b"\0" in id else [id])

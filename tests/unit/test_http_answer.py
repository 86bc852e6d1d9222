"""What an answer means: ids, Retry-After, encodings. The statuses are tested against a real server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.errors import UpstreamError
from mcp_sidecar.pipeline.call import Call, Era
from mcp_sidecar.upstream.http_answer import MAX_RETRY_AFTER, parse_retry_after, read_answer, same_id

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (b"0", 0),
        (b"7", 7),
        (b" 7 ", 7),
        (b"1.5", 1.5),
        (b"-1", None),
        (b"soon", None),
        (b"", None),
        (b"999999999999", MAX_RETRY_AFTER),
        (b"9" * 400, None),
        (b"1e9", None),
        (b"nan", None),
        (b"inf", None),
        (b"Fri, 15 Jan 2027 08:00:10 GMT", 10),
        (b"Fri, 15 Jan 2027 07:00:00 GMT", 0),
        (b"Friday, 15-Jan-27 08:00:10 GMT", 10),
        (b"Fri, 15 Jan 9999 08:00:00 GMT", MAX_RETRY_AFTER),
        (b"Fri, 99 Foo 2027 99:00:00 GMT", None),
        (b"F" * 100, None),
        (b"Fri, 15 Jan 2027 08:00:10 \xff", None),
    ],
)
def test_retry_after(value: bytes | None, seconds: float | None) -> None:
    assert parse_retry_after(value, lambda: NOW) == seconds


@given(st.binary(max_size=80))
def test_any_retry_after_is_none_or_within_a_day(value: bytes) -> None:
    seconds = parse_retry_after(value, lambda: NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


@pytest.mark.parametrize(
    ("raw", "sent", "same"),
    [
        (b"7", b"7", True),
        (b"7.0", b"7", True),
        (b'"7"', b"7", False),
        (b"1", b"2", False),
        (b"true", b"1", False),
        (b"null", b"0", False),
        (b'"3:\\u0022a\\u0022"', b'"3:\\"a\\""', True),
        (b'"3:1"', b'"4:1"', False),
        (b"[7]", b"7", False),
    ],
)
def test_same_id(raw: bytes, sent: bytes, same: bool) -> None:
    assert same_id(raw, sent) is same


@given(st.binary(max_size=60), st.sampled_from([200, 201, 204, 301, 400, 404, 429, 500, 503]))
def test_any_body_is_a_reply_or_an_upstream_error(body: bytes, status: int) -> None:
    call = Call(server="s", id=b"1", method="tools/call", params=None, era=Era.MODERN, version="2026-07-28")
    try:
        reply = read_answer(call, b"5", status, {}, body, limit=1000)
    except UpstreamError:
        return
    assert (reply.result is None) != (reply.error is None)

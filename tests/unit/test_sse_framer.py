"""The SSE framer: the same events whatever the chunks, within its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.protocol.sse import EventFramer, EventTooLarge

Seen = tuple[bytes, bytes | None, bytes, bytes | None]


def read(*chunks: bytes, limit: int = 1 << 20) -> list[Seen]:
    framer = EventFramer(limit)
    return [(e.data, e.id, e.name, e.retry) for chunk in chunks for e in framer.feed(chunk)]


def oracle(stream: bytes) -> list[Seen]:
    """A slow reading of WHATWG HTML 9.2.6, over the whole stream at once."""
    if stream.startswith(b"\xef\xbb\xbf"):
        stream = stream[3:]
    lines, line, i = [], b"", 0
    while i < len(stream):
        byte = stream[i : i + 1]
        if byte in (b"\r", b"\n"):
            lines.append(line)
            line = b""
            if stream[i : i + 2] == b"\r\n":
                i += 1
        else:
            line += byte
        i += 1
    events: list[Seen] = []
    data: list[bytes] = []
    id = retry = None
    name = b""
    for line in lines:
        if line == b"":
            if data or id is not None or retry is not None:
                events.append((b"\n".join(data), id, name, retry))
            data, id, name, retry = [], None, b"", None
            continue
        if line.startswith(b":"):
            continue
        field, value = line.split(b":", 1) if b":" in line else (line, b"")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif field == b"id" and b"\0" not in value:
            id = value
        elif field == b"retry" and value and all(48 <= c <= 57 for c in value):
            retry = value
    return events


pieces = st.sampled_from(
    [b"\n", b"\r", b"\r\n", b"data: x", b"data:", b"data", b"id: 7", b"id: a\0b", b"id:", b"event: ping", b"retry: 10",
     b"retry: 1x", b"retry:", b": comment", b":", b"other: 1", b"{}", b" ", b"data:  two", b"\xff\xfe", b"\xef\xbb\xbf"]
)  # fmt: skip


@given(st.lists(pieces, max_size=40).map(b"".join), st.data())
def test_any_chunking_gives_the_events_of_the_standard(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(*chunks) == oracle(stream)


@given(st.binary(max_size=200))
def test_any_bytes_byte_by_byte(stream: bytes) -> None:
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == oracle(stream) == read(stream)


def test_an_event_of_id_or_retry_alone_is_reported() -> None:
    assert read(b"id: 1\ndata:\n\nretry: 250\n\nid: 2\n\n") == [
        (b"", b"1", b"", None),
        (b"", None, b"", b"250"),
        (b"", b"2", b"", None),
    ]


def test_the_id_of_one_event_does_not_cling_to_the_next() -> None:
    assert read(b"id: 1\ndata: a\n\ndata: b\n\n") == [(b"a", b"1", b"", None), (b"b", None, b"", None)]


def test_an_unfinished_event_is_no_event() -> None:
    assert read(b"data: a\n\ndata: cut") == [(b"a", None, b"", None)]


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: " + b"x" * 120 + b"\n\n"],
        [b"data: " + b"x" * 60, b"x" * 60],
        [b"data: xxxxxxxxxx\n"] * 12,
        [b"y"] * 120,
        [b": " + b"c" * 120],
    ],
    ids=["line", "cut line", "many lines", "no line end", "comment"],
)
def test_one_event_is_bounded(chunks: list[bytes]) -> None:
    with pytest.raises(EventTooLarge, match="100 bytes"):
        read(*chunks, limit=100)


def test_the_bound_is_for_one_event_and_not_for_comments_or_the_stream() -> None:
    assert len(read(b"data: 0123456789\n\n" * 50 + b": keep\n" * 50, limit=100)) == 50
    assert read(b": keep-alive\n" * 50 + b"data: 1\n\n", limit=100) == [(b"1", None, b"", None)]


def test_comments_are_counted() -> None:
    framer = EventFramer()
    framer.feed(b":\n\n: ping\n")
    assert framer.comments == 2


def test_a_long_line_in_small_chunks_costs_linear_time() -> None:
    framer = EventFramer(1 << 30)
    for _ in range(200_000):
        framer.feed(b"0123456789")
    [event] = framer.feed(b"\n\nid: 1\ndata: 1\n\n")
    assert event.id == b"1"

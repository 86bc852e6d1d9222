"""protocol/lines.py: any chunking gives the same lines, in linear time and bounded memory."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.protocol.lines import KEPT, LineFramer, Oversized, find_id


def plain(lines: list[bytes | Oversized]) -> list[object]:
    """Lines as comparable values."""
    return [line if isinstance(line, bytes) else (line.head, line.tail, line.size) for line in lines]


def cut(data: bytes, places: list[int], limit: int) -> list[object]:
    """What comes out when `data` is fed in pieces cut at `places`."""
    framer = LineFramer(limit)
    borders = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    out: list[bytes | Oversized] = []
    for start, end in itertools.pairwise(borders):
        out += framer.feed(data[start:end])
    return plain(out + framer.eof())


def expected(data: bytes, limit: int) -> list[object]:
    """The rule, said the slow way."""
    out: list[object] = []
    for line in data.split(b"\n"):
        if len(line) > limit:
            out.append((line[:KEPT], line[-KEPT:], len(line)))
        elif line.removesuffix(b"\r"):
            out.append(line.removesuffix(b"\r"))
    return out


pieces = st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b"{}", b"\xff\xfe", b"\xe2\x80\xa8", b"\x00", b"abc" * 9]))


@given(pieces.map(b"".join), st.lists(st.integers(0, 10_000), max_size=12), st.integers(1, 60))
def test_any_chunking_gives_the_same_lines(data: bytes, places: list[int], limit: int) -> None:
    assert cut(data, places, limit) == expected(data, limit)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=20))
def test_any_bytes_in_any_chunking(data: bytes, places: list[int]) -> None:
    assert cut(data, places, 50) == expected(data, 50)


def test_last_line_without_newline_comes_at_the_end() -> None:
    framer = LineFramer()
    assert framer.feed(b'{"a":1}\n{"b":2}') == [b'{"a":1}']
    assert framer.eof() == [b'{"b":2}']
    assert framer.eof() == []


def test_oversized_line_is_thrown_away_as_it_comes_and_the_next_is_whole() -> None:
    framer = LineFramer(limit=100_000)
    chunk = b"x" * 65_536
    head = b'{"jsonrpc":"2.0","id":77,"result":{"text":"'
    out = framer.feed(head)
    for _ in range(1600):  # 100 MiB
        out += framer.feed(chunk)
        assert framer.pending <= 100_000 + 65_536
    out += framer.feed(b'"}}\n{"next":1}\n')
    large, after = out
    assert isinstance(large, Oversized)
    assert large.size == len(head) + 1600 * 65_536 + 3
    assert large.id() == b"77"
    assert after == b'{"next":1}'
    assert framer.pending == 0


def test_limit_is_exact() -> None:
    assert LineFramer(5).feed(b"12345\n") == [b"12345"]
    assert plain(LineFramer(5).feed(b"123456\n")) == [(b"123456", b"123456", 6)]
    with pytest.raises(ValueError):
        LineFramer(0)


@pytest.mark.parametrize(
    ("head", "tail", "found"),
    [
        (b'{"jsonrpc":"2.0","id":5,"result":{"te', b"xx", b"5"),
        (b'{"id":5,"jsonrpc":"2.0","error":{"te', b"xx", b"5"),
        (b' { "jsonrpc" : "2.0" , "id" : "5" , "result" : [', b"xx", b'"5"'),
        (b'{"result":{"content":', b'"}]},"jsonrpc":"2.0","id":9}', b"9"),
        (b'{"result":{"content":', b'"}]},"id":9,"jsonrpc":"2.0"}', b"9"),
        (b'{"jsonrpc":"2.0","result":{"content":', b'"}]}, "id": 9 } ', b"9"),
        # a request of the server has a number of its own, not ours
        (b'{"jsonrpc":"2.0","id":5,"method":"sampling/createMessage","params":{', b"xx", None),
        (b'{"method":"sampling/createMessage","params":{', b'}},"jsonrpc":"2.0","id":9}', None),
        # inside of a string or of the result
        (b'{"result":{"content":', b'\\"id\\":9}"}}', None),
        (b'{"result":{"content":', b'{"id":9}}}', None),
        (b"garbage", b'},"id":9}', None),
        (b"", b"", None),
    ],
)
def test_id_is_read_only_where_it_cannot_be_anything_else(head: bytes, tail: bytes, found: bytes | None) -> None:
    assert find_id(head, tail) == found


def test_cost_is_linear() -> None:
    """Eight times the bytes may cost about eight times the time; the quadratic reader would take 64 times."""

    def cost(size: int) -> float:
        framer = LineFramer(limit=64 * 1024 * 1024)
        chunk = b"x" * 1024
        start = time.process_time()
        for _ in range(size // 1024):
            framer.feed(chunk)
        framer.feed(b"\n")
        return time.process_time() - start

    cost(1 << 20)
    small = min(cost(4 << 20) for _ in range(3))
    large = min(cost(32 << 20) for _ in range(3))
    assert large < 24 * small + 0.05

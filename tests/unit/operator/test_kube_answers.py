"""The bytes of a watch: however they are cut, the events are the same."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_operator.errors import Expired, Unavailable
from mcp_operator.kube import answers
from mcp_operator.kube.answers import EventLines

names = st.text(min_size=1, max_size=30)
events = st.lists(st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED"]), names), max_size=8)


def line(kind: str, name: str, *, ascii_only: bool = True) -> bytes:
    metadata = {"name": name, "resourceVersion": "1"}
    return json.dumps({"type": kind, "object": {"metadata": metadata}}, ensure_ascii=ascii_only).encode() + b"\n"


@given(
    sent=events, cuts=st.lists(st.integers(0, 600), max_size=12), tail=st.binary(max_size=20).map(lambda b: b"{" + b)
)
def test_events_do_not_depend_on_the_chunks(sent: list[tuple[str, str]], cuts: list[int], tail: bytes) -> None:
    stream = b"".join(line(kind, name) for kind, name in sent) + tail.replace(b"\n", b"")
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    framer = EventLines()
    seen = [
        (event.type, event.object["metadata"]["name"])
        for start, end in itertools.pairwise(places)
        for event in framer.feed(stream[start:end])
    ]
    assert seen == sent


def test_empty_lines_are_no_events() -> None:
    assert [event.type for event in EventLines().feed(b"\n \r\n" + line("ADDED", "a") + b"\n")] == ["ADDED"]


def test_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_LINE", 100)
    framer = EventLines()
    list(framer.feed(b"x" * 60))
    with pytest.raises(Unavailable, match="longer than 100 bytes"):
        list(framer.feed(b"x" * 60))


def test_events_before_an_error_are_given() -> None:
    error = b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n'
    framed = EventLines().feed(line("ADDED", "a") + error)
    assert next(framed).type == "ADDED"
    with pytest.raises(Expired):
        next(framed)

"""The caller's side of a request: what is sent when, and with which head."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_sidecar.errors import CallError, Reason, SessionLost
from mcp_sidecar.front.answer import Answer
from mcp_sidecar.pipeline.call import Era, Event, Reply


class Written:
    """A request that keeps what is answered to it."""

    disconnected = False

    def __init__(self) -> None:
        self.responded = False
        self.streaming = False
        self.ended = False
        self.status = 0
        self.body = b""
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.events: list[tuple[bytes, bytes | None]] = []

    def respond(self, status: int, body: bytes = b"", *, headers: Any = (), **_: Any) -> None:
        self.responded, self.status, self.body, self.headers = True, status, body, headers

    def start_stream(self, status: int = 200, headers: Any = ()) -> None:
        self.streaming, self.status, self.headers = True, status, headers

    def send_event(self, data: bytes, id: bytes | None = None, retry: bytes | None = None) -> None:
        self.events.append((data, id))

    def end_stream(self) -> None:
        self.ended = True


@pytest.fixture
def written() -> Written:
    return Written()


def answer(written: Written, era: Era = Era.LEGACY) -> Answer:
    return Answer(written, era)  # type: ignore[arg-type]


SESSION = ((b"mcp-session-id", b"sealed"),)


def test_the_first_event_makes_a_stream(written: Written) -> None:
    sink = answer(written)
    sink.emit(Event(b"", b"7"))
    assert written.streaming
    sink.reply(b"1", Reply(b"{}", event_id=b"8"))
    assert [id for _, id in written.events] == [b"7", b"8"]
    assert written.ended


def test_a_held_answer_sends_its_head_with_what_only_the_answer_brought(written: Written) -> None:
    sink = answer(written)
    sink.hold()
    sink.emit(Event(b"", b"7"))
    assert not written.streaming
    sink.add_headers(SESSION)
    sink.reply(b"1", Reply(b"{}", event_id=b"8"))
    assert written.headers == SESSION
    assert [id for _, id in written.events] == [b"7", b"8"]
    assert written.ended


def test_a_held_answer_without_events_is_plain(written: Written) -> None:
    sink = answer(written)
    sink.hold()
    sink.add_headers(SESSION)
    sink.reply(b"1", Reply(b"{}"))
    assert (written.streaming, written.status, written.headers) == (False, 200, SESSION)


def test_a_held_answer_that_is_refused_keeps_its_status(written: Written) -> None:
    sink = answer(written)
    sink.hold()
    sink.emit(Event(b"", b"7"))
    sink.fail(b"1", SessionLost("gone"))
    assert (written.streaming, written.status, written.events) == (False, 404, [])


def test_what_is_held_is_bounded(written: Written) -> None:
    sink = answer(written)
    sink.hold()
    for _ in range(100):
        sink.emit(Event(b"{}"))
    with pytest.raises(CallError) as caught:
        sink.emit(Event(b"{}"))
    assert caught.value.reason is Reason.SLOW_CALLER


def test_errors_of_ours_are_http_errors_to_modern_callers_only(written: Written) -> None:
    error = CallError(Reason.QUEUE_FULL, "full", retry_after=0.2)
    answer(written, Era.MODERN).fail(b"1", error)
    assert written.status == 503
    assert (b"retry-after", b"1") in written.headers
    legacy = Written()
    answer(legacy).fail(b"1", error)
    assert legacy.status == 200
    assert b'"reason":"queue_full"' in legacy.body

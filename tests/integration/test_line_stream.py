"""upstream/line_stream.py on real pipes and sockets: what the kernel took, and what the reader left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import pytest

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.protocol.lines import Oversized
from mcp_sidecar.upstream.line_stream import LineStream


class Ends:
    """A stream and the other side of its two pipes."""

    def __init__(self, **options: int) -> None:
        self.lines: list[bytes] = []
        self.oversized: list[Oversized] = []
        self.ended: list[OSError | None] = []
        read, self.put = os.pipe()
        self.get, write = os.pipe()
        self.stream = LineStream(
            read,
            write,
            on_message=self.lines.append,
            on_oversized=self.oversized.append,
            on_eof=self.ended.append,
            **options,
        )

    def hang_up(self) -> None:
        for fd in (self.put, self.get):
            try:
                os.close(fd)
            except OSError:
                continue


async def until_written(stream: LineStream, count: int) -> None:
    async with asyncio.timeout(5):
        while stream.written < count:
            await asyncio.sleep(0)


async def test_messages_of_one_turn_are_one_write() -> None:
    ends = Ends()
    sent = [ends.stream.send(b"%d" % n) for n in range(100)]
    assert not any(s.delivered for s in sent)
    await until_written(ends.stream, 1)
    assert all(s.delivered for s in sent)
    assert os.read(ends.get, 65_536) == b"".join(b"%d\n" % n for n in range(100))
    ends.stream.close()
    ends.hang_up()


async def test_message_cut_by_the_death_of_the_reader_was_not_sent() -> None:
    ends = Ends()
    whole, cut, after = ends.stream.send(b"a" * 100), ends.stream.send(b"b" * 1_000_000), ends.stream.send(b"c")
    await until_written(ends.stream, 60_000)
    assert (whole.delivered, cut.delivered, after.delivered) == (True, False, False)
    assert len(os.read(ends.get, 5_000)) == 5_000  # the reader has seen a part of the second
    os.close(ends.get)
    async with asyncio.timeout(5):
        while not ends.ended:
            await asyncio.sleep(0)
    assert isinstance(ends.ended[0], BrokenPipeError)
    assert (whole.delivered, cut.delivered, after.delivered) == (True, False, False)
    with pytest.raises(UpstreamError) as caught:
        ends.stream.send(b"d")
    assert caught.value.delivery is Delivery.NOT_SENT
    ends.stream.close()
    ends.hang_up()


async def test_message_left_in_the_pipe_was_not_sent() -> None:
    ends = Ends()
    read, left = ends.stream.send(b"a" * 100), ends.stream.send(b"b" * 100)
    await until_written(ends.stream, 202)
    assert os.read(ends.get, 101) == b"a" * 100 + b"\n"
    assert (read.delivered, left.delivered) == (True, True)
    os.close(ends.get)
    ends.stream.finish()
    assert (read.delivered, left.delivered) == (True, False)
    ends.hang_up()


async def test_message_of_which_a_byte_was_read_may_have_been_executed() -> None:
    ends = Ends()
    sent = ends.stream.send(b"a" * 100)
    await until_written(ends.stream, 101)
    os.read(ends.get, 1)
    os.close(ends.get)
    ends.stream.finish()
    assert sent.delivered
    ends.hang_up()


async def test_pipe_with_another_reader_left_tells_nothing() -> None:
    ends = Ends()
    other = os.dup(ends.get)
    sent = ends.stream.send(b"a")
    await until_written(ends.stream, 2)
    os.close(ends.get)
    ends.stream.finish()
    assert sent.delivered
    os.close(other)
    ends.hang_up()


async def test_withdrawn_message_is_never_written() -> None:
    ends = Ends(high_water=100_000)
    first = ends.stream.send(b"a" * 300_000)
    second = ends.stream.send(b"b" * 10)
    third = ends.stream.send(b"c" * 10)
    await until_written(ends.stream, 1)
    assert not first.withdraw()
    assert second.withdraw()
    assert not second.withdraw()
    seen = bytearray()
    os.set_blocking(ends.get, False)
    async with asyncio.timeout(5):
        while not third.delivered or len(seen) < 300_012:
            with contextlib.suppress(BlockingIOError):
                seen += os.read(ends.get, 65_536)
            await asyncio.sleep(0)
    assert seen == b"a" * 300_000 + b"\n" + b"c" * 10 + b"\n"
    assert ends.stream.buffered == 0
    ends.stream.close()
    ends.hang_up()


async def test_buffer_is_bounded_and_drain_waits_for_room() -> None:
    ends = Ends(high_water=1_000, slack=1_000)
    sent = ends.stream.send(b"x" * 100_000)
    assert ends.stream.congested
    with pytest.raises(UpstreamError) as caught:
        ends.stream.send(b"y")
    assert caught.value.delivery is Delivery.NOT_SENT
    waiting = asyncio.ensure_future(ends.stream.drain())
    await until_written(ends.stream, 65_536)
    assert not waiting.done()
    os.read(ends.get, 65_536)
    await asyncio.wait_for(waiting, 5)
    assert sent.delivered
    ends.stream.close()
    ends.hang_up()


async def test_closing_wakes_who_waits_for_room() -> None:
    ends = Ends(high_water=10)
    ends.stream.send(b"x" * 1_000_000)
    waiting = [asyncio.ensure_future(ends.stream.drain()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    ends.stream.failure = UpstreamError(Reason.CHILD_EXITED, "it exited", delivery=Delivery.MAYBE)
    ends.stream.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    for result in results[1:]:
        assert isinstance(result, UpstreamError)
        assert (result.reason, result.delivery) == (Reason.CHILD_EXITED, Delivery.NOT_SENT)
    ends.hang_up()


async def test_end_of_what_is_read_delivers_the_last_line() -> None:
    ends = Ends()
    os.write(ends.put, b"one\ntwo")
    os.close(ends.put)
    async with asyncio.timeout(5):
        while not ends.ended:
            await asyncio.sleep(0)
    assert ends.lines == [b"one", b"two"]
    assert ends.ended == [None]
    assert not ends.stream.readable
    ends.stream.close()
    ends.hang_up()


async def test_one_descriptor_for_both_ways() -> None:
    ours, theirs = socket.socketpair()
    lines: list[bytes] = []
    ended: list[OSError | None] = []
    fd = ours.detach()
    stream = LineStream(fd, fd, on_message=lines.append, on_oversized=lambda line: None, on_eof=ended.append)
    sent = stream.send(b"ping")
    await until_written(stream, 5)
    assert theirs.recv(100) == b"ping\n"
    theirs.send(b"pong\n")
    theirs.close()
    async with asyncio.timeout(5):
        while not ended:
            await asyncio.sleep(0)
    assert lines == [b"pong"]
    stream.close()
    assert sent.delivered
    with pytest.raises(OSError):
        os.fstat(fd)

"""Lines leave in order and in batches; a reader that is slow or gone costs lines, never the caller's time."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mcp_sidecar.telemetry.lines import LineWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


def fill(fd: int) -> int:
    """Fill a pipe until the next byte would block; returns how much that took."""
    os.set_blocking(fd, False)
    total = 0
    try:
        while True:
            total += os.write(fd, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(fd, True)
        return total


def read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return data


def test_lines_arrive_in_order(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(fd)
    for number in range(1000):
        assert writer.write(b"%d\n" % number)
    assert writer.close()
    os.close(fd)
    with open(reader, "rb", closefd=False) as file:
        assert file.read() == b"".join(b"%d\n" % n for n in range(1000))
    assert (writer.written, writer.dropped, writer.queued_bytes) == (1000, 0, 0)


def test_a_line_arrives_without_a_close(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(fd)
    writer.write(b"now\n")
    assert read_exactly(reader, 4) == b"now\n"
    writer.close()


def test_several_threads_lose_nothing(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(fd, batch=0.001)
    threads = [
        threading.Thread(target=lambda t=t: [writer.write(b"%d %d\n" % (t, n)) for n in range(500)]) for t in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.close()
    os.close(fd)
    with open(reader, "rb", closefd=False) as file:
        lines = file.read().splitlines()
    for thread_number in range(4):
        assert [line for line in lines if line.startswith(b"%d " % thread_number)] == [
            b"%d %d" % (thread_number, n) for n in range(500)
        ]


def test_a_reader_that_stands_still_costs_lines_that_are_counted_and_no_time(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    filled = fill(fd)
    writer = LineWriter(fd, max_bytes=1000)
    line = b"x" * 99 + b"\n"
    before = time.monotonic()
    kept = sum(writer.write(line) for _ in range(5000))
    assert time.monotonic() - before < 1.0
    assert kept == 10
    assert writer.dropped == 4990
    assert writer.full
    read_exactly(reader, filled)
    assert writer.close()
    assert read_exactly(reader, 1000) == line * 10


def test_a_reader_that_is_gone_is_counted_and_does_no_harm(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    os.close(reader)
    writer = LineWriter(fd)
    writer.write(b"a\n")
    writer.write(b"b\n")
    assert writer.close()
    assert writer.dropped == 2
    assert writer.queued_bytes == 0


def test_close_does_not_wait_for_ever(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    fill(fd)
    writer = LineWriter(fd)
    writer.write(b"never\n")
    assert not writer.close(timeout=0.2)
    assert not writer.write(b"late\n")
    os.close(reader)
    assert writer.close()  # before its descriptor's number is somebody else's


def test_redaction_sees_every_byte_before_it_leaves(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(fd, redact=lambda block: block.replace(b"s3cret", b"***"))
    writer.write(b'{"token":"s3cret"}\n')
    writer.write(b"s3crets3cret\n")
    writer.close()
    os.close(fd)
    with open(reader, "rb", closefd=False) as file:
        assert file.read() == b'{"token":"***"}\n******\n'


def test_what_cannot_be_redacted_is_dropped_not_written(pipe: tuple[int, int]) -> None:
    reader, fd = pipe

    def broken(block: bytes) -> bytes:
        raise RuntimeError("boom")

    writer = LineWriter(fd, redact=broken)
    writer.write(b"s3cret\n")
    writer.close()
    os.close(fd)
    with open(reader, "rb", closefd=False) as file:
        assert file.read() == b""
    assert writer.dropped == 1


def test_a_non_blocking_descriptor_is_waited_for(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, fd = pipe
    waiting = threading.Event()
    real = select.select

    def seen(*arguments: Any) -> Any:
        waiting.set()
        return real(*arguments)

    monkeypatch.setattr("mcp_sidecar.telemetry.lines.select.select", seen)
    filled = fill(fd)
    os.set_blocking(fd, False)
    writer = LineWriter(fd, batch=0.001)
    writer.write(b"patient\n")
    assert waiting.wait(10)
    read_exactly(reader, filled)
    assert read_exactly(reader, 8) == b"patient\n"
    assert writer.close()


async def test_back_pressure_holds_the_source_until_there_is_room(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    filled = fill(fd)
    writer = LineWriter(fd, batch=0.001, max_bytes=10)
    assert writer.write(b"0123456789\n", force=True)
    assert writer.write(b"forced\n", force=True)
    waiting = [asyncio.create_task(writer.writable()) for _ in range(3)]
    waiting[2].cancel()
    done, pending = await asyncio.wait(waiting, timeout=0.1)
    assert done == {waiting[2]}
    assert len(pending) == 2
    await asyncio.to_thread(read_exactly, reader, filled + 18)
    await asyncio.wait_for(asyncio.gather(*waiting[:2]), 10)
    assert writer.dropped == 0
    writer.close()

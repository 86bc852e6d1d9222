"""What waits for a caller's stream: in order, bounded, once, to the newest stream that takes it."""

from __future__ import annotations

import asyncio

import pytest

from mcp_sidecar.errors import CallError, Reason
from mcp_sidecar.pipeline.call import Event
from mcp_sidecar.upstream.outbox import Outbox


class Stream:
    """A sink; `full`: takes no more."""

    def __init__(self) -> None:
        self.opened = False
        self.full = False
        self.got: list[bytes] = []

    def open(self) -> None:
        self.opened = True

    def emit(self, event: Event) -> None:
        if self.full:
            raise CallError(Reason.SLOW_CALLER, "full")
        self.got.append(event.data)


async def serving(outbox: Outbox, stream: Stream) -> asyncio.Task[None]:
    task = asyncio.create_task(outbox.serve(stream))
    await asyncio.sleep(0)
    return task


async def test_messages_wait_for_a_stream_and_come_in_order() -> None:
    outbox, stream = Outbox(), Stream()
    outbox.deliver(b"1")
    outbox.deliver(b"2")
    assert not outbox.has_stream
    task = await serving(outbox, stream)
    outbox.deliver(b"3")
    assert stream.opened
    assert stream.got == [b"1", b"2", b"3"]
    outbox.close()
    await task
    assert not outbox.has_stream


async def test_the_oldest_give_way() -> None:
    outbox, stream = Outbox(), Stream()
    for number in range(300):
        outbox.deliver(b"%d" % number)
    task = await serving(outbox, stream)
    assert stream.got == [b"%d" % number for number in range(44, 300)]
    assert outbox.dropped == 44
    task.cancel()


async def test_each_message_goes_to_the_newest_stream_only() -> None:
    outbox, old, new = Outbox(), Stream(), Stream()
    first, second = await serving(outbox, old), await serving(outbox, new)
    outbox.deliver(b"1")
    assert (old.got, new.got) == ([], [b"1"])
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    outbox.deliver(b"2")
    assert (old.got, new.got) == ([b"2"], [b"1"])
    first.cancel()


async def test_a_stream_that_does_not_read_loses_nothing_to_the_next() -> None:
    outbox, stuck, next_one = Outbox(), Stream(), Stream()
    task = await serving(outbox, stuck)
    stuck.full = True
    outbox.deliver(b"1")
    assert not outbox.has_stream
    other = await serving(outbox, next_one)
    assert next_one.got == [b"1"]
    for each in (task, other):
        each.cancel()


async def test_a_backlog_that_is_too_much_at_once_is_kept() -> None:
    outbox, stuck, next_one = Outbox(), Stream(), Stream()
    for number in range(3):
        outbox.deliver(b"%d" % number)
    stuck.full = True
    with pytest.raises(CallError):
        await outbox.serve(stuck)
    task = await serving(outbox, next_one)
    assert next_one.got == [b"0", b"1", b"2"]
    task.cancel()


async def test_a_closed_outbox_ends_every_stream() -> None:
    outbox = Outbox()
    tasks = [await serving(outbox, Stream()) for _ in range(3)]
    outbox.close()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)
        await outbox.serve(Stream())

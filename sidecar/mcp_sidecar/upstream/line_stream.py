"""Lines over a pair of file descriptors, with exact knowledge of what the kernel has taken.

Pipes of a child and the socket of the bridge are driven alike. No asyncio transport is used: after a failed write a
transport has forgotten how much was written, and `CHILD_EXITED` must tell surely-not-sent from maybe-executed
(notes/resilience.md B.7). Writes of one loop turn become one system call. Processes and connecting are others' work.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import struct
import sys
import termios
from collections import deque
from collections.abc import Callable

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.protocol.lines import DEFAULT_LIMIT, LineFramer, Oversized

READ_SIZE = 65_536
"""Bytes of one read: what a pipe holds."""
_BATCH = 262_144


class Outgoing:
    """One queued message (see channel.Sent)."""

    __slots__ = ("_end", "_message", "_start", "_stream")

    def __init__(self, stream: LineStream, message: bytes) -> None:
        self._stream = stream
        self._message = message
        self._start = self._end = 0

    @property
    def delivered(self) -> bool:
        """Whether the kernel has its newline, and the reader did not surely die before it read a byte of it."""
        return 0 < self._end <= self._stream.written and self._start < self._stream.taken

    def withdraw(self) -> bool:
        """Take it back while no byte of it can have left."""
        if self._end or not self._message:
            return False
        self._stream.buffered -= len(self._message) + 1
        self._message = b""
        if not self._stream.congested:
            self._stream._wake()
        return True

    def _begin(self, start: int) -> bytes:
        """The message, from here on written at the stream's offset `start`; empty when withdrawn."""
        message, self._message = self._message, b""
        if message:
            self._start = start
            self._end = start + len(message) + 1
        return message


class LineStream:
    """Reads lines from one descriptor and writes lines to another (or the same); both non-blocking and owned by it.

    `on_eof(error)` is called once when the other end closed what we read, or when writing failed; what could still be
    read has then been delivered. `high_water`: bytes queued above which `congested` is true; `slack`: bytes above that
    at which `send` refuses.
    """

    __slots__ = (
        "_loop",
        "_on_eof",
        "_on_message",
        "_on_oversized",
        "_queue",
        "_read_fd",
        "_rest",
        "_scheduled",
        "_waiters",
        "_write_fd",
        "_write_watched",
        "buffered",
        "failure",
        "framer",
        "high_water",
        "read_bytes",
        "slack",
        "taken",
        "written",
    )

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        *,
        on_message: Callable[[bytes], None],
        on_oversized: Callable[[Oversized], None],
        on_eof: Callable[[OSError | None], None],
        limit: int = DEFAULT_LIMIT,
        high_water: int = 262_144,
        slack: int = 1_048_576,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._on_message = on_message
        self._on_oversized = on_oversized
        self._on_eof: Callable[[OSError | None], None] | None = on_eof
        self.framer = LineFramer(limit)
        self.high_water = high_water
        self.slack = slack
        self.written = 0
        """Bytes that the kernel took."""
        self.taken = sys.maxsize
        """Bytes that the other end has read, where that is surely known: see `_measure`."""
        self.read_bytes = 0
        self.buffered = 0
        """Bytes queued here that the kernel has not taken."""
        self.failure: UpstreamError | None = None
        """What the owner wants senders to be told once it is closed."""
        self._queue: deque[Outgoing] = deque()
        self._rest: memoryview | None = None
        self._scheduled = False
        self._write_watched = False
        self._waiters: deque[asyncio.Future[None]] = deque()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        self._loop.add_reader(read_fd, self._readable)

    # --- writing

    @property
    def congested(self) -> bool:
        """Whether senders should wait."""
        return self.buffered > self.high_water

    @property
    def writable(self) -> bool:
        """Whether `send` has somewhere to write."""
        return self._write_fd >= 0

    def send(self, message: bytes) -> Outgoing:
        """Queue a message. Raises UpstreamError(NOT_SENT) when closed, or when a megabyte too much is waiting."""
        if self._write_fd < 0:
            raise self._closed()
        if self.buffered > self.high_water + self.slack:
            raise UpstreamError(
                Reason.CONNECTION_LOST, "the server does not read its input", delivery=Delivery.NOT_SENT
            )
        outgoing = Outgoing(self, message)
        self._queue.append(outgoing)
        self.buffered += len(message) + 1
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        return outgoing

    async def drain(self) -> None:
        """Wait until not congested."""
        while self.buffered > self.high_water:
            if self._write_fd < 0:
                raise self._closed()
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        if self._write_fd < 0:
            raise self._closed()

    async def flush(self) -> None:
        """Wait until the kernel has everything, or nothing can be written any more."""
        while self.buffered > 0 and self._write_fd >= 0:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def _flush(self) -> None:
        self._scheduled = False
        if self._write_watched or self._write_fd < 0:
            return
        self._write()

    def _write(self) -> None:
        """Hand over what the kernel takes; watch for room when it takes no more."""
        while True:
            rest = self._rest
            if rest is None:
                data = self._batch()
                if not data:
                    self._unwatch()
                    break
                rest = memoryview(data)
            try:
                count = os.write(self._write_fd, rest)
            except (BlockingIOError, InterruptedError):
                count = 0
            except OSError as error:
                self._rest = rest
                self._broken(error)
                return
            self.written += count
            self.buffered -= count
            if count < len(rest):
                self._rest = rest[count:]
                if not self._write_watched:
                    self._write_watched = True
                    self._loop.add_writer(self._write_fd, self._write)
                break
            self._rest = None
        if self._waiters and self.buffered <= self.high_water:
            self._wake()

    def _batch(self) -> bytes:
        queue = self._queue
        offset = self.written
        parts: list[bytes] = []
        while queue:
            message = queue.popleft()._begin(offset)
            if message:
                parts.append(message)
                offset += len(message) + 1
                if offset - self.written >= _BATCH:
                    break
        if not parts:
            return b""
        parts.append(b"")
        return b"\n".join(parts)

    def _unwatch(self) -> None:
        if self._write_watched:
            self._write_watched = False
            self._loop.remove_writer(self._write_fd)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _broken(self, error: OSError) -> None:
        """Writing failed: deliver the answers that are already here, then report."""
        self.close_write()
        self.pump()
        self._report(error)

    # --- reading

    def _readable(self) -> None:
        try:
            data = os.read(self._read_fd, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._ended(error if error.errno != errno.EIO else None)
            return
        if not data:
            self._ended(None)
            return
        self.read_bytes += len(data)
        self._deliver(self.framer.feed(data))

    def pump(self) -> None:
        """Read on until nothing more is there now, at most four megabytes: somebody may go on writing."""
        end = self.read_bytes + 64 * READ_SIZE
        while self._read_fd >= 0 and self.read_bytes < end:
            before = self.read_bytes
            self._readable()
            if self.read_bytes == before:
                return

    def _deliver(self, lines: list[bytes | Oversized]) -> None:
        for line in lines:
            if isinstance(line, bytes):
                self._on_message(line)
            else:
                self._on_oversized(line)

    def _ended(self, error: OSError | None) -> None:
        if self._read_fd >= 0:
            self._close_read()
            self._deliver(self.framer.eof())
        self._report(error)

    def finish(self) -> None:
        """The other end is surely gone: deliver what is left, the last line without its newline too, and close."""
        self.pump()
        if self._read_fd >= 0:
            self._close_read()
            self._deliver(self.framer.eof())
        self.close()

    def _report(self, error: OSError | None) -> None:
        on_eof, self._on_eof = self._on_eof, None
        if on_eof is not None:
            on_eof(error)

    # --- closing

    @property
    def readable(self) -> bool:
        """Whether the other end may still say something."""
        return self._read_fd >= 0

    def _close_read(self) -> None:
        fd, self._read_fd = self._read_fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            if fd != self._write_fd:
                os.close(fd)

    def close_write(self) -> None:
        """Close what we write to; what was not written stays unwritten."""
        fd = self._write_fd
        if fd < 0:
            return
        self._unwatch()
        self._measure(fd)
        self._write_fd = -1
        if fd != self._read_fd:
            os.close(fd)
        self._wake()

    def _measure(self, fd: int) -> None:
        """A pipe keeps what its readers left unread when they died, and says whether any reader is left."""
        if fd == self._read_fd or sys.platform != "linux":
            return
        try:
            poll = select.poll()
            poll.register(fd, 0)
            if any(events & select.POLLERR for _, events in poll.poll(0)):
                (unread,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))
                self.taken = self.written - unread
        except OSError:
            return

    def close(self) -> None:
        """Close both, without a report."""
        self._on_eof = None
        self.close_write()
        self._close_read()

    def _closed(self) -> UpstreamError:
        failure = self.failure
        if failure is None:
            message = "the connection to the server is closed"
            return UpstreamError(Reason.CONNECTION_LOST, message, delivery=Delivery.NOT_SENT)
        return UpstreamError(failure.reason, failure.message, delivery=Delivery.NOT_SENT, counted=failure.counted)

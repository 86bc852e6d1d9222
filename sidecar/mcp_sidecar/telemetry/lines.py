"""Writes lines to a file descriptor without ever blocking the event loop.

Lines are queued and written in batches by one thread, at most 50 ms later: a pipe that nobody reads blocks the thread,
never a call. The queue is bounded; what finds no room is dropped and counted, or, by policy, held back at the source
(`writable`). Redaction is applied here, at the sink, to every byte that leaves. What a line says is up to log.py and
audit.py.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

BATCH_SECONDS: Final = 0.05
MAX_QUEUED_BYTES: Final = 8 * 1024 * 1024
_CHUNK: Final = 64 * 1024
"""One pipe buffer: larger writes gain nothing."""

Redact = Callable[[bytes], bytes]


class LineWriter:
    """A bounded queue of lines in front of a file descriptor."""

    def __init__(
        self,
        fd: int,
        *,
        redact: Redact | None = None,
        batch: float = BATCH_SECONDS,
        max_bytes: int = MAX_QUEUED_BYTES,
        name: str = "lines",
    ) -> None:
        """`redact` gets whole lines, many at once; `batch` is the longest delay of a line in seconds."""
        self._fd = fd
        self.redact = redact
        self._batch = batch
        self._max = max_bytes
        self._name = name
        self._lines: deque[bytes] = deque()
        self._queued = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.dropped = 0
        """Lines that found no room or could not be written."""
        self.written = 0
        """Lines handed to the kernel."""

    def write(self, line: bytes, *, force: bool = False) -> bool:
        """Queue one line, its newline included. False, and counted, when it was dropped.

        `force` exceeds the bound: for a source that is held back by `writable` and bounded in itself.
        """
        with self._lock:
            if (self._queued >= self._max and not force) or self._closing.is_set():
                self.dropped += 1
                return False
            self._lines.append(line)
            self._queued += len(line)
        if not self._wake.is_set():
            self._wake.set()
            if self._thread is None:
                self._start()
        return True

    @property
    def queued_bytes(self) -> int:
        """Bytes not yet handed to the kernel."""
        return self._queued

    @property
    def full(self) -> bool:
        """Whether the next line would be dropped."""
        return self._queued >= self._max

    async def writable(self) -> None:
        """Wait until there is room again: the back-pressure of an audit that must lose nothing."""
        while self._queued >= self._max and not self._closing.is_set():
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            entry = (loop, future)
            with self._lock:
                self._waiting.append(entry)
            try:
                if self._queued < self._max:  # drained between the check and the registration
                    continue
                await future
            finally:
                with self._lock:
                    if entry in self._waiting:
                        self._waiting.remove(entry)

    def close(self, timeout: float = 2.0) -> bool:
        """Write what is queued and stop; False when that took longer than `timeout` seconds and lines were lost."""
        self._closing.set()
        self._wake.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
            if thread.is_alive():
                with self._lock:
                    self.dropped += len(self._lines)
                return False
        elif self._lines:
            self._drain()
        return True

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            # a daemon: a pipe that nobody reads must not keep the process alive
            self._thread = threading.Thread(target=self._run, name=f"outrigger-{self._name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if not self._closing.is_set():
                self._closing.wait(self._batch)
            self._wake.clear()
            self._drain()
            if self._closing.is_set() and not self._lines:
                return

    def _drain(self) -> None:
        while True:
            with self._lock:
                lines = list(self._lines)
                self._lines.clear()
            if not lines:
                return
            block = b"".join(lines)
            size = len(block)
            try:
                if self.redact is not None:
                    block = self.redact(block)
                self._write_all(block)
            except Exception:  # noqa: BLE001 - nowhere is left to report to; the count tells
                with self._lock:
                    self.dropped += len(lines)
            else:
                self.written += len(lines)
            self._release(size)

    def _release(self, size: int) -> None:
        with self._lock:
            self._queued -= size
            waiting = self._waiting if self._queued < self._max else []
            if waiting:
                self._waiting = []
        for loop, future in waiting:
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:  # that loop is closed: nobody waits any more
                continue

    def _write_all(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            try:
                sent = os.write(self._fd, view[:_CHUNK])
            except BlockingIOError:
                # somebody else made the shared descriptor non-blocking
                select.select([], [self._fd], [], 1.0)
                continue
            view = view[sent:]


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

"""What a server writes to stderr: into our log by line, at a bounded rate, and the last lines kept for /status.

Reading never stops for long, so that a server that floods its stderr is not blocked, and never takes the loop.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Final

from mcp_sidecar.protocol.lines import LineFramer, Oversized

_LONGEST: Final = 8192
_SHOWN: Final = 500
_PAUSE: Final = 0.005
"""Seconds between reads of 64 KiB while flooded: 13 MB/s at most."""


class StderrRelay:
    """Owns the descriptor. `log` gets whole lines as text, already passed through `redact`.

    `rate`: lines a second on average; `burst`: lines at once. What is beyond is counted in `dropped`.
    """

    __slots__ = (
        "_clock",
        "_fd",
        "_framer",
        "_last",
        "_log",
        "_loop",
        "_redact",
        "_timer",
        "_tokens",
        "_unlogged",
        "_unread",
        "_updated",
        "burst",
        "dropped",
        "lines",
        "rate",
    )

    def __init__(
        self,
        fd: int,
        *,
        clock: Callable[[], float],
        log: Callable[[str], None] | None,
        redact: Callable[[str], str] | None,
        rate: float = 50.0,
        burst: int = 200,
        kept: int = 20,
    ) -> None:
        self._fd = fd
        self._clock = clock
        self._log = log
        self._redact = redact
        self.rate = rate
        self.burst = burst
        self.lines = 0
        self.dropped = 0
        self._tokens = float(burst)
        self._updated = clock()
        self._unlogged = 0
        self._last: deque[str] = deque(maxlen=kept)
        self._unread = b""
        self._framer = LineFramer(_LONGEST)
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    @property
    def last(self) -> list[str]:
        """The last lines, redacted, each cut at 500 characters."""
        unread, self._unread = self._unread, b""
        self._last.extend(self._text(line)[:_SHOWN] for line in unread.split(b"\n") if line.strip())
        return list(self._last)

    def _readable(self) -> None:
        data = self._read()
        if data and self._tokens < 1.0 and len(data) >= 32_768:
            self._loop.remove_reader(self._fd)
            self._timer = self._loop.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._timer = None
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._readable)

    def _read(self) -> bytes:
        try:
            data = os.read(self._fd, 65_536)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:
            data = b""
        if not data:
            self._take(self._framer.eof())
            self._stop()
            return b""
        now = self._clock()
        self._tokens = min(float(self.burst), self._tokens + (now - self._updated) * self.rate)
        self._updated = now
        if self._tokens < 1.0:
            # Do not even cut it into lines; what may be its last words is looked at when somebody asks.
            count = data.count(b"\n")
            self.lines += count
            self.dropped += count
            self._unlogged += count
            self._framer.drop_partial()
            self._unread = data[-4096:]
            return data
        self._take(self._framer.feed(data))
        return data

    def _take(self, lines: list[bytes | Oversized]) -> None:
        for line in lines:
            text = self._text(line if isinstance(line, bytes) else line.head)
            self.lines += 1
            self._unread = b""
            self._last.append(text[:_SHOWN])
            if self._tokens < 1.0:
                self.dropped += 1
                self._unlogged += 1
                continue
            self._tokens -= 1.0
            if self._log is not None:
                if self._unlogged:
                    self._log(f"({self._unlogged} lines of stderr were dropped)")
                    self._unlogged = 0
                self._log(text)

    def _text(self, line: bytes) -> str:
        text = line.decode("utf-8", "replace").rstrip()
        return text if self._redact is None else self._redact(text)

    def _stop(self) -> None:
        fd, self._fd = self._fd, -1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if fd >= 0:
            self._loop.remove_reader(fd)
            os.close(fd)

    def finish(self) -> None:
        """The process is gone: take what is there now, at most a megabyte, and close."""
        for _ in range(16):
            if self._fd < 0 or not self._read():
                break
        if self._fd >= 0:
            self._take(self._framer.eof())
        self._stop()

"""What the listener grants a caller: times, sizes, counts.

One frozen value, so that a reload swaps it whole. Defaults are the front's own; the config package holds the names and
bounds that people see, app.py translates.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """Limits of one listener. Times are seconds, sizes bytes."""

    header_timeout: float = 10.0
    """From the first byte of a request to the end of its head; also from accept to the first byte."""
    body_timeout: float = 30.0
    """From the end of the head to the end of the body, whole: a caller that drips bytes does not extend it."""
    idle_timeout: float = 75.0
    """Between two requests of a kept-alive connection."""
    write_timeout: float = 30.0
    """How long the kernel may take no byte of what waits for a caller before the connection is dropped."""
    linger_timeout: float = 2.0
    """How long input is read and thrown away after a last answer, so that the answer arrives instead of a reset."""
    stream_comment_interval: float = 15.0
    """Between two comment lines on an open event stream, which keep proxies from closing it."""
    max_header_bytes: int = 32 * 1024
    max_headers: int = 128
    max_target_bytes: int = 8 * 1024
    max_body_bytes: int = 4 * 1024 * 1024
    max_unsent_bytes: int = 16 * 1024 * 1024
    """What may wait for a caller on an event stream before it counts as a slow reader and is dropped."""
    max_pipelined_bytes: int = 64 * 1024
    """What is read ahead while a request is in flight; then reading pauses (one read may exceed it by 256 KiB)."""
    max_held_bytes: int = 256 * 1024 * 1024
    """What all callers together may make the process hold: of long bodies, read in part or being served, and of
    answers that they do not read. Past it the next body is refused, and who has not read for longest is dropped."""
    max_linger_bytes: int = 16 * 1024 * 1024
    max_connections: int = 4096
    backlog: int = 1024
    accept_pause: float = 0.1
    """How long accepting rests when file descriptors or memory run out."""

    @property
    def sweep_interval(self) -> float:
        """How often time-outs are looked at: a quarter of the shortest, at most one second."""
        shortest = min(
            self.header_timeout,
            self.body_timeout,
            self.idle_timeout,
            self.write_timeout,
            self.linger_timeout,
            self.stream_comment_interval,
        )
        return max(0.005, min(1.0, shortest / 4))

"""Whether a caller reads what was written for it.

What waits may grow and shrink at once on a stream, so the size of the buffer tells nothing; bytes written less bytes
waiting are those that the kernel took, and that number must move. What follows from standstill is the connection's.
"""

from __future__ import annotations


class WriteProgress:
    """Of one connection. `written` is added to at every write; `stood_still` is asked from time to time."""

    __slots__ = ("_since", "_taken", "written")

    def __init__(self) -> None:
        self.written = 0
        """Bytes written in all."""
        self._taken = -1
        self._since = 0.0

    def stood_still(self, unsent: int, now: float) -> float:
        """Seconds for which `unsent` bytes or more waited and the kernel took none, as far as was asked."""
        taken = self.written - unsent
        if taken != self._taken:
            self._taken = taken
            self._since = now
        return now - self._since

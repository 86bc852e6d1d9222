"""A sliding window of outcomes in time buckets: what the breaker counts.

Constant memory and constant time per outcome, whatever the rate; nothing is allocated per call. The window forgets
one bucket at a time, so it covers between (n − 1)/n and all of its length.
"""

from __future__ import annotations


class SlidingWindow:
    """Counts of the last `length` seconds. Times must not go back."""

    __slots__ = ("_bucket", "_buckets", "_last", "bad", "slow", "total")

    def __init__(self, length: float, buckets: int = 10) -> None:
        self._bucket = length / buckets
        self._buckets = [[0, 0, 0] for _ in range(buckets)]
        self._last = -1
        self.total = 0
        self.bad = 0
        self.slow = 0

    def add(self, now: float, bad: bool, slow: bool) -> None:
        """Count one outcome."""
        number = int(now / self._bucket)
        if number != self._last:
            self._roll(number)
        bucket = self._buckets[number % len(self._buckets)]
        bucket[0] += 1
        self.total += 1
        if bad:
            bucket[1] += 1
            self.bad += 1
        if slow:
            bucket[2] += 1
            self.slow += 1

    def clear(self) -> None:
        """Forget everything."""
        for bucket in self._buckets:
            bucket[:] = (0, 0, 0)
        self.total = self.bad = self.slow = 0

    def _roll(self, number: int) -> None:
        size = len(self._buckets)
        if self._last < 0 or number - self._last >= size:
            self.clear()
        else:
            for passed in range(self._last + 1, number + 1):
                bucket = self._buckets[passed % size]
                self.total -= bucket[0]
                self.bad -= bucket[1]
                self.slow -= bucket[2]
                bucket[:] = (0, 0, 0)
        self._last = number

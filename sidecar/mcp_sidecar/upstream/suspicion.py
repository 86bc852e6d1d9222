"""When a channel that is open is thought to be dead all the same.

Requests given up one after the other without a sign of life between, or much noise and nothing else. A server that was
told to cancel owes no answer (MCP `basic/patterns/cancellation`), so this is a suspicion only: the slot's owner asks
the process for a sign of life before it is replaced.
"""

from __future__ import annotations

from collections.abc import Callable


class Suspicion:
    """`given_up`: requests given up in a row that make it suspect; `noise`: lines of garbage in a row that do."""

    __slots__ = ("given_up", "noise", "on_suspect", "silent", "suspect", "unintelligible")

    def __init__(self, given_up: int = 3, noise: int = 1000) -> None:
        self.given_up = given_up
        self.noise = noise
        self.suspect = False
        self.on_suspect: Callable[[], None] | None = None
        self.silent = 0
        self.unintelligible = 0

    def alive(self) -> None:
        """An answer, or progress of a request: it lives."""
        self.silent = self.unintelligible = 0
        self.suspect = False

    def request_given_up(self) -> None:
        """Nobody waits for the answer any more."""
        self.silent += 1
        if self.silent >= self.given_up:
            self._raise()

    def garbage(self) -> None:
        """A line that nobody understands."""
        self.unintelligible += 1
        if self.unintelligible >= self.noise:
            self._raise()

    def _raise(self) -> None:
        if not self.suspect:
            self.suspect = True
            if self.on_suspect is not None:
                self.on_suspect()

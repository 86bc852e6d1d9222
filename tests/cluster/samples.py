"""A number that is asked for again and again beside what a test does: its lowest and its highest value meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

INTERVAL = 0.1
"""Seconds between two questions."""


class Samples:
    """A context manager; leaving it raises what a question raised."""

    def __init__(self, ask: Callable[[], int]) -> None:
        self._ask = ask
        self._closing = threading.Event()
        self._over: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.values: list[int] = []
        """In their order."""

    def __enter__(self) -> Samples:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        if kind is None:
            self._over.result()

    def _run(self) -> None:
        try:
            while not self._closing.wait(INTERVAL):
                self.values.append(self._ask())
        except Exception as error:
            self._over.set_exception(error)
        else:
            self._over.set_result(None)

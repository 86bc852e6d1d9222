"""Callers that go on calling one endpoint while a test does something to what is behind it, and keep what they hear.

They behave as MCP clients do: connections are kept and used again unless the other side closed them; a modern caller
is stateless; a legacy one holds a session, and begins a new one where the specification says so (404). Nothing else is
tried again: what a sidecar, a Service or a node breaks is seen. Every answer is checked to be the caller's own.
"""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cluster.api import eventually
from raw_mcp import HttpAnswer, HttpClient

CONNECT_TIMEOUT = 2.0
"""Seconds. A Service may name a pod for a moment that is gone, and then nobody says no."""


@dataclass(frozen=True)
class Told:
    """What one call ended with; times are of the monotonic clock."""

    began: float
    ended: float
    outcome: str
    """`ok`, `error` (a JSON-RPC error), `connect` (nobody takes connections), `lost` (the connection ended without an
    answer), `late` (no answer in time), `wrong` (not the caller's answer), `http` (a status without JSON-RPC)."""
    status: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)
    """Of an error."""
    detail: str = ""

    @property
    def reason(self) -> str:
        """The sidecar's word for an error, else the outcome."""
        return str(self.data.get("reason", self.outcome))


def wait_for_connections(url: str) -> None:
    """Until one can be opened: nodes learn of a pod that is ready a moment after the API server does."""

    def listens() -> bool:
        # A Service that nobody knows yet swallows a connection for good: the first must be short of breath.
        where = urlsplit(url)
        try:
            socket.create_connection((where.hostname or "", where.port or 80), timeout=0.5).close()
        except OSError:
            return False
        return True

    eventually(listens, f"{url} takes connections", 30)


class SteadyLoad:
    """A context manager: so many callers at once, from the first answers until it is left."""

    def __init__(
        self,
        url: str,
        *,
        callers: int = 4,
        modern: bool = True,
        tool: str = "echo",
        arguments: Mapping[str, Any] | None = None,
        pause: float = 0.03,
        timeout: float = 40.0,
        answered: bool = True,
    ) -> None:
        """`timeout` and `pause` in seconds; `arguments` beside the key that the tool must give back; entering
        with `answered` waits for answers.
        """
        self._url = url
        self._modern = modern
        self._tool = tool
        self._arguments = dict(arguments or {})
        self._pause = pause
        self._timeout = timeout
        self._waits = answered
        self._stopping = threading.Event()
        self._asking: set[int] = set()
        self._numbers: dict[int, int] = {}
        """Caller → the number of its newest call."""
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"caller-{number}", daemon=True)
            for number in range(callers)
        ]
        self.told: list[Told] = []
        """Every call that has ended, in the order of their ends."""
        self.sessions_lost: list[float] = []
        """When (monotonic) a legacy caller was told to begin anew."""

    def __enter__(self) -> SteadyLoad:
        wait_for_connections(self._url)
        for thread in self._threads:
            thread.start()
        try:
            self.more(None if self._waits else 0)
        except AssertionError:
            self._stopping.set()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it sooner than its context does."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(self._timeout + 5)

    @property
    def answered(self) -> int:
        """Calls with the right answer so far."""
        return sum(one.outcome == "ok" for one in self.told)

    @property
    def in_hand(self) -> int:
        """Callers that wait for an answer now."""
        return len(self._asking)

    @property
    def failures(self) -> list[Told]:
        """Calls without."""
        return [one for one in self.told if one.outcome != "ok"]

    def more(self, count: int | None = None, timeout: float = 30.0) -> None:
        """Wait until so many more calls (two of each caller) were answered."""
        goal = self.answered + (2 * len(self._threads) if count is None else count)

        def look() -> bool:
            assert self.answered >= goal, f"{goal} wanted: {self.summary()}"
            return True

        eventually(look, "more answers", timeout)

    def turn_over(self, timeout: float = 60.0) -> None:
        """Wait until every call that is in hand now is over."""
        before = dict(self._numbers)
        look = lambda: all(self._numbers[caller] > number for caller, number in before.items())  # noqa: E731
        eventually(look, "every caller's next call", timeout)

    def summary(self) -> str:
        """How many calls ended how, with one example each."""
        examples = {one.reason: f"{one.status} {one.detail}" for one in self.failures}
        return f"{dict(Counter(one.reason for one in self.told))} {examples}"

    def longest_gap(self, since: float) -> float:
        """The longest time (s) after `since` (monotonic) in which no call was answered well."""
        ends = [since, *sorted(one.ended for one in self.told if one.outcome == "ok" and one.ended > since)]
        return max((after - before for before, after in itertools.pairwise(ends)), default=float("inf"))

    def _run(self, caller: int) -> None:
        client = HttpClient(self._url, modern=self._modern, timeout=self._timeout)
        opened = self._modern
        number = 0
        while not self._stopping.is_set():
            number += 1
            self._numbers[caller] = number
            key = f"{caller}-{number}"
            began = time.monotonic()
            try:
                client.connected(CONNECT_TIMEOUT)
            except OSError as error:
                self.told.append(Told(began, time.monotonic(), "connect", detail=repr(error)))
                self._stopping.wait(0.2)
                continue
            try:
                if not opened:
                    client.session = None
                    client.open()
                    opened = True
                    began = time.monotonic()
                self._asking.add(caller)
                answer = client.call(self._tool, {**self._arguments, "text": key})
                if not self._modern and answer.status == 404:
                    self.sessions_lost.append(time.monotonic())
                    opened = False
                    continue
                self.told.append(_judged(began, key, answer))
            except (OSError, http.client.HTTPException, ValueError, AssertionError) as error:
                client.close()
                self.told.append(Told(began, time.monotonic(), _broken(error), detail=repr(error)[:300]))
            finally:
                self._asking.discard(caller)
            self._stopping.wait(self._pause)
        client.close()


def _judged(began: float, key: str, answer: HttpAnswer) -> Told:
    ended = time.monotonic()
    shown = answer.body[:300].decode(errors="replace")
    try:
        message = answer.answer
    except (ValueError, IndexError):
        return Told(began, ended, "http", answer.status, detail=shown)
    if "error" in message:
        return Told(began, ended, "error", answer.status, message["error"].get("data") or {}, shown)
    # the script gives its arguments back, or only the text
    (content,) = message["result"]["content"]
    if key not in (content["text"], _text_in(content["text"])):
        return Told(began, ended, "wrong", answer.status, detail=f"asked {key}: {shown}")
    return Told(began, ended, "ok", answer.status)


def _text_in(told: str) -> object:
    return json.loads(told).get("text") if told.startswith("{") else None


def _broken(error: Exception) -> str:
    if isinstance(error, AssertionError):
        return "error"
    return "late" if isinstance(error, TimeoutError) else "lost"

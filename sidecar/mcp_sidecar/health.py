"""Whether a server is alive: the active check, and the probe of an open breaker.

Traffic that succeeded proves it as well, so a busy server is not asked. While the breaker is open the server is probed
every two seconds (notes/resilience.md B.3, B.5): a success lets calls try, it never closes the breaker by itself. What
readiness makes of this is `probes`' business.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from mcp_sidecar.errors import CallError
from mcp_sidecar.pipeline.breaker import Breaker, State

_FIRST_RETRY: Final = 0.5
_FIRST_PROBE: Final = 0.25
"""Seconds between the first two probes of an open breaker; doubled up to `probe_interval`."""
_MAX_RETRY: Final = 30.0


@dataclass(frozen=True)
class HealthSettings:
    """Times in seconds. start_timeout bounds the first check, which may have to start the server; probe_interval 0
    leaves an open breaker to its own time."""

    enabled: bool = True
    interval: float = 60.0
    timeout: float = 5.0
    failure_threshold: int = 3
    start_timeout: float = 60.0
    probe_interval: float = 2.0


class HealthCheck:
    """The health of one server. `run` is its one task."""

    def __init__(
        self,
        settings: HealthSettings,
        probe: Callable[[], Awaitable[None]],
        breaker: Breaker,
        *,
        on_up: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`probe` asks the server for a sign of life; `on_up` runs after each success that followed a failure, and
        after the first."""
        self.settings = settings
        self.answered = False
        """The server answered at least once."""
        self.failures = 0
        """Checks failed in a row."""
        self.checks = 0
        self.failed_checks = 0
        self.skipped = 0
        self.last_success: float | None = None
        """Seconds since the epoch."""
        self.last_error = ""
        self.waiting_since: float | None = None
        self.on_failed: Callable[[str], object] = str
        self._probe = probe
        self._breaker = breaker
        self._on_up = on_up
        self._clock = clock
        self._rng = rng
        self._wall_clock = wall_clock
        self._proved = float("-inf")
        self._wake = asyncio.Event()
        self._hurry = False
        breaker.on_open = self._wake.set

    @property
    def up(self) -> bool:
        """The server answered, and has not failed `failure_threshold` checks in a row since."""
        return self.answered and self.failures < self.settings.failure_threshold

    def proved(self) -> None:
        """A call was answered: no check is needed for an interval."""
        self._proved = self._clock()
        if self.failures or not self.answered:
            self.failures = 0
            self.answered = True
            self.last_success = self._wall_clock()

    def check_now(self) -> None:
        """There is reason to believe that it answers now."""
        self._hurry = True
        self._wake.set()

    def reconfigure(self, settings: HealthSettings) -> None:
        """Use new settings from the next wait on."""
        self.settings = settings
        self._wake.set()

    async def run(self) -> None:
        """Check until cancelled."""
        pause = 0.0
        retry = _FIRST_RETRY
        trial = _FIRST_PROBE
        while True:
            await self._sleep(pause)
            settings = self.settings
            opened = self._breaker.state is State.OPEN and settings.probe_interval > 0
            first = not self.answered
            if not settings.enabled and not opened and not first:
                pause = 3600.0
                continue
            if not opened and self._clock() - self._proved < settings.interval:
                self.skipped += 1
                pause = self._jitter(max(0.1, settings.interval - (self._clock() - self._proved)))
                continue
            passed = await self._check(settings.start_timeout if first else settings.timeout)
            if self._breaker.state is State.OPEN:
                if passed:
                    self._breaker.probe_succeeded()
                else:
                    self._breaker.probe_failed()
            if self._breaker.state is State.OPEN and settings.probe_interval > 0:
                # most outages are short: the first probes come sooner
                pause = self._jitter(min(trial, settings.probe_interval))
                trial *= 2
                continue
            trial = _FIRST_PROBE
            if passed:
                retry = _FIRST_RETRY
                pause = self._jitter(settings.interval)
            elif self.answered:
                pause = self._jitter(min(settings.interval, max(1.0, settings.timeout)))
            else:
                pause, retry = self._jitter(retry), min(retry * 2, _MAX_RETRY)

    async def _check(self, timeout: float) -> bool:
        was_up = self.up
        self.checks += 1
        self.waiting_since = self._clock()
        try:
            async with asyncio.timeout(timeout):
                await self._probe()
                self.answered = True
                if self._on_up is not None and not was_up:
                    await self._on_up()
        except TimeoutError:
            self._failed(f"no answer within {timeout:g} s")
            return False
        except CallError as error:
            self._failed(error.message)
            return False
        except Exception as error:  # noqa: BLE001 - a defect in a probe must not end all checks
            self._failed(f"internal error: {type(error).__name__}")
            asyncio.get_running_loop().call_exception_handler({"message": "a health check failed", "exception": error})
            return False
        finally:
            self.waiting_since = None
        self._proved = self._clock()
        self.failures = 0
        self.last_success = self._wall_clock()
        self.last_error = ""
        return True

    def _failed(self, message: str) -> None:
        self.failures += 1
        self.failed_checks += 1
        self.last_error = message
        self.on_failed(message)

    def _jitter(self, seconds: float) -> float:
        return seconds * (0.9 + 0.2 * self._rng())

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not through the opening of the breaker."""
        if seconds <= 0:
            return
        self._wake.clear()
        if self._hurry:
            self._hurry = False
            return
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

"""A process of another program that runs beside the tests: log in a file, stopped by its pid, dead when we die.

Knows nothing of Kubernetes; `control_plane`, `operator_process` and `pod_agent` are made of these.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
TAIL_LINES = 40


class ProcessFailed(AssertionError):
    """It ended, or did not become ready; the message ends with the last lines of its log."""


def _die_with_parent() -> None:
    # Runs between fork and exec. A test run that is killed leaves nothing behind.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class BackgroundProcess:
    """One program, which may be started again and again; every start appends to the same log."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.log_path = directory / f"{name}.log"
        self.env = dict(env) if env is not None else None
        self.cwd = cwd or directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs, and before its first start."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; whether it is ready is for `wait_until`."""
        assert not self.running, f"{self.name} runs already"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=self.cwd,
                # of its own: a Ctrl-C at the terminal is ours to handle, in order
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def wait_until(self, ready: Callable[[], bool], what: str, timeout: float) -> None:
        """Wait until `ready()`; an OSError of it counts as not yet. Raises ProcessFailed, at once when it ends."""
        until = time.monotonic() + timeout
        last = ""
        while time.monotonic() < until:
            if not self.running:
                raise ProcessFailed(self.describe(f"ended with {self.returncode} before {what}"))
            try:
                if ready():
                    return
            except OSError as error:
                last = f": {error}"
            # most ask over HTTP, which is work for the process that is waited for
            time.sleep(0.1)
        raise ProcessFailed(self.describe(f"not {what} within {timeout:g} s{last}"))

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, then SIGKILL after `timeout` seconds; the exit code (negative: the signal). 0 where it never ran."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            # a stopped process does not see SIGTERM
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        """SIGKILL, and reap it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """All it has said so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def describe(self, what: str, lines: int = TAIL_LINES) -> str:
        """`what`, with the end of the log."""
        tail = "\n".join(self.log().splitlines()[-lines:])
        return f"{self.name}: {what}\n--- its log ends with ---\n{tail}"

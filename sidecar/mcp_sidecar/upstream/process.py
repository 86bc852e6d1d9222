"""One operating system process and its group: spawning, watching, signalling, reaping.

Not asyncio's subprocess: the leader must stay a zombie until its group has been killed, or the group's number could
already be somebody else's, and the exact reason of a failed start is wanted. Knows nothing of what the process says.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from mcp_sidecar.errors import Reason
from mcp_sidecar.upstream.channel import StartError

LIVE: Final[set[int]] = set()
"""Our children that have not been reaped: their exit status belongs to us (see reaper.py)."""

INHERITED: Final = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""What a server gets of the sidecar's environment, and LC_*: never our own secrets."""

_KINDS: Final = {
    errno.ENOENT: "not_found",
    errno.EACCES: "not_permitted",
    errno.EPERM: "not_permitted",
    errno.ENOEXEC: "not_executable",
    errno.EAGAIN: "no_processes",
    errno.ENOMEM: "no_memory",
    errno.EMFILE: "no_files",
    errno.ENFILE: "no_files",
    errno.E2BIG: "too_long",
}


class ExitStatus(NamedTuple):
    """How a process ended: by itself with `code`, or by `signal`."""

    code: int | None
    signal: int | None

    @property
    def kind(self) -> str:
        """A label: `ok`, `error` or `signal`."""
        return "signal" if self.code is None else "error" if self.code else "ok"

    def __str__(self) -> str:
        if self.code is not None:
            return f"exited with status {self.code}"
        number = self.signal or 0
        try:
            return f"was killed by {signal.Signals(number).name}"
        except ValueError:
            return f"was killed by signal {number}"


def child_environment(configured: Mapping[str, str], inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """The allow-listed part of `inherited` (ours), overridden by what is configured."""
    source = os.environ if inherited is None else inherited
    kept = {name: value for name, value in source.items() if name in INHERITED or name.startswith("LC_")}
    return {**kept, **configured}


def resolve(command: str, environment: Mapping[str, str], cwd: str | None) -> str:
    """The file that `command` names. Raises StartError naming the command, never a value of the environment."""
    if cwd is not None and not os.path.isdir(cwd):
        raise StartError("no_directory", f"the working directory {cwd!r} does not exist", reason=Reason.START_FAILED)
    if "/" in command:
        path = os.path.join(cwd or "", command)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return os.path.abspath(path)
        kind, why = ("not_executable", "is not executable") if os.path.exists(path) else ("not_found", "does not exist")
        raise StartError(kind, f"the command {command!r} {why}", reason=Reason.START_FAILED)
    found = shutil.which(command, path=environment.get("PATH", os.defpath))
    if found is None:
        raise StartError("not_found", f"the command {command!r} was not found on PATH", reason=Reason.START_FAILED)
    return os.path.abspath(found)


class Process:
    """A process that leads its own session and group.

    `on_exit` is called once on the loop when it has ended; it is a zombie then, until `reap`.
    """

    def __init__(
        self,
        command: str,
        args: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: str | None,
        umask: int,
        on_exit: Callable[[], None],
    ) -> None:
        """Start it. Raises StartError; then nothing is left open."""
        executable = resolve(command, environment, cwd)
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        opened: list[int] = []
        try:
            for _ in range(3):
                opened += os.pipe()
            in_read, in_write, out_read, out_write, err_read, err_write = opened
            self._popen = subprocess.Popen(
                [command, *args],
                executable=executable,
                stdin=in_read,
                stdout=out_write,
                stderr=err_write,
                cwd=cwd,
                env=dict(environment),
                umask=umask,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            for fd in opened:
                os.close(fd)
            raise _start_error(command, error) from None
        for fd in (in_read, out_write, err_write):
            os.close(fd)
        self.pid = self._popen.pid
        LIVE.add(self.pid)
        self.stdin, self.stdout, self.stderr = in_write, out_read, err_read
        """Our ends of its pipes; whoever takes one closes it."""
        self.status: ExitStatus | None = None
        self._pidfd = -1
        self._no_core()
        self._watch()

    def _no_core(self) -> None:
        """Core dumps would write secrets to a disk."""
        if hasattr(resource, "prlimit"):
            try:
                resource.prlimit(self.pid, resource.RLIMIT_CORE, (0, 0))
            except OSError:
                pass  # already gone, or of another user by set-uid

    def _watch(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            # No pidfd (macOS, Linux before 5.3, no descriptor left): a thread waits, without taking the status.
            threading.Thread(target=self._wait, name=f"wait-{self.pid}", daemon=True).start()
        else:
            self._loop.add_reader(self._pidfd, self._ended)

    def _wait(self) -> None:
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._loop.call_soon_threadsafe(self._ended)
        except (ChildProcessError, RuntimeError):
            pass  # reaped, or the loop closed, meanwhile

    def _unwatch(self) -> None:
        fd, self._pidfd = self._pidfd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            os.close(fd)

    def _ended(self) -> None:
        self._unwatch()
        if not self.reaped and self.poll() is not None:
            self._on_exit()

    def poll(self) -> ExitStatus | None:
        """How it ended, None while it runs. It stays a zombie."""
        if self.status is None:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                by_itself = ended.si_code == os.CLD_EXITED
                self.status = ExitStatus(ended.si_status if by_itself else None, None if by_itself else ended.si_status)
        return self.status

    @property
    def reaped(self) -> bool:
        """Whether the kernel has forgotten it; no signal can be sent any more."""
        return self.pid not in LIVE

    def signal_group(self, number: signal.Signals) -> None:
        """Signal every process of its group. The group's number is ours as long as the leader is not reaped."""
        if not self.reaped:
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                pass

    def reap(self) -> None:
        """Let the kernel forget it, once it has ended."""
        if not self.reaped and self.poll() is not None:
            self._popen.wait()
            self._unwatch()
            LIVE.discard(self.pid)


def _start_error(command: str, error: OSError | ValueError) -> StartError:
    if isinstance(error, ValueError):
        message = f"the command {command!r}, its arguments or environment cannot be passed to a process"
        return StartError("invalid", message, reason=Reason.START_FAILED)
    kind = _KINDS.get(error.errno or 0, "other")
    why = os.strerror(error.errno) if error.errno else type(error).__name__
    if kind == "not_found":
        why = "it exists, but not the interpreter that its first line names"
    return StartError(kind, f"the command {command!r} could not be started: {why}", reason=Reason.START_FAILED)

"""A stdio server as a child of the sidecar: messages as lines on its stdin and stdout (MCP `basic/transports/stdio`).

Ends the process as the specification says, stdin first, then TERM, then KILL, always for the whole process group, and
leaves nothing behind: no process, no zombie, no descriptor. Restarting is the slot's work, ids the multiplexer's.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mcp_sidecar.errors import Delivery, Reason, SecretError, UpstreamError
from mcp_sidecar.protocol.lines import DEFAULT_LIMIT, Oversized
from mcp_sidecar.upstream.channel import StartError
from mcp_sidecar.upstream.line_stream import LineStream, Outgoing
from mcp_sidecar.upstream.process import ExitStatus, Process
from mcp_sidecar.upstream.stderr_relay import StderrRelay

_EXIT_FOLLOWS = 0.02
"""Seconds in which the exit usually follows the end of stdout: the error can then say how the process ended."""


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """What to run and how to end it. Times in seconds."""

    command: str
    args: tuple[str, ...] = ()
    cwd: str | None = None
    umask: int = 0o022
    line_limit: int = DEFAULT_LIMIT
    """Bytes of the longest message of the server."""
    stdin_grace: float = 2.0
    """Between closing its stdin and SIGTERM."""
    term_grace: float = 2.0
    """Between SIGTERM and SIGKILL."""
    kill_grace: float = 2.0
    """How long a process in an uninterruptible state is waited for after SIGKILL."""
    stderr_rate: float = 50.0
    """Lines of stderr logged a second."""
    stderr_burst: int = 200
    stdin_buffer: int = 262_144
    """Bytes queued for a server that does not read before senders wait."""


class ChildChannel:
    """A `Channel` to one child process, for one life of it.

    `environment` is called when it is spawned, so that secrets are read as late as can be; it may raise SecretError.
    `log` gets the lines of its stderr; `redact` is applied to each before it is kept or logged.
    """

    def __init__(
        self,
        settings: ChildSettings,
        *,
        environment: Callable[[], Mapping[str, str]],
        clock: Callable[[], float],
        log: Callable[[str], None] | None = None,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        self.settings = settings
        self.on_message: Callable[[bytes], None] = _ignore
        self.on_oversized: Callable[[Oversized], None] = _ignore
        self.on_closed: Callable[[UpstreamError], None] = _ignore
        self._environment = environment
        self._clock = clock
        self._log = log
        self._redact = redact
        self._process: Process | None = None
        self._stream: LineStream | None = None
        self._stderr: StderrRelay | None = None
        self._error: UpstreamError | None = None
        self._closing = False
        self._eof_timer: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] | None = None
        self.stopped_by_us = False

    # --- what is known

    @property
    def pid(self) -> int | None:
        """Its process id, None before `open`."""
        return self._process.pid if self._process else None

    @property
    def exit_status(self) -> ExitStatus | None:
        """How it ended, None while it runs."""
        return self._process.status if self._process else None

    @property
    def exit_kind(self) -> str:
        """A label: `running`, `stopped` (by us), `ok`, `error`, `signal`."""
        status = self.exit_status
        return "running" if status is None else "stopped" if self.stopped_by_us else status.kind

    @property
    def last_lines(self) -> list[str]:
        """The end of its stderr, redacted."""
        return self._stderr.last if self._stderr else []

    @property
    def stderr_dropped(self) -> int:
        """Lines of stderr that were not logged."""
        return self._stderr.dropped if self._stderr else 0

    @property
    def congested(self) -> bool:
        """See Channel."""
        return self._stream is not None and self._stream.congested

    # --- Channel

    async def open(self) -> None:
        """Spawn it. Raises StartError; what the program does then is not known yet."""
        settings = self.settings
        try:
            environment = self._environment()
        except SecretError as error:
            raise StartError("secret", str(error), reason=Reason.START_FAILED) from None
        self._gone = asyncio.get_running_loop().create_future()
        process = self._process = Process(
            settings.command,
            settings.args,
            environment=environment,
            cwd=settings.cwd,
            umask=settings.umask,
            on_exit=self._on_exit,
        )
        self._stream = LineStream(
            process.stdout,
            process.stdin,
            on_message=self.on_message,
            on_oversized=self.on_oversized,
            on_eof=self._on_eof,
            limit=settings.line_limit,
            high_water=settings.stdin_buffer,
        )
        self._stderr = StderrRelay(
            process.stderr,
            clock=self._clock,
            log=self._log,
            redact=self._redact,
            rate=settings.stderr_rate,
            burst=settings.stderr_burst,
        )

    def send(self, message: bytes) -> Outgoing:
        """See Channel."""
        if self._stream is None:
            raise UpstreamError(Reason.CHILD_EXITED, "the server is not running", delivery=Delivery.NOT_SENT)
        return self._stream.send(message)

    async def drain(self) -> None:
        """See Channel."""
        if self._stream is not None:
            await self._stream.drain()

    async def close(self, reason: str) -> None:
        """Stdin, TERM, KILL, each with its grace; returns when no process of its group is left.

        Cancelled, it kills the group at once. A process that even SIGKILL does not end (state D) is left to be reaped
        whenever it ends.
        """
        if self._process is None or self._gone is None or self._gone.done():
            return
        if self._closing:
            await asyncio.wait([self._gone])
            return
        self._closing = True
        self.stopped_by_us = self._process.poll() is None
        said_goodbye = self._error is not None
        self._fail(UpstreamError(Reason.CONNECTION_LOST, f"the server is stopped: {reason}", delivery=Delivery.MAYBE))
        try:
            await self._end(self._process, hurry=said_goodbye)
        finally:
            self._process.signal_group(signal.SIGKILL)
            self._finish()

    async def _end(self, process: Process, hurry: bool) -> None:
        settings, stream, gone = self.settings, self._stream, self._gone
        assert stream is not None
        assert gone is not None
        if not hurry:
            flushed = asyncio.ensure_future(stream.flush())
            await asyncio.wait([flushed, gone], timeout=settings.stdin_grace, return_when=asyncio.FIRST_COMPLETED)
            flushed.cancel()
            stream.close_write()
            await asyncio.wait([gone], timeout=settings.stdin_grace)
        stream.close_write()
        if not gone.done():
            process.signal_group(signal.SIGTERM)
            await asyncio.wait([gone], timeout=settings.term_grace)
        if not gone.done():
            process.signal_group(signal.SIGKILL)
            await asyncio.wait([gone], timeout=settings.kill_grace)

    # --- what happens to it

    def _on_exit(self) -> None:
        """The leader of the group is a zombie."""
        if self._eof_timer is not None:
            self._eof_timer.cancel()
        process, stream = self._process, self._stream
        if process is None or stream is None:
            return
        if self._closing and stream.readable:
            # The rest of the group still holds stdout: it gets the graces too.
            stream.pump()
            if stream.readable:
                return
        stream.finish()
        self._fail(
            UpstreamError(Reason.CHILD_EXITED, f"the server's process {process.status}", delivery=Delivery.MAYBE)
        )
        process.signal_group(signal.SIGKILL)
        self._finish()

    def _on_eof(self, error: OSError | None) -> None:
        """Stdout is closed, or stdin can no longer be written."""
        process = self._process
        if process is None:
            return
        if self._closing:
            if process.poll() is not None:
                self._finish()
            return
        if process.poll() is None and self._eof_timer is None:
            what = "output" if error is None else "input"
            self._eof_timer = asyncio.get_running_loop().call_later(_EXIT_FOLLOWS, self._half_dead, what)

    def _half_dead(self, what: str) -> None:
        """It lives, but does not talk or listen any more: of no use to anybody. Its owner will `close`."""
        message = f"the server's process closed its {what}"
        if self._stream is not None:
            self._stream.close_write()
        self._fail(UpstreamError(Reason.CHILD_EXITED, message, delivery=Delivery.MAYBE))

    def _fail(self, error: UpstreamError) -> None:
        if self._error is None:
            self._error = error
            if self._stream is not None:
                self._stream.failure = error
            self.on_closed(error)

    def _finish(self) -> None:
        """Close everything, and reap where it has ended."""
        if self._stream is not None:
            self._stream.close()
        if self._stderr is not None:
            self._stderr.finish()
        if self._process is not None:
            self._process.reap()
        if self._gone is not None and not self._gone.done() and self._process is not None and self._process.reaped:
            self._gone.set_result(None)


def _ignore(_: object) -> None:
    """Before the multiplexer sets its callbacks."""

"""The sidecar as a black box: the command line in a process of its own, on free ports, checked for what it leaves.

For tests that must not know the inside: published servers, conformance, chaos, the benchmark. What the sidecar does
inside one process is tested without this.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0
KEPT_LINES = 200_000
_SLICE, _SLICES = 3_900, 5
_PORTS = range(10_500, 10_500 + _SLICE * _SLICES)
"""Above the kubelet's, below those that the kernel gives to connections (net.ipv4.ip_local_port_range)."""
if _WORKER := os.environ.get("PYTEST_XDIST_WORKER"):
    # what is handed out is bound a second or two later: no other worker may choose it meanwhile
    _PORTS = _PORTS[int(_WORKER.removeprefix("gw")) % _SLICES * _SLICE :][:_SLICE]
_TURN = itertools.count(random.SystemRandom().randrange(len(_PORTS)))
"""None comes twice soon; runs at the same time begin at different ones, whatever a test seeds."""


class SidecarFailed(AssertionError):
    """The process did not do what was waited for; the message ends with the last lines of its stderr."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has at this moment, and that no connection is given before they are used."""
    chosen: list[int] = []
    while len(chosen) < count:
        port = _PORTS[next(_TURN) % len(_PORTS)]
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            chosen.append(port)
    return chosen


def process_table() -> dict[int, tuple[int, int, str]]:
    """Every process that runs now: pid → (parent's pid, start time in clock ticks, state letter)."""
    table: dict[int, tuple[int, int, str]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text()
        except OSError:
            continue
        # the command, in parentheses, may hold spaces and parentheses
        fields = stat[stat.rindex(")") + 2 :].split()
        table[int(entry)] = (int(fields[1]), int(fields[19]), fields[0])
    return table


def descendants(pid: int) -> dict[int, int]:
    """The processes below `pid` now, zombies included: pid → start time, which tells a pid from its reuse."""
    table = process_table()
    children: dict[int, list[int]] = {}
    for child, (parent, _, _) in table.items():
        children.setdefault(parent, []).append(child)
    found: dict[int, int] = {}
    pending = [pid]
    while pending:
        for child in children.get(pending.pop(), ()):
            found[child] = table[child][1]
            pending.append(child)
    return found


def survivors(processes: Mapping[int, int]) -> dict[int, str]:
    """Those of `processes` that are still there: pid → command line. Zombies count, unless they are ours to reap."""
    table = process_table()
    alive = {}
    for pid, started in processes.items():
        if pid in table and table[pid][1] == started:
            try:
                alive[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
    return alive


class SidecarProcess:
    """`outrigger-sidecar run` with a config given as a dict; a context manager that stops it and checks what is left.

    `stop()` sends SIGTERM, expects exit code 0 within `STOP_TIMEOUT` and fails when a process that was below the
    sidecar outlives it.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        directory: Path | None = None,
        env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        python: str = sys.executable,
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="outrigger-") if directory is None else None
        self.directory = Path(self._temporary.name) if self._temporary else Path(str(directory))
        self.config_path = self.directory / "config.json"
        self.config_path.write_text(json.dumps(config))
        self.env = {**os.environ, "XDG_STATE_HOME": str(self.directory), **(env or {})}
        self.arguments = arguments
        self.python = python
        self.host = host
        """Of the MCP port; the admin port is on 127.0.0.1."""
        self.port = 0
        self.admin_port = 0
        self._wanted_port = port
        self.stderr: deque[bytes] = deque(maxlen=KEPT_LINES)
        """The newest log lines, without newline."""
        self.stdout: deque[bytes] = deque(maxlen=KEPT_LINES)
        """The newest audit lines, without newline."""
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def url(self, server: str | None = None) -> str:
        """The MCP endpoint: of the only server, or of the one named."""
        path = f"/servers/{server}/mcp" if server else "/mcp"
        return f"http://{self.host}:{self.port}{path}"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace the config file in one step, as an editor or the kubelet does."""
        replacement = self.config_path.with_suffix(".new")
        replacement.write_text(json.dumps(config))
        replacement.replace(self.config_path)

    def start(self) -> SidecarProcess:
        """Start the process and wait until `/startupz` answers 200."""
        self.port, self.admin_port = free_ports(2)
        self.port = self._wanted_port or self.port
        command = [self.python, "-m", "mcp_sidecar.cli", "run", "--config", str(self.config_path)]
        command += ["--host", self.host, "--port", str(self.port), "--admin-port", str(self.admin_port)]
        self._process = subprocess.Popen(
            [*command, *self.arguments],
            env=self.env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for stream, lines in ((self._process.stdout, self.stdout), (self._process.stderr, self.stderr)):
            assert stream is not None
            reader = threading.Thread(target=_collect, args=(stream, lines), daemon=True)
            reader.start()
            self._readers.append(reader)
        try:
            self.wait_for("/startupz")
        except BaseException:
            self.kill()
            raise
        return self

    def wait_for(self, path: str, status: int = 200, timeout: float = START_TIMEOUT) -> bytes:
        """Wait until a page of the admin port has `status`; its body. Raises SidecarFailed."""
        until = time.monotonic() + timeout
        last = "no answer"
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise SidecarFailed(self._describe(f"exited with {self.process.returncode} before {path} was {status}"))
            try:
                got, body = self.admin(path)
            except OSError as error:
                last = str(error)
            else:
                if got == status:
                    return body
                last = f"{got} {body[:500]!r}"
            time.sleep(0.02)
        raise SidecarFailed(self._describe(f"{path} was not {status} within {timeout:g} s: {last}"))

    def admin(self, path: str) -> tuple[int, bytes]:
        """GET a page of the admin port: status and body. Raises OSError while nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """`/status` as a dict."""
        got, body = self.admin("/status")
        assert got == 200, body
        status: dict[str, Any] = json.loads(body)
        return status

    def metrics(self) -> dict[str, float]:
        """`/metrics`: `name{label="value"}` → value."""
        got, body = self.admin("/metrics")
        assert got == 200, body
        samples = {}
        for line in body.decode().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def children(self) -> dict[int, int]:
        """The processes below the sidecar: pid → start time."""
        return descendants(self.pid)

    def kill_children(self, signum: signal.Signals = signal.SIGKILL) -> dict[int, int]:
        """Send it to every process below the sidecar, and tell which they were; one may end by itself meanwhile."""
        below = self.children()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        return below

    def stop(self, *, expected: int = 0) -> None:
        """SIGTERM, wait, check the exit code and that no process below it lives on. Raises SidecarFailed."""
        if self._process is None:
            return
        below = self.children()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            message = self._describe(f"did not end within {STOP_TIMEOUT:g} s of SIGTERM")
            self.kill()
            raise SidecarFailed(message) from None
        self._join()
        left = survivors(below)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        code = self._process.returncode
        message = self._describe(f"exit code {code}, left behind: {left or 'nothing'}")
        self._release()
        if left or code != expected:
            raise SidecarFailed(message)

    def kill(self) -> None:
        """SIGKILL the sidecar and what is below it; checks nothing."""
        if self._process is None:
            return
        below = self.children()
        self._process.kill()
        self._process.wait()
        for pid in survivors(below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._join()
        self._release()

    def __enter__(self) -> SidecarProcess:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self._readers.clear()

    def _release(self) -> None:
        self._process = None
        if self._temporary is not None:
            self._temporary.cleanup()

    def _describe(self, what: str) -> str:
        tail = b"\n".join(list(self.stderr)[-30:]).decode(errors="replace")
        return f"the sidecar {what}\n--- its stderr ends with ---\n{tail}"


def _collect(stream: IO[bytes], lines: deque[bytes]) -> None:
    with contextlib.suppress(ValueError, OSError):
        while line := stream.readline():
            lines.append(line.rstrip(b"\n"))


@contextlib.contextmanager
def running(config: Mapping[str, Any], **options: Any) -> Iterator[SidecarProcess]:
    """Start a sidecar, wait until it is ready (`/readyz`), stop it and check at the end."""
    with SidecarProcess(config, **options) as sidecar:
        sidecar.wait_for("/readyz")
        yield sidecar

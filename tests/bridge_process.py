"""The bridge as a black box: the program that images carry, in a process of its own, in front of a server's command."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from images.bridge import NAME, SOURCES, native
from images.bridge import build as compile_to
from sidecar_process import ROOT, descendants, survivors

CACHE = ROOT / ".cache" / "bin"
PATIENCE = 20.0


def build(architecture: str = "") -> Path:
    """The compiled bridge, made once for each state of its sources."""
    architecture = architecture or native()
    digest = hashlib.sha256()
    for source in [SOURCES / "go.mod", *sorted(SOURCES.glob("*.go")), ROOT / "images" / "bridge.py"]:
        digest.update(source.read_bytes())
    target = CACHE / f"{NAME}-{architecture}-{digest.hexdigest()[:16]}"
    return target if target.exists() else compile_to(target, architecture)


class BridgeFailed(AssertionError):
    """It did not do what was waited for; the message ends with its stderr."""


class Bridge:
    """`outrigger-bridge serve` until the end of the block; then SIGTERM, exit code 0 and no process left are expected.

    `prefix` is a command that starts it in another place or as another user.
    """

    def __init__(
        self,
        socket: Path,
        command: Sequence[str],
        *,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        program: str = "",
    ) -> None:
        self.socket = socket
        program = program or str(build())
        self.command = [*prefix, program, "serve", "--socket", str(socket), *options, "--", *command]
        self.env = {**os.environ, **(env or {})}
        self.stderr: deque[str] = deque(maxlen=100_000)
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> Bridge:
        """Start it and wait until it listens."""
        told = len(self.log("serves"))
        self._process = subprocess.Popen(
            self.command, env=self.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        self._reader = threading.Thread(target=self._collect, args=(self._process,), daemon=True)
        self._reader.start()
        self.until(lambda: len(self.log("serves")) > told)
        return self

    def _collect(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.stderr.append(line.decode(errors="replace").rstrip("\n"))

    def log(self, text: str = "") -> list[str]:
        """The lines of its stderr that hold `text`."""
        return [line for line in list(self.stderr) if text in line]

    def until(self, condition: object, seconds: float = PATIENCE) -> None:
        """Wait for what no event tells of. Raises BridgeFailed when it does not come, or the bridge ends before."""
        assert callable(condition)
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                self._join()
                if condition():
                    return
                raise BridgeFailed(self._describe(f"ended with {self.process.returncode}"))
            if time.monotonic() > end:
                raise BridgeFailed(self._describe("did not come that far"))
            time.sleep(0.005)

    def said(self, text: str) -> None:
        """Wait until a line of its stderr holds `text`."""
        self.until(lambda: self.log(text))

    def servers(self) -> dict[int, int]:
        """The processes below it: pid → start time."""
        return descendants(self.pid)

    def memory(self) -> int:
        """Its resident set, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise BridgeFailed(self._describe("has no memory"))

    def descriptors(self) -> int:
        """How many files it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def kill(self) -> None:
        """SIGKILL to it and all below, as the end of a container is. Nothing is checked."""
        below = self.servers()
        self.process.kill()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._join()

    def stop(self) -> None:
        """SIGTERM. Raises BridgeFailed unless it ends with 0 and leaves nothing."""
        below = self.servers()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise BridgeFailed(self._describe("did not end")) from None
        self._join()
        left = survivors(below)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if left or code != 0:
            raise BridgeFailed(self._describe(f"ended with {code} and left {left or 'nothing'}"))

    def __enter__(self) -> Bridge:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.stop()
        elif self.process.poll() is None:
            self.kill()

    def _join(self) -> None:
        if self._reader is not None:
            self._reader.join(5)

    def _describe(self, what: str) -> str:
        return f"the bridge {what}\n--- its stderr ends with ---\n" + "\n".join(list(self.stderr)[-40:])


class Volume:
    """A mounted Secret as the kubelet writes it: files are links through `..data`, which moves in one step."""

    def __init__(self, directory: Path, **files: str) -> None:
        self.directory = directory
        self._version = 0
        directory.mkdir(parents=True, exist_ok=True)
        self.write(**files)

    def write(self, **files: str) -> None:
        """Replace all files, which appear and go under their names too."""
        self._version += 1
        data, old = self.directory / "..data", None
        if data.is_symlink():
            old = self.directory / os.readlink(data)
        new = self.directory / f"..2026_{self._version}"
        new.mkdir()
        for name, text in files.items():
            (new / name).write_text(text)
        link = self.directory / "..data_tmp"
        link.symlink_to(new.name)
        link.rename(data)
        for name in files:
            if not (self.directory / name).is_symlink():
                (self.directory / name).symlink_to(f"..data/{name}")
        for path in self.directory.iterdir():
            if not path.name.startswith("..") and path.name not in files:
                path.unlink()
        if old is not None:
            for path in old.iterdir():
                path.unlink()
            old.rmdir()

"""Programs that the Go module registry has the source of, found in the cache or built there.

A module names them in a `tool` block and pins every source by hash (`go.mod`, `go.sum`); it may have small ones of its
own. The cache is keyed by all its files, so another version never meets a stale program. Only what is asked for is
built, by the Go of the environment. Which programs those are is left to the module's owner:
`cluster/kubernetes_programs.py`, `cluster/addon_programs.py`, `chart/tools.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CACHE = Path(os.environ.get("OUTRIGGER_CACHE") or Path.home() / ".cache" / "outrigger")
BUILD_TIMEOUT = 2400.0
"""For one program, in seconds: a cold kube-apiserver takes 6 minutes on two idle cores."""


class ProgramsMissing(RuntimeError):
    """A program could not be built; the message says what to do."""


@dataclass(frozen=True, slots=True)
class GoModule:
    """A folder with `go.mod` and `go.sum`, and the programs that it makes."""

    folder: Path
    packages: Mapping[str, str]
    """Program → the Go package that makes it."""
    cache_name: str = field(kw_only=True)
    """The folder of the cache that these programs share."""
    version: str = field(default="", kw_only=True)
    """Shown in messages and in the path, where all programs have one."""
    stamps: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """Go variable → the text that the linker gives it."""

    def directory(self) -> Path:
        """Where the programs of these sources are, or will be."""
        pinned = (self.folder / "go.mod").read_bytes() + (self.folder / "go.sum").read_bytes()
        pinned += b"".join(path.read_bytes() for path in sorted(self.folder.rglob("*.go")))
        key = hashlib.sha256(pinned).hexdigest()[:12]
        return CACHE / self.cache_name / (f"{self.version}-{key}" if self.version else key)

    def required(self, module: str) -> str:
        """The version of `module` that go.mod pins, such as `v1.36.3`."""
        found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", (self.folder / "go.mod").read_text(), re.M)
        assert found, f"go.mod names no {module}"
        return found[1]

    def programs(self, *names: str) -> dict[str, Path]:
        """The paths of the programs named (all by default), built first where they are missing.

        Another process that builds them is waited for. Raises ProgramsMissing.
        """
        wanted = names or tuple(self.packages)
        place = self.directory()
        if any(not (place / name).exists() for name in wanted):
            place.mkdir(parents=True, exist_ok=True)
            with self._locked(place.parent / f".{place.name}.lock"):
                for name in wanted:
                    if not (place / name).exists():
                        self._build(name, place)
        return {name: place / name for name in wanted}

    def _build(self, name: str, place: Path) -> None:
        go = _go()
        said = subprocess.run(
            [go, "env", "GOVERSION"], capture_output=True, text=True, cwd=self.folder, env=_environment()
        )
        self._tell(f"building {' '.join(filter(None, (name, self.version)))} with {said.stdout.strip()} …")
        began = time.monotonic()
        linked = " ".join(["-s -w", *(f"-X {variable}={text}" for variable, text in self.stamps.items())])
        unfinished = place / f".{name}.{os.getpid()}"
        command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags", linked, "-o", str(unfinished)]
        try:
            done = subprocess.run(
                [*command, self.packages[name]],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=BUILD_TIMEOUT,
            )
            if done.returncode != 0:
                raise ProgramsMissing(f"{name} could not be built:\n{done.stderr[-4000:]}")
            unfinished.replace(place / name)
        except subprocess.TimeoutExpired:
            raise ProgramsMissing(f"{name} was not built within {BUILD_TIMEOUT:g} s") from None
        finally:
            unfinished.unlink(missing_ok=True)
        self._tell(f"built {name} in {time.monotonic() - began:.0f} s")

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._tell("another process is building them; waiting for it …")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _tell(self, what: str) -> None:
        print(f"{self.cache_name}: {what}", file=sys.stderr, flush=True)


def _go() -> str:
    """The Go of the environment (pinned, from PyPI), else the machine's. Raises ProgramsMissing."""
    beside = Path(sys.executable).parent / "go"
    found = str(beside) if beside.exists() else shutil.which("go")
    if found is None:
        raise ProgramsMissing("no Go to build with: `make venv` brings one")
    return found


def _environment() -> dict[str, str]:
    # local: never fetch another toolchain. CGO off: no C compiler needed, and programs that run anywhere.
    return {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""}

"""The programs of a real Kubernetes, found in the cache or built there from the Go module registry.

The module in `kubernetes/` names them (a `tool` block) and pins every source by hash; the cache is keyed by these two
files, so another version never meets a stale program. Only what is asked for is built. A first build of all of them
takes 5 to 10 minutes on two cores, a later run nothing.

    python tests/cluster/kubernetes_programs.py [NAME…]     builds what is missing, prints the directory
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MODULE = Path(__file__).resolve().parent / "kubernetes"
CACHE = Path(os.environ.get("OUTRIGGER_CACHE") or Path.home() / ".cache" / "outrigger") / "kubernetes"
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
}
"""Program → the Go package that makes it."""
CONTROL_PLANE = ("etcd", "kube-apiserver", "kubectl", "kube-controller-manager")
BUILD_TIMEOUT = 2400.0
"""For one program, in seconds: a cold kube-apiserver takes 6 minutes on two idle cores."""


class ProgramsMissing(RuntimeError):
    """A program could not be built; the message says what to do."""


def version() -> str:
    """The version of Kubernetes, such as `v1.36.3`."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text(), re.M)
    assert found, "go.mod names no k8s.io/kubernetes"
    return found[1]


def directory() -> Path:
    """Where the programs of this version are, or will be."""
    key = hashlib.sha256((MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes()).hexdigest()[:12]
    return CACHE / f"{version()}-{key}"


def programs(*names: str) -> dict[str, Path]:
    """The paths of the programs named (all of the control plane by default), built first where they are missing.

    Another process that builds them is waited for. Raises ProgramsMissing.
    """
    wanted = names or CONTROL_PLANE
    place = directory()
    if any(not (place / name).exists() for name in wanted):
        place.mkdir(parents=True, exist_ok=True)
        with _locked(CACHE / f".{place.name}.lock"):
            for name in wanted:
                if not (place / name).exists():
                    _build(name, place)
    return {name: place / name for name in wanted}


def _build(name: str, place: Path) -> None:
    go = _go()
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, cwd=MODULE, env=_environment())
    _tell(f"building {name} {version()} with {said.stdout.strip()} …")
    began = time.monotonic()
    stamped = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamp = " ".join(f"-X {package}.gitVersion={version()}" for package in stamped)
    unfinished = place / f".{name}.{os.getpid()}"
    command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {stamp}", "-o", str(unfinished)]
    try:
        done = subprocess.run(
            [*command, PACKAGES[name]],
            cwd=MODULE,
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
    _tell(f"built {name} in {time.monotonic() - began:.0f} s")


def _go() -> str:
    """The Go of the environment (pinned, from PyPI), else the machine's. Raises ProgramsMissing."""
    beside = Path(sys.executable).parent / "go"
    found = str(beside) if beside.exists() else shutil.which("go")
    if found is None:
        raise ProgramsMissing("no Go to build Kubernetes with: `make venv` brings one")
    return found


def _environment() -> dict[str, str]:
    # local: never fetch another toolchain. CGO off: no C compiler needed, and programs that run anywhere.
    return {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell("another process is building them; waiting for it …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _tell(what: str) -> None:
    print(f"kubernetes: {what}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is missing and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(PACKAGES)}; by default the control plane")
    names = parser.parse_args(arguments).names
    if unknown := set(names) - PACKAGES.keys():
        parser.error(f"no such program: {', '.join(sorted(unknown))}")
    try:
        programs(*names)
    except ProgramsMissing as error:
        print(f"kubernetes: {error}", file=sys.stderr)
        return 1
    print(directory())
    return 0


if __name__ == "__main__":
    sys.exit(main())

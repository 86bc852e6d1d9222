"""`kubectl` and `helm` as a user has them: programs with a kubeconfig, for the tests of any cluster."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from cluster.control_plane import Cluster
from cluster.kubernetes_programs import programs

Command = Callable[..., str]
"""`command("get", "pods", input=…, timeout=…)` → what it printed. Raises CalledProcessError, with stderr as a note."""


def kubectl(cluster: Cluster) -> Command:
    """The administrator's kubectl."""
    return command(programs("kubectl")["kubectl"], cluster)


def command(program: Path, cluster: Cluster) -> Command:
    """A program that finds the cluster by KUBECONFIG, and keeps its caches with the cluster's files."""
    caches = cluster.directory / "caches"
    environment = {
        **os.environ,
        "KUBECONFIG": str(cluster.kubeconfig),
        "KUBECACHEDIR": str(caches / "kube"),
        **{f"HELM_{name}_HOME": str(caches / f"helm-{name.lower()}") for name in ("CACHE", "CONFIG", "DATA")},
    }

    def run(*arguments: str | Path, input: str | None = None, timeout: float = 60.0) -> str:
        done = subprocess.run(
            [program, *arguments], env=environment, input=input, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            error.add_note(done.stderr)
            raise error
        return done.stdout

    return run

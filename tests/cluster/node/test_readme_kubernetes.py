"""The README's Kubernetes section and the quickstart, typed line by line into a shell, on a cluster with nothing on it.

What a page shows below a command must be what it prints, but for times, ages, addresses and generated names; a line `…`
stands for the rest. The chart is installed as it is, without the quick settings of the other tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chart.tools import helm
from cluster.api import eventually
from cluster.kubernetes_programs import programs
from cluster.node_cluster import NodeCluster
from readme import README, ROOT, Command, alike, commands, section
from sidecar_process import free_ports

pytestmark = pytest.mark.timeout(600)

QUICKSTART = "docs/quickstart.md"
Type = Callable[[Command], str]


@pytest.fixture(scope="module")
def empty_cluster(node_cluster: NodeCluster, failure_logs: dict[str, Callable[[], str]]) -> Iterator[NodeCluster]:
    """A cluster of its own: that of the other tests, which says whether one can be made, has the chart already."""
    with NodeCluster(nodes=1) as cluster:
        failure_logs["empty cluster"] = cluster.logs
        cluster.import_images()
        yield cluster
        del failure_logs["empty cluster"]


@pytest.fixture
def shell(empty_cluster: NodeCluster, tmp_path: Path) -> Iterator[Type]:
    """A terminal in the root of the repository, with kubectl and helm: types one command, gives what it prints."""
    for name, path in (("kubectl", programs("kubectl")["kubectl"]), ("helm", helm())):
        (tmp_path / name).symlink_to(path)
    local = str(free_ports(1)[0])
    environment = {
        **os.environ,
        "KUBECONFIG": str(empty_cluster.kubeconfig),
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        **{f"HELM_{name}_HOME": str(tmp_path / f"helm-{name.lower()}") for name in ("CACHE", "CONFIG", "DATA")},
    }
    behind: list[subprocess.Popen[str]] = []

    def run(command: Command) -> str:
        # The port on this machine may be somebody else's: a free one stands for it.
        text = command.text.replace(" 8080:8080", f" {local}:8080").replace("127.0.0.1:8080", f"127.0.0.1:{local}")
        bash = ["bash", "-o", "pipefail", "-c", text.removesuffix(" &")]
        if text.endswith(" &"):
            process = subprocess.Popen(
                bash, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
            behind.append(process)
            assert process.stdout is not None
            return process.stdout.readline()
        done = subprocess.run(bash, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{command}: {text}\n{done.stdout}{done.stderr}"
        return done.stdout

    yield run
    for process in behind:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=10)


def follow(steps: list[Command], shell: Type) -> None:
    assert steps
    for step in steps:
        if step.not_run:
            continue
        printed = shell(step)
        expected = "\n".join(step.prints)
        if not expected:
            continue
        whole, _, rest = expected.partition("\n…")
        if rest or whole != expected:
            assert alike(printed)[: len(alike(whole))] == alike(whole), f"{step}\n{printed}"
        else:
            assert alike(printed) == alike(expected), f"{step}\n{printed}"


def test_quickstart(shell: Type, empty_cluster: NodeCluster) -> None:
    begin = section(QUICKSTART, "## Install").start
    follow([step for step in commands(QUICKSTART) if step.line > begin], shell)
    # The last command deleted the namespace: nothing is left, and the README can begin anew.
    eventually(lambda: empty_cluster.api.get("namespaces", None, "outrigger-system") is None, "an empty cluster")


def test_readme(shell: Type) -> None:
    follow(commands(README, section(README, "## Run it on Kubernetes")), shell)

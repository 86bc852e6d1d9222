"""The README's Kubernetes section, the quickstart and the guides, typed line by line into a shell.

It begins on a cluster with nothing on it, and the chart is installed as it is, without the quick settings of the other
tests. What a page shows below a command must be what it prints, but for times, ages, addresses and generated names; a
line `…` stands for the others.
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
from readme import README, ROOT, Command, alike, commands, fenced, section
from sidecar_process import free_ports

pytestmark = pytest.mark.timeout(600)

QUICKSTART = "docs/quickstart.md"
GUIDES = ("security", "observability", "upgrading")
TROUBLESHOOTING = "docs/troubleshooting.md"
MINE = ("charts", "dist", "docs", "examples", ".venv")
"""What commands name of the repository."""


@pytest.fixture(scope="module")
def empty_cluster(node_cluster: NodeCluster, failure_logs: dict[str, Callable[[], str]]) -> Iterator[NodeCluster]:
    """A cluster of its own: that of the other tests, which says whether one can be made, has the chart already."""
    with NodeCluster(nodes=1) as cluster:
        failure_logs["empty cluster"] = cluster.logs
        cluster.import_images()
        # helm asks for the description of the whole API, which metrics-server has a part of
        eventually(lambda: cluster.api.request("GET", "/openapi/v2"), "the description of the API", timeout=60.0)
        yield cluster
        del failure_logs["empty cluster"]


class Shell:
    """A terminal with kubectl and helm, in a folder that looks like the root of the repository."""

    def __init__(self, folder: Path, cluster: NodeCluster) -> None:
        self.folder = folder
        self._cluster = cluster
        self._behind: list[subprocess.Popen[str]] = []
        for name in MINE:
            (folder / name).symlink_to(ROOT / name)
        programs_folder = folder / "bin"
        programs_folder.mkdir()
        for name, path in (("kubectl", programs("kubectl")["kubectl"]), ("helm", helm())):
            (programs_folder / name).symlink_to(path)
        homes = {f"HELM_{name}_HOME": str(folder / f"helm-{name.lower()}") for name in ("CACHE", "CONFIG", "DATA")}
        path = f"{programs_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, **homes, "PATH": path, "KUBECONFIG": str(cluster.kubeconfig), "TOKEN": "x"}
        # A port of this machine may be somebody else's: a free one stands for each.
        self._ports = dict(zip(("8080", "9090"), map(str, free_ports(2)), strict=True))

    def type(self, text: str, input: str | None = None) -> tuple[int, str, str]:
        """One command: exit code, and what it printed to stdout and stderr. One with a `&` goes on behind."""
        for port, free in self._ports.items():
            text = text.replace(f" {port}:{port}", f" {free}:{port}").replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
        bash = ["bash", "-o", "pipefail", "-c", text.removesuffix(" &")]
        options = {"cwd": self.folder, "env": self._environment, "text": True}
        if text.endswith(" &"):
            process = subprocess.Popen(bash, stdout=subprocess.PIPE, start_new_session=True, **options)
            self._behind.append(process)
            assert process.stdout is not None
            return 0, process.stdout.readline(), ""
        done = subprocess.run(bash, capture_output=True, timeout=240, input=input, **options)
        return done.returncode, done.stdout, done.stderr

    def follow(self, steps: list[Command]) -> None:
        """Type the commands of a page, and look whether they print what it shows.

        One that only looks is typed again for a while: the status is a second behind, and nobody types as fast as this.
        """
        assert steps
        for step in steps:
            if step.not_run:
                continue
            if step.prints and step.text.startswith(("kubectl get ", "kubectl exec ", "outrigger status")):
                eventually(lambda step=step: self._prints_as_shown(step), str(step))  # type: ignore[misc]
            else:
                self._prints_as_shown(step)

    def _prints_as_shown(self, step: Command) -> bool:
        """Type it. Raises AssertionError."""
        code, printed, said = self.type(step.text.replace("NAME", "everything"))
        told = f"{step}: {step.text}\n{printed}{said}"
        found, (begin, *end) = alike(printed), [alike(part) for part in "\n".join(step.prints).split("…")]
        if not step.prints:
            assert code == 0, told
        elif end:
            assert found[: len(begin)] == begin, told
            assert found[len(found) - len(end[-1]) :] == end[-1], told
        else:
            assert found == begin, told
        return True

    def close(self) -> None:
        for process in self._behind:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=10)


@pytest.fixture
def shell(empty_cluster: NodeCluster, tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path, empty_cluster)
    yield shell
    shell.close()


def test_quickstart(shell: Shell, empty_cluster: NodeCluster) -> None:
    begin = section(QUICKSTART, "## Install").start
    shell.follow([step for step in commands(QUICKSTART) if step.line > begin])
    # It ends with nothing left, so that the README can begin anew.
    eventually(lambda: empty_cluster.api.get("namespaces", None, "outrigger-system") is None, "an empty cluster")


def test_readme_and_guides(shell: Shell) -> None:
    shell.follow(commands(README, section(README, "## Run it on Kubernetes")))
    # A server whose Secret is missing, and one whose Secret comes.
    [tickets] = [text for _, text in fenced("docs/guides/resilience.md", "yaml") if "name: tickets" in text]
    (shell.folder / "tickets.yaml").write_text(tickets)
    docs = (ROOT / "examples" / "mcpservers" / "remote.yaml").read_text().partition("---\n")[0]
    assert shell.type("kubectl apply -f -", docs)[0] == 0
    apply, wait = commands("docs/guides/resilience.md")
    shell.follow([apply])
    wanted = (
        """kubectl wait mcpserver/tickets --timeout=60s --for=jsonpath='{.status.conditions[0].reason}'=SecretMissing"""
    )
    assert shell.type(wanted)[0] == 0
    shell.follow(commands("docs/guides/secrets.md"))
    assert shell.type("kubectl create secret generic tickets --from-literal=token=x")[0] == 0
    shell.follow([Command(wait.page, wait.line, f"{wait.text} --timeout=120s")])
    shell.follow(commands(TROUBLESHOOTING))
    for guide in GUIDES:
        shell.follow(commands(f"docs/guides/{guide}.md"))

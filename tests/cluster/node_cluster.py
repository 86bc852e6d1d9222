"""A whole Kubernetes on this machine: a control plane, nodes that run pods, DNS, metrics, NetworkPolicies enforced.

Pods, Services and nodes are reached from here over the nodes' links, the API server from pods over the same. Several
clusters at once have addresses of their own. Nothing is left of it when it is closed, or when its process is killed.
Images come from archives (`python -m images`), for there is no registry.

    cd tests && PYTHONPATH=.:.. ../.venv/bin/python -m cluster.node_cluster
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

from certificates import Authority
from cluster.addon_programs import pause_archive
from cluster.addon_programs import programs as addon_programs
from cluster.api import ApiError, Object, eventually
from cluster.background_process import BackgroundProcess
from cluster.control_plane import ControlPlane
from cluster.images_for_tests import archives as build_images_for_tests
from cluster.kubernetes_programs import programs
from cluster.node_addons import Addons
from cluster.node_agents import PAUSE_IMAGE, Node
from cluster.node_machine import DIRECTORY_PREFIX, Machine
from cluster.node_policy_enforcer import PolicyEnforcer
from images.contents import recipes
from sidecar_process import free_ports

IMAGES = Path(__file__).resolve().parents[2] / "dist" / "images"
IMAGE_SOURCES = ("bridge", "images", "operator", "requirements", "sidecar")
READY_TIMEOUT = 90.0
DNS_NUMBER = 10


class NodeCluster(ControlPlane):
    """Ours: a context manager, up when every node is Ready. Needs root and the programs of `node_agents.PROGRAMS`."""

    # all but what waits for a cloud
    controllers = ("*",)

    def __init__(self, *, nodes: int = 1, audit: bool = True) -> None:
        directory = Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX))
        self._machines = [Machine(directory) for _ in range(nodes)]
        first = self._machines[0]
        self.service_range = f"10.98.{first.slot}.0/24"
        front = directory / "front-proxy"
        front.mkdir()
        self._front_authority = Authority(front, "front proxy CA")
        super().__init__(address=first.host_address, audit=audit, directory=directory)
        dns = self.service_address(DNS_NUMBER)
        self.nodes = [
            Node(f"node-{number}", machine, self, self._authority, dns)
            for number, machine in enumerate(self._machines, 1)
        ]
        self._addons = Addons(first, self, self._authority, dns)
        self._policies = PolicyEnforcer(self.api, self._machines)
        self._heard: dict[str, str] = {}
        """Node → when its agent of before, which is dead, last said that it is Ready."""
        self.scheduler = BackgroundProcess(
            "kube-scheduler", [programs("kube-scheduler")["kube-scheduler"], *self._scheduler_flags()], directory
        )

    def start(self) -> None:
        """All of it; back when every node is Ready, and DNS and metrics answer. Raises ProcessFailed."""
        for machine in self._machines:
            machine.start()
        for number, machine in enumerate(self._machines):
            for other in self._machines[:number]:
                other.link(machine)
        self._machines[0].route_from_host(self.service_range)
        super().start()
        self.scheduler.start()
        self._policies.start()
        pause = pause_archive(PAUSE_IMAGE, self.directory / "pause.tar")
        for node in self.nodes:
            node.start((pause,))
        self._addons.start()
        self.wait_until_ready()
        self._addons.wait()
        eventually(self._described, "the API described", READY_TIMEOUT)

    def close(self) -> None:
        """End and remove everything; pods get no grace."""
        with contextlib.ExitStack() as last_first:
            # again: while the machine's mounts were there, not all of it could go
            last_first.callback(shutil.rmtree, self.directory, ignore_errors=True)
            last_first.callback(super().close)
            last_first.callback(self.scheduler.stop, timeout=5.0)
            last_first.callback(self._addons.close)
            for node in self.nodes:
                last_first.callback(node.close)
            last_first.callback(self._policies.close)

    def wait_until_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Until every node is Ready, as the agents that run now say. Raises AssertionError."""

        def look() -> bool:
            for node in self.nodes:
                found = self.api.get("nodes", None, node.name)
                assert found, f"no {node.name}"
                ready = _ready(found)
                assert ready.get("status") == "True", f"{node.name}: {ready.get('message')}"
                # for half a minute a dead agent's word stands
                assert ready["lastHeartbeatTime"] != self._heard.get(node.name), f"nothing new of {node.name}"
                assert not found["spec"].get("taints"), f"{node.name} is tainted: {found['spec']['taints']}"
            return True

        eventually(look, "nodes Ready", timeout)

    # What a test asks for

    def import_images(self, *archives: Path) -> None:
        """Let every node have the images of these archives; by default those of `python -m images`."""
        chosen = archives or tuple(sorted(IMAGES.glob("*.tar")))
        assert chosen, f"no archives in {IMAGES.parent.name}/{IMAGES.name}: make image"
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.import_images(*chosen), self.nodes))

    def exec_in_node(self, command: list[str], *, node: int = 0, input: str | None = None) -> str:
        """Run a command in a node's network; what it printed. Raises CalledProcessError."""
        return self._machines[node].run(*command, input=input)

    def ctr(self, *arguments: str | Path) -> None:
        """`ctr("images", "tag", old, new)` on every node. Raises CalledProcessError."""
        for node in self.nodes:
            node.ctr(*arguments)

    def kill_kubelet(self, node: int = 0) -> None:
        """As a crash of the node's agent: its pods go on."""
        self.nodes[node].kill_kubelet()

    def start_kubelet(self, node: int = 0) -> None:
        """After `kill_kubelet`; `wait_until_ready` waits for it."""
        name = self.nodes[node].name
        self._heard[name] = _ready(self.api.get("nodes", None, name)).get("lastHeartbeatTime", "")
        self.nodes[node].start_kubelet()

    def logs(self) -> str:
        """The end of every log, for a failure's message."""
        scheduler = self.scheduler.describe(f"returncode {self.scheduler.returncode}", 12)
        nodes = (node.describe() for node in self.nodes)
        return "\n".join((super().logs(), scheduler, *nodes, self._addons.describe(), self._policies.describe()))

    # How

    def _described(self) -> bool:
        # kubectl and helm check by it what they send; it is made anew when metrics-server has registered
        try:
            return all(self.api.request("GET", f"/openapi/{version}") for version in ("v2", "v3"))
        except ApiError as error:
            if error.status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            return False

    def _api_server_flags(self) -> list[str]:
        kubelet_cert, kubelet_key = self._authority.issue(
            "kube-apiserver-kubelet-client", client=True, organizations=("system:masters",)
        )
        proxy_cert, proxy_key = self._front_authority.issue("front-proxy", client=True)
        return [
            *super()._api_server_flags(),
            f"--kubelet-client-certificate={kubelet_cert}",
            f"--kubelet-client-key={kubelet_key}",
            f"--kubelet-certificate-authority={self._authority.ca_file}",
            "--kubelet-preferred-address-types=InternalIP",
            # what it hands on to metrics-server
            f"--requestheader-client-ca-file={self._front_authority.ca_file}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={proxy_cert}",
            f"--proxy-client-key-file={proxy_key}",
            "--enable-aggregator-routing=true",
        ]

    def _controller_manager_flags(self) -> list[str]:
        # a node whose agent is dead is found out sooner than the default 50 s
        return [*super()._controller_manager_flags(), "--node-monitor-grace-period=30s"]

    def _scheduler_flags(self) -> list[str]:
        access = self.client("system:kube-scheduler")
        return [
            f"--kubeconfig={access.write(self.directory / 'scheduler.kubeconfig')}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_ports(1)[0]}",
            "--leader-elect=false",
        ]


def _ready(node: Object | None) -> Object:
    """The condition; empty where there is none yet."""
    conditions: list[Object] = ((node or {}).get("status") or {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == "Ready"), {})


def prepare() -> None:
    """Build what a cluster and its tests need and is missing, our images as the code is now. Raises ProgramsMissing."""
    programs("kube-scheduler", "kubelet", "kube-proxy")
    addon_programs()
    build_images_for_tests()
    root = IMAGES.parents[1]
    IMAGES.mkdir(parents=True, exist_ok=True)
    # every worker of a run comes here: the first builds, the others find it done
    with (IMAGES / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        archives = [IMAGES / f"{recipe.name}.tar" for recipe in recipes()]
        written = min(path.stat().st_mtime if path.exists() else 0.0 for path in archives)
        sources = [path for folder in IMAGE_SOURCES for path in (root / folder).rglob("*") if path.is_file()]
        if any(path.stat().st_mtime >= written for path in sources if "__pycache__" not in path.parts):
            subprocess.run([sys.executable, "-m", "images"], cwd=root, check=True, stdout=subprocess.DEVNULL)


def run_until_interrupted() -> None:
    """A cluster to play with: prints its kubeconfig, ends with Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    prepare()
    began = time.monotonic()
    with NodeCluster() as cluster:
        print(f"up in {time.monotonic() - began:.1f} s: export KUBECONFIG={cluster.kubeconfig}", flush=True)
        cluster.import_images()
        print(f"images there after {time.monotonic() - began:.1f} s", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    run_until_interrupted()

"""A node: containerd, kubelet and kube-proxy on a `Machine`, with Debian's runc and CNI plugins.

Pods are routed, not bridged (CNI `ptp`), so that all their traffic passes the machine's packet filter. Flags are there
for what a machine without CAP_SYS_RESOURCE, with cgroups of version 1 and without a container registry needs. Addons
and the cluster are left to `node_cluster`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.background_process import BackgroundProcess
from cluster.kubernetes_programs import programs
from cluster.node_machine import Machine

if TYPE_CHECKING:
    from certificates import Authority
    from cluster.control_plane import ControlPlane

START_TIMEOUT = 60.0
PAUSE_IMAGE = "outrigger.local/pause:1"
CLUSTER_DOMAIN = "cluster.local"
KUBELET_PORT = 10250
SOCKET = "/run/containerd/containerd.sock"
PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "nft", "ip", "nsenter", "setpriv", "unshare")
"""Of the machine (Debian: containerd runc containernetworking-plugins nftables iproute2 util-linux)."""
CNI_PLUGINS = Path("/usr/lib/cni")

_CONTAINERD = """\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # nobody here may lower it
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


class Node:
    """Node `name` on `machine`, of the cluster whose API server runs already when it is started."""

    def __init__(self, name: str, machine: Machine, cluster: ControlPlane, authority: Authority, dns: str) -> None:
        self.name = name
        self.machine = machine
        self._cluster = cluster
        self._authority = authority
        self._dns = dns
        self._directory = machine.directory
        self._processes: list[BackgroundProcess] = []

    def start(self, archives: tuple[Path, ...] = ()) -> None:
        """All of it, with these images; back when the API server knows the node. Raises ProcessFailed."""
        found = programs("kubelet", "kube-proxy")
        self.containerd = self._process("containerd", "containerd", "--config", self._containerd_config())
        self.kubelet = self._process(
            "kubelet", found["kubelet"], *self._kubelet_flags(),
        )  # fmt: skip
        self.proxy = self._process("kube-proxy", found["kube-proxy"], f"--config={self._proxy_config()}")
        self.containerd.start()
        self.containerd.wait_until(self._containerd_answers, "answering", START_TIMEOUT)
        self.import_images(*archives)
        self.proxy.start()
        self.start_kubelet()

    def start_kubelet(self) -> None:
        """Where it does not run; back when it listens."""
        self.kubelet.start()

    def kill_kubelet(self) -> None:
        """As a crash of the node's agent: its pods go on."""
        self.kubelet.kill()

    def import_images(self, *archives: Path) -> None:
        """Take the images of docker or OCI archives. Raises CalledProcessError."""
        for archive in archives:
            self.ctr("images", "import", archive)

    def ctr(self, *arguments: str | Path) -> str:
        """Run containerd's own client on the images and containers of the kubelet. Raises CalledProcessError."""
        return self.machine.run("ctr", "--address", SOCKET, "--namespace", "k8s.io", *arguments)

    def close(self) -> None:
        """End it with its machine: pods get no grace."""
        self.machine.close()
        for process in self._processes:
            process.kill()

    def describe(self) -> str:
        """The end of every log."""
        return "\n".join(one.describe(f"returncode {one.returncode}", 12) for one in self._processes)

    def _process(self, name: str, *command: str | Path) -> BackgroundProcess:
        process = BackgroundProcess(name, self.machine.command(*command), self._directory)
        self._processes.append(process)
        return process

    def _containerd_answers(self) -> bool:
        return "No such" not in self.machine.run("sh", "-c", f"ctr --address {SOCKET} version 2>&1 || echo No such")

    def _containerd_config(self) -> Path:
        cni = self._directory / "cni"
        cni.mkdir()
        network = {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "ptp",
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": self.machine.pods}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": "/run/cni-addresses",
                    },
                }
            ],
        }
        (cni / "10-pods.conflist").write_text(json.dumps(network))
        path = self._directory / "containerd.toml"
        path.write_text(_CONTAINERD.format(socket=SOCKET, pause=PAUSE_IMAGE, plugins=CNI_PLUGINS, cni=cni))
        return path

    def _kubelet_flags(self) -> list[str]:
        cert, key = self._authority.issue(f"kubelet-{self.name}", ips=(self.machine.address,), names=(self.name,))
        config = self._config(
            "kubelet",
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "authentication": {
                    "anonymous": {"enabled": False},
                    "webhook": {"enabled": True},
                    "x509": {"clientCAFile": str(self._authority.ca_file)},
                },
                "authorization": {"mode": "Webhook"},
                "address": self.machine.address,
                "port": KUBELET_PORT,
                "healthzPort": 0,
                "tlsCertFile": str(cert),
                "tlsPrivateKeyFile": str(key),
                "containerRuntimeEndpoint": f"unix://{SOCKET}",
                "cgroupDriver": "cgroupfs",
                "cgroupRoot": self.machine.cgroup,
                "failCgroupV1": False,
                "failSwapOn": False,
                "clusterDNS": [self._dns],
                "clusterDomain": CLUSTER_DOMAIN,
                "resolvConf": "",
                # more than the default needs CAP_SYS_RESOURCE
                "maxOpenFiles": 20000,
                "makeIPTablesUtilChains": False,
                # a change of a Secret shows within so long
                "syncFrequency": "2s",
                "configMapAndSecretChangeDetectionStrategy": "Watch",
                "nodeStatusUpdateFrequency": "5s",
                "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
                "imageGCHighThresholdPercent": 100,
                "imageGCLowThresholdPercent": 99,
                "shutdownGracePeriod": "0s",
                "maxPods": 200,
            },
        )
        access = self._cluster.client(f"system:node:{self.name}", "system:nodes")
        return [
            f"--config={config}",
            f"--kubeconfig={access.write(self._directory / 'kubelet.kubeconfig')}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.machine.address}",
        ]

    def _proxy_config(self) -> Path:
        access = self._cluster.client("system:kube-proxy")
        return self._config(
            "kube-proxy",
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "nftables",
                "clientConnection": {"kubeconfig": str(access.write(self._directory / "proxy.kubeconfig"))},
                "hostnameOverride": self.name,
                "clusterCIDR": self.machine.pods,
                "bindAddress": self.machine.address,
                "healthzBindAddress": "",
                "metricsBindAddress": "127.0.0.1:10249",
                # these are the whole real machine's
                "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            },
        )

    def _config(self, name: str, content: Mapping[str, object]) -> Path:
        path = self._directory / f"{name}.json"
        path.write_text(json.dumps(content))
        return path

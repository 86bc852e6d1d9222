"""The cluster with nodes itself: what other tests rely on works, and nothing of a machine outlives its test process."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.api import Api, eventually
from cluster.background_process import BackgroundProcess
from cluster.control_plane import Cluster
from cluster.deployed import RUNTIME
from cluster.kubectl import Command
from cluster.kubernetes_programs import programs, version
from cluster.node_cluster import NodeCluster
from cluster.node_machine import DIRECTORY_PREFIX, Machine
from cluster.plain_pods import SERVE, WAIT, pod, reached, running, service
from cluster.steady_load import wait_for_connections

PORT = 8000
STRAY = "setsid sleep 600 >/dev/null 2>&1 &"
"""Leaves a process behind that has no parent."""


@dataclass(frozen=True)
class Pods:
    """`web` serves behind a Service on one node, `caller` is on the other."""

    namespace: str
    web: str
    """The pod's address."""
    service: str
    """The Service's."""


@pytest.fixture(scope="module")
def pods(api: Api, kubectl: Command) -> Iterator[Pods]:
    name = "test-node-cluster"
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    eventually(lambda: api.get("serviceaccounts", name, "default"), "the default ServiceAccount")
    api.create(service(name, "web", PORT))
    api.create(service(name, "each", PORT, headless=True))
    on = lambda node: {"nodeSelector": {"kubernetes.io/hostname": node}}  # noqa: E731
    api.create(pod(name, "web", [*SERVE, str(PORT)], port=PORT, **on("node-1")))
    api.create(pod(name, "each", [*SERVE, str(PORT)], port=PORT, hostname="first", subdomain="each", **on("node-2")))
    api.create(pod(name, "caller", WAIT, **on("node-2")))
    web = running(api, name, "web")["status"]["podIP"]
    for other in ("each", "caller"):
        running(api, name, other)
    found = api.get("services", name, "web")
    assert found
    wait_for_connections(f"http://{found['spec']['clusterIP']}:80/")
    seen = lambda: reached(kubectl, name, "caller", "web:80", f"first.each:{PORT}") == ["yes", "yes"]  # noqa: E731
    eventually(seen, "the other node knows the Services", 60)
    yield Pods(name, web, found["spec"]["clusterIP"])
    api.delete("namespaces", None, name)


def test_nodes_are_of_the_version_and_have_what_pods_ask_for(api: Api, node_cluster: NodeCluster) -> None:
    found = api.list("nodes")
    assert [one["metadata"]["name"] for one in found] == [node.name for node in node_cluster.nodes]
    for one in found:
        assert one["status"]["nodeInfo"]["kubeletVersion"] == version()

    def told() -> bool:
        # the kubelet looks for images now and then
        for one in api.list("nodes"):
            images = [name for image in one["status"].get("images", ()) for name in image["names"]]
            assert RUNTIME in images, one["metadata"]["name"]
        return True

    eventually(told, "every node tells of our image", 60)


def test_names_inside(kubectl: Command, pods: Pods) -> None:
    names = {
        "web": pods.service,
        f"web.{pods.namespace}": pods.service,
        f"web.{pods.namespace}.svc": pods.service,
        f"web.{pods.namespace}.svc.cluster.local": pods.service,
        "kubernetes.default": "10.98.",
        "first.each": "10.244.",
        "nobody": "",
        f"nobody.{pods.namespace}.svc.cluster.local.": "",
    }
    script = """
import socket, sys
for name in sys.argv[1:]:
    try:
        print(socket.gethostbyname(name))
    except socket.gaierror:
        print()
"""
    said = kubectl("--namespace", pods.namespace, "exec", "caller", "--", "python3", "-c", script, *names)
    for (name, expected), address in zip(names.items(), said.splitlines(), strict=True):
        assert address.startswith(expected), name
        assert bool(address) == bool(expected), name


def test_services_from_pods_and_from_here(kubectl: Command, pods: Pods) -> None:
    for address in (f"{pods.service}:80", f"{pods.web}:{PORT}"):
        with urllib.request.urlopen(f"http://{address}/passwd", timeout=5) as answer:
            assert b"root:" in answer.read()
    # the other node's pod, a node's own, and a pod by its own Service
    for name in ("caller", "each", "web"):
        targets = ["web:80" if name != "web" else f"{pods.service}:80", f"{pods.web}:{PORT}", f"{pods.service}:81"]
        assert reached(kubectl, pods.namespace, name, *targets)[:2] == ["yes", "yes"], name


def test_logs_and_exec(kubectl: Command, pods: Pods) -> None:
    urllib.request.urlopen(f"http://{pods.web}:{PORT}/hostname", timeout=5).close()
    in_namespace = ("--namespace", pods.namespace)
    eventually(lambda: "GET /hostname" in kubectl(*in_namespace, "logs", "web"), "the request in the log")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        kubectl(*in_namespace, "exec", "web", "--", "sh", "-c", "echo out; exit 3")
    assert (failed.value.returncode, failed.value.stdout) == (3, "out\n")


def test_port_forward(cluster: Cluster, pods: Pods, tmp_path: Path) -> None:
    forward = BackgroundProcess(
        "port-forward",
        [programs("kubectl")["kubectl"], "--namespace", pods.namespace, "port-forward", "service/web", ":80"],
        tmp_path,
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
    )
    forward.start()
    try:
        forward.wait_until(lambda: "Forwarding from 127.0.0.1" in forward.log(), "forwarding", 20)
        found = re.search(r"127\.0\.0\.1:(\d+)", forward.log())
        assert found
        with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/passwd", timeout=5) as answer:
            assert b"root:" in answer.read()
    finally:
        forward.stop()


def test_resource_metrics(api: Api, pods: Pods) -> None:
    where = f"/apis/metrics.k8s.io/v1beta1/namespaces/{pods.namespace}/pods/web"
    in_it = eventually(
        lambda: next(
            (
                one
                for one in api.request("GET", where.rpartition("/")[0])["items"]
                if one["metadata"]["name"] == "web" and one["containers"]
            ),
            None,
        ),
        "metrics of the pod",
        60,
    )
    assert in_it
    assert set(in_it["containers"][0]["usage"]) == {"cpu", "memory"}
    nodes = "/apis/metrics.k8s.io/v1beta1/nodes"
    eventually(lambda: len(api.request("GET", nodes)["items"]) == 2, "metrics of both nodes", 60)


def test_changed_secret_reaches_its_file_soon(api: Api, kubectl: Command, namespace: str) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "one", "namespace": namespace}}
    api.create({**secret, "stringData": {"key": "before"}})
    manifest = pod(namespace, "one", WAIT, volumes=[{"name": "one", "secret": {"secretName": "one"}}])
    manifest["spec"]["containers"][0]["volumeMounts"] = [{"name": "one", "mountPath": "/secret"}]
    api.create(manifest)
    running(api, namespace, "one")

    def read() -> str:
        return kubectl("--namespace", namespace, "exec", "one", "--", "cat", "/secret/key")

    assert read() == "before"
    api.patch("secrets", namespace, "one", {"stringData": {"key": "after"}})
    eventually(lambda: read() == "after", "the new value", 60)


def test_memory_limit_is_kept(api: Api, namespace: str) -> None:
    manifest = pod(namespace, "one", ["python3", "-c", "x = bytearray(200 << 20)"], restartPolicy="Never")
    manifest["spec"]["containers"][0]["resources"] = {"limits": {"memory": "50Mi"}}
    api.create(manifest)

    def ended() -> dict[str, Any]:
        found = api.get("pods", namespace, "one")
        assert found
        states = [one["state"].get("terminated") for one in found["status"].get("containerStatuses", ())]
        return states[0] if states and states[0] else {}

    end = eventually(ended, "the container's end", 60)
    assert end["reason"] == "OOMKilled"


def test_nodes_reach_nothing_outside(node_cluster: NodeCluster) -> None:
    assert node_cluster.exec_in_node(["ip", "route", "show", "default"]).split()[:3] == [
        "default", "via", node_cluster.address,
    ]  # fmt: skip
    connect = "import socket; socket.create_connection(('203.0.113.1', 80), 2)"
    with pytest.raises(subprocess.CalledProcessError):
        node_cluster.exec_in_node(["python3", "-c", connect])


def test_nothing_is_left_of_a_killed_process(tmp_path: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX))
    script = f"""
import os, sys
from pathlib import Path
from cluster.node_machine import Machine
machine = Machine(Path({str(directory)!r}))
machine.start()
machine.run("sh", "-c", "mkdir /run/held && mount -t tmpfs tmpfs /run/held && cd /run/held && {STRAY}")
print(machine.name, os.readlink(f"/proc/{{machine.pid}}/ns/net"), flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with process:
        assert process.stdout
        name, network = process.stdout.readline().split()
        # unshare, the first one and its sleep are always there
        eventually(lambda: len(processes_in(network)) >= 4, "the stray one too")
        process.send_signal(signal.SIGKILL)
    eventually(lambda: not processes_in(network), "its processes gone")
    eventually(lambda: not Path("/sys/class/net", name).exists(), "its link gone")
    # the next machine removes what the kernel does not
    again = tmp_path / "again"
    again.mkdir()
    Machine(again).close()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{name}"))
    assert not directory.exists()


def test_closed_machine_leaves_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.start()
    machine.run("sh", "-c", STRAY)
    assert Path("/sys/class/net", machine.name).exists()
    machine.close()
    assert not Path("/sys/class/net", machine.name).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{machine.name}"))
    shutil.rmtree(machine.directory)


def processes_in(network: str) -> list[int]:
    """The processes in a network namespace."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "ns" / "net") == network:
                found.append(int(entry.name))
    return found

"""The cluster's DNS and its resource metrics: CoreDNS and metrics-server, as programs on a node's machine.

Not pods: so they need no images and start at once. To the cluster they look as usual: the Service `kube-dns` and the
APIService `v1beta1.metrics.k8s.io`, their endpoints made by hand.
"""

from __future__ import annotations

import http.client
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.addon_programs import programs
from cluster.background_process import BackgroundProcess
from cluster.node_agents import CLUSTER_DOMAIN
from cluster.node_machine import Machine

if TYPE_CHECKING:
    from certificates import Authority
    from cluster.control_plane import ControlPlane

START_TIMEOUT = 60.0
DNS_READY_PORT = 8181
METRICS_PORT = 4443
METRICS_INTERVAL = 10
"""Seconds, the least that metrics-server allows: how old what the autoscaler sees may be."""
METRICS_API = "v1beta1.metrics.k8s.io"

_COREFILE = """\
.:53 {{
  bind {address}
  errors
  ready {address}:{ready}
  kubernetes {domain} in-addr.arpa {{
    kubeconfig {kubeconfig}
    pods insecure
    ttl 1
  }}
}}
"""


class Addons:
    """Both, on one machine; `dns` is the ClusterIP that the kubelets tell their pods."""

    def __init__(self, machine: Machine, cluster: ControlPlane, authority: Authority, dns: str) -> None:
        self._machine = machine
        self._cluster = cluster
        self._authority = authority
        self._dns = dns
        self._directory = machine.directory
        self._processes: list[BackgroundProcess] = []

    def start(self) -> None:
        """Both, not waited for."""
        found = programs("coredns", "metrics-server")
        # theirs to read nearly everything; their rights are nobody's question here
        access = self._cluster.client("system:addons", "system:masters")
        kubeconfig = access.write(self._directory / "addons.kubeconfig")
        corefile = self._directory / "Corefile"
        values = {"address": self._machine.address, "domain": CLUSTER_DOMAIN, "ready": DNS_READY_PORT}
        corefile.write_text(_COREFILE.format(kubeconfig=kubeconfig, **values))
        self.dns = self._process("coredns", found["coredns"], "-conf", corefile)
        flags = self._metrics_flags(kubeconfig)
        self.metrics = self._process("metrics-server", found["metrics-server"], *flags)
        self._register()
        self.dns.start()
        self.metrics.start()

    def wait(self) -> None:
        """Until both answer. Raises ProcessFailed."""
        self.dns.wait_until(self._dns_ready, "ready", START_TIMEOUT)
        self.metrics.wait_until(self._metrics_ready, "available", START_TIMEOUT)

    def close(self) -> None:
        """Only the processes on this side; those on the machine go with it."""
        for process in self._processes:
            process.kill()

    def describe(self) -> str:
        """The end of both logs."""
        return "\n".join(one.describe(f"returncode {one.returncode}", 12) for one in self._processes)

    def _process(self, name: str, *command: str | Path) -> BackgroundProcess:
        process = BackgroundProcess(name, self._machine.command(*command), self._directory)
        self._processes.append(process)
        return process

    def _metrics_flags(self, kubeconfig: Path) -> list[str]:
        cert, key = self._authority.issue(
            "metrics-server", ips=(self._machine.address,), names=("metrics-server.kube-system.svc",)
        )
        return [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={self._machine.address}",
            f"--secure-port={METRICS_PORT}",
            f"--tls-cert-file={cert}",
            f"--tls-private-key-file={key}",
            f"--kubelet-certificate-authority={self._authority.ca_file}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--metric-resolution={METRICS_INTERVAL}s",
            # it must be shorter
            "--kubelet-request-timeout=5s",
        ]

    def _register(self) -> None:
        for manifest in self._services():
            self._cluster.api.apply(manifest)
        service = {"name": "metrics-server", "namespace": "kube-system", "port": 443}
        registration = {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": METRICS_API},
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "service": service,
                "insecureSkipTLSVerify": True,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        }
        self._cluster.api.apply(registration)

    def _services(self) -> list[dict[str, Any]]:
        dns = [
            {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53},
            {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53},
        ]
        metrics = [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": METRICS_PORT}]
        manifests = []
        for name, ports, ip in (("kube-dns", dns, {"clusterIP": self._dns}), ("metrics-server", metrics, {})):
            place = {"name": name, "namespace": "kube-system"}
            manifests += [
                {"apiVersion": "v1", "kind": "Service", "metadata": place, "spec": {"ports": ports, **ip}},
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {**place, "labels": {"kubernetes.io/service-name": name}},
                    "addressType": "IPv4",
                    "endpoints": [{"addresses": [self._machine.address], "conditions": {"ready": True}}],
                    "ports": [
                        {"name": one["name"], "protocol": one["protocol"], "port": one["targetPort"]} for one in ports
                    ],
                },
            ]
        return manifests

    def _dns_ready(self) -> bool:
        connection = http.client.HTTPConnection(self._machine.address, DNS_READY_PORT, timeout=5)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == HTTPStatus.OK
        except http.client.HTTPException:
            return False
        finally:
            connection.close()

    def _metrics_ready(self) -> bool:
        found = self._cluster.api.get("apiservices", None, METRICS_API) or {}
        conditions = found.get("status", {}).get("conditions", ())
        return any(one["type"] == "Available" and one["status"] == "True" for one in conditions)

"""A control plane of one's own on 127.0.0.1: etcd, kube-apiserver and, where asked, kube-controller-manager.

All real, on free ports, with certificates of a CA that lives as long as it does, RBAC on, every request in an audit
log. It can be hurt: the API server restarted, killed, stopped; etcd's history thrown away. No node: what would run
pods is `pod_agent`. Nothing is left of it when it is closed.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import http.client
import ipaddress
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from certificates import Authority
from cluster.api import ApiError
from cluster.background_process import BackgroundProcess
from cluster.kubeconfigs import Access
from cluster.kubernetes_programs import programs
from sidecar_process import free_ports

START_TIMEOUT = 90.0
# What acts on the objects the operator makes. Not endpointslice (it refuses the loopback addresses of our pods), and
# not node-lifecycle: the node of `pod_agent` sends no heartbeats.
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "namespace-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "validatingadmissionpolicy-status-controller",
)
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "None", "users": ["system:apiserver", "system:kube-controller-manager"]},
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "None", "nonResourceURLs": ["/readyz*", "/livez*"]},
        {"level": "Metadata"},
    ],
}


@dataclass(frozen=True)
class AuditEvent:
    """One request that the API server has answered."""

    user: str
    agent: str
    verb: str
    resource: str
    """The plural, with the subresource after a slash."""
    namespace: str
    name: str
    code: int
    at: float
    """When it came, in seconds since the epoch, as the API server saw it."""

    @property
    def is_write(self) -> bool:
        return self.verb not in ("get", "list", "watch")


class Cluster:
    """A cluster that somebody else keeps: what a test may do on it through its API alone."""

    controllable = False
    """Whether it may be restarted, killed and stopped."""

    def __init__(self, access: Access, directory: Path) -> None:
        self.access = access
        self.directory = directory
        self.api = access.api()

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator."""
        return self.access.write(self.directory / "admin.kubeconfig")

    def service_account(self, namespace: str, name: str) -> Access:
        """The access of an existing ServiceAccount, by a token good for an hour."""
        target = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        token = self.api.request("POST", target, request)["status"]["token"]
        return replace(self.access, certificate=None, key=None, token=token, namespace=namespace)


class ControlPlane(Cluster):
    """Ours: a context manager. `controllers` starts kube-controller-manager too."""

    controllable = True
    service_range = "10.97.0.0/16"
    controllers = CONTROLLERS
    """What kube-controller-manager runs."""

    def __init__(
        self,
        *,
        controllers: bool = True,
        address: str = "127.0.0.1",
        audit: bool = True,
        directory: Path | None = None,
    ) -> None:
        directory = directory or Path(tempfile.mkdtemp(prefix="outrigger-cluster-"))
        self.address = address
        self._authority = Authority(directory, "cluster CA")
        self._etcd_port, self._etcd_peer_port, self.port = free_ports(3)
        self.audit_path = directory / "audit.log"
        self._audit = audit
        super().__init__(self._certificate_access(directory, "admin", "system:masters"), directory)
        self._service_account_keys()
        (directory / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))
        found = programs("etcd", "kube-apiserver", *(["kube-controller-manager"] if controllers else []))
        self.etcd = BackgroundProcess("etcd", [found["etcd"], *self._etcd_flags()], directory)
        self.api_server = BackgroundProcess(
            "kube-apiserver", [found["kube-apiserver"], *self._api_server_flags()], directory
        )
        self.controller_manager: BackgroundProcess | None = None
        if controllers:
            self.controller_manager = BackgroundProcess(
                "kube-controller-manager",
                [found["kube-controller-manager"], *self._controller_manager_flags()],
                directory,
            )

    def __enter__(self) -> ControlPlane:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Starting and stopping

    def start(self) -> None:
        """All of it; back when the API server is ready. Raises ProcessFailed."""
        self.etcd.start()
        self.etcd.wait_until(self._etcd_healthy, "healthy", START_TIMEOUT)
        self.start_api_server()
        if self.controller_manager is not None:
            self.controller_manager.start()
            # its controllers run when the namespace's default ServiceAccount is there
            self.controller_manager.wait_until(self._controllers_act, "acting", START_TIMEOUT)

    def start_api_server(self) -> None:
        """On the same ports and data as before."""
        self.api_server.start()
        self.wait_for_api_server()

    def wait_for_api_server(self) -> None:
        """Until `/readyz` says ok. Raises ProcessFailed."""
        self.api_server.wait_until(self.ready, "ready", START_TIMEOUT)

    def restart_api_server(self, *, kill: bool = False) -> None:
        """End it (`kill`: without farewell), and start it again on the same ports and data."""
        if kill:
            self.api_server.kill()
        else:
            # it would wait a minute for its watches to end
            self.api_server.stop(timeout=3.0)
        self.start_api_server()

    def close(self) -> None:
        """Stop every process, remove every file."""
        for process in (self.controller_manager, self.api_server, self.etcd):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.stop(timeout=5.0)
        shutil.rmtree(self.directory, ignore_errors=True)

    def ready(self) -> bool:
        """Whether the API server says so. Raises OSError while it does not listen."""
        try:
            return bool(self.access.api(timeout=5.0).request("GET", "/readyz") == "ok")
        except ApiError:
            return False

    # What a test asks for

    def client(self, user: str, *groups: str) -> Access:
        """The access of a user with a certificate, in these groups."""
        return self._certificate_access(self.directory, user, *groups)

    def forget_history(self) -> None:
        """Compact etcd to now and start the API server anew: a watch or page from before gets 410."""
        now = int(self._etcd_call("/v3/kv/range", {"key": base64.b64encode(b"\0").decode()})["header"]["revision"])
        self._etcd_call("/v3/kv/compaction", {"revision": now, "physical": True})
        self.restart_api_server()

    def audit_mark(self) -> int:
        """Where the audit log ends now, for `audit`."""
        return self.audit_path.stat().st_size if self.audit_path.exists() else 0

    def audit(self, since: int = 0) -> Iterator[AuditEvent]:
        """Every request answered since the mark, watches when they ended."""
        with self.audit_path.open("rb") as file:
            file.seek(since)
            for line in file:
                if line.endswith(b"\n"):
                    yield _audit_event(json.loads(line))

    def logs(self) -> str:
        """The end of every log, for a failure's message."""
        processes = [one for one in (self.etcd, self.api_server, self.controller_manager) if one is not None]
        return "\n".join(process.describe(f"returncode {process.returncode}", 12) for process in processes)

    def service_address(self, number: int) -> str:
        """The ClusterIP of this number in the range; the first is the Service `kubernetes`."""
        return str(ipaddress.ip_network(self.service_range)[number])

    # How

    def _etcd_flags(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._etcd_peer_port))
        return [
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            # nothing here is to outlive the machine
            "--unsafe-no-fsync",
            "--log-level=warn",
            "--quota-backend-bytes=4294967296",
        ]

    def _api_server_flags(self) -> list[str]:
        cert, key = self._authority.issue(
            "kube-apiserver",
            ips=tuple(dict.fromkeys(("127.0.0.1", self.address, self.service_address(1)))),
            names=("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"),
        )
        flags = [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--bind-address={self.address}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={cert}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self._authority.ca_file}",
            f"--service-cluster-ip-range={self.service_range}",
            f"--service-account-issuer=https://{self.address}:{self.port}",
            f"--service-account-key-file={self.directory / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={self.directory / 'service-accounts.key'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--anonymous-auth=false",
            "--profiling=false",
            # the defaults refuse what a test with hundreds of objects asks for at once
            "--max-requests-inflight=800",
            "--max-mutating-requests-inflight=400",
        ]
        if self.address == "127.0.0.1":
            # it would refuse to publish a loopback address as the endpoint of the Service `kubernetes`
            flags.append("--endpoint-reconciler-type=none")
        if self._audit:
            flags += [
                f"--audit-policy-file={self.directory / 'audit-policy.json'}",
                f"--audit-log-path={self.audit_path}",
                "--audit-log-maxsize=4096",
            ]
        return flags

    def _controller_manager_flags(self) -> list[str]:
        access = self.client("system:kube-controller-manager")
        kubeconfig = access.write(self.directory / "controller-manager.kubeconfig")
        return [
            f"--kubeconfig={kubeconfig}",
            f"--root-ca-file={self._authority.ca_file}",
            f"--service-account-private-key-file={self.directory / 'service-accounts.key'}",
            f"--controllers={','.join(self.controllers)}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_ports(1)[0]}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            # the defaults would make thousands of objects wait for the client's own limits
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
            "--horizontal-pod-autoscaler-sync-period=2s",
        ]

    def _certificate_access(self, directory: Path, user: str, *groups: str) -> Access:
        certificate, key = self._authority.issue(user, client=True, organizations=groups)
        return Access(f"https://{self.address}:{self.port}", self._authority.ca_file, certificate, key)

    def _service_account_keys(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self.directory / "service-accounts.key").write_bytes(private)
        (self.directory / "service-accounts.pub").write_bytes(public)

    def _etcd_healthy(self) -> bool:
        return bool(self._etcd_call("/health").get("health") == "true")

    def _etcd_call(self, target: str, body: Any = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=10)
        try:
            connection.request("GET" if body is None else "POST", target, None if body is None else json.dumps(body))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(repr(error)) from error
        finally:
            connection.close()
        return answer

    def _controllers_act(self) -> bool:
        return self.api.get("serviceaccounts", "default", "default") is not None


def _audit_event(said: dict[str, Any]) -> AuditEvent:
    target = said.get("objectRef") or {}
    resource = target.get("resource", said["requestURI"])
    if target.get("subresource"):
        resource += f"/{target['subresource']}"
    return AuditEvent(
        user=said["user"].get("username", ""),
        agent=said.get("userAgent", ""),
        verb=said["verb"],
        resource=resource,
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=(said.get("responseStatus") or {}).get("code", 0),
        at=dt.datetime.fromisoformat(said["requestReceivedTimestamp"].replace("Z", "+00:00")).timestamp(),
    )


def run_until_interrupted() -> None:
    """A control plane to play with: prints its kubeconfig, ends with Ctrl-C."""
    began = time.monotonic()
    with ControlPlane() as cluster:
        print(f"up in {time.monotonic() - began:.1f} s: export KUBECONFIG={cluster.kubeconfig}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    run_until_interrupted()

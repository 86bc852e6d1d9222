"""The operator as a black box: `outrigger run` in a process of its own, with exactly the rights that it asks for.

Its rights are what `outrigger rbac` prints, bound to a ServiceAccount whose token is all that it gets. What it did is
seen in the API server, its audit log and the operator's own metrics.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.admin_page import admin_page
from cluster.api import Api, ApiError
from cluster.background_process import BackgroundProcess
from cluster.control_plane import Cluster
from cluster.kubeconfigs import Access

START_TIMEOUT = 60.0
ACCOUNT = "outrigger-operator"
# Tests wait for seconds, not for minutes. The Lease outlives an API server that is started anew, and a pause of the
# operator, on a busy machine.
QUICK: dict[str, Any] = {
    "statusPoll": {"active": "300ms"},
    "secretPoll": {"missing": "1s", "missingMax": "2s", "resolved": "3s"},
    "leaderElection": {"leaseDuration": "150s", "renewDeadline": "120s", "retryPeriod": "500ms"},
}
SHORT_LEASE: dict[str, Any] = {"leaderElection": {"leaseDuration": "4s", "renewDeadline": "3s", "retryPeriod": "500ms"}}
"""For an operator whose successor is waited for, and which may lose its Lease meanwhile."""
FIRM_LEASE: dict[str, Any] = {
    "leaderElection": {"leaseDuration": "12s", "renewDeadline": "10s", "retryPeriod": "500ms"}
}
"""For one that must not lose it on a busy machine, though the one before it gave nothing back."""
_BUG = re.compile(r"Traceback \(most recent call last\)|a bug of the operator|Task exception was never retrieved")


def program(*arguments: str) -> list[str]:
    """The command line of `outrigger`."""
    return [sys.executable, "-m", "mcp_operator.cli", *arguments]


def install(cluster: Cluster, namespace: str, watch_namespaces: Sequence[str] = ()) -> Access:
    """Make the operator's namespace, its ServiceAccount and its rights; its access."""
    api = cluster.api
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": namespace}}
    api.apply(account)
    arguments = ["rbac", "--operator-namespace", namespace, "--service-account", ACCOUNT]
    if watch_namespaces:
        arguments += ["--namespaces", ",".join(watch_namespaces)]
    said = subprocess.run(program(*arguments), capture_output=True, text=True, timeout=60, check=True).stdout
    for manifest in yaml.safe_load_all(said):
        if manifest:
            api.apply(manifest)
    return cluster.service_account(namespace, ACCOUNT)


def uninstall(cluster: Cluster, namespace: str) -> None:
    """Take the rights and the namespace away."""
    for resource in ("clusterrolebindings", "clusterroles"):
        cluster.api.delete(resource, None, ACCOUNT)
    cluster.api.delete("namespaces", None, namespace)


class OperatorProcess:
    """One replica. `stop` fails where it does not end well, or has ever logged a bug."""

    def __init__(
        self,
        access: Access,
        directory: Path,
        *,
        namespace: str,
        watch_namespaces: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        name: str = "operator",
        quick: bool = True,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.port = 0
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=directory))
        config = directory / "operator.json"
        config.write_text(json.dumps({"identity": name, **merged(QUICK if quick else {}, settings or {})}))
        arguments = ["run", "--kubeconfig", str(access.write(directory / "kubeconfig")), "--config", str(config)]
        arguments += ["--namespace", namespace, "--admin-port", "0"]
        if watch_namespaces:
            arguments += ["--watch-namespaces", ",".join(watch_namespaces)]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "OUTRIGGER"))}
        self.process = BackgroundProcess(name, program(*arguments), directory, env=env)
        self._checked = 0

    def start(self, *, ready: bool = True) -> OperatorProcess:
        """Start it, and wait until it listens; until it is ready too: it leads, or stands by."""
        began = len(self.process.log())
        self.process.start()

        def listening() -> bool:
            found = re.search(r"admin port (\d+)", self.process.log()[began:])
            self.port = int(found[1]) if found else 0
            return found is not None

        self.process.wait_until(listening, "listening", START_TIMEOUT)
        if ready:
            self.process.wait_until(lambda: self.admin("/readyz")[0] == 200, "ready", START_TIMEOUT)
        return self

    def wait_until_leading(self, timeout: float = START_TIMEOUT) -> OperatorProcess:
        """Until it holds the Lease and has seen everything."""
        self.process.wait_until(lambda: self.admin("/readyz") == (200, "leading\n"), "leading", timeout)
        return self

    @property
    def leads(self) -> bool:
        return self.process.running and self.admin("/readyz")[1] == "leading\n"

    def admin(self, path: str) -> tuple[int, str]:
        """GET a page of its admin port. Raises OSError."""
        return admin_page("127.0.0.1", self.port, path)

    def metrics(self) -> dict[str, float]:
        """`name{label="value"}` → value."""
        samples = {}
        for line in self.admin("/metrics")[1].splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def check(self) -> None:
        """Fail where it has logged a bug since the last check."""
        said = self.process.log()
        new, self._checked = said[self._checked :], len(said)
        if found := _BUG.search(new):
            around = new[max(0, found.start() - 500) : found.start() + 3000]
            raise AssertionError(f"{self.name} logged a bug:\n{around}")

    def stop(self, *, expected: int = 0) -> None:
        """SIGTERM; it gives the Lease back. Raises AssertionError."""
        if self.process.returncode is None:
            code = self.process.stop(timeout=20.0)
            assert code == expected, self.process.describe(f"exit code {code}")
        self.check()

    def kill(self) -> None:
        """SIGKILL: the Lease stays until it is stale."""
        self.process.kill()

    def describe(self) -> str:
        """The end of its log, for a failure's message."""
        return self.process.describe(f"returncode {self.process.returncode}", 60)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` upon `base`, objects merged."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


def lease_holder(api: Api, namespace: str) -> str:
    """Who holds the Lease; nobody: an empty string."""
    try:
        lease = api.get("leases", namespace, "outrigger-operator")
    except ApiError:
        return ""
    return str(((lease or {}).get("spec") or {}).get("holderIdentity") or "")

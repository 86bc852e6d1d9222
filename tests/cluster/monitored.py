"""A Prometheus that watches a cluster as ours is meant to be watched: it finds the pods as the chart's monitors do and
has the chart's rules, which wait for seconds here.

The sidecars are found by the labels and the port's name of the PodMonitor, the operator by those of the ServiceMonitor.
What fires for which fault is for the tests to say.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from cluster.api import Api, ApiError, Object
from prometheus_process import Prometheus, Target, shortened

RULES = Path(__file__).resolve().parents[2] / "charts/outrigger/files/rules"
SIDECARS, OPERATOR = "sidecars", "operator"
"""Names of the jobs."""
_LOOK_EVERY = 0.5


def rules(factor: float) -> list[dict[str, Any]]:
    """The chart's rule files, which wait and look back for a `factor`th of the time."""
    return [shortened(yaml.safe_load(path.read_text()), factor) for path in sorted(RULES.glob("*.yaml"))]


class Monitored(Prometheus):
    """Scrapes the pods that there are, as they come and go. A context manager.

    `namespaces`: those of the MCPServers. `extra`: targets of the operator that are no pods, such as a process.
    """

    def __init__(
        self,
        api: Api,
        namespaces: Collection[str],
        *,
        operator_namespace: str | None = "outrigger-system",
        extra: Collection[Target] = (),
        factor: float = 30,
    ) -> None:
        super().__init__({SIDECARS: (), OPERATOR: tuple(extra)}, rules=rules(factor))
        self._api = api
        self._namespaces = tuple(namespaces)
        self._operator_namespace = operator_namespace
        self._extra = tuple(extra)
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Monitored:
        super().__enter__()
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._looking.join(30)
        super().__exit__(kind, error, traceback)

    def about(self, namespace: str) -> dict[str, set[str]]:
        """Server → the alerts that fire for it, of a namespace of MCPServers; "" → those of no MCPServer there."""
        found: dict[str, set[str]] = {}
        for alert in self.alerts():
            labels = alert["labels"]
            if "server" not in labels or labels["namespace"] == namespace:
                found.setdefault(labels.get("server", ""), set()).add(labels["alertname"])
        return found

    def wait_for_alerts_about(self, namespace: str, expected: dict[str, set[str]], timeout: float = 90.0) -> None:
        """Wait until exactly these fire for the MCPServers of a namespace and for the operator."""
        self.wait(lambda: self.about(namespace) == expected, f"exactly {expected} fire", timeout, self.described)

    def _look(self) -> None:
        known: dict[str, list[Target]] = {SIDECARS: [], OPERATOR: list(self._extra)}
        while not self._ended.wait(_LOOK_EVERY):
            try:
                found = {SIDECARS: self._sidecars(), OPERATOR: [*self._operators(), *self._extra]}
            except (OSError, ApiError):
                continue  # a test may stop the API server
            for job, targets in found.items():
                if targets != known[job]:
                    known[job] = targets
                    self.scrape(job, targets)

    def _sidecars(self) -> list[Target]:
        pods = [pod for namespace in self._namespaces for pod in self._api.list("pods", namespace)]
        return [
            _target(pod, mcpserver=pod["metadata"]["labels"].get("outrigger.dev/mcpserver", ""))
            for pod in pods
            if pod["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") == "outrigger" and _scraped(pod)
        ]

    def _operators(self) -> list[Target]:
        pods = self._api.list("pods", self._operator_namespace) if self._operator_namespace else []
        name = "outrigger-operator"
        return [
            _target(pod)
            for pod in pods
            if pod["metadata"].get("labels", {}).get("app.kubernetes.io/name") == name and _scraped(pod)
        ]


def _scraped(pod: Object) -> bool:
    return bool(pod["status"].get("podIP")) and pod["status"].get("phase") == "Running" and _port(pod) is not None


def _port(pod: Object) -> int | None:
    ports = [port for each in pod["spec"]["containers"] for port in each.get("ports", ())]
    return next((int(port["containerPort"]) for port in ports if port.get("name") == "admin"), None)


def _target(pod: Object, **labels: str) -> Target:
    metadata = pod["metadata"]
    address = f"{pod['status']['podIP']}:{_port(pod)}"
    return Target(address, {"namespace": metadata["namespace"], "pod": metadata["name"], **labels})

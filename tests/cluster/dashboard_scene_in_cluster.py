"""The fleet of `dashboard_scene` as the operator makes it: MCPServers applied, their pods really run by `pod_agent`.

For the preview of the dashboards, whose pictures shall show the operator's own conditions beside the sidecars' figures.
"""

from __future__ import annotations

import base64
import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.api import Api, eventually
from cluster.pod_agent import PodAgent
from cluster.sidecars import Sidecar, living
from dashboard_scene import COMMON, PODS, Pod, Scene

SECRET = "search-credentials"


@dataclass(frozen=True)
class RunningSidecar:
    """What a Pod of the scene needs of one."""

    host: str
    port: int = 8080
    admin_port: int = 9090

    def url(self) -> str:
        return f"http://{self.host}:{self.port}/mcp"


class SceneInCluster(Scene):
    """The same fleet and faults; besides, `billing` lacks a Secret that it names."""

    def __init__(self, directory: Path, api: Api, agent: PodAgent) -> None:
        super().__init__(directory)
        self._api = api
        self._agent = agent

    def rotate_secret(self) -> None:
        self._rotations += 1
        data = {"token": base64.b64encode(f"token-{self._rotations}".encode()).decode()}
        if self._rotations > 1:
            self._api.patch("secrets", "shop", SECRET, {"data": data})

    def reconfigure(self, pod: str = "orders-0", *, wrong: bool = False) -> None:
        # the API server refuses what is wrong
        if not wrong:
            self._api.patch("mcpservers", "shop", "orders", {"spec": {"log": {"stderrLinesPerSecond": 7}}})

    def _deploy(self, stack: contextlib.ExitStack, servers: Mapping[str, Mapping[str, Any]]) -> None:
        for name in ("shop", "data"):
            self._api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            self._agent.serve(name, real=True)
        metadata = {"name": SECRET, "namespace": "shop"}
        self._api.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": "token"}})
        counted = Counter((namespace, server) for namespace, server, _ in PODS)
        for (namespace, server), replicas in counted.items():
            self._api.create(_manifest(namespace, server, servers[server], replicas))
        lacking = {"url": "https://billing.example.com/mcp", "bearerToken": {"secretKeyRef": _reference("billing")}}
        self._api.create(_manifest("shop", "billing", {}, 1, remote=lacking))
        for (namespace, server), replicas in counted.items():
            for found in self._started(namespace, server, replicas):
                self.pods.append(Pod(namespace, server, found.name, RunningSidecar(found.host), found.host))

    def _started(self, namespace: str, server: str, count: int) -> list[Sidecar]:
        """The sidecars of an MCPServer when all of them answer, ready or not."""

        def look() -> list[Sidecar]:
            pods = [
                pod
                for pod in living(self._api, namespace)
                if pod["metadata"]["labels"].get("app.kubernetes.io/instance") == server
                and (pod.get("status") or {}).get("podIP")
            ]
            assert len(pods) == count, f"{len(pods)} pods"
            found = [Sidecar(self._api, self._agent, pod) for pod in pods]
            try:
                assert all(each.admin("/livez")[0] == 200 for each in found)
            except OSError as error:
                raise AssertionError(str(error)) from error
            return found

        return eventually(look, f"{count} sidecars of {server}", 90)

    def pod(self, name: str) -> RunningSidecar:
        server, _, number = name.rpartition("-")
        sidecar: RunningSidecar = [pod.sidecar for pod in self.pods if pod.server == server][int(number)]
        return sidecar


def _manifest(namespace: str, name: str, settings: Mapping[str, Any], replicas: int, **spec: Any) -> dict[str, Any]:
    """An MCPServer from the settings that a sidecar's own configuration would have."""
    rest = dict(settings)
    if "url" in rest:
        spec["remote"] = {"url": rest.pop("url")}
    elif "command" in rest:
        spec["stdio"] = {key: rest.pop(key) for key in ("command", "args", "env", "restart") if key in rest}
        if "env" in spec["stdio"]:
            names = spec["stdio"]["env"]
            spec["stdio"]["env"] = [{"name": each, "valueFrom": {"secretKeyRef": _reference(SECRET)}} for each in names]
    return {
        "apiVersion": "outrigger.dev/v1alpha1",
        "kind": "MCPServer",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**rest, **COMMON, **spec, "replicas": replicas},
    }


def _reference(secret: str) -> dict[str, str]:
    return {"name": secret, "key": "token"}

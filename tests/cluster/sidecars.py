"""The sidecars of real pods, as their callers and the operator see them, and everything a condition ever was.

A `Sidecar` is one pod that `pod_agent` really runs: its admin port, calls to it, its process. A `Witness` watches one
MCPServer, so that states that last for a moment are seen. Starting pods is left to `pod_agent`.
"""

from __future__ import annotations

import http.client
import json
import threading
from types import TracebackType
from typing import Any

from cluster.admin_page import admin_page
from cluster.api import Api, ApiError, eventually
from cluster.background_process import BackgroundProcess
from cluster.pod_agent import PodAgent
from mcp_callers import Caller
from process_table import children

Object = dict[str, Any]
WATCH_SECONDS = 2


def living(api: Api, namespace: str) -> list[Object]:
    """The pods of a namespace that are not on their way out, the oldest first."""
    pods = [pod for pod in api.list("pods", namespace) if "deletionTimestamp" not in pod["metadata"]]
    return sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))


class Sidecar:
    """The sidecar of one pod."""

    port = 8080

    def __init__(self, api: Api, agent: PodAgent, pod: Object) -> None:
        self._api, self._agent = api, agent
        self.namespace: str = pod["metadata"]["namespace"]
        self.name: str = pod["metadata"]["name"]
        self.uid: str = pod["metadata"]["uid"]
        self.host = agent.address(self.namespace, self.name)

    def __repr__(self) -> str:
        return f"Sidecar({self.name}, {self.host})"

    @property
    def pod(self) -> Object:
        """The pod as it is now; it must be there."""
        pod = self._api.get("pods", self.namespace, self.name)
        assert pod is not None, f"pod {self.name} is gone"
        assert pod["metadata"]["uid"] == self.uid, f"pod {self.name} is another"
        return pod

    @property
    def process(self) -> BackgroundProcess:
        """Its process."""
        return self._agent.process(self.namespace, self.name)

    @property
    def config_map(self) -> str:
        """The ConfigMap that the pod mounts."""
        return mounted(self.pod["spec"])

    @property
    def identity(self) -> tuple[str, int]:
        """Equal as long as neither the pod nor its process was replaced."""
        return self.uid, self.process.pid

    def admin(self, path: str) -> tuple[int, str]:
        """GET a page of the admin port. Raises OSError."""
        return admin_page(self.host, 9090, path)

    def status(self) -> Any:
        """`/status`. Raises OSError."""
        return json.loads(self.admin("/status")[1])

    @property
    def url(self) -> str:
        """Where callers reach this pod and no other."""
        return f"http://{self.host}:8080/mcp"

    def caller(self, *, version: str | None = None, token: str | None = None) -> Caller:
        """A caller of this pod: a modern one, or one of a legacy version."""
        return Caller(self.url, version=version, token=token)

    def text(self, tool: str, **arguments: Any) -> str:
        """What a tool answers."""
        return self.caller().text(tool, **arguments)

    def servers(self) -> set[int]:
        """The processes of the stdio server."""
        return children(self.process.pid)


def sidecars(api: Api, agent: PodAgent, namespace: str, count: int, timeout: float = 60.0) -> list[Sidecar]:
    """The sidecars of the namespace's pods, when there are exactly so many pods and all are ready."""

    def look() -> list[Object]:
        pods = living(api, namespace)
        ready = [pod for pod in pods if is_ready(pod)]
        assert len(pods) == len(ready) == count, f"{len(ready)} of {len(pods)} pods are ready"
        return ready

    return [Sidecar(api, agent, pod) for pod in eventually(look, f"{count} ready pods", timeout)]


def is_ready(pod: Object) -> bool:
    """Whether a pod's status says so."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def mounted(pod_spec: Object) -> str:
    """The name of the ConfigMap with the sidecar's configuration."""
    return next(str(one["configMap"]["name"]) for one in pod_spec["volumes"] if one["name"] == "config")


class Witness:
    """Remembers every condition that an MCPServer ever had. A context manager; it may exist before the MCPServer."""

    def __init__(self, api: Api, namespace: str, name: str = "one") -> None:
        self._api = api
        self._place = (namespace, name)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)
        self.conditions: list[Object] = []
        """Each state of each condition once, in order; times and generations left out."""
        self.objects: list[Object] = []
        """Every version of the MCPServer."""

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing.set()
        self._thread.join()

    @property
    def seen(self) -> set[tuple[str, str, str]]:
        """(type, status, reason) of every condition so far."""
        return {(one["type"], one["status"], one["reason"]) for one in self.conditions}

    def messages(self, kind: str, reason: str) -> list[str]:
        """What a condition said for a reason, in order."""
        return [one["message"] for one in self.conditions if (one["type"], one["reason"]) == (kind, reason)]

    def wait_for(self, *rows: tuple[str, str, str], timeout: float = 30.0) -> None:
        """Until each (type, status, reason) was seen, be it for a moment."""

        def look() -> bool:
            missing = set(rows) - self.seen
            assert not missing, f"never {sorted(missing)}"
            return True

        eventually(look, "conditions", timeout)

    def _watch(self) -> None:
        namespace, name = self._place
        version = ""
        while not self._closing.is_set():
            try:
                if not version:
                    found = self._api.request("GET", f"/apis/outrigger.dev/v1alpha1/namespaces/{namespace}/mcpservers")
                    for one in found["items"]:
                        self._take(one)
                    version = found["metadata"]["resourceVersion"]
                for kind, one in self._api.watch(
                    "mcpservers", namespace, seconds=WATCH_SECONDS, resourceVersion=version
                ):
                    version = one["metadata"]["resourceVersion"]
                    if kind != "DELETED" and one["metadata"]["name"] == name:
                        self._take(one)
            except ApiError:
                version = ""
                self._closing.wait(0.2)
            except (OSError, http.client.HTTPException, ValueError):
                self._closing.wait(0.2)

    def _take(self, server: Object) -> None:
        if server["metadata"]["name"] != self._place[1]:
            return
        self.objects.append(server)
        for one in (server.get("status") or {}).get("conditions", ()):
            kept = {name: one[name] for name in ("type", "status", "reason", "message")}
            before = next((each for each in reversed(self.conditions) if each["type"] == one["type"]), None)
            if before != kept:
                self.conditions.append(kept)

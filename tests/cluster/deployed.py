"""An MCPServer on a real node, as its callers, the operator and the node see it; its server is a script of the tests.

The script is in a ConfigMap and runs in our sidecar-runtime image, which has Python: no image of the tests is needed.
Callers come from this machine through the Service's ClusterIP. Processes of containers are found by their cgroup.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.api import Api, eventually
from cluster.operator_process import merged
from cluster.servers import condition, wait_for
from cluster.sidecars import is_ready, living
from cluster.steady_load import wait_for_connections
from images.contents import REGISTRY, version
from mcp_callers import CHILDREN, Caller

Object = dict[str, Any]

RUNTIME = f"{REGISTRY}/sidecar-runtime:{version()}"
PLACE = "/srv/mcp"
SCRIPTS = "scripts"
HTTP_PORT = 8000
_MOUNT = [{"name": SCRIPTS, "mountPath": PLACE, "readOnly": True}]
_KINDS: dict[str, tuple[str, Object]] = {
    "stdio": ("sidecar", {"stdio": {"command": "python3", "args": ["-S", "-E", f"{PLACE}/tool_server.py"]}}),
    "stdio-image": (
        "server",
        {"stdio": {"image": RUNTIME, "command": "python3", "args": ["-S", "-E", f"{PLACE}/tool_server.py"]}},
    ),
    "http": (
        "server",
        {
            "http": {
                "image": RUNTIME,
                "port": HTTP_PORT,
                "command": ["python3", "-S", "-E", f"{PLACE}/http_mcp.py", str(HTTP_PORT), "modern", "forever"],
            }
        },
    ),
    "http-legacy": (
        "server",
        {
            "http": {
                "image": RUNTIME,
                "port": HTTP_PORT,
                "command": ["python3", "-S", "-E", f"{PLACE}/http_mcp.py", str(HTTP_PORT), "legacy", "forever"],
            }
        },
    ),
    "remote": ("", {}),
}
"""Kind → the container that runs the script, and the spec; that of a remote one is the test's."""


def manifest(namespace: str, name: str = "one", kind: str = "stdio", **spec: Any) -> Object:
    """An MCPServer of one of the kinds, with `spec` merged into its spec. Callers need not be pods of its namespace."""
    container, base = _KINDS[kind]
    common = {**base, "networkPolicy": {"mode": "Disabled"}}
    if container:
        volumes = [{"name": SCRIPTS, "configMap": {"name": SCRIPTS}}]
        common["podTemplate"] = {"volumes": volumes, container: {"volumeMounts": _MOUNT}}
    return {
        "apiVersion": "outrigger.dev/v1alpha1",
        "kind": "MCPServer",
        "metadata": {"name": name, "namespace": namespace},
        "spec": merged(common, spec),
    }


def deploy(api: Api, namespace: str, name: str = "one", kind: str = "stdio", **spec: Any) -> Deployed:
    """Create it, and the scripts where they are missing."""
    if api.get("configmaps", namespace, SCRIPTS) is None:
        data = {name: (CHILDREN / name).read_text() for name in ("tool_server.py", "http_mcp.py")}
        metadata = {"name": SCRIPTS, "namespace": namespace}
        api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    api.create(manifest(namespace, name, kind, **spec))
    return Deployed(api, namespace, name)


class Deployed:
    """One MCPServer."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self.api, self.namespace, self.name = api, namespace, name

    def __repr__(self) -> str:
        return f"Deployed({self.name})"

    @property
    def object(self) -> Object:
        """The MCPServer as it is now; it must be there."""
        found = self.api.get("mcpservers", self.namespace, self.name)
        assert found is not None, f"no MCPServer {self.name}"
        return found

    @property
    def url(self) -> str:
        """Where callers reach it: the Service's address."""
        service = self.api.get("services", self.namespace, self.name)
        assert service is not None, f"no Service {self.name}"
        return f"http://{service['spec']['clusterIP']}:8080/mcp"

    def caller(self, *, version: str | None = None, token: str | None = None) -> Caller:
        """A caller through the Service: a modern one, or one of a legacy version."""
        return Caller(self.url, version=version, token=token)

    def text(self, tool: str, **arguments: Any) -> str:
        """What a tool answers."""
        return self.caller().text(tool, **arguments)

    def patch(self, **spec: Any) -> None:
        """Merge into the spec."""
        self.api.patch("mcpservers", self.namespace, self.name, {"spec": spec})

    def roll(self, revision: str) -> None:
        """A change of the user's that needs new pods and nothing else."""
        self.patch(podTemplate={"annotations": {"tests/revision": revision}})

    def condition(self, kind: str) -> Object:
        """A condition as it is now."""
        return condition(self.object, kind)

    def wait(self, kind: str, status: str, reason: str | None = None, timeout: float = 90.0) -> Object:
        """Wait until a condition is so, for the generation that there is; the condition."""
        return condition(wait_for(self.api, self.namespace, self.name, kind, status, reason, timeout), kind)

    def ready(self, timeout: float = 120.0) -> Deployed:
        """Wait until it serves as its newest spec says, with no pod of an older one left, and its Service knows."""
        self.wait("Ready", "True", "Ready", timeout)
        self.wait("Progressing", "True", "RolloutComplete", timeout)
        wait_for_connections(self.url)
        return self

    def pods(self) -> list[Object]:
        """Its pods that are not on their way out, the oldest first."""
        return [pod for pod in living(self.api, self.namespace) if self._mine(pod)]

    def every_pod(self) -> list[Object]:
        """Those on their way out too."""
        return [pod for pod in self.api.list("pods", self.namespace) if self._mine(pod)]

    def ready_pods(self, count: int, timeout: float = 90.0) -> list[Object]:
        """Its pods, when there are exactly so many, all ready, and no other is left."""

        def look() -> list[Object]:
            pods = self.every_pod()
            ready = [pod for pod in pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
            assert len(pods) == len(ready) == count, f"{len(ready)} of {len(pods)} pods are ready"
            return sorted(ready, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

        return eventually(look, f"{count} ready pods of {self.name}", timeout) if count else self._gone(timeout)

    def _gone(self, timeout: float) -> list[Object]:
        eventually(lambda: not self.every_pod(), f"no pod of {self.name} left", timeout)
        return []

    def _mine(self, pod: Object) -> bool:
        return bool(pod["metadata"]["labels"].get("outrigger.dev/mcpserver") == self.name)


def names(pods: list[Object]) -> set[str]:
    """The names of pods."""
    return {str(pod["metadata"]["name"]) for pod in pods}


def page(pod: Object, path: str, port: int = 9090) -> tuple[int, str]:
    """GET a page of a pod's admin port. Raises OSError."""
    connection = http.client.HTTPConnection(pod["status"]["podIP"], port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except http.client.HTTPException as error:
        raise ConnectionError(repr(error)) from error
    finally:
        connection.close()


def status(pod: Object) -> Any:
    """What the sidecar of a pod says of itself."""
    return json.loads(page(pod, "/status")[1])


def container_ids(pod: Object) -> dict[str, str]:
    """Container → its id, of those that run."""
    found = [*pod["status"].get("initContainerStatuses", ()), *pod["status"].get("containerStatuses", ())]
    return {one["name"]: one.get("containerID", "").rpartition("/")[2] for one in found if "running" in one["state"]}


def processes(pod: Object, container: str) -> dict[int, str]:
    """The processes of a pod's container on this machine: pid → command line; its first process comes first."""
    number = container_ids(pod)[container]
    found: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if number not in (entry / "cgroup").read_text():
                continue
            inside = re.search(r"^NSpid:.*?(\d+)$", (entry / "status").read_text(), re.MULTILINE)
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[int(entry.name)] = (int(inside[1]) if inside else 0, command)
    return {pid: command for pid, (_, command) in sorted(found.items(), key=lambda one: one[1][0])}


def first_process(pod: Object, container: str) -> int:
    """The pid, on this machine, of what the container's image or spec starts."""
    return next(iter(processes(pod, container)))


def server_processes(pod: Object, container: str = "sidecar") -> list[int]:
    """The pids, on this machine, of the script in a container: not of the sidecar or the bridge that runs it."""
    return [
        pid
        for pid, command in processes(pod, container).items()
        if f"{PLACE}/" in command and "outrigger" not in command
    ]


def restarts(pod: Object) -> Mapping[str, int]:
    """Container → how often it was started again."""
    found = [*pod["status"].get("initContainerStatuses", ()), *pod["status"].get("containerStatuses", ())]
    return {one["name"]: one["restartCount"] for one in found}

"""Pods of the tests' own, without an operator: something that serves, and somebody who calls from inside the cluster.

They run our sidecar-runtime image, which has Python, as restricted as every pod of ours.
"""

from __future__ import annotations

from typing import Any

from cluster.api import Api, eventually
from cluster.deployed import RUNTIME
from cluster.kubectl import Command
from cluster.sidecars import is_ready

Object = dict[str, Any]

WAIT = ["sleep", "infinity"]
"""Ends with its pod at once."""
SERVE = ["python3", "-m", "http.server", "--directory", "/etc"]
"""Files over HTTP, on the port that follows."""
_CONNECT = """
import socket, sys
for target in sys.argv[2:]:
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), float(sys.argv[1])).close()
        print("yes")
    except ConnectionRefusedError:
        print("refused")
    except OSError as error:
        print("no")
"""


def pod(namespace: str, name: str, command: list[str], *, port: int | None = None, **spec: Any) -> Object:
    """A pod with one container, labelled `app: <name>`, ready when `port` takes connections; `spec` over its own."""
    container: Object = {
        "name": "one",
        "image": RUNTIME,
        "imagePullPolicy": "Never",
        "command": command,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if port is not None:
        container["ports"] = [{"name": "web", "containerPort": port}]
        container["readinessProbe"] = {"tcpSocket": {"port": port}, "periodSeconds": 1}
    own = {"containers": [container], "terminationGracePeriodSeconds": 0, "enableServiceLinks": False}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {**own, **spec},
    }


def service(namespace: str, name: str, port: int, *, headless: bool = False) -> Object:
    """The Service of the pods labelled `app: <name>`, on port 80."""
    spec: Object = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": port}]}
    if headless:
        spec["clusterIP"] = "None"
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def running(api: Api, namespace: str, name: str, timeout: float = 60.0) -> Object:
    """The pod, when it is ready."""

    def look() -> Object | None:
        found = api.get("pods", namespace, name)
        return found if found and is_ready(found) else None

    found = eventually(look, f"pod {name} ready", timeout)
    assert found
    return found


def reached(kubectl: Command, namespace: str, name: str, *targets: str, seconds: float = 2.0) -> list[str]:
    """What comes of TCP connections from a pod to each `host:port`: `yes`, `refused`, or `no` answer in `seconds`."""
    script = ["python3", "-c", _CONNECT, str(seconds), *targets]
    return kubectl("--namespace", namespace, "exec", name, "--", *script).split()

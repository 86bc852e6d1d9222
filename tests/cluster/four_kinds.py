"""The four kinds of MCPServer in front of the same server, the SDK's everything server, with all that they need.

As a command in our image (the example), in an image of its own behind the bridge, in a container that speaks HTTP, and
somewhere else: a Deployment that Outrigger knows nothing of. What is asked of them is in node/test_servers.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.deployed import RUNTIME
from cluster.images_for_tests import ECHO, EVERYTHING

Object = dict[str, Any]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "everything.yaml"
STDIO = ("everything", "bridged")
KINDS = (*STDIO, "contained", "remote")
"""Their names."""
SPECS: dict[str, Object] = {
    "bridged": {
        "stdio": {
            "image": EVERYTHING,
            "command": "mcp-everything-server",
            "isolation": "PerSession",
            "maxSessions": 100,
        }
    },
    "contained": {"http": {"image": EVERYTHING, "args": ["serve", "--port", "8000"]}},
    "remote": {
        "remote": {"url": "http://upstream:8000/mcp"},
        "readiness": "Upstream",
        "health": {"interval": "1s"},
    },
    "pair": {"stdio": {"image": ECHO, "command": "/echo", "args": ["stdio"], "isolation": "PerSession"}, "replicas": 2},
    "stuck": {"stdio": {"image": ECHO, "command": "/echo", "args": ["stdio"]}, "shutdown": {"gracePeriod": "1s"}},
}
"""MCPServers beside the example's: name → spec. `pair` and `stuck` are for what needs no more than a cheap server."""
_CONTAINER = {
    "imagePullPolicy": "IfNotPresent",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}


def manifests() -> list[Object]:
    """The MCPServers, the remote server, a pod that calls, and a policy that lets this machine call too."""
    upstream = {
        **_CONTAINER,
        "name": "server",
        "image": EVERYTHING,
        "args": ["serve", "--host", "0.0.0.0"],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
    }
    calling = {**_CONTAINER, "name": "caller", "image": RUNTIME, "command": ["sleep", "3600"]}
    labels = {"app": "upstream"}
    template = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 3, "containers": [upstream]}}
    return [
        *(
            {"apiVersion": "outrigger.dev/v1alpha1", "kind": "MCPServer", "metadata": {"name": name}, "spec": spec}
            for name, spec in SPECS.items()
        ),
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "upstream"},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "upstream"},
            "spec": {"selector": labels, "ports": [{"port": 8000}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "caller", "labels": {"app": "caller"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [calling]},
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "let-in"},
            "spec": {"podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"]},
        },
    ]

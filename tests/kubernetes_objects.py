"""Objects of the Kubernetes API as JSON, as far as the operator looks at them: Deployments, ReplicaSets, pods, /status.

For tests that ask what the operator makes of a situation. Everything is good by default; a test says what is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NAMESPACE = "shop"
NAME = "web"
NOW = "2026-11-23T12:00:00Z"
HASH = "0123456789abcdef"


def deployment(
    *,
    wanted: int = 1,
    ready: int | None = None,
    updated: int | None = None,
    total: int | None = None,
    generation: int = 1,
    observed: int | None = None,
    image: str = "server:1",
    progressing: tuple[str, str] | None = None,
    paused: bool = False,
) -> dict[str, Any]:
    """A Deployment with `ready` of `wanted` replicas; `image` stands for all that its pod template may be."""
    ready = wanted if ready is None else ready
    updated = wanted if updated is None else updated
    complete = ("True", "NewReplicaSetAvailable") if ready >= wanted else ("True", "ReplicaSetUpdated")
    status, reason = progressing or complete
    return {
        "metadata": {
            **_metadata(NAME, "deployment-uid", "MCPServer", "server-uid"),
            "generation": generation,
            "annotations": {"deployment.kubernetes.io/revision": "1"},
        },
        "spec": {"replicas": wanted, "template": _template(image), **({"paused": True} if paused else {})},
        "status": {
            "observedGeneration": generation if observed is None else observed,
            "replicas": updated if total is None else total,
            "updatedReplicas": updated,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "conditions": [{"type": "Progressing", "status": status, "reason": reason, "message": ""}],
        },
    }


def replica_set(
    name: str = "web-1",
    *,
    image: str = "server:1",
    wanted: int = 1,
    available: int | None = None,
    revision: int = 1,
    failure: str = "",
) -> dict[str, Any]:
    """A ReplicaSet of the Deployment; `failure`: why its pods are refused."""
    template = _template(image)
    template["metadata"]["labels"]["pod-template-hash"] = name
    available = wanted if available is None else available
    failed = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": failure}
    return {
        "metadata": {
            **_metadata(name, f"{name}-uid", "Deployment", "deployment-uid"),
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
        },
        "spec": {"replicas": wanted, "template": template},
        "status": {
            "replicas": wanted,
            "readyReplicas": available,
            "availableReplicas": available,
            "conditions": [failed] if failure else [],
        },
    }


def pod(
    name: str = "web-1-a",
    *,
    owner: str = "web-1",
    ready: bool = True,
    ip: str = "10.0.0.7",
    phase: str = "Running",
    server: dict[str, Any] | None = None,
    sidecar: dict[str, Any] | None = None,
    others: Sequence[dict[str, Any]] = (),
    conditions: Sequence[dict[str, Any]] = (),
    status: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A pod with the containers `server` and `sidecar`; each is a container status, of a running one by default."""
    return {
        "metadata": _metadata(name, f"{name}-uid", "ReplicaSet", f"{owner}-uid"),
        "spec": {
            "containers": [
                {
                    "name": "sidecar",
                    "ports": [{"name": "mcp", "containerPort": 8080}, {"name": "admin", "containerPort": 9191}],
                }
            ],
            "volumes": [{"name": "config", "configMap": {"name": "web-0123456789"}}],
        },
        "status": {
            "phase": phase,
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}, *conditions],
            "initContainerStatuses": [server or running("server")],
            "containerStatuses": [sidecar or running("sidecar"), *others],
            **(status or {}),
        },
    }


def running(name: str, *, restarts: int = 0, since: str = NOW, last: dict[str, Any] | None = None) -> dict[str, Any]:
    """The status of a container that runs; `last`: how its last life ended."""
    return {
        "name": name,
        "image": f"{name}:1",
        "ready": True,
        "restartCount": restarts,
        "state": {"running": {"startedAt": since}},
        "lastState": {"terminated": last} if last is not None else {},
    }


def waiting(
    name: str, reason: str, message: str = "", *, restarts: int = 0, last: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The status of a container that waits."""
    return {
        "name": name,
        "image": f"{name}:1",
        "ready": False,
        "restartCount": restarts,
        "state": {"waiting": {"reason": reason, "message": message}},
        "lastState": {"terminated": last} if last is not None else {},
    }


def ended(code: int = 1, message: str = "", *, reason: str = "Error", signal: int = 0) -> dict[str, Any]:
    """How a container ended."""
    return {"exitCode": code, "reason": reason, "message": message, **({"signal": signal} if signal else {})}


def crashing(name: str, code: int = 1, message: str = "", **how: Any) -> dict[str, Any]:
    """The status of a container that ends again and again."""
    back_off = "back-off 40s restarting failed container"
    return waiting(name, "CrashLoopBackOff", back_off, restarts=4, last=ended(code, message, **how))


def sidecar_status(
    *,
    up: bool = True,
    answered: bool | None = None,
    failures: int = 0,
    last_error: str | None = None,
    problem: str | None = None,
    secrets_problem: str | None = None,
    file_hash: str = HASH,
    refusal: Sequence[str] = (),
    tools: int = 3,
    upstream: dict[str, Any] | None = None,
    stderr: Sequence[str] = (),
    refuses: bool = False,
    call_errors: Sequence[str] = (),
    name: str = NAME,
) -> dict[str, Any]:
    """What a sidecar's /status says, cut to what the operator reads."""
    slots = [{"state": "backoff", "stderr": list(stderr)}] if stderr else []
    stdio = {
        "eras": ["modern"],
        "serverInfo": {"name": "files", "version": "1.2"},
        "protocolVersion": "2026-07-28",
        "processes": {"modern": {"slots": slots}},
    }
    return {
        "ready": up,
        "reason": "1 of 1 servers" if up else "no answer yet",
        "shuttingDown": False,
        "config": {"hash": "a15ee606fa30", "fileHash": file_hash, "lastRefusal": list(refusal)},
        "servers": {
            name: {
                "up": up,
                "answered": up if answered is None else answered,
                "problem": problem,
                "health": {"failuresInARow": failures, "lastError": last_error},
                "tools": {"count": tools, "complete": up},
                "breaker": {"state": "half_open" if refuses else "closed", "refuses": refuses},
                "lastErrors": [{"method": "tools/call", "message": each, "count": 2} for each in call_errors],
                "upstream": stdio if upstream is None else upstream,
                "secrets": {"generation": 1, "problem": secrets_problem},
            }
        },
    }


def _template(image: str) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"app.kubernetes.io/instance": NAME}},
        "spec": {
            "containers": [{"name": "sidecar", "image": "sidecar:1"}, {"name": "server", "image": image}],
            "volumes": [{"name": "config", "configMap": {"name": "web-0123456789"}}],
        },
    }


def _metadata(name: str, uid: str, owner_kind: str, owner_uid: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "uid": uid,
        "creationTimestamp": "2026-11-23T11:00:00Z",
        "labels": {"outrigger.dev/mcpserver": NAME},
        "ownerReferences": [{"kind": owner_kind, "name": "x", "uid": owner_uid, "controller": True}],
    }

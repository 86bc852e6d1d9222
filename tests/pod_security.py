"""The restricted pod security standard, as a check of pod specs.

After the "Pod Security Standards" of the Kubernetes documentation (profile Restricted, which holds that of Baseline),
for Linux pods of Kubernetes 1.30 and later. It wants each container to say what the standard lets a pod say for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
_HOST = ("hostNetwork", "hostPID", "hostIPC", "hostUsers")


def violations(spec: Mapping[str, Any]) -> list[str]:
    """What a pod spec does that the standard forbids."""
    found = [f"{name} is set" for name in _HOST if name in spec]
    found += [
        f"volume {volume['name']}: {sorted(volume)}" for volume in spec.get("volumes", ()) if not _allowed(volume)
    ]
    pod = spec.get("securityContext", {})
    if pod.get("runAsNonRoot") is not True:
        found.append("the pod may run as root")
    if pod.get("runAsUser") == 0:
        found.append("the pod runs as root")
    if pod.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("the pod has no seccomp profile")
    if pod.get("sysctls"):
        found.append("the pod sets sysctls")
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        found += [f"{container['name']}: {problem}" for problem in _of_container(container)]
    return found


def _allowed(volume: Mapping[str, Any]) -> bool:
    return len(volume) == 2 and bool(VOLUMES & volume.keys())


def _of_container(container: Mapping[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "privilege escalation"
    if context.get("privileged"):
        yield "privileged"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "capabilities"
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        yield "may run as root"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "no seccomp profile"
    if context.get("procMount", "Default") != "Default":
        yield "procMount"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield "a port of the host"

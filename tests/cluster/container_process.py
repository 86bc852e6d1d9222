"""A container of a pod as a process of this machine: its command, environment and mounts, no image.

Its root is ours, seen through an overlay in a mount namespace of its own, so that the pod's paths (`/etc/outrigger`,
`/run/outrigger/…`) are really where its spec says, and nothing of it touches the machine. Network, users and limits are
the machine's. Needs root.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.api import Api
from cluster.background_process import BackgroundProcess
from cluster.pod_volumes import data

ROOT = Path(__file__).resolve().parents[2]
_KEPT = ("/tmp",)
"""Not covered by a volume of the pod: the tests' own files are there."""


class ConfigError(Exception):
    """The container cannot be made; the message is the kubelet's."""


def possible() -> bool:
    """Whether this user may start such processes."""
    return os.geteuid() == 0


def environment(api: Api, pod: dict[str, Any], container: dict[str, Any], ip: str) -> dict[str, str]:
    """The container's variables, with what they refer to. Raises ConfigError."""
    namespace = pod["metadata"]["namespace"]
    values: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        resource, reference = ("secrets", source["secretRef"]) if "secretRef" in source else (
            "configmaps", source["configMapRef"],
        )  # fmt: skip
        found = api.get(resource, namespace, reference["name"])
        if found is None and not reference.get("optional"):
            raise ConfigError(f'{resource[:-1]} "{reference["name"]}" not found')
        for key, value in (data(found) if found else {}).items():
            values[source.get("prefix", "") + key] = value.decode()
    for variable in container.get("env", ()):
        value = _value(api, pod, namespace, variable, ip)
        if value is not None:
            values[variable["name"]] = _expanded(value, values)
    return values


def _expanded(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` replaced, where there is such a variable."""
    return re.sub(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)", lambda match: values.get(match[1], match[0]), text)


def _value(api: Api, pod: dict[str, Any], namespace: str, variable: dict[str, Any], ip: str) -> str | None:
    if "valueFrom" not in variable:
        return str(variable.get("value", ""))
    source = variable["valueFrom"]
    if "fieldRef" in source:
        fields = {
            "metadata.name": pod["metadata"]["name"],
            "metadata.namespace": namespace,
            "metadata.uid": pod["metadata"]["uid"],
            "status.podIP": ip,
        }
        return fields[source["fieldRef"]["fieldPath"]]
    if "secretKeyRef" in source:
        resource, kind, reference = "secrets", "Secret", source["secretKeyRef"]
    else:
        resource, kind, reference = "configmaps", "ConfigMap", source["configMapKeyRef"]
    found = api.get(resource, namespace, reference["name"])
    if found is not None and reference["key"] in (content := data(found)):
        return content[reference["key"]].decode()
    if reference.get("optional"):
        return None
    if found is None:
        raise ConfigError(f'{kind.lower()} "{reference["name"]}" not found')
    raise ConfigError(f"couldn't find key {reference['key']} in {kind} {namespace}/{reference['name']}")


def process(
    container: dict[str, Any],
    command: Sequence[str],
    volumes: Mapping[str, Path],
    env: Mapping[str, str],
    directory: Path,
    *,
    programs: Mapping[str, Path] | None = None,
) -> BackgroundProcess:
    """The container's process, not started. `programs` are put at these paths."""
    command = [_expanded(word, env) for word in command]
    mounts = {}
    for mount in container.get("volumeMounts", ()):
        if mount["mountPath"].startswith(_KEPT):
            continue
        mounts[mount["mountPath"]] = volumes[mount["name"]] / mount.get("subPath", "")
    script = directory / f"{container['name']}.sh"
    scratch = directory / f"{container['name']}.root"
    scratch.mkdir(exist_ok=True)
    script.write_text(_script(scratch, mounts, programs or {}, container.get("workingDir", "/"), command))
    return BackgroundProcess(
        container["name"],
        ["unshare", "--mount", "--propagation", "private", "sh", script],
        directory,
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(directory), **env},
    )


def _script(
    scratch: Path, mounts: Mapping[str, Path], programs: Mapping[str, Path], cwd: str, command: Sequence[str]
) -> str:
    root = scratch / "root"
    # a top directory in which something is mounted is the overlay's, so that mount points can be made there
    covered = {path.split("/")[1] for path in (*mounts, *programs)}
    lines = [
        "set -e",
        f"mount -t tmpfs tmpfs {scratch}",
        f"mkdir {scratch}/upper {scratch}/work {root}",
        f"mount -t overlay overlay -o lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work {root}",
    ]
    tops = [entry for entry in sorted(Path("/").iterdir()) if entry.is_dir() and not entry.is_symlink()]
    lines += [f"mount --rbind {entry} {root}{entry}" for entry in tops if entry.name not in covered]
    if "etc" in covered:
        # these may be mounts of their own, which an overlay does not see
        lines += [f"cp /etc/{name} {root}/etc/{name} 2>/dev/null || :" for name in ("hosts", "resolv.conf", "passwd")]
    for path, source in (*sorted(mounts.items()), *programs.items()):
        inside = shlex.quote(f"{root}{path}")
        if source.is_dir():
            lines.append(f"mkdir -p {inside}")
        else:
            lines.append(f"mkdir -p {shlex.quote(f'{root}{os.path.dirname(path)}')}; touch {inside}")
        lines.append(f"mount --bind {shlex.quote(str(source))} {inside}")
    lines.append(f"exec chroot {root} env -C {shlex.quote(cwd)} {shlex.join(command)}")
    return "\n".join(lines) + "\n"

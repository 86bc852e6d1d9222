"""The containers of a pod.

`sidecar` is the only main container. Where the server has an image of its own it is the native sidecar `server`, an
init container that goes on running: Kubernetes stops it after the main one, so calls in flight end while the server
still lives. `bridge` copies the program that runs a stdio server in such an image. All meet the restricted pod security
standard. Which volumes stand behind the mounts is in `pod`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mcp_operator.api.v1alpha1 import (
    EnvFromSource,
    EnvVar,
    Front,
    Http,
    MCPServer,
    Resources,
    SecurityContext,
    ServerContainer,
    SidecarContainer,
    Stdio,
    VolumeMount,
    written,
)
from mcp_operator.desired.cluster import Images
from mcp_operator.desired.config import (
    SESSION_DIRECTORY,
    SOCKET,
    SOCKET_DIRECTORY,
    STATE_DIRECTORY,
    env_from_directory,
    value_file,
)
from mcp_operator.desired.mounts import Mounts, file_path
from mcp_operator.desired.needs import is_bridged
from mcp_operator.desired.service import ADMIN_PORT, MCP_PORT
from mcp_sidecar.config.naming import token_name

OWN_VOLUMES = re.compile(r"config|session|state|tmp|home|bridge|socket|server-tmp|(secret|configmap)-[0-9]+")
"""Names of volumes that the operator gives."""

CONFIG_DIRECTORY = "/etc/outrigger"
CONFIG_KEY = "config.json"
"""Key of the ConfigMap, and so the file's name."""

HOME = "/home/outrigger"
"""Home of the images' user; npx and uvx keep what they download below it."""

BRIDGE_DIRECTORY = "/run/outrigger/bridge"
BRIDGE = f"{BRIDGE_DIRECTORY}/outrigger-bridge"
BRIDGE_IN_IMAGE = "/opt/outrigger/bin/outrigger-bridge"

PRE_STOP_SECONDS = 5
"""Between the end of a pod's place in the Service and SIGTERM: new connections still come until every node knows."""

OWN_VARIABLES = re.compile(r"POD_IP$|OUTRIGGER__|MCP_CONFIG_|MCP_TOKEN_|MCP_ENCRYPTION_KEY")
"""Variables of the sidecar that the operator sets, or that would go around the spec."""

SIDECAR_REQUESTS = {"cpu": "50m", "memory": "64Mi"}
RUNTIME_REQUESTS = {"cpu": "100m", "memory": "128Mi"}
"""What is set aside by default; with a command of npx or uvx in the same container it is more. No limits: one that is
too low kills, and how much a server needs is not known here."""


def sidecar(server: MCPServer, images: Images, mounts: Mounts) -> dict[str, Any]:
    """The main container."""
    runtime = runs_command(server)
    wanted = _sidecar_container(server)
    front = server.spec.front or Front()
    own = [
        ("config", CONFIG_DIRECTORY, True),
        ("session", SESSION_DIRECTORY, True),
        ("state", STATE_DIRECTORY, False),
        ("tmp", "/tmp", False),  # noqa: S108 an emptyDir of the container's own
    ]
    if runtime:
        own.append(("home", HOME, False))
    if is_bridged(server):
        own.append(("socket", SOCKET_DIRECTORY, False))
    return {
        "name": "sidecar",
        **_image(main_image(server, images), images.pull_policy),
        "env": _sidecar_environment(server, wanted, runtime),
        "ports": [
            {"name": MCP_PORT, "containerPort": front.port, "protocol": "TCP"},
            {"name": ADMIN_PORT, "containerPort": front.admin_port, "protocol": "TCP"},
        ],
        # A Python process on a slow core: a minute to start, half a minute without an answer before it is restarted.
        "startupProbe": _probe("/startupz", period=1, failures=60),
        "livenessProbe": _probe("/livez", period=10, failures=3),
        "readinessProbe": _probe("/readyz", period=3, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "resources": _resources(wanted.resources, RUNTIME_REQUESTS if runtime else SIDECAR_REQUESTS),
        "securityContext": _security(server, wanted.security_context),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _volume_mounts(own, mounts.of("sidecar"), wanted.volume_mounts),
    }


def server_container(server: MCPServer, mounts: Mounts) -> dict[str, Any] | None:
    """The native sidecar `server`; None where the server has no image of its own.

    It has no startup probe: the sidecar waits for the server itself, and says in `/status` what it waits for.
    """
    stdio, http = server.spec.stdio, server.spec.http
    template = server.spec.pod_template
    wanted = (template.server if template is not None else None) or ServerContainer()
    own = [("server-tmp", "/tmp", False)]  # noqa: S108 an emptyDir of the container's own
    if stdio is not None and stdio.image is not None:
        image = _image(stdio.image, stdio.image_pull_policy or "")
        what = _bridged(stdio, wanted)
        own += [("bridge", BRIDGE_DIRECTORY, True), ("socket", SOCKET_DIRECTORY, False)]
    elif http is not None:
        image = _image(http.image, http.image_pull_policy or "")
        what = _plain(http, wanted)
    else:
        return None
    resources = _resources(wanted.resources, {})
    return {
        "name": "server",
        **image,
        **what,
        "restartPolicy": "Always",
        **({"resources": resources} if resources else {}),
        "securityContext": _security(server, wanted.security_context),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _volume_mounts(own, mounts.of("server"), wanted.volume_mounts),
    }


def bridge_installer(server: MCPServer, images: Images) -> dict[str, Any] | None:
    """The init container that copies the bridge to where the server's container runs it; None where there is none."""
    if not is_bridged(server):
        return None
    own = [("bridge", BRIDGE_DIRECTORY, False), ("tmp", "/tmp", False)]  # noqa: S108
    return {
        "name": "bridge",
        **_image(images.sidecar, images.pull_policy),
        "command": [BRIDGE_IN_IMAGE, "install", BRIDGE],
        "resources": _resources(None, SIDECAR_REQUESTS),
        "securityContext": _security(server, _sidecar_container(server).security_context),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _volume_mounts(own, (), ()),
    }


def runs_command(server: MCPServer) -> bool:
    """True where the sidecar's own container runs the server's command."""
    return server.spec.stdio is not None and not is_bridged(server)


def main_image(server: MCPServer, images: Images) -> str:
    """The image of the main container."""
    return images.sidecar_runtime if runs_command(server) else images.sidecar


def _sidecar_container(server: MCPServer) -> SidecarContainer:
    template = server.spec.pod_template
    return (template.sidecar if template is not None else None) or SidecarContainer()


def _sidecar_environment(server: MCPServer, wanted: SidecarContainer, runtime: bool) -> list[dict[str, Any]]:
    """Names of files and addresses, never a secret."""
    out: list[dict[str, Any]] = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
        # Which replica holds a session is sealed into its id, and others forward to that address.
        {"name": "OUTRIGGER__SESSIONS__ADDRESS", "value": "$(POD_IP)"},
    ]
    remote = server.spec.remote
    if remote is not None and remote.bearer_token is not None:
        ref = remote.bearer_token.secret_key_ref
        variable = f"MCP_TOKEN_{token_name(server.metadata.name)}_FILE"
        out.append({"name": variable, "value": file_path("Secret", ref.name, ref.key)})
    if runtime and all(variable.name != "HOME" for variable in wanted.env):
        out.append({"name": "HOME", "value": HOME})
    names = {each["name"] for each in out}
    out += [{"name": each.name, "value": each.value} for each in wanted.env if each.name not in names]
    return out


def _bridged(stdio: Stdio, wanted: ServerContainer) -> dict[str, Any]:
    """The bridge as the container's command. Variables from Secrets and ConfigMaps are files that it reads at each
    start of a process; the container itself has only those that are written in the MCPServer.

    `stdio` means its values literally, with or without an image; `podTemplate` means them as a container does."""
    variables = _by_name(wanted.env, stdio.env)
    arguments = ["serve", "--socket", SOCKET]
    for variable in variables:
        if variable.value_from is not None:
            arguments += ["--env", f"{variable.name}={value_file(variable.value_from)}"]
        elif stdio.env_from:  # a variable of its own wins over those of envFrom
            arguments += ["--keep", variable.name]
    for source in stdio.env_from:
        place = env_from_directory(source)
        arguments += ["--env-from", place if source.prefix is None else f"{place}={source.prefix}"]
    if stdio.working_dir is not None:
        arguments += ["--dir", stdio.working_dir]
    arguments += ["--max-processes", str(_most_processes(stdio)), "--", stdio.command, *stdio.args]
    out: dict[str, Any] = {"command": [BRIDGE], "args": [_verbatim(each) for each in arguments]}
    own = {variable.name for variable in stdio.env}
    plain = [
        {"name": each.name, "value": _verbatim(each.value or "") if each.name in own else each.value or ""}
        for each in variables
        if each.value_from is None
    ]
    return {**out, "env": plain} if plain else out


def _most_processes(stdio: Stdio) -> int:
    """A bound that the bridge never lets anybody exceed. The sidecar's own is tighter; this one must not depend on what
    changes without new pods (`maxSessions`), and leaves room for those that drain while their successors start."""
    return 1100 if stdio.isolation == "PerSession" else 2 * stdio.processes + 4


def _plain(http: Http, wanted: ServerContainer) -> dict[str, Any]:
    """Command, arguments and environment with the plain meaning of a container, `$(NAME)` included."""
    out: dict[str, Any] = {}
    if http.command:
        out["command"] = list(http.command)
    if http.args:
        out["args"] = list(http.args)
    if http.working_dir is not None:
        out["workingDir"] = http.working_dir
    variables = _by_name(wanted.env, http.env)
    if variables:
        out["env"] = [_variable(each) for each in variables]
    if http.env_from:
        out["envFrom"] = [_env_from(each) for each in http.env_from]
    return out


def _by_name(*groups: Iterable[EnvVar]) -> list[EnvVar]:
    """One variable a name; later groups win."""
    return list({variable.name: variable for group in groups for variable in group}.values())


def _variable(variable: EnvVar) -> dict[str, Any]:
    if variable.value_from is None:
        return {"name": variable.name, "value": variable.value or ""}
    return {"name": variable.name, "valueFrom": written(variable.value_from)}


def _env_from(source: EnvFromSource) -> dict[str, Any]:
    return written(source)


def _verbatim(text: str) -> str:
    """`text` so that Kubernetes does not replace `$(NAME)` in it."""
    return text.replace("$", "$$") if "$(" in text or "$$" in text else text


def _image(image: str, pull_policy: str) -> dict[str, Any]:
    return {"image": image, **({"imagePullPolicy": pull_policy} if pull_policy else {})}


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": ADMIN_PORT, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _resources(wanted: Resources | None, requests: Mapping[str, str]) -> dict[str, Any]:
    """What is wanted, with a default for what it does not speak of: a request above somebody's limit is refused."""
    limits = {name: str(amount) for name, amount in ((wanted.limits if wanted else None) or {}).items()}
    given = {name: str(amount) for name, amount in ((wanted.requests if wanted else None) or {}).items()}
    defaults = {name: amount for name, amount in requests.items() if name not in limits and name not in given}
    merged = {**defaults, **given}
    return {**({"limits": limits} if limits else {}), **({"requests": merged} if merged else {})}


def _security(server: MCPServer, wanted: SecurityContext | None) -> dict[str, Any]:
    template = server.spec.pod_template
    pod = template.security_context if template is not None else None
    profile = (wanted.seccomp_profile if wanted else None) or (pod.seccomp_profile if pod else None)
    out: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": wanted is None or wanted.read_only_root_filesystem,
        "runAsNonRoot": True,
        "seccompProfile": written(profile) if profile is not None else {"type": "RuntimeDefault"},
    }
    if wanted is not None and wanted.run_as_user is not None:
        out["runAsUser"] = wanted.run_as_user
    if wanted is not None and wanted.run_as_group is not None:
        out["runAsGroup"] = wanted.run_as_group
    return out


def _volume_mounts(
    own: Iterable[tuple[str, str, bool]], files: Iterable[dict[str, Any]], wanted: Iterable[VolumeMount]
) -> list[dict[str, Any]]:
    """Ours and the user's, who may bring a home that outlives the pod."""
    theirs = [written(mount) for mount in wanted]
    taken = {HOME} & {mount["mountPath"] for mount in theirs}
    ours = [
        {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}
        for name, path, read_only in own
        if path not in taken
    ]
    return [*ours, *files, *theirs]

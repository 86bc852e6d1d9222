"""What an MCPServer becomes on one machine: the same config that its pods would get, with the files of a folder here.

Pure: from the objects of the files to a plan. Processes are `local_sidecar`'s, the folder is `local_folder`'s. What an
image holds cannot be run here, so such a server is taken from elsewhere, or its command is run as it is.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_operator.cli_render import computed
from mcp_operator.desired.mounts import directory, file_path

if TYPE_CHECKING:
    from mcp_operator.config import OperatorConfig
    from mcp_operator.desired import Desired
    from mcp_operator.documents import Document, Documents

POD_ROOT = "/run/outrigger/"
"""Below this are the files of a pod."""

SESSION_KEY = "session/key"
"""Where the session key is in the folder."""

_FILE_SETTINGS = ("caFile", "certFile", "clientCaFile", "directory", "file", "keyFile", "socket", "stateDirectory")
_NO_EFFECT = ("volumes",)


class CannotRunError(Exception):
    """This MCPServer cannot run on this machine as it is; the message says what to do."""


@dataclass(frozen=True)
class LocalPlan:
    """One sidecar."""

    name: str
    namespace: str
    kind: str
    """`stdio`, `http` or `remote`: as the MCPServer has it."""
    config: str = field(repr=False)
    """JSON with the paths of a pod; `placed` puts those of a folder in."""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables of the sidecar beside those of this process, with the paths of a pod."""
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """What the Secrets and ConfigMaps of the files hold, by the path in the folder."""
    missing: tuple[str, ...] = ()
    """What is needed and not in the files, for people."""
    notes: tuple[str, ...] = ()
    """What has no effect here, for people."""
    scheme: str = "http"
    generation: str = ""
    """Differs where a new process is needed: what would replace the pods."""

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return self.namespace, self.name

    def placed(self, folder: str) -> str:
        """The config with the paths of `folder`."""
        return json.dumps(_placed(json.loads(self.config), folder), indent=2)

    def environment(self, folder: str) -> dict[str, str]:
        """The variables with the paths of `folder`."""
        return {name: _path(value, folder) for name, value in self.environ.items()}


def plan(
    document: Document,
    documents: Documents,
    config: OperatorConfig,
    *,
    stand_in: str | None = None,
    without_images: bool = False,
) -> LocalPlan:
    """How to run the MCPServer in `document`. Raises ConfigError; CannotRunError where it takes an image."""
    kind = _kind(document)
    computed(document, config)  # what is wrong with it as it is must be told first
    here = _runnable(document, kind, stand_in, without_images=without_images)
    server, wanted = computed(here, config)
    files, missing = _files(here, documents, wanted)
    environ = _environ(server, wanted)
    sessions = server.spec.sessions
    changes = [wanted.config_map, environ, _session_reference(sessions)]
    return LocalPlan(
        name=document.name,
        namespace=document.namespace,
        kind=kind,
        config=wanted.config_json,
        environ=environ,
        files=files,
        missing=tuple(missing),
        notes=tuple(_notes(document)),
        scheme="https" if server.spec.front is not None and server.spec.front.tls is not None else "http",
        generation=hashlib.sha256(json.dumps(changes).encode()).hexdigest()[:16],
    )


def _kind(document: Document) -> str:
    spec = document.content.get("spec")
    return next((kind for kind in ("stdio", "http", "remote") if isinstance(spec, dict) and kind in spec), "?")


def _runnable(document: Document, kind: str, stand_in: str | None, *, without_images: bool) -> Document:
    """`document` with what stands in for an image."""
    content = copy.deepcopy(document.content)
    spec = content["spec"]
    container = (spec.get("podTemplate") or {}).pop("server", None) or {}
    if stand_in is not None:
        old = spec.pop(kind)
        spec["remote"] = {"url": stand_in, **{name: old[name] for name in ("transport", "headers") if name in old}}
        if kind == "remote":
            spec["remote"] = {**old, "url": stand_in}
    elif kind == "http":
        raise CannotRunError(
            f"its image cannot run here; start the server yourself and add --server {document.name}="
            f"http://127.0.0.1:{spec['http'].get('port', 8000)}{spec['http'].get('path', '/mcp')}"
        )
    elif kind == "stdio" and spec["stdio"].get("image"):
        if not without_images:
            raise CannotRunError(
                "its image cannot run here; add --without-images to run its command on this machine, or start the "
                f"server yourself and add --server {document.name}=http://127.0.0.1:8000/mcp"
            )
        _without_image(spec["stdio"], container)
    return type(document)(document.source, document.number, document.line, content)


def _without_image(stdio: dict[str, Any], container: dict[str, Any]) -> None:
    """Run the command here: with the variables that its container would get, and in this directory."""
    for name in ("image", "imagePullPolicy", "workingDir"):
        stdio.pop(name, None)
    own = stdio.get("env") or []
    names = {variable["name"] for variable in own}
    stdio["env"] = [*(one for one in container.get("env") or () if one["name"] not in names), *own]


def _files(document: Document, documents: Documents, wanted: Desired) -> tuple[dict[str, bytes], list[str]]:
    """The keys that are needed, by their path in the folder, and what of them is not there."""
    files: dict[str, bytes] = {}
    missing = []
    for reference in wanted.references:
        if reference.used_for.startswith("podTemplate."):
            continue
        found = documents.values(reference.kind, document.namespace, reference.name)
        if found is None:
            missing.append(f"there is no {reference.kind} {reference.name} in the files, for {reference.used_for}")
        elif reference.key is None:
            base = directory(reference.kind, reference.name).removeprefix(POD_ROOT)
            files |= {f"{base}/{key}": value for key, value in found.items()}
        elif reference.key not in found:
            missing.append(
                f"the {reference.kind} {reference.name} has no key {reference.key}, for {reference.used_for}"
            )
        else:
            path = file_path(reference.kind, reference.name, reference.key).removeprefix(POD_ROOT)
            files[path] = found[reference.key]
            if reference.used_for == "sessions.keySecretRef":
                files[SESSION_KEY] = found[reference.key]
    return files, list(dict.fromkeys(missing))


def _environ(server: Any, wanted: Desired) -> dict[str, str]:
    """What the sidecar's container has in its environment and means something outside a pod."""
    [deployment] = [one for one in wanted.manifests if one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    template = server.spec.pod_template
    own = template.sidecar.env if template is not None and template.sidecar is not None else ()
    tokens = [one for one in container["env"] if "value" in one and one["name"].startswith("MCP_TOKEN_")]
    return {one.name: one.value for one in own} | {one["name"]: one["value"] for one in tokens}


def _session_reference(sessions: Any) -> str:
    reference = sessions.key_secret_ref if sessions is not None else None
    return f"{reference.name}/{reference.key}" if reference is not None else ""


def _notes(document: Document) -> list[str]:
    template = document.content["spec"].get("podTemplate") or {}
    return [f"podTemplate.{name} has no effect here" for name in _NO_EFFECT if template.get(name)]


def _placed(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {
            key: _path(item, folder) if key in _FILE_SETTINGS and isinstance(item, str) else _placed(item, folder)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_placed(item, folder) for item in value]
    return value


def _path(value: str, folder: str) -> str:
    return f"{folder}/{value.removeprefix(POD_ROOT)}" if value.startswith(POD_ROOT) else value

"""A pod's volumes as directories: what the kubelet would mount, and how a mount's content changes under a process.

ConfigMaps and Secrets with `items`, `optional` and the `..data` link that is moved in one step, emptyDir, projected
volumes of these. Which process sees them where is for `container_process`.
"""

from __future__ import annotations

import base64
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from cluster.api import Api

Object = dict[str, Any]


class VolumeMissing(Exception):
    """A ConfigMap, Secret or key that is not optional is not there; in the kubelet's words."""


def materialise(api: Api, pod: Object, directory: Path) -> dict[str, Path]:
    """Write the pod's volumes below `directory`, or bring them up to date: name → directory.

    Raises VolumeMissing.
    """
    namespace = pod["metadata"]["namespace"]
    places = {}
    for volume in pod["spec"].get("volumes", ()):
        place = directory / volume["name"]
        place.mkdir(parents=True, exist_ok=True)
        places[volume["name"]] = place
        sources = [volume] if "projected" not in volume else volume["projected"].get("sources", ())
        files: dict[str, bytes] = {}
        written = False
        for source in sources:
            if "configMap" in source:
                written = True
                files.update(_files(api, namespace, "configmaps", source["configMap"], "name"))
            elif "secret" in source:
                written = True
                named = "secretName" if "projected" not in volume else "name"
                files.update(_files(api, namespace, "secrets", source["secret"], named))
        if written:
            replace(place, files)
    return places


def _files(api: Api, namespace: str, resource: str, source: Object, named: str) -> dict[str, bytes]:
    name = source[named]
    kind = "configmap" if resource == "configmaps" else "secret"
    found = api.get(resource, namespace, name)
    if found is None:
        if source.get("optional"):
            return {}
        raise VolumeMissing(f'{kind} "{name}" not found')
    content = data(found)
    if "items" not in source:
        return content
    files = {}
    for item in source["items"]:
        if item["key"] in content:
            files[item["path"]] = content[item["key"]]
        elif not source.get("optional"):
            raise VolumeMissing(f"references non-existent {kind} key: {item['key']}")
    return files


def data(found: Object) -> dict[str, bytes]:
    """The content of a ConfigMap or a Secret."""
    if found["kind"] == "Secret":
        return {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}
    content = {key: value.encode() for key, value in found.get("data", {}).items()}
    return content | {key: base64.b64decode(value) for key, value in found.get("binaryData", {}).items()}


def replace(place: Path, files: dict[str, bytes]) -> None:
    """Make `files` (path → content) what the directory holds, in one step, as the kubelet's atomic writer does."""
    link = place / "..data"
    before = place / os.readlink(link) if link.is_symlink() else None
    if before is not None and _content(before) == files:
        return
    version = place / f"..{uuid.uuid4().hex}"
    version.mkdir()
    for name, content in files.items():
        file = version / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    moving = place / "..data_tmp"
    moving.symlink_to(version.name)
    moving.replace(link)
    tops = {name.split("/")[0] for name in files}
    for entry in place.iterdir():
        if not entry.name.startswith("..") and entry.name not in tops:
            entry.unlink()
    for top in tops:
        if not (place / top).is_symlink():
            (place / top).symlink_to(f"..data/{top}")
    if before is not None:
        shutil.rmtree(before)


def _content(directory: Path) -> dict[str, bytes]:
    return {
        file.relative_to(directory).as_posix(): file.read_bytes() for file in directory.rglob("*") if file.is_file()
    }

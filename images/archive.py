"""Writes layers and images: one tar that is an OCI image layout and a `docker save` archive at once.

Deterministic: the same files give the same bytes, whoever made them and when. Entries are sorted, owned by root (or
as the stage says), dated SOURCE_DATE_EPOCH, with the two usual modes. (OCI Image Specification 1.1: image-layout,
config, manifest.)
"""

import hashlib
import io
import json
import os
import platform
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.stage import Stage

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Recipe:
    """What an image is made of."""

    name: str
    reference: str
    """Full name with host and tag, as a pod's spec says it."""
    layers: tuple[str, ...]
    config: dict[str, Any]
    """The ``config`` part of the image's configuration (OCI config.md)."""


@dataclass(frozen=True)
class Layer:
    """A layer's tar, not compressed: archives are local, and its digest is then its diff id too."""

    name: str
    path: Path
    digest: str
    size: int


def source_date() -> int:
    """Seconds since the epoch that every file and image is dated; 0 unless SOURCE_DATE_EPOCH says."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", "0"))


def write_layer(name: str, stage: Stage, path: Path) -> Layer:
    """Write the files of `stage` as a layer."""
    date = source_date()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for source in sorted(stage.root.rglob("*"), key=lambda entry: entry.relative_to(stage.root).as_posix()):
            inside = source.relative_to(stage.root).as_posix()
            info = tar.gettarinfo(source, inside)
            if info.islnk():  # a second name of a file here: each is a file of its own in the image
                info.type, info.linkname, info.size = tarfile.REGTYPE, "", source.stat().st_size
            usual = 0o777 if info.issym() else 0o755 if info.isdir() or info.mode & 0o100 else 0o644
            owner, info.mode = stage.owners.get(inside, (0, usual))
            info.uid = info.gid = owner
            info.uname = info.gname = ""
            info.mtime = date
            if info.isreg():
                with source.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Layer(name, path, digest, path.stat().st_size)


def write_image(recipe: Recipe, layers: list[Layer], path: Path) -> str:
    """Write the image's archive and return the digest of its manifest, which names it exactly."""
    machine = platform.machine()
    created = _timestamp(source_date())
    config = _json(
        {
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "created": created,
            "config": recipe.config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
            "history": [{"created": created, "created_by": f"outrigger images: {layer.name}"} for layer in layers],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [
                {"mediaType": _LAYER, "digest": f"sha256:{layer.digest}", "size": layer.size} for layer in layers
            ],
        }
    )
    annotations = {
        # containerd names the image by the first, docker and skopeo by the second.
        "io.containerd.image.name": recipe.reference,
        "org.opencontainers.image.ref.name": recipe.reference.rpartition(":")[2],
    }
    index = _json(
        {
            "schemaVersion": 2,
            "mediaType": _INDEX,
            "manifests": [{**_descriptor(_MANIFEST, manifest), "annotations": annotations}],
        }
    )
    docker = _json(
        [
            {
                "Config": _blob(_sha256(config)),
                "RepoTags": [recipe.reference],
                "Layers": [_blob(layer.digest) for layer in layers],
            }
        ]
    )
    # who finds the archive finds all of it
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", index)
        _add(tar, "manifest.json", docker)
        _add(tar, _blob(_sha256(config)), config)
        _add(tar, _blob(_sha256(manifest)), manifest)
        for layer in layers:
            info = tarfile.TarInfo(_blob(layer.digest))
            info.size, info.mtime = layer.size, source_date()
            with layer.path.open("rb") as file:
                tar.addfile(info, file)
    partial.replace(path)
    return _sha256(manifest)


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{_sha256(blob)}", "size": len(blob)}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(content), source_date()
    tar.addfile(info, io.BytesIO(content))


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _timestamp(seconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""An image that `python -m images` made, unpacked and entered with nothing of this machine but the kernel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from images.contents import USER

# What a pod gives: a read-only root, /proc, /dev/null, writable /tmp and home; then the image's user.
# All in a mount namespace, which goes with the process.
ENTER = f"""
inside=$PATH PATH=/usr/sbin:/usr/bin:/sbin:/bin
chroot=$(command -v chroot)
mount --bind "$0" "$0"
mount -o remount,bind,ro "$0"
mount -t proc proc "$0/proc"
mount --bind /dev/null "$0/dev/null"
mount -t tmpfs -o mode=1777 tmpfs "$0/tmp"
mount -t tmpfs -o uid={USER} tmpfs "$0/home/outrigger"
PATH=$inside
exec "$chroot" --userspec={USER}:{USER} "$0" "$@"
"""
UNSHARE = shutil.which("unshare", path="/usr/sbin:/usr/bin:/sbin:/bin") or "unshare"


class Root:
    """An unpacked image, and the command that enters it as its user."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment: dict[str, str] = {}
        self.command: list[str] = []

    def enter(self, *command: str) -> list[str]:
        return [UNSHARE, "--mount", "/bin/bash", "-ec", ENTER, str(self.path), *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.enter(*command), env=self.environment, capture_output=True, text=True, timeout=60)


def unpacked(archive: Path, path: Path) -> Root:
    """The image unpacked at `path` as an engine would, layer by layer. Skips the test where it could not be entered."""
    if os.geteuid() != 0:
        pytest.skip("entering an image's file system takes root: run these as root")
    found = Root(path)
    with tarfile.open(archive) as tar:
        (image,) = json.loads(_read(tar, "manifest.json"))
        config = json.loads(_read(tar, image["Config"]))["config"]
        for name in image["Layers"]:
            layer = tar.extractfile(name)
            assert layer is not None
            with tarfile.open(fileobj=layer) as files:
                files.extractall(path, filter="fully_trusted")
    assert config["User"] == f"{USER}:{USER}"
    found.environment = dict(pair.split("=", 1) for pair in config["Env"])
    found.command = [*config["Entrypoint"], *config["Cmd"]]
    (path / "dev/null").touch()
    # pytest's folders are for their owner only; the image's user has to pass.
    for folder in [path, *list(path.parents)[:3]]:
        folder.chmod(0o755)
    return found


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()

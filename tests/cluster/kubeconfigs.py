"""kubeconfig files: written for the users of a test, and read for an existing cluster.

The subset that both sides need: one cluster, one user with a certificate or a token. A user with an exec plugin is
refused by name.
"""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.api import Api


@dataclass(frozen=True)
class Access:
    """Where an API server is and who we are there. Files, since `ssl` loads nothing else."""

    server: str
    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = None
    namespace: str = "default"

    def api(self, timeout: float = 30.0) -> Api:
        """A client with this access."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return Api(self.server, context, self.token, timeout)

    def write(self, path: Path) -> Path:
        """Write it as a kubeconfig that needs no other file; `path`."""
        user: dict[str, str] = {}
        if self.token is not None:
            user["token"] = self.token
        if self.certificate is not None and self.key is not None:
            user["client-certificate-data"] = _encoded(self.certificate)
            user["client-key-data"] = _encoded(self.key)
        cluster = {"server": self.server, "certificate-authority-data": _encoded(self.ca)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": self.namespace}}],
            "current-context": "test",
        }
        path.touch(0o600)
        path.write_text(yaml.safe_dump(config))
        return path


def read(path: Path, directory: Path) -> Access:
    """The access that a kubeconfig's current context gives; key material is written below `directory`.

    Raises ValueError where it needs what is not supported here.
    """
    config = yaml.safe_load(path.read_text())
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    ca = _file(cluster, "certificate-authority", path, directory)
    if ca is None:
        raise ValueError(f"{path.name}: the cluster has no certificate-authority")
    token = user.get("token")
    if "tokenFile" in user:
        token = path.parent.joinpath(user["tokenFile"]).read_text().strip()
    certificate = _file(user, "client-certificate", path, directory)
    if token is None and certificate is None:
        raise ValueError(f"{path.name}: the user has neither a token nor a client certificate ({', '.join(user)})")
    return Access(
        cluster["server"], ca, certificate, _file(user, "client-key", path, directory), token,
        context.get("namespace", "default"),
    )  # fmt: skip


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def _file(entry: dict[str, str], name: str, path: Path, directory: Path) -> Path | None:
    if f"{name}-data" in entry:
        file = directory / f"{name}.pem"
        file.touch(0o600)
        file.write_bytes(base64.b64decode(entry[f"{name}-data"]))
        return file
    return path.parent / entry[name] if name in entry else None


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()

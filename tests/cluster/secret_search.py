"""Secrets for tests, and the search for their values everywhere that a value might be seen.

What must not be found is a marker that only a Secret holds. Where a test looks beside the API server (logs, processes,
pages of the sidecar) it says itself.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.api import Api, eventually


def new_marker() -> str:
    """A value that is nowhere else."""
    return f"marker-{uuid.uuid4().hex}"


def secret(namespace: str, name: str, **values: str) -> dict[str, Any]:
    """The manifest of a Secret."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}


def key_of(name: str, key: str) -> dict[str, Any]:
    """A reference to a Secret's key."""
    return {"secretKeyRef": {"name": name, "key": key}}


def from_secret(variable: str, name: str, key: str) -> dict[str, Any]:
    """A variable or header whose value is a Secret's."""
    return {"name": variable, "valueFrom": key_of(name, key)}


def objects(api: Api, namespace: str) -> Iterator[tuple[str, str]]:
    """(resource, text) of all that the API server lists, Secrets left out: of this namespace and of no namespace."""
    groups = [
        version["groupVersion"] for group in api.request("GET", "/apis")["groups"] for version in group["versions"]
    ]
    for base in ("/api/v1", *(f"/apis/{group}" for group in groups)):
        for one in _asked(api, base)["resources"]:
            if "/" in one["name"] or "list" not in one["verbs"] or (base, one["name"]) == ("/api/v1", "secrets"):
                continue
            where = f"{base}/namespaces/{namespace}/{one['name']}" if one["namespaced"] else f"{base}/{one['name']}"
            yield f"{base} {one['name']}", json.dumps(_asked(api, where))


def _asked(api: Api, where: str) -> Any:
    # an API that another server has (metrics) may be away for a moment
    return eventually(lambda: api.request("GET", where), f"an answer of {where}", 60)


def process_places(what: str, pid: int) -> Iterator[tuple[str, str]]:
    """(place, text) of what everybody on the machine may see of a process."""
    for page in ("cmdline", "environ"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            yield f"{page} of {what}", Path(f"/proc/{pid}/{page}").read_bytes().decode(errors="replace")


def assert_nowhere(marker: str, found: Iterator[tuple[str, str]]) -> set[str]:
    """No place has the marker, plain or encoded; the places."""
    looked = set()
    digests = [getattr(hashlib, name)(marker.encode()).hexdigest()[:12] for name in ("sha256", "sha1", "md5")]
    # of the three ways in which Base64 may be aligned, what does not depend on its neighbours
    encoded = [base64.b64encode(b"\0" * shift + marker.encode())[4:-4].decode() for shift in range(3)]
    for place, text in found:
        looked.add(place.split(" of ")[0])
        for what in (marker, *encoded, *digests):
            assert what not in text, f"{place} tells the secret: …{text[max(text.find(what) - 200, 0) :][:400]}…"
    return looked

"""The session key of an MCPServer: 32 random bytes that seal the session ids of its pods.

Made once, owned by the MCPServer, never written again (design.md, "Session key"): a second write would end every
session. `spec.sessions.keySecretRef` names a Secret of the user's instead. The key is also the HMAC key under which
versions of secret values are shown.
"""

from __future__ import annotations

import base64
import binascii
import copy
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mcp_operator.errors import AlreadyExists, BeingReplaced, Forbidden, NameConflict
from mcp_operator.kube.resources import SECRETS, Resource

KEY_BYTES = 32
_READ_AGAIN = 300.0
_READ_SOON = 30.0
"""Seconds between two reads, and while pods cannot start: the lack of it may be why."""


class SecretClient(Protocol):
    """What is needed of the API: to get and to create."""

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        """The object, None where there is none."""

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create the object."""


@dataclass(slots=True)
class _Known:
    source: tuple[str, str]
    """Name of the Secret, and whose it is or which key of it."""
    key: bytes
    read_at: float


class SessionKeys:
    """Makes and reads the operator's own session Secrets."""

    def __init__(
        self, client: SecretClient, *, clock: Callable[[], float], random_bytes: Callable[[int], bytes] | None = None
    ) -> None:
        self._client = client
        self._clock = clock
        self._random = random_bytes or secrets.token_bytes
        self._known: dict[tuple[str, str], _Known] = {}

    async def ensure(
        self,
        server: tuple[str, str],
        manifest: Mapping[str, Any],
        owner: str,
        confirm: Callable[[], Awaitable[None]],
        *,
        soon: bool = False,
    ) -> bytes:
        """The key of an MCPServer whose uid is `owner`; made where there is none.

        `manifest` is the Secret without data; `confirm` is awaited before it is created. Read again every five minutes,
        so that a deleted one comes back; `soon`: more often. Raises NameConflict where the name is another's,
        BeingReplaced, KubeError.
        """
        metadata = manifest["metadata"]
        place = (metadata["namespace"], metadata["name"])
        source = (place[1], owner)
        known = self._fresh(server, source, soon)
        if known is not None:
            return known
        found = await self._client.get(SECRETS, *place)
        if found is None:
            await confirm()
            made = copy.deepcopy(dict(manifest))
            made["data"] = {"key": base64.b64encode(self._random(KEY_BYTES)).decode()}
            try:
                found = await self._client.create(made)
            except AlreadyExists:
                found = await self._client.get(SECRETS, *place)
        self._known.pop(server, None)
        key = key_of(found or {})
        if not owned_by(found or {}, owner) or key is None:
            holder = owner_of(found or {})
            if holder == f"MCPServer {server[1]}" and not owned_by(found or {}, owner):
                raise BeingReplaced(f"Secret {place[1]} of the deleted MCPServer {server[1]} is not gone yet")
            raise NameConflict("Secret", place[1], holder)
        self._known[server] = _Known(source, key, self._clock())
        return key

    async def given(self, server: tuple[str, str], name: str, item: str, *, soon: bool = False) -> bytes:
        """The user's own key, `item` of the Secret `name`; empty where it is missing or may not be read.

        Raises KubeError but Forbidden, which `references` tells.
        """
        source = (name, item)
        known = self._fresh(server, source, soon)
        if known is not None:
            return known
        self._known.pop(server, None)
        try:
            found = await self._client.get(SECRETS, server[0], name)
        except Forbidden:
            return b""
        try:
            key = base64.b64decode(((found or {}).get("data") or {}).get(item) or "", validate=True)
        except (ValueError, binascii.Error):
            key = b""
        if key:
            self._known[server] = _Known(source, key, self._clock())
        return key

    def _fresh(self, server: tuple[str, str], source: tuple[str, str], soon: bool) -> bytes | None:
        known = self._known.get(server)
        if known is None or known.source != source:
            return None
        return known.key if self._clock() - known.read_at < (_READ_SOON if soon else _READ_AGAIN) else None

    def forget(self, server: tuple[str, str]) -> None:
        """The MCPServer is gone."""
        self._known.pop(server, None)


def key_of(secret: Mapping[str, Any]) -> bytes | None:
    """`data.key` of a Secret where it is a key."""
    try:
        key = base64.b64decode((secret.get("data") or {})["key"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None
    return key if len(key) == KEY_BYTES else None


def owner_of(found: Mapping[str, Any]) -> str:
    """`Kind name` of who controls an object, empty where nobody does."""
    for reference in (found.get("metadata") or {}).get("ownerReferences") or ():
        if reference.get("controller"):
            return f"{reference.get('kind')} {reference.get('name')}"
    return ""


def owned_by(found: Mapping[str, Any], uid: str) -> bool:
    """Whether the object with this uid controls it."""
    references = (found.get("metadata") or {}).get("ownerReferences") or ()
    return any(reference.get("controller") and reference.get("uid") == uid for reference in references)

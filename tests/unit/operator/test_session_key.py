"""The session key: made once, never written again, never taken from somebody else's Secret."""

from __future__ import annotations

import base64

import pytest

from mcp_operator.errors import AlreadyExists, NameConflict
from mcp_operator.session_key import SessionKeys

MANIFEST = {
    "kind": "Secret",
    "metadata": {
        "name": "search-session",
        "namespace": "team",
        "ownerReferences": [{"kind": "MCPServer", "name": "search", "uid": "u1", "controller": True}],
    },
}


class Api:
    def __init__(self) -> None:
        self.secrets: dict[str, dict] = {}
        self.reads = 0
        self.created: list[dict] = []
        self.race: dict | None = None

    async def get(self, resource, namespace, name):
        self.reads += 1
        return self.secrets.get(name)

    async def create(self, manifest):
        name = manifest["metadata"]["name"]
        if self.race is not None:
            self.secrets[name] = self.race
            raise AlreadyExists(409, "AlreadyExists", "there")
        self.created.append(manifest)
        self.secrets[name] = manifest
        return manifest


async def nothing() -> None:
    return None


def keys(api: Api, clock=lambda: 0.0) -> SessionKeys:
    return SessionKeys(api, clock=clock, random_bytes=lambda count: b"r" * count)


def secret(uid: str, key: bytes) -> dict:
    return {
        "metadata": {"ownerReferences": [{"kind": "MCPServer", "name": "search", "uid": uid, "controller": True}]},
        "data": {"key": base64.b64encode(key).decode()},
    }


async def test_it_is_made_once_with_32_random_bytes() -> None:
    api = Api()
    one = keys(api)
    assert await one.ensure(MANIFEST, "u1", nothing) == b"r" * 32
    assert await one.ensure(MANIFEST, "u1", nothing) == b"r" * 32
    assert (len(api.created), api.reads) == (1, 1)
    assert "data" not in MANIFEST


async def test_an_existing_one_is_used_as_it_is() -> None:
    api = Api()
    api.secrets["search-session"] = secret("u1", b"o" * 32)
    assert await keys(api).ensure(MANIFEST, "u1", nothing) == b"o" * 32
    assert api.created == []


async def test_it_is_read_again_after_five_minutes_and_made_again_where_it_was_deleted() -> None:
    api, now = Api(), [0.0]
    one = keys(api, lambda: now[0])
    await one.ensure(MANIFEST, "u1", nothing)
    api.secrets.clear()
    now[0] = 299
    await one.ensure(MANIFEST, "u1", nothing)
    assert len(api.created) == 1
    now[0] = 301
    await one.ensure(MANIFEST, "u1", nothing)
    assert len(api.created) == 2


@pytest.mark.parametrize(
    "found, owner",
    [
        (secret("another", b"o" * 32), "MCPServer search"),
        ({"metadata": {}, "data": {"key": base64.b64encode(b"o" * 32).decode()}}, ""),
        (secret("u1", b"short"), "MCPServer search"),
        ({**secret("u1", b""), "data": None}, "MCPServer search"),
    ],
)
async def test_a_secret_that_is_not_ours_or_holds_no_key_is_a_conflict(found, owner) -> None:
    api = Api()
    api.secrets["search-session"] = found
    with pytest.raises(NameConflict) as caught:
        await keys(api).ensure(MANIFEST, "u1", nothing)
    assert (caught.value.kind, caught.value.name, caught.value.owner) == ("Secret", "search-session", owner)
    assert api.created == []


async def test_one_that_another_replica_made_first_is_taken() -> None:
    api = Api()
    api.race = secret("u1", b"x" * 32)
    assert await keys(api).ensure(MANIFEST, "u1", nothing) == b"x" * 32


async def test_nothing_is_created_for_an_mcpserver_that_is_gone() -> None:
    class Gone(Exception):
        pass

    async def gone() -> None:
        raise Gone

    api = Api()
    with pytest.raises(Gone):
        await keys(api).ensure(MANIFEST, "u1", gone)
    assert api.created == []

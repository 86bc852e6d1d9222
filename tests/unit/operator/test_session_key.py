"""The session key: made once, never written again, never taken from somebody else's Secret."""

from __future__ import annotations

import base64

import pytest

from mcp_operator.errors import AlreadyExists, BeingReplaced, Forbidden, NameConflict
from mcp_operator.session_key import SessionKeys

SERVER = ("team", "search")
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
        self.refusal: Exception | None = None

    async def get(self, resource, namespace, name):
        self.reads += 1
        if self.refusal is not None:
            raise self.refusal
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


def secret(uid: str, key: bytes, owner: str = "search") -> dict:
    return {
        "metadata": {"ownerReferences": [{"kind": "MCPServer", "name": owner, "uid": uid, "controller": True}]},
        "data": {"key": base64.b64encode(key).decode()},
    }


async def test_it_is_made_once_with_32_random_bytes() -> None:
    api = Api()
    one = keys(api)
    assert await one.ensure(SERVER, MANIFEST, "u1", nothing) == b"r" * 32
    assert await one.ensure(SERVER, MANIFEST, "u1", nothing) == b"r" * 32
    assert (len(api.created), api.reads) == (1, 1)
    assert "data" not in MANIFEST


async def test_an_existing_one_is_used_as_it_is() -> None:
    api = Api()
    api.secrets["search-session"] = secret("u1", b"o" * 32)
    assert await keys(api).ensure(SERVER, MANIFEST, "u1", nothing) == b"o" * 32
    assert api.created == []


async def test_it_is_read_again_after_five_minutes_and_made_again_where_it_was_deleted() -> None:
    api, now = Api(), [0.0]
    one = keys(api, lambda: now[0])
    await one.ensure(SERVER, MANIFEST, "u1", nothing)
    api.secrets.clear()
    now[0] = 299
    await one.ensure(SERVER, MANIFEST, "u1", nothing)
    assert len(api.created) == 1
    now[0] = 301
    await one.ensure(SERVER, MANIFEST, "u1", nothing)
    assert len(api.created) == 2


@pytest.mark.parametrize(
    "found, owner",
    [
        (secret("another", b"o" * 32, "other"), "MCPServer other"),
        ({"metadata": {}, "data": {"key": base64.b64encode(b"o" * 32).decode()}}, ""),
        (secret("u1", b"short"), "MCPServer search"),
        ({**secret("u1", b""), "data": None}, "MCPServer search"),
    ],
)
async def test_a_secret_that_is_not_ours_or_holds_no_key_is_a_conflict(found, owner) -> None:
    api = Api()
    api.secrets["search-session"] = found
    with pytest.raises(NameConflict) as caught:
        await keys(api).ensure(SERVER, MANIFEST, "u1", nothing)
    assert (caught.value.kind, caught.value.name, caught.value.owner) == ("Secret", "search-session", owner)
    assert api.created == []


async def test_one_that_another_replica_made_first_is_taken() -> None:
    api = Api()
    api.race = secret("u1", b"x" * 32)
    assert await keys(api).ensure(SERVER, MANIFEST, "u1", nothing) == b"x" * 32


async def test_nothing_is_created_for_an_mcpserver_that_is_gone() -> None:
    class Gone(Exception):
        pass

    async def gone() -> None:
        raise Gone

    api = Api()
    with pytest.raises(Gone):
        await keys(api).ensure(SERVER, MANIFEST, "u1", gone)
    assert api.created == []


async def test_one_of_a_deleted_predecessor_is_waited_for() -> None:
    api = Api()
    api.secrets["search-session"] = secret("u0", b"o" * 32)
    with pytest.raises(BeingReplaced):
        await keys(api).ensure(SERVER, MANIFEST, "u1", nothing)
    assert api.created == []


async def test_a_deleted_one_is_made_again_soon_where_pods_wait_for_it() -> None:
    api, now = Api(), [0.0]
    one = keys(api, lambda: now[0])
    await one.ensure(SERVER, MANIFEST, "u1", nothing)
    api.secrets.clear()
    now[0] = 29
    await one.ensure(SERVER, MANIFEST, "u1", nothing, soon=True)
    assert len(api.created) == 1
    now[0] = 31
    await one.ensure(SERVER, MANIFEST, "u1", nothing, soon=True)
    assert len(api.created) == 2


async def test_the_users_own_is_read_seldom_until_another_is_named_and_forgotten_with_its_server() -> None:
    api = Api()
    api.secrets["mine"] = {"data": {"a": base64.b64encode(b"1").decode(), "b": base64.b64encode(b"2").decode()}}
    one = keys(api)
    assert [await one.given(SERVER, "mine", "a") for _ in range(3)] == [b"1"] * 3
    assert api.reads == 1
    assert await one.given(SERVER, "mine", "b") == b"2"
    assert api.reads == 2
    one.forget(SERVER)
    assert one._known == {}


@pytest.mark.parametrize("data", [None, {}, {"a": None}, {"a": ""}, {"a": "no base64"}])
async def test_a_key_that_is_not_there_is_empty_and_looked_for_again(data) -> None:
    api = Api()
    one = keys(api)
    api.secrets["mine"] = {"data": data}
    assert await one.given(SERVER, "mine", "a") == b""
    api.secrets["mine"] = {"data": {"a": "MQ=="}}
    assert await one.given(SERVER, "mine", "a") == b"1"


async def test_one_that_may_not_be_read_is_empty() -> None:
    api = Api()
    api.refusal = Forbidden(403, "Forbidden", "no")
    assert await keys(api).given(SERVER, "mine", "a") == b""

"""Reading what MCPServers refer to: what is missing, how often it is read, what is kept of a value."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import pytest

from mcp_operator.errors import Forbidden, Unavailable
from mcp_operator.kube.resources import SECRETS
from mcp_operator.references import MissingReference, References, digest

SERVER = ("team", "search")
KEY = b"k" * 32


@dataclass(frozen=True)
class Need:
    kind: str
    name: str
    key: str | None
    used_for: str = "stdio.env[TOKEN]"
    in_environment: bool = False


class Api:
    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, str] | Exception] = {}
        self.reads: list[str] = []

    async def get(self, resource, namespace, name):
        assert namespace == SERVER[0]
        self.reads.append(name)
        found = self.objects.get((resource.kind, name))
        if isinstance(found, Exception):
            raise found
        if found is None:
            return None
        if resource is SECRETS:
            return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in found.items()}}
        return {"data": dict(found)}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def references(api, clock) -> References:
    return References(api, clock=clock, rng=lambda: 0.5)


async def test_a_missing_object_and_a_missing_key_are_told_with_the_field_that_needs_them(api, references) -> None:
    api.objects["Secret", "token"] = {"other": "x"}
    found = await references.resolve(
        SERVER, [Need("Secret", "token", "value"), Need("ConfigMap", "words", None, "stdio.envFrom[0]")], KEY
    )
    assert found.missing == (
        MissingReference("ConfigMap", "words", None, "stdio.envFrom[0]", "Missing"),
        MissingReference("Secret", "token", "value", "stdio.env[TOKEN]", "KeyMissing"),
    )


async def test_a_secret_that_may_not_be_read_is_forbidden_and_not_an_error(api, references) -> None:
    api.objects["Secret", "token"] = Forbidden(403, "Forbidden", "no")
    found = await references.resolve(SERVER, [Need("Secret", "token", "value")], KEY)
    assert [each.why for each in found.missing] == ["Forbidden"]


async def test_an_api_server_that_cannot_be_asked_is_no_missing_secret(api, references) -> None:
    api.objects["Secret", "token"] = Unavailable(0, "Timeout", "late")
    with pytest.raises(Unavailable):
        await references.resolve(SERVER, [Need("Secret", "token", "value")], KEY)


async def test_what_is_missing_is_read_every_ten_seconds_backing_off_to_a_minute(api, references, clock) -> None:
    need = [Need("Secret", "token", "value")]
    waits = []
    for _ in range(5):
        found = await references.resolve(SERVER, need, KEY)
        waits.append(found.read_again)
        clock.now += found.read_again - 1e-6
        await references.resolve(SERVER, need, KEY)  # not due yet: not read
        clock.now += 2e-6
    assert waits == pytest.approx([10, 20, 40, 60, 60])
    assert len(api.reads) == 5


async def test_what_was_found_is_read_every_five_minutes_and_a_new_key_at_once(api, references, clock) -> None:
    api.objects["Secret", "token"] = {"value": "a", "second": "b"}
    found = await references.resolve(SERVER, [Need("Secret", "token", "value")], KEY)
    assert (found.missing, found.read_again) == ((), 300)
    clock.now = 299
    await references.resolve(SERVER, [Need("Secret", "token", "value")], KEY)
    assert api.reads == ["token"]
    found = await references.resolve(SERVER, [Need("Secret", "token", "value"), Need("Secret", "token", "second")], KEY)
    assert api.reads == ["token", "token"]
    assert found.missing == ()


async def test_a_version_changes_with_its_value_and_its_key_and_shows_neither(api, references, clock) -> None:
    need = [Need("Secret", "token", "value")]
    versions = set()
    for value, key in (("a", KEY), ("b", KEY), ("b", b"other" * 8)):
        api.objects["Secret", "token"] = {"value": value}
        references.expect_changes(SERVER)
        found = await references.resolve(SERVER, need, key)
        versions.add(found.versions[0].version)
    assert len(versions) == 3
    assert all(len(version) == 12 and set(version) <= set("0123456789abcdef") for version in versions)


async def test_only_what_containers_have_in_their_environment_is_in_the_checksum(api, references, clock) -> None:
    api.objects["Secret", "token"] = {"value": "a", "file": "a"}
    need = [Need("Secret", "token", "value", in_environment=True), Need("Secret", "token", "file")]

    async def checksum() -> str:
        references.expect_changes(SERVER)
        return (await references.resolve(SERVER, need, KEY)).checksum

    first = await checksum()
    api.objects["Secret", "token"] = {"value": "a", "file": "b"}
    assert await checksum() == first != ""
    api.objects["Secret", "token"] = {"value": "b", "file": "b"}
    assert await checksum() != first
    assert (await references.resolve(SERVER, need[1:], KEY)).checksum == ""


async def test_a_whole_config_map_counts_with_every_key(api, references) -> None:
    need = [Need("ConfigMap", "words", None, in_environment=True)]
    api.objects["ConfigMap", "words"] = {"a": "1"}
    first = await references.resolve(SERVER, need, KEY)
    api.objects["ConfigMap", "words"] = {"a": "1", "b": "2"}
    references.expect_changes(SERVER)
    second = await references.resolve(SERVER, need, KEY)
    assert first.checksum != second.checksum
    assert [version.key for version in second.versions] == ["a", "b"]


async def test_what_is_not_referred_to_any_more_is_forgotten(api, references) -> None:
    api.objects["Secret", "token"] = {"value": "a"}
    await references.resolve(SERVER, [Need("Secret", "token", "value")], KEY)
    found = await references.resolve(SERVER, [], KEY)
    assert (found.versions, found.read_again, references._known) == ((), None, {})


async def test_without_a_key_no_version_is_told_and_with_it_everything_is_read_again(api, references) -> None:
    api.objects["Secret", "token"] = {"value": "a"}
    need = [Need("Secret", "token", "value", in_environment=True)]
    found = await references.resolve(SERVER, need, b"")
    assert (found.versions, found.checksum, found.missing) == ((), "", ())
    found = await references.resolve(SERVER, need, KEY)
    assert len(found.versions) == 1
    assert found.checksum != ""
    assert len(api.reads) == 2
    references.forget(SERVER)
    assert (references._known, references._marks) == ({}, {})


async def test_a_digest_is_over_the_versions_of_the_given_references_alone(api, references) -> None:
    one, whole = Need("Secret", "token", "value"), Need("ConfigMap", "words", None)
    api.objects["Secret", "token"] = {"value": "a", "other": "a"}
    api.objects["ConfigMap", "words"] = {"x": "1"}

    async def of(*needs: Need) -> str:
        references.expect_changes(SERVER)
        found = await references.resolve(SERVER, [one, whole, Need("Secret", "token", "other")], KEY)
        return digest(found.versions, needs)

    first = await of(one), await of(whole), await of(one, whole)
    assert len(set(first)) == 3
    assert await of() == ""
    api.objects["Secret", "token"] = {"value": "a", "other": "b"}
    assert (await of(one), await of(whole), await of(one, whole)) == first
    api.objects["Secret", "token"] = {"value": "b", "other": "b"}
    assert (await of(whole)) == first[1]
    assert (await of(one)) != first[0]
    api.objects["ConfigMap", "words"] = {"x": "1", "y": "2"}
    assert (await of(whole)) != first[1]

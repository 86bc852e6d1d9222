"""List and watch: what is known stays true through pages, breaks, versions that are too old, and silence."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_operator.errors import Expired, Forbidden, KubeError, Throttled, Unavailable
from mcp_operator.kube.answers import WatchEvent
from mcp_operator.kube.client import Page
from mcp_operator.kube.informer import BACKOFF_MAX, Informer
from mcp_operator.kube.resources import PODS
from virtual_clock import on_virtual_loop, run

EXPIRED = Expired(410, "Expired", "too old")
BROKEN = Unavailable(0, "Unreachable", "connection reset")


def pod(name: str, version: int, *, namespace: str = "prod", value: str = "", **more: Any) -> dict[str, Any]:
    metadata = {"namespace": namespace, "name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata, "value": value, **more}


@dataclass(frozen=True, slots=True)
class View:
    uid: str
    value: str


def view(object_: dict[str, Any]) -> View:
    return View(object_["metadata"]["uid"], object_["value"])


Step = KubeError | WatchEvent | float
"""An error that is raised, an event, or seconds that pass."""


class Api:
    """Scripted lists and watches. Watches beyond the script wait for ever."""

    def __init__(self, lists: list[Any], watches: list[list[Step] | KubeError]) -> None:
        self.lists = iter(lists)
        self.watches = iter(watches)
        self.asked: list[tuple[str, str]] = []
        """("list", token) or ("watch", version)."""
        self.times: list[float] = []

    async def page(self, resource: Any, namespace: str | None, *, token: str, limit: int, **_: Any) -> Page:
        self.note("list", token or f"limit {limit}")
        answer = next(self.lists)
        if isinstance(answer, KubeError):
            raise answer
        await asyncio.sleep(0)
        return answer

    @asynccontextmanager
    async def watch(
        self, resource: Any, namespace: str | None, *, resource_version: str, **_: Any
    ) -> AsyncIterator[Any]:
        self.note("watch", resource_version)
        script = next(self.watches, [1e9])
        if isinstance(script, KubeError):
            raise script

        async def events() -> AsyncIterator[WatchEvent]:
            for step in script:
                if isinstance(step, KubeError):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step

        yield events()

    def note(self, *what: str) -> None:
        self.asked.append(what)
        self.times.append(asyncio.get_running_loop().time())


class Changes:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None, str | None]] = []

    def __call__(self, key: tuple[str, str], old: View | None, new: View | None) -> None:
        self.seen.append((key[1], old and old.value, new and new.value))


def informer(api: Any, changes: Callable[..., None], namespaces: tuple[str, ...] | None = None, **options: Any) -> Any:
    loop = asyncio.get_running_loop()
    options = {"rng": lambda: 0.5, "clock": loop.time} | options
    return Informer(api, PODS, namespaces, "a=b", options.pop("project", view), changes, **options)


def added(*arguments: Any, **options: Any) -> WatchEvent:
    return WatchEvent("ADDED", pod(*arguments, **options))


def modified(*arguments: Any, **options: Any) -> WatchEvent:
    return WatchEvent("MODIFIED", pod(*arguments, **options))


def deleted(*arguments: Any, **options: Any) -> WatchEvent:
    return WatchEvent("DELETED", pod(*arguments, **options))


def bookmark(version: int) -> WatchEvent:
    return WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


async def started(api: Api, seconds: float = 0.001, **options: Any) -> tuple[Any, Changes]:
    changes = Changes()
    made = informer(api, changes, **options)
    asyncio.create_task(made.run())  # noqa: RUF006
    await asyncio.sleep(seconds)
    return made, changes


@on_virtual_loop
async def test_lists_then_watches() -> None:
    api = Api(
        [Page([pod("a", 3, value="1")], "5", "next"), Page([pod("b", 4)], "5", "")],
        [[added("c", 6), modified("a", 7, value="2"), deleted("b", 8), 1e9]],
    )
    known, changes = await started(api)
    assert known.synced.is_set()
    assert api.asked == [("list", "limit 100"), ("list", "next"), ("watch", "5")]
    assert changes.seen == [("a", None, "1"), ("b", None, ""), ("c", None, ""), ("a", "1", "2"), ("b", "", None)]
    assert known.get("prod", "a") == View("uid-a", "2")
    assert known.get("prod", "b") is None
    assert [key for key, _ in known.items()] == [("prod", "a"), ("prod", "c")]
    assert len(known) == 2
    assert set(known.values()) == {View("uid-a", "2"), View("uid-c", "")}


@on_virtual_loop
async def test_not_synced_before_the_last_page() -> None:
    api = Api([Page([pod("a", 3)], "5", "next"), BROKEN, Page([], "5", "")], [])
    known, _ = await started(api)
    assert len(known) == 1
    assert not known.synced.is_set()
    await asyncio.sleep(1)
    assert known.synced.is_set()
    assert len(known) == 0


@on_virtual_loop
async def test_what_does_not_differ_is_no_change() -> None:
    api = Api([Page([pod("a", 3, value="1")], "5", "")], [[modified("a", 6, value="1", other="x"), 1e9]])
    _, changes = await started(api)
    assert changes.seen == [("a", None, "1")]


@on_virtual_loop
async def test_watch_that_ends_goes_on_where_it_was() -> None:
    api = Api([Page([], "5", "")], [[added("a", 6), bookmark(20)], [modified("a", 21, value="1"), BROKEN], [1e9]])
    known, _ = await started(api)
    assert api.asked[1:] == [("watch", "5"), ("watch", "20"), ("watch", "21")]
    assert len(known) == 1


@on_virtual_loop
async def test_version_that_is_too_old_means_list_again() -> None:
    api = Api(
        [
            Page([pod("a", 3), pod("b", 4), pod("c", 4)], "5", ""),
            Page([pod("a", 8, value="new"), pod("b", 4)], "9", ""),
        ],
        [[bookmark(6), EXPIRED], [1e9]],
    )
    known, changes = await started(api)
    assert api.asked == [("list", "limit 100"), ("watch", "5"), ("list", "limit 100"), ("watch", "9")]
    assert changes.seen[3:] == [("a", "", "new"), ("c", "", None)]
    assert len(known) == 2


@on_virtual_loop
async def test_page_that_is_too_old_means_all_at_once() -> None:
    api = Api([Page([pod("a", 3)], "5", "next"), EXPIRED, Page([pod("b", 4)], "9", "")], [])
    known, changes = await started(api, 10)
    assert [what for what in api.asked if what[0] == "list"] == [
        ("list", "limit 100"),
        ("list", "next"),
        ("list", "limit 0"),
    ]
    assert changes.seen == [("a", None, ""), ("b", None, ""), ("a", "", None)]
    assert known.synced.is_set()


@on_virtual_loop
async def test_watch_that_cannot_be_taken_up_means_list_again() -> None:
    # As after a restart of the API server, perhaps with another etcd.
    api = Api([Page([], "5", ""), BROKEN, Page([], "3", "")], [[bookmark(6), BROKEN], BROKEN])
    await started(api, 10)
    assert api.asked[1:] == [
        ("watch", "5"),
        ("watch", "6"),
        ("list", "limit 100"),
        ("list", "limit 100"),
        ("watch", "3"),
    ]


@on_virtual_loop
async def test_throttled_watch_keeps_its_version() -> None:
    slow = Throttled(429, "TooManyRequests", "slow down", retry_after=9.0)
    api = Api([Page([], "5", "")], [[bookmark(6), BROKEN], slow])
    await started(api, 60)
    assert api.asked[1:] == [("watch", "5"), ("watch", "6"), ("watch", "6")]
    assert 9 <= api.times[-1] - api.times[-2] <= 10


@on_virtual_loop
async def test_trouble_is_met_with_patience(caplog: pytest.LogCaptureFixture) -> None:
    api = Api([BROKEN] * 40 + [Page([], "5", "")], [])
    known, _ = await started(api, 3600, rng=lambda: 0.999)
    waits = [later - earlier for earlier, later in itertools.pairwise(api.times[:41])]
    assert waits[0] < 1
    assert waits == sorted(waits)
    assert BACKOFF_MAX * 0.99 < waits[-1] <= BACKOFF_MAX
    assert known.synced.is_set()
    messages = [record.message for record in caplog.records]
    assert len(messages) == 1
    assert "cannot watch pods in all namespaces: connection reset" in messages[0]


@on_virtual_loop
async def test_watches_that_end_at_once_are_not_reopened_in_a_loop() -> None:
    api = Api([Page([], "5", "")] * 1000, [[] for _ in range(1000)])
    await started(api, 600, rng=lambda: 0.5)
    assert len(api.asked) < 120


@on_virtual_loop
async def test_watch_that_only_complains_is_started_over() -> None:
    # `Too large resource version`, for one: the same version would never do.
    large = Unavailable(504, "Timeout", "Too large resource version")
    api = Api([Page([], "5", "")] * 20, [[large]] * 5)
    await started(api, 600)
    assert [what for what, _ in api.asked] == ["list", "watch"] * 6


@on_virtual_loop
async def test_quiet_watch_counts_as_alive() -> None:
    api = Api([Page([], "5", "")], [[300.0]] * 20)
    await started(api, 4000, rng=lambda: 0.999)
    assert api.asked[1:] == [("watch", "5")] * 14
    assert api.times[-1] - api.times[1] == 300 * 13


@on_virtual_loop
async def test_recovery_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    denied = Forbidden(403, "Forbidden", "pods is forbidden")
    api = Api([denied, denied, BROKEN, BROKEN, Page([], "5", "")], [[bookmark(6), 1e9]])
    await started(api, 60)
    assert [record.message.split(": ")[0] for record in caplog.records] == [
        "cannot watch pods in all namespaces",
        "cannot watch pods in all namespaces",
        "watching pods in all namespaces again",
    ]


@on_virtual_loop
async def test_object_that_cannot_be_read_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    odd = pod("odd", 3)
    del odd["value"]
    api = Api([Page([odd, pod("a", 4)], "5", "")], [[WatchEvent("MODIFIED", odd), added("b", 7), 1e9]])
    known, _ = await started(api)
    assert len(known) == 2
    assert sum("cannot read pods prod/odd" in record.message for record in caplog.records) == 2


@on_virtual_loop
async def test_failing_reaction_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    known = informer(Api([Page([pod("a", 3)], "5", "")], []), fail)
    asyncio.create_task(known.run())  # noqa: RUF006
    await asyncio.sleep(1)
    assert len(known) == 1
    assert "cannot tell of a change of pods prod/a" in caplog.text


@on_virtual_loop
async def test_a_watch_for_each_namespace() -> None:
    class PerNamespace:
        def __init__(self) -> None:
            self.open: dict[str, asyncio.Queue[WatchEvent]] = {}
            self.listable = asyncio.Event()

        async def page(self, resource: Any, namespace: str, **_: Any) -> Page:
            if namespace == "late":
                await self.listable.wait()
            return Page([pod("a", 3, namespace=namespace, value=namespace)], "5", "")

        @asynccontextmanager
        async def watch(self, resource: Any, namespace: str, **_: Any) -> AsyncIterator[Any]:
            queue = self.open[namespace] = asyncio.Queue()

            async def events() -> AsyncIterator[WatchEvent]:
                while True:
                    yield await queue.get()

            yield events()

    api, changes = PerNamespace(), Changes()
    known = informer(api, changes, ("prod", "late", "prod"))
    asyncio.create_task(known.run())  # noqa: RUF006
    await asyncio.sleep(50)
    assert not known.synced.is_set()
    assert known.get("prod", "a") == View("uid-a", "prod")
    assert known.get("elsewhere", "a") is None
    silent_since = known.last_contact
    api.listable.set()
    await known.synced.wait()
    api.open["late"].put_nowait(deleted("a", 9, namespace="late"))
    await asyncio.sleep(1)
    assert [key for key, _ in known.items()] == [("prod", "a")]
    assert known.last_contact >= silent_since


@on_virtual_loop
async def test_last_contact_is_of_the_watch_that_waited_longest() -> None:
    api = Api([Page([], "5", "")], [[60.0, bookmark(6), 60.0, bookmark(7), 1e9]])
    known, _ = await started(api)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(61)
    assert loop.time() - known.last_contact < 2
    await asyncio.sleep(3600)
    assert loop.time() - known.last_contact > 3500


@on_virtual_loop
async def test_ends_when_cancelled() -> None:
    known = informer(Api([Page([], "5", "")], []), Changes())
    task = asyncio.create_task(known.run())
    await known.synced.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class World:
    """A kind of object as etcd would keep it: every watch sees every change, unless the connection breaks."""

    def __init__(self, seed: Any) -> None:
        self.seed = seed
        self.version = 1
        self.oldest = 0
        self.objects: dict[str, dict[str, Any]] = {}
        self.log: list[tuple[int, WatchEvent]] = []
        self.changed = asyncio.Event()
        self.calm = False

    def set(self, name: str, value: str | None) -> None:
        self.version += 1
        if value is not None:
            kind = "MODIFIED" if name in self.objects else "ADDED"
            self.objects[name] = pod(name, self.version, value=value)
            self.log.append((self.version, WatchEvent(kind, self.objects[name])))
        elif name in self.objects:
            gone = self.objects.pop(name)
            self.log.append((self.version, deleted(name, self.version, value=gone["value"])))
        self.changed.set()

    def trouble(self) -> None:
        if not self.calm and self.seed.random() < 0.3:
            raise self.seed.choice([BROKEN, EXPIRED, Throttled(429, "TooManyRequests", "slow")])

    async def page(self, resource: Any, namespace: str | None, *, token: str, limit: int, **_: Any) -> Page:
        self.trouble()
        await asyncio.sleep(0.01)
        if not token:
            self.snapshot = [dict(one) for _, one in sorted(self.objects.items())], str(self.version)
            token = "0"
        items, version = self.snapshot
        start, size = int(token), (2 if limit else len(items) + 1)
        following = str(start + size) if start + size < len(items) else ""
        return Page(items[start : start + size], version, following)

    @asynccontextmanager
    async def watch(
        self, resource: Any, namespace: str | None, *, resource_version: str, **_: Any
    ) -> AsyncIterator[Any]:
        self.trouble()
        at = int(resource_version)
        if at < self.oldest:
            raise EXPIRED

        async def events() -> AsyncIterator[WatchEvent]:
            nonlocal at
            while True:
                for version, event in [entry for entry in self.log if entry[0] > at]:
                    self.trouble()
                    at = version
                    yield event
                self.changed.clear()
                await self.changed.wait()

        yield events()


@settings(max_examples=60, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.none() | st.sampled_from("123"), st.sampled_from([0.0, 0.02, 1.0])),
        max_size=40,
    ),
    seed=st.randoms(use_true_random=False),
)
def test_ends_with_the_truth(changes: list[tuple[str, str | None, float]], seed: Any) -> None:
    async def scenario() -> None:
        world = World(seed)
        replayed: dict[str, str] = {}

        def follow(key: tuple[str, str], old: View | None, new: View | None) -> None:
            assert (old and old.value) == replayed.get(key[1])
            if new is None:
                del replayed[key[1]]
            else:
                replayed[key[1]] = new.value

        known = informer(world, follow, rng=seed.random)
        asyncio.create_task(known.run())  # noqa: RUF006
        for name, value, wait in changes:
            world.set(name, value)
            if seed.random() < 0.1:
                world.oldest = world.version
            await asyncio.sleep(wait)
        world.calm = True
        await asyncio.sleep(120)
        truth = {name: one["value"] for name, one in world.objects.items()}
        assert {key[1]: one.value for key, one in known.items()} == truth
        assert replayed == truth

    run(scenario())

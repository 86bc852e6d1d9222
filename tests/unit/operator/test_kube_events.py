"""Events: said once, counted when said again, never in anybody's way."""

import asyncio
import itertools
from typing import Any

from mcp_operator.errors import AlreadyExists, Forbidden, KubeError, NotFound, NotLeading, Unavailable
from mcp_operator.kube.events import BURST, MESSAGE_BYTES, QUEUE, REFILL, REMEMBERED, EventRecorder, ObjectReference
from mcp_operator.kube.resources import EVENTS
from virtual_clock import on_virtual_loop

GIT = ObjectReference("prod", "git", "uid-git")
AWAY = Unavailable(0, "Unreachable", "away")


class Api:
    """Keeps Events; `failures` are raised by the next requests, after the write where `late`."""

    def __init__(self, *failures: Exception, late: bool = False) -> None:
        self.failures = list(failures)
        self.late = late
        self.events: dict[str, dict[str, Any]] = {}
        self.requests = 0
        self.open = asyncio.Event()
        self.open.set()

    async def create(self, manifest: dict[str, Any]) -> None:
        await self.enter()
        name = manifest["metadata"]["name"]
        if name in self.events:
            raise AlreadyExists(409, "AlreadyExists", name)
        if self.late:
            self.events[name] = manifest
        self.fail()
        self.events[name] = manifest

    async def patch(self, resource: Any, namespace: str, name: str, patch: dict[str, Any]) -> None:
        assert resource is EVENTS
        await self.enter()
        self.fail()
        if name not in self.events:
            raise NotFound(404, "NotFound", name)
        self.events[name] |= patch

    async def enter(self) -> None:
        self.requests += 1
        await self.open.wait()

    def fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def said(self) -> list[tuple[str, int]]:
        return [(event["message"], event["count"]) for event in self.events.values()]


def recorder(api: Api) -> EventRecorder:
    loop = asyncio.get_running_loop()
    numbers = itertools.count(1)
    made = EventRecorder(
        api, "operator-1", clock=loop.time, wall_clock=lambda: 1.8e9 + loop.time(), token=lambda: f"{next(numbers):x}"
    )
    asyncio.create_task(made.run())  # noqa: RUF006
    return made


@on_virtual_loop
async def test_what_an_event_holds() -> None:
    api = Api()
    events = recorder(api)
    events.record(GIT, "Warning", "SecretMissing", "Secret token is not there", "Resolve")
    await asyncio.sleep(1)
    assert list(api.events.values()) == [
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": "prod", "name": "git.1"},
            "involvedObject": {
                "apiVersion": "outrigger.dev/v1alpha1",
                "kind": "MCPServer",
                "namespace": "prod",
                "name": "git",
                "uid": "uid-git",
            },
            "type": "Warning",
            "reason": "SecretMissing",
            "message": "Secret token is not there",
            "action": "Resolve",
            "count": 1,
            "firstTimestamp": "2027-01-15T08:16:40Z",
            "lastTimestamp": "2027-01-15T08:16:40Z",
            "source": {"component": "outrigger-operator"},
            "reportingComponent": "outrigger-operator",
            "reportingInstance": "operator-1",
        }
    ]


@on_virtual_loop
async def test_said_again_counts_up() -> None:
    api = Api()
    events = recorder(api)
    for _ in range(3):
        events.record(GIT, "Normal", "Applied", "applied")
        await asyncio.sleep(60)
    events.record(GIT, "Normal", "Applied", "applied something else")
    events.record(GIT, "Warning", "Applied", "applied")
    await asyncio.sleep(1)
    assert api.said() == [("applied", 3), ("applied something else", 1), ("applied", 1)]
    first = api.events["git.1"]
    assert first["firstTimestamp"] < first["lastTimestamp"]


@on_virtual_loop
async def test_said_again_after_an_hour_is_new() -> None:
    api = Api()
    events = recorder(api)
    events.record(GIT, "Normal", "Applied", "applied")
    await asyncio.sleep(3601)
    events.record(GIT, "Normal", "Applied", "applied")
    await asyncio.sleep(1)
    assert api.said() == [("applied", 1), ("applied", 1)]


@on_virtual_loop
async def test_event_that_somebody_deleted_is_made_anew() -> None:
    api = Api()
    events = recorder(api)
    events.record(GIT, "Normal", "Applied", "applied")
    await asyncio.sleep(1)
    api.events.clear()
    events.record(GIT, "Normal", "Applied", "applied")
    await asyncio.sleep(1)
    assert api.said() == [("applied", 1)]


@on_virtual_loop
async def test_waiting_ones_are_merged() -> None:
    api = Api()
    api.open.clear()
    events = recorder(api)
    for _ in range(1000):
        events.record(GIT, "Normal", "Applied", "applied")
    await asyncio.sleep(1)
    api.open.set()
    await asyncio.sleep(1)
    assert api.said() == [("applied", 1000)]
    assert api.requests == 1


@on_virtual_loop
async def test_talkative_object_is_slowed_down() -> None:
    api = Api()
    events = recorder(api)
    for number in range(100):
        events.record(GIT, "Normal", "Applied", f"applied {number}")
    events.record(ObjectReference("prod", "web", "uid-web"), "Normal", "Applied", "applied")
    await asyncio.sleep(1)
    assert len(api.events) == BURST + 1
    assert events.dropped == {"RateLimited": 100 - BURST}
    await asyncio.sleep(2 * REFILL)
    for number in range(10):
        events.record(GIT, "Normal", "Applied", f"applied again {number}")
    await asyncio.sleep(1)
    assert len(api.events) == BURST + 3


@on_virtual_loop
async def test_queue_is_bounded() -> None:
    api = Api()
    api.open.clear()
    events = recorder(api)
    for number in range(QUEUE + 100):
        events.record(ObjectReference("prod", "git", f"uid-{number}"), "Normal", "Applied", "applied")
    assert events.dropped == {"QueueFull": 100}
    api.open.set()
    await asyncio.sleep(1)
    assert len(api.events) == QUEUE


@on_virtual_loop
async def test_memory_is_bounded() -> None:
    api = Api()
    events = recorder(api)
    for number in range(2 * REMEMBERED):
        events.record(ObjectReference("prod", "git", f"uid-{number}"), "Normal", "Applied", "applied")
        await asyncio.sleep(0.01)
    assert len(api.events) == 2 * REMEMBERED
    assert len(events._series) == len(events._buckets) == REMEMBERED


@on_virtual_loop
async def test_short_trouble_is_waited_out() -> None:
    api = Api(AWAY, AWAY)
    events = recorder(api)
    events.record(GIT, "Normal", "Applied", "applied")
    await asyncio.sleep(60)
    assert api.said() == [("applied", 1)]
    assert not events.dropped


@on_virtual_loop
async def test_attempt_whose_answer_was_lost_makes_no_second_event() -> None:
    api = Api(AWAY, late=True)
    events = recorder(api)
    events.record(GIT, "Normal", "Applied", "applied")
    await asyncio.sleep(60)
    events.record(GIT, "Normal", "Applied", "applied")
    await asyncio.sleep(60)
    assert api.said() == [("applied", 2)]


@on_virtual_loop
async def test_long_trouble_loses_events_and_nothing_else() -> None:
    refusals: list[KubeError | NotLeading] = [
        AWAY,
        AWAY,
        AWAY,
        Forbidden(403, "Forbidden", "going", causes=("NamespaceTerminating",)),
        NotLeading("another leads"),
    ]
    api = Api(*refusals)
    events = recorder(api)
    for number in range(4):
        events.record(GIT, "Normal", "Applied", f"applied {number}")
    await asyncio.sleep(60)
    assert api.said() == [("applied 3", 1)]
    assert events.dropped == {"Refused": 3}


@on_virtual_loop
async def test_long_messages_are_cut_between_characters() -> None:
    api = Api()
    events = recorder(api)
    events.record(GIT, "Normal", "Applied", "ä" * 2000)
    await asyncio.sleep(1)
    message = api.said()[0][0]
    assert message == "ä" * (MESSAGE_BYTES // 2)

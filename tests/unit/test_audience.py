"""Who hears what a shared process says: subscribers, listeners, sessions; and nobody what is another's."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.errors import CallError, Delivery, Reason, SessionLost, UpstreamError
from mcp_sidecar.pipeline.call import Call, Era, Event
from mcp_sidecar.protocol.envelope import EnvelopeError
from mcp_sidecar.upstream.audience import Audience, Listener, SharedSession
from mcp_sidecar.upstream.profile import Profile

TOOLS = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"
MESSAGE = "notifications/message"
CAPABILITIES = {"tools": {"listChanged": True}, "prompts": {}, "resources": {"subscribe": True, "listChanged": True}}


class Stream:
    """A caller's stream."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.full = False

    def open(self) -> None:
        return

    def emit(self, event: Event) -> None:
        if self.full:
            raise CallError(Reason.SLOW_CALLER, "full")
        self.got.append(json.loads(event.data))


class Home:
    """The server that listeners belong to."""

    def stop_listening(self, listener: Listener) -> None:
        return


def profile(capabilities: dict[str, Any] = CAPABILITIES) -> Profile:
    return Profile(Era.LEGACY, "2025-11-25", json.dumps({"capabilities": capabilities}).encode())


def listener(stream: Stream, wanted: Any, capabilities: dict[str, Any] = CAPABILITIES) -> Listener:
    params = json.dumps({"notifications": wanted}).encode()
    call = Call(
        server="s", id=b'"mine"', method="subscriptions/listen", params=params, era=Era.MODERN, version="", sink=stream
    )
    return Listener(call, profile(capabilities), Home())


def session(audience: Audience) -> tuple[SharedSession, Stream]:
    state, stream = SharedSession(), Stream()
    audience.sessions.add(state)
    state.outbox._sinks.append(stream)
    return state, stream


@pytest.fixture
def changes() -> list[tuple[str, str | None]]:
    return []


@pytest.fixture
def audience(changes: list[tuple[str, str | None]]) -> Audience:
    return Audience(lambda group, uri: changes.append((group, uri)))


def notice(method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})}).encode()


async def test_a_list_change_goes_to_all_and_to_the_cache(audience: Audience, changes: list[Any]) -> None:
    (_, one), (_, two) = session(audience), session(audience)
    heard, deaf = Stream(), Stream()
    audience.listeners |= {listener(heard, {"toolsListChanged": True}), listener(deaf, {"resourcesListChanged": True})}
    audience.hear(TOOLS, notice(TOOLS))
    assert one.got == two.got == [{"jsonrpc": "2.0", "method": TOOLS}]
    assert [m["params"]["_meta"] for m in heard.got] == [{"io.modelcontextprotocol/subscriptionId": "mine"}]
    assert deaf.got == []
    assert changes == [("tools", None)]


async def test_an_update_goes_to_its_subscribers(audience: Audience, changes: list[Any]) -> None:
    (state, one), (_, two) = session(audience), session(audience)
    state.uris.add("a")
    heard, deaf = Stream(), Stream()
    audience.listeners |= {
        listener(heard, {"resourceSubscriptions": ["a"]}),
        listener(deaf, {"resourceSubscriptions": ["b"]}),
    }
    audience.hear(UPDATED, notice(UPDATED, uri="a"))
    assert (len(one.got), two.got, len(heard.got), deaf.got) == (1, [], 1, [])
    assert changes == [("resource", "a")]
    audience.hear(UPDATED, notice(UPDATED))
    assert changes == [("resource", "a")]


async def test_a_log_message_goes_only_where_it_can_be_no_others(audience: Audience) -> None:
    state, one = session(audience)
    mine = Call(server="s", id=b"1", method="tools/call", params=None, era=Era.LEGACY, version="", session=_Held(state))
    log = notice(MESSAGE, level="info", data="x")
    audience.hear(MESSAGE, log, [mine])
    audience.hear(MESSAGE, log, [])
    assert len(one.got) == 2
    modern = Call(server="s", id=b"1", method="tools/call", params=None, era=Era.MODERN, version="")
    audience.hear(MESSAGE, log, [mine, modern])
    _, two = session(audience)
    audience.hear(MESSAGE, log, [mine])
    assert (len(one.got), two.got, audience.dropped) == (2, [], 2)


async def test_what_is_unknown_is_dropped_and_counted(audience: Audience) -> None:
    _, one = session(audience)
    audience.hear("notifications/odd", notice("notifications/odd"))
    assert (one.got, audience.dropped) == ([], 1)


async def test_a_listener_is_told_what_is_honoured() -> None:
    stream = Stream()
    everything = {
        "toolsListChanged": True,
        "promptsListChanged": True,
        "resourcesListChanged": False,
        "resourceSubscriptions": ["b", "a"],
        "unknown": True,
    }
    listener(stream, everything).acknowledge()
    (acknowledged,) = stream.got
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    # prompts announce no change
    assert acknowledged["params"]["notifications"] == {"toolsListChanged": True, "resourceSubscriptions": ["a", "b"]}
    poor = Stream()
    listener(poor, everything, {"resources": {}, "tools": True}).acknowledge()
    assert poor.got[0]["params"]["notifications"] == {}


@pytest.mark.parametrize(
    "wanted", [5, [], {"toolsListChanged": 1}, {"resourceSubscriptions": "a"}, {"resourceSubscriptions": [1]}]
)
async def test_a_filter_of_another_shape_is_refused(wanted: Any) -> None:
    with pytest.raises(EnvelopeError):
        listener(Stream(), wanted)


async def test_a_listener_that_does_not_read_loses_its_stream_only(audience: Audience) -> None:
    stuck, well = Stream(), Stream()
    bad, good = listener(stuck, {"toolsListChanged": True}), listener(well, {"toolsListChanged": True})
    audience.listeners |= {bad, good}
    stuck.full = True
    audience.hear(TOOLS, notice(TOOLS))
    audience.hear(TOOLS, notice(TOOLS))
    assert len(well.got) == 2
    assert not good.ended.done()
    with pytest.raises(CallError):
        await bad.ended


async def test_a_new_process_may_have_changed_everything_it_announces(audience: Audience, changes: list[Any]) -> None:
    _, one = session(audience)
    audience.changed_everything(profile())
    assert {m["method"] for m in one.got} == {TOOLS, "notifications/resources/list_changed"}
    assert {group for group, _ in changes} == {"tools", "prompts", "resources"}


async def test_callers_move_to_the_successor(audience: Audience) -> None:
    state, stream = session(audience)
    moved = listener(Stream(), {"toolsListChanged": True})
    audience.listeners.add(moved)
    audience.want("a")
    heir, home = Audience(lambda *_: None), Home()
    heir.want("a")
    heir.adopt(audience, home)
    assert (heir.sessions, heir.listeners, moved.home) == ({state}, {moved}, home)
    assert not heir.unwant("a")
    audience.hear(TOOLS, notice(TOOLS))
    audience.close()
    assert stream.got == []
    assert not moved.ended.done()
    heir.close(UpstreamError(Reason.CHILD_EXITED, "gone", delivery=Delivery.NOT_SENT))
    with pytest.raises(UpstreamError):
        await moved.ended


async def test_a_session_that_ends_answers_who_waits_for_it() -> None:
    state = SharedSession()
    future = state.asked[b"1"] = asyncio.get_running_loop().create_future()
    state.end()
    assert state.over
    with pytest.raises(SessionLost):
        await future


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=40))
def test_a_resource_is_wanted_from_its_first_subscriber_to_its_last(steps: list[tuple[bool, str]]) -> None:
    audience, wanted = Audience(lambda *_: None), Counter[str]()
    for more, uri in steps:
        if more:
            wanted[uri] += 1
            assert audience.want(uri) == (wanted[uri] == 1)
        else:
            assert audience.unwant(uri) == (wanted[uri] == 1)
            wanted[uri] = max(0, wanted[uri] - 1)
        assert sorted(audience.uris) == sorted(uri for uri, count in wanted.items() if count)


def test_the_most_talkative_level_counts() -> None:
    audience = Audience(lambda *_: None)
    assert audience.level is None
    for level in ("error", None, "info", "emergency"):
        state = SharedSession()
        state.level = level
        audience.sessions.add(state)
    assert audience.level == "info"


class _Held:
    """As much of a legacy session as is looked at."""

    def __init__(self, state: SharedSession) -> None:
        self.state = state

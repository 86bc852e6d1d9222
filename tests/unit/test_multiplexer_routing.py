"""upstream/multiplexer.py as a state machine: whatever a server says in whatever order, nobody gets another's."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.call import Call, Era, Event, Reply
from mcp_sidecar.protocol.lines import Oversized
from mcp_sidecar.upstream.multiplexer import Multiplexer
from virtual_clock import VirtualLoop

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


class Caller:
    """One call: what was asked, and everything that came back."""

    def __init__(self, machine: Routing, name: int, listen: bool, with_progress: bool) -> None:
        self.name = name
        self.listen = listen
        self.events: list[dict[str, Any]] = []
        meta = {"progressToken": 1} if with_progress else {}
        self.call = Call(server="s", id=b"1", method="m", params=None, era=Era.MODERN, version="2026-07-28", sink=self)
        params = json.dumps({"caller": name, "_meta": meta}).encode()
        method = "subscriptions/listen" if listen else "tools/call"
        self.with_progress = with_progress
        self.task: asyncio.Task[Reply] = machine.loop.create_task(machine.mux.request(method, params, call=self.call))
        machine.loop.settle()
        self.id: int = machine.last["id"] if machine.last.get("params", {}).get("caller") == name else -1
        self.answered = False
        self.cancelled = False

    def emit(self, event: Event) -> None:
        self.events.append(json.loads(event.data))


class Routing(RuleBasedStateMachine):
    """All callers use the same id and the same progress token; the fake server mixes everything up."""

    callers = Bundle("callers")

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.last: dict[str, Any] = {}
        self.cancelled_on_wire: set[int] = set()
        self.on_message: Callable[[bytes], None]
        self.on_oversized: Callable[[Oversized], None]
        self.on_closed: Callable[[UpstreamError], None]
        self.congested = False
        self.delivered = True
        self.everybody: list[Caller] = []
        self.closed = False
        self.unattributed = 0
        self.mux = self.loop.run_until_complete(self._make())

    async def _make(self) -> Multiplexer:
        return Multiplexer(self, ids=itertools.count(1).__next__, clock=self.loop.time, peer=self)  # type: ignore[arg-type]

    # the channel
    def send(self, message: bytes) -> Routing:
        assert not self.closed
        self.last = json.loads(message)
        if self.last.get("method") == "notifications/cancelled":
            self.cancelled_on_wire.add(self.last["params"]["requestId"])
        return self

    def withdraw(self) -> bool:
        return False

    # the peer
    def on_notification(self, method: str, message: bytes) -> None:
        self.unattributed += 1

    def on_request(self, id_raw: bytes, method: str, params: bytes | None, message: bytes) -> None:
        self.unattributed += 1

    def say(self, **message: Any) -> None:
        self.on_message(json.dumps({"jsonrpc": "2.0", **message}).encode())
        self.loop.settle()

    @rule(target=callers, listen=st.booleans(), with_progress=st.booleans())
    def ask(self, listen: bool, with_progress: bool) -> Caller:
        caller = Caller(self, len(self.everybody), listen, with_progress)
        self.everybody.append(caller)
        return caller

    @rule(caller=callers, as_string=st.booleans())
    def answer(self, caller: Caller, as_string: bool) -> None:
        first = not caller.answered and not caller.task.done()
        id: Any = str(caller.id) if as_string else caller.id
        self.say(id=id, result={"for": caller.name, "_meta": {SUBSCRIPTION: caller.id}})
        if first and caller.id > 0:
            caller.answered = True
            assert caller.task.done()

    @rule(caller=callers)
    def fail(self, caller: Caller) -> None:
        self.say(id=caller.id, error={"code": caller.name, "message": "x"})

    @rule(caller=consumes(callers))
    def cancel(self, caller: Caller) -> None:
        waiting = not caller.task.done()
        caller.task.cancel()
        self.loop.settle()
        caller.cancelled = waiting
        if waiting and caller.id > 0 and not self.closed:
            assert caller.id in self.cancelled_on_wire

    @rule(caller=callers, race=st.booleans())
    def cancel_and_answer_at_once(self, caller: Caller, race: bool) -> None:
        if caller.task.done():
            return
        if race:
            caller.task.cancel()
        self.on_message(json.dumps({"jsonrpc": "2.0", "id": caller.id, "result": {"for": caller.name}}).encode())
        caller.task.cancel()
        self.loop.settle()
        caller.cancelled = True
        if not self.closed:
            assert caller.id not in self.cancelled_on_wire

    @rule(token=st.integers(0, 20) | st.sampled_from(["1", "2", "x", None]))
    def progress(self, token: Any) -> None:
        self.say(method="notifications/progress", params={"progressToken": token, "progress": 1, "to": token})

    @rule(id=st.integers(0, 20), uri=st.sampled_from(["a", "b"]))
    def update(self, id: int, uri: str) -> None:
        self.say(method="notifications/resources/updated", params={"_meta": {SUBSCRIPTION: id}, "uri": uri, "to": id})

    @rule(id=st.integers(0, 20))
    def tear_down(self, id: int) -> None:
        self.say(method="notifications/cancelled", params={"requestId": id})

    @rule(id=st.integers(0, 20))
    def ask_back(self, id: int) -> None:
        before = self.unattributed
        self.say(id=id, method="roots/list")
        assert self.unattributed == before + 1

    @rule(
        noise=st.binary(max_size=40) | st.sampled_from([b"{}", b"[]", b'{"jsonrpc":"2.0"', b'{"jsonrpc":"2.0","id":3}'])
    )
    def noise(self, noise: bytes) -> None:
        self.on_message(noise)
        self.loop.settle()

    @rule(id=st.integers(0, 20))
    def oversized(self, id: int) -> None:
        self.on_oversized(Oversized(b'{"jsonrpc":"2.0","id":%d,"result":{' % id, b"", 10**9))
        self.loop.settle()

    @rule()
    def close(self) -> None:
        self.closed = True
        self.on_closed(UpstreamError(Reason.CHILD_EXITED, "gone", delivery=Delivery.MAYBE))
        self.loop.settle()
        assert all(caller.task.done() for caller in self.everybody)

    @invariant()
    def everybody_got_only_what_is_theirs(self) -> None:
        for caller in self.everybody:
            for event in caller.events:
                params = event["params"]
                assert str(params["to"]) == str(caller.id)
                if "progressToken" in params:
                    assert caller.with_progress
                    assert params["progressToken"] == 1
                else:
                    assert caller.listen
                    assert params["_meta"][SUBSCRIPTION] == 1
            if caller.task.done() and not caller.task.cancelled() and caller.task.exception() is None:
                reply = caller.task.result()
                if reply.error is not None:
                    assert json.loads(reply.error)["code"] == caller.name
                else:
                    result = json.loads(reply.result or b"")
                    assert result.get("for", caller.name) == caller.name
                    assert "for" in result or caller.listen
                    if caller.listen and SUBSCRIPTION in result.get("_meta", {}):
                        assert result["_meta"][SUBSCRIPTION] == 1

    @invariant()
    def counters_tell_the_truth(self) -> None:
        waiting = [caller for caller in self.everybody if not caller.task.done()]
        assert self.mux.in_flight == sum(not caller.listen for caller in waiting)
        assert self.mux.streams == sum(caller.listen for caller in waiting)

    def teardown(self) -> None:
        for caller in self.everybody:
            caller.task.cancel()
        self.loop.settle()
        assert (self.mux.in_flight, self.mux.streams) == (0, 0)
        asyncio.set_event_loop(None)
        self.loop.close()


TestRouting = Routing.TestCase
TestRouting.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

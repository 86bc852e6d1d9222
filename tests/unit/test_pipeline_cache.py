"""The cache: what is the same question, what is kept for whom and how long, and what makes it old."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mcp_sidecar.errors import CallError, Delivery, Reason, Rejected, SessionLost, UpstreamError
from mcp_sidecar.pipeline.cache import SERVER_TROUBLE, Cache
from mcp_sidecar.pipeline.cache_key import canonical_params, key_of, wants_progress
from mcp_sidecar.pipeline.cache_policy import CacheSettings, ServerPolicy
from mcp_sidecar.pipeline.call import Call, CallKind, Era, Handler, Reply, Source
from mcp_sidecar.pipeline.stack import compose
from pipeline_calls import Script, clock, failure, make_call
from virtual_clock import START, on_virtual_loop, run


def legacy(call: Call) -> bytes | None:
    return call.session.encode() if isinstance(call.session, str) else None


def policy(settings: CacheSettings, announced: bool = True) -> ServerPolicy:
    return ServerPolicy(settings, legacy_scope=legacy, announces=lambda call, method: announced)


def make_cache(now: Callable[[], float] = clock, announced: bool = True, **settings: object) -> Cache:
    chosen = CacheSettings(**settings)  # type: ignore[arg-type]
    return Cache(chosen, policy(chosen, announced), clock=now)


def result(text: str = "x", ttl: float | None = 60_000, scope: str | None = "private", **members: object) -> bytes:
    value: dict[str, object] = {"text": text, "resultType": "complete", **members}
    if ttl is not None:
        value["ttlMs"] = ttl
    if scope is not None:
        value["cacheScope"] = scope
    return json.dumps(value, separators=(",", ":")).encode()


class Server:
    """Answers with a count, so that a kept answer shows."""

    def __init__(self, **members: object) -> None:
        self.count = 0
        self.members = members
        self.error: BaseException | None = None

    async def __call__(self, call: Call) -> Reply:
        self.count += 1
        if self.error is not None:
            raise self.error
        return Reply(result(str(self.count), **self.members))  # type: ignore[arg-type]


async def ask(handler: Handler, method: str = "tools/list", **fields: object) -> tuple[str, Source]:
    reply = await handler(make_call(method, **fields))
    assert reply.result is not None
    return json.loads(reply.result)["text"], reply.source


# the key


@pytest.mark.parametrize(
    "one, other, same",
    [
        (None, b"{}", True),
        (b"{}", b'{"_meta":{"progressToken":1}}', True),
        (b'{"cursor":"a","_meta":{"x":1}}', b'{"_meta":{"x":2},"cursor":"a"}', True),
        (b'{"cursor":"a"}', b'{ "cursor" : "a" }', True),
        (b'{"cursor":"a"}', b'{"cursor":"b"}', False),
        (b'{"cursor":"a"}', b"{}", False),
        (b'{"name":"n","arguments":{"a":1,"b":2}}', b'{"arguments":{"b":2,"a":1},"name":"n"}', True),
        (b'{"name":"n","arguments":{"a":1}}', b'{"name":"n","arguments":{"a":1.0}}', False),
        (b'{"name":"n","arguments":{"a":"1"}}', b'{"name":"n","arguments":{"a":1}}', False),
        (b'{"name":"n","arguments":{}}', b'{"name":"n"}', False),
        (b'{"a":"b\\",\\"c\\":\\"d"}', b'{"a":"b","c":"d"}', False),
        (b'{"a\\":1,\\"b":2}', b'{"a":1,"b":2}', False),
        ('{"ä":1}'.encode(), b'{"\\u00e4":1}', True),
    ],
)
def test_the_same_question(one: bytes | None, other: bytes, same: bool) -> None:
    first, second = canonical_params(one), canonical_params(other)
    assert first is not None
    assert second is not None
    assert (first == second) is same


@pytest.mark.parametrize(
    "params",
    [
        b'{"uri":"a","uri":"b"}',
        b'{"uri":"a", "u\\u0072i":"b"}',
        b'{"name":"n","arguments":{"a":1,"a":2}}',
        b'{"uri":"a","requestState":"s"}',
        b'{"uri":"a","inputResponses":{}}',
        b"[]",
        b'"text"',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":\xff}',
    ],
    ids=range(9),
)
def test_questions_without_a_key(params: bytes) -> None:
    """Two readers may see two questions in a repeated member; one-time state is never kept."""
    assert canonical_params(params) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    one=st.dictionaries(st.text(max_size=5), json_values, max_size=4), spaces=st.booleans(), ascii_only=st.booleans()
)
def test_keys_tell_questions_apart_and_nothing_else(one: dict[str, object], spaces: bool, ascii_only: bool) -> None:
    one.pop("requestState", None)
    one.pop("inputResponses", None)
    separators = (", ", ": ") if spaces else (",", ":")
    written = json.dumps({**one, "_meta": {"a": 1}}, separators=separators, ensure_ascii=ascii_only).encode()
    key = canonical_params(written)
    assert key is not None
    one.pop("_meta", None)
    assert json.loads(b"{" + key + b"}") == one


def test_the_key_of_a_call() -> None:
    call = make_call("tools/list", identity=b"me")
    key = key_of(call, b"")
    assert key is not None
    for other in (
        make_call("prompts/list", identity=b"me"),
        make_call("tools/list", identity=b"you"),
        make_call("tools/list", identity=b"me", version="2025-11-25"),
        make_call("tools/list", identity=b"me", params=b'{"cursor":"2"}'),
    ):
        assert key_of(other, b"") != key
    assert key_of(call, b"session") != key
    assert wants_progress(make_call(params=b'{"_meta":{"progressToken":0}}'))
    assert not wants_progress(make_call(params=b'{"_meta":{}}'))


# what is kept


@on_virtual_loop
async def test_fresh_for_its_ttl_then_asked_again() -> None:
    server, cache = Server(), make_cache()
    handler = compose([cache], server)
    assert await ask(handler) == ("1", Source.UPSTREAM)
    assert await ask(handler) == ("1", Source.CACHE)
    loop_time = clock()
    await asyncio.sleep(59.9)
    assert await ask(handler) == ("1", Source.CACHE)
    await asyncio.sleep(0.1)
    assert clock() == loop_time + 60
    assert await ask(handler) == ("2", Source.UPSTREAM)
    assert (cache.hits, cache.misses, cache.stale) == (2, 2, 0)


@pytest.mark.parametrize(
    "members, fresh",
    [
        ({"ttl": 60_000}, True),
        ({"ttl": 0}, False),
        ({"ttl": -5}, False),
        ({"ttl": None}, False),
        ({"ttl": 0.5}, True),
        ({"resultType": "input_required"}, False),
        ({"isError": True}, False),
    ],
)
def test_modern_answers_by_their_ttl(members: dict[str, object], fresh: bool) -> None:
    async def check() -> None:
        handler = compose([make_cache()], Server(**members))
        await ask(handler)
        assert (await ask(handler))[1] is (Source.CACHE if fresh else Source.UPSTREAM)

    run(check())


@pytest.mark.parametrize(
    "reply",
    [
        Reply(error=b'{"code":-32602,"message":"no"}'),
        Reply(result(), status=202),
        Reply(detached=True),
        Reply(result(), source=Source.SIDECAR),
        Reply(result(), source=Source.COALESCED),
        Reply(b"[1]"),
        Reply(b"not json"),
    ],
    ids=["error", "status", "detached", "ours", "coalesced", "no object", "no json"],
)
def test_replies_that_are_not_kept(reply: Reply) -> None:
    async def check() -> None:
        script = Script(reply)
        cache = make_cache()
        for _ in range(2):
            assert await compose([cache], script)(make_call("tools/list")) is reply
        assert script.attempts == 2
        assert cache.bytes == 0

    run(check())


@pytest.mark.parametrize(
    "method", ["ping", "tools/call", "prompts/get", "completion/complete", "initialize", "tasks/get"]
)
def test_methods_that_are_not_kept(method: str) -> None:
    async def check() -> None:
        server = Server()
        handler = compose([make_cache()], server)
        await ask(handler, method, name="echo")
        await ask(handler, method, name="echo")
        assert server.count == 2

    run(check())


@on_virtual_loop
async def test_tool_results_only_where_the_config_names_the_tool() -> None:
    """F36, R22."""
    server = Server(ttl=None)
    handler = compose([make_cache(tools={"forecast": 300.0, "never": 0.0})], server)
    for name, count in (("forecast", 1), ("transfer", 2), ("never", 2)):
        server.count = 0
        params = b'{"name":"%s","arguments":{"a":1}}' % name.encode()
        await ask(handler, "tools/call", name=name, params=params)
        await ask(handler, "tools/call", name=name, params=params)
        assert server.count == count, name
    server.error = failure()
    await asyncio.sleep(301)
    with pytest.raises(UpstreamError):
        await ask(handler, "tools/call", name="forecast", params=b'{"name":"forecast","arguments":{"a":1}}')


@on_virtual_loop
async def test_private_answers_stay_with_their_caller_and_public_ones_are_shared() -> None:
    """F35, I9."""
    server, cache = Server(), make_cache()
    handler = compose([cache], server)
    assert await ask(handler, identity=b"a") == ("1", Source.UPSTREAM)
    assert await ask(handler, identity=b"b") == ("2", Source.UPSTREAM)
    assert await ask(handler, identity=b"") == ("3", Source.UPSTREAM)
    assert await ask(handler, identity=b"a") == ("1", Source.CACHE)
    public = Server(scope="public")
    handler = compose([make_cache()], public)
    for identity in (b"a", b"b", b""):
        await ask(handler, identity=identity)
    assert public.count == 1
    for members in ({"scope": "public"}, {"scope": None}, {"scope": "PUBLIC"}):
        distrusted = Server(**members)
        handler = compose([make_cache(share_public=members["scope"] != "public")], distrusted)
        for identity in (b"a", b"b"):
            await ask(handler, identity=identity)
        assert distrusted.count == 2, members


@on_virtual_loop
async def test_an_answer_that_is_no_longer_public_leaves_no_public_copy() -> None:
    server, cache = Server(scope="public", ttl=1000), make_cache()
    handler = compose([cache], server)
    await ask(handler, identity=b"a")
    await asyncio.sleep(2)
    server.members["scope"] = "private"
    assert await ask(handler, identity=b"a") == ("2", Source.UPSTREAM)
    server.error = failure()
    with pytest.raises(UpstreamError):
        await ask(handler, identity=b"b")


@on_virtual_loop
async def test_legacy_lists() -> None:
    """Fresh for 300 s where changes are announced, else only for the time the server fails; by session."""
    fields: dict[str, object] = {"era": Era.LEGACY, "version": "2025-11-25"}
    server = Server(ttl=None, scope=None)
    handler = compose([make_cache()], server)
    assert await ask(handler, session="s1", **fields) == ("1", Source.UPSTREAM)
    assert await ask(handler, session="s1", **fields) == ("1", Source.CACHE)
    assert await ask(handler, session="s2", **fields) == ("2", Source.UPSTREAM)
    await asyncio.sleep(300)
    assert await ask(handler, session="s1", **fields) == ("3", Source.UPSTREAM)
    for method in ("resources/read", "server/discover"):
        server.count = 0
        await ask(handler, method, session="s1", **fields)
        await ask(handler, method, session="s1", **fields)
        assert server.count == 2
    server.count = 0
    await ask(handler, **fields)
    await ask(handler, **fields)
    assert server.count == 2  # without a session there is nothing to key it by
    quiet = Server(ttl=None, scope=None)
    handler = compose([make_cache(announced=False)], quiet)
    await ask(handler, session="s1", **fields)
    assert await ask(handler, session="s1", **fields) == ("2", Source.UPSTREAM)
    quiet.error = failure()
    assert await ask(handler, session="s1", **fields) == ("2", Source.STALE)


# what is served


@on_virtual_loop
async def test_ttl_is_lowered_by_age_and_never_overstated() -> None:
    server = Server(ttl=10_000)
    handler = compose([make_cache()], server)
    first = await handler(make_call("tools/list"))
    last = 10_001
    for _ in range(200):
        reply = await handler(make_call("tools/list"))
        assert reply.result is not None
        served = json.loads(reply.result)
        left = 10_000 - (clock() - START) * 1000
        assert left - 1100 <= served["ttlMs"] <= left + 1e-6
        assert 0 <= served["ttlMs"] <= last
        last = served["ttlMs"]
        assert first.result is not None
        assert {**served, "ttlMs": 10_000} == json.loads(first.result)
        await asyncio.sleep(0.04999)
    server.error = failure()
    await asyncio.sleep(5)
    stale = await handler(make_call("tools/list"))
    assert stale.result is not None
    assert (stale.source, json.loads(stale.result)["ttlMs"]) == (Source.STALE, 0)


@on_virtual_loop
async def test_ttl_is_cut_at_a_day_and_absent_where_it_was() -> None:
    handler = compose([make_cache()], Server(ttl=1e15))
    await ask(handler)
    reply = await handler(make_call("tools/list"))
    assert reply.result is not None
    assert json.loads(reply.result)["ttlMs"] <= 86_400_000
    legacy_handler = compose([make_cache()], Server(ttl=None, scope=None))
    fields: dict[str, object] = {"era": Era.LEGACY, "session": "s"}
    first = await legacy_handler(make_call("tools/list", **fields))
    second = await legacy_handler(make_call("tools/list", **fields))
    assert second.result == first.result


@on_virtual_loop
async def test_a_result_of_nothing_but_its_ttl() -> None:
    handler = compose([make_cache()], Script(Reply(b'{"ttlMs":5000}')))
    await handler(make_call("tools/list"))
    assert (await handler(make_call("tools/list"))).result == b'{"ttlMs":4750}'


# standing in


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.label)
def test_which_failures_an_old_answer_stands_in_for(reason: Reason) -> None:
    async def check() -> None:
        server = Server(ttl=1000)
        handler = compose([make_cache()], server)
        await ask(handler)
        await asyncio.sleep(1)
        server.error = CallError(reason, "no")
        if reason in SERVER_TROUBLE:
            assert await ask(handler) == ("1", Source.STALE)
        else:
            with pytest.raises(CallError):
                await ask(handler)

    run(check())
    # What the caller must be told, or did itself.
    assert not SERVER_TROUBLE & {
        Reason.SESSION_LOST,
        Reason.CANCELLED,
        Reason.RATE_LIMITED,
        Reason.TOOL_NOT_ALLOWED,
        Reason.UPSTREAM_UNAUTHORIZED,
        Reason.SHUTTING_DOWN,
    }


@on_virtual_loop
async def test_old_answers_stand_in_for_an_hour() -> None:
    server, cache = Server(ttl=1000), make_cache()
    handler = compose([cache], server)
    await ask(handler)
    server.error = Rejected(Reason.BREAKER_OPEN, "open")
    await asyncio.sleep(3600)
    assert await ask(handler) == ("1", Source.STALE)
    await asyncio.sleep(1)
    with pytest.raises(Rejected):
        await ask(handler)
    assert cache.stale == 1
    assert cache.sweep() == 1
    assert (len(cache), cache.bytes) == (0, 0)
    never = Server(ttl=1000)
    handler = compose([make_cache(stale_if_error=0.0)], never)
    await ask(handler)
    never.error = failure()
    await asyncio.sleep(1)
    with pytest.raises(UpstreamError):
        await ask(handler)


@on_virtual_loop
async def test_a_lost_session_is_told() -> None:
    server = Server(ttl=None, scope=None)
    handler = compose([make_cache(announced=False)], server)
    fields: dict[str, object] = {"era": Era.LEGACY, "session": "s"}
    await ask(handler, **fields)
    server.error = SessionLost("gone", delivery=Delivery.REFUSED)
    with pytest.raises(SessionLost):
        await ask(handler, **fields)


# what makes it old


@on_virtual_loop
async def test_notices_make_their_group_old() -> None:
    server, cache = Server(), make_cache()
    handler = compose([cache], server)

    async def fill() -> None:
        for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list", "server/discover"):
            await ask(handler, method)
        for uri in ("a", "b"):
            await ask(handler, "resources/read", name=uri, params=b'{"uri":"%s"}' % uri.encode())

    async def asked_again() -> list[str]:
        before = server.count
        again = []
        for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list", "server/discover"):
            await ask(handler, method)
            again += [method] * (server.count - before)
            before = server.count
        for uri in ("a", "b"):
            await ask(handler, "resources/read", name=uri, params=b'{"uri":"%s"}' % uri.encode())
            again += [uri] * (server.count - before)
            before = server.count
        return again

    await fill()
    assert await asked_again() == []
    cache.notified("notifications/tools/list_changed")
    assert await asked_again() == ["tools/list"]
    cache.notified("notifications/prompts/list_changed", scope=b"")
    assert await asked_again() == ["prompts/list"]
    cache.notified("notifications/resources/list_changed")
    assert await asked_again() == ["resources/list", "resources/templates/list"]
    cache.notified("notifications/resources/updated", uri="b")
    assert await asked_again() == ["b"]
    cache.invalidate("reads")
    assert await asked_again() == ["a", "b"]
    cache.notified("notifications/message")
    cache.notified("notifications/tools/list_changed", scope=b"another")
    assert await asked_again() == []
    cache.clear()
    assert len(await asked_again()) == 7


@on_virtual_loop
async def test_a_list_that_changed_may_still_stand_in_but_a_resource_may_not() -> None:
    server, cache = Server(), make_cache()
    handler = compose([cache], server)
    await ask(handler)
    await ask(handler, "resources/read", name="a", params=b'{"uri":"a"}')
    cache.notified("notifications/tools/list_changed")
    cache.notified("notifications/resources/updated", uri="a")
    server.error = failure()
    assert await ask(handler) == ("1", Source.STALE)
    with pytest.raises(UpstreamError):
        await ask(handler, "resources/read", name="a", params=b'{"uri":"a"}')


@on_virtual_loop
async def test_an_answer_asked_for_before_a_notice_is_not_kept() -> None:
    """F43: it may be older than the change."""
    cache = make_cache()

    async def changes_meanwhile(call: Call) -> Reply:
        cache.notified("notifications/tools/list_changed")
        return Reply(result())

    script = Script(changes_meanwhile)
    handler = compose([cache], script)
    await ask(handler)
    await ask(handler)
    assert script.attempts == 2
    assert len(cache) == 0


@on_virtual_loop
async def test_a_session_that_ended_is_forgotten() -> None:
    server, cache = Server(ttl=None, scope=None), make_cache()
    handler = compose([cache], server)
    for session in ("s1", "s2"):
        await ask(handler, session=session, era=Era.LEGACY)
    cache.forget(b"s1")
    assert len(cache) == 1
    assert await ask(handler, session="s2", era=Era.LEGACY) == ("2", Source.CACHE)
    cache.forget(b"s2")
    assert (len(cache), cache.bytes, cache._index) == (0, 0, {})


@on_virtual_loop
async def test_bytes_are_bounded_and_the_least_used_goes_first() -> None:
    """F39."""
    cache = make_cache(max_bytes=12_000)
    server = Server(pad="x" * 400)
    handler = compose([cache], server)

    async def read(uri: str) -> Source:
        return (await ask(handler, "resources/read", name=uri, params=b'{"uri":"%s"}' % uri.encode()))[1]

    await read("keep")
    for number in range(50):
        await read(str(number))
        assert await read("keep") is Source.CACHE
        assert cache.bytes <= 12_000
    assert await read("0") is Source.UPSTREAM
    assert cache.evictions > 30
    count = len(cache)
    server.members["pad"] = "x" * 4000
    assert await read("huge") is Source.UPSTREAM
    assert len(cache) == count  # one answer does not push out everything else
    cache.reconfigure(CacheSettings(max_bytes=3000), cache.policy)
    assert cache.bytes <= 3000


class CacheMachine(RuleBasedStateMachine):
    """Against a model that keeps everything: an answer from memory must be fresh, and its caller's."""

    @initialize()
    def begin(self) -> None:
        self.now = START
        self.cache = make_cache(lambda: self.now, max_bytes=8000, stale_if_error=100.0)
        self.version = 0
        self.valid: dict[str, tuple[float, bytes | None, float]] = {}
        """Answer → fresh until, whose it is, stored at."""
        self.down = False

    async def server(self, call: Call) -> Reply:
        if self.down:
            raise failure()
        self.version += 1
        scope, ttl = self.answer
        self.valid[str(self.version)] = (self.now + ttl, None if scope == "public" else call.identity, self.now)
        if self.changes:
            self.changes = False
            self.notice("notifications/tools/list_changed")
        return Reply(result(str(self.version), ttl * 1000, scope, pad="x" * self.pad))

    answer = ("private", 10.0)
    changes = False
    pad = 0

    @rule(
        who=st.sampled_from([b"", b"a", b"b"]),
        cursor=st.sampled_from(["", "1", "2"]),
        scope=st.sampled_from(["public", "private"]),
        ttl=st.sampled_from([0.0, 1.0, 10.0]),
        pad=st.sampled_from([0, 300, 3000]),
        changes=st.booleans(),
    )
    def ask(self, who: bytes, cursor: str, scope: str, ttl: float, pad: int, changes: bool) -> None:
        self.answer, self.changes, self.pad = (scope, ttl), changes, pad
        params = b'{"cursor":"%s"}' % cursor.encode()
        call = make_call("tools/list", identity=who, params=params, kind=CallKind.SAFE)
        try:
            reply = run(self.handle(call))
        except UpstreamError:
            assert self.down
            return
        assert reply.result is not None
        text = json.loads(reply.result)["text"]
        fresh_until, owner, stored = self.valid[text]
        assert owner in (None, who)
        if reply.source is Source.CACHE:
            assert self.now < fresh_until
            assert json.loads(reply.result)["ttlMs"] <= (fresh_until - self.now) * 1000 + 1e-6
        elif reply.source is Source.STALE:
            assert self.down
            assert self.now < stored + 10 + 100
        self.asked[text] = self.asked.get(text, cursor)
        assert self.asked[text] == cursor, "an answer to another question"

    @initialize()
    def questions(self) -> None:
        self.asked: dict[str, str] = {}

    async def handle(self, call: Call) -> Reply:
        return await compose([self.cache], self.server)(call)

    @rule(seconds=st.sampled_from([0.3, 1.0, 9.0, 90.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(method=st.sampled_from(["notifications/tools/list_changed", "notifications/resources/updated"]))
    def notice(self, method: str) -> None:
        self.cache.notified(method)
        if method == "notifications/tools/list_changed":
            self.valid = {text: (float("-inf"), owner, at) for text, (_, owner, at) in self.valid.items()}

    @rule(down=st.booleans())
    def fail(self, down: bool) -> None:
        self.down = down

    @rule()
    def sweep(self) -> None:
        self.cache.sweep()

    @invariant()
    def books(self) -> None:
        if not hasattr(self, "cache"):
            return
        cache = self.cache
        assert cache.bytes == sum(entry.size for entry in cache._entries.values()) <= 8000
        indexed = [key for tags in cache._index.values() for keys in tags.values() for key in keys]
        assert sorted(indexed, key=repr) == sorted(cache._entries, key=repr)


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = hypothesis_settings(max_examples=80, stateful_step_count=40, deadline=None)

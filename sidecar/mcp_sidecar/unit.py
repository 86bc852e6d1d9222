"""Everything of one configured server, from its secrets to its health: made, reloaded, drained and closed as one.

The pipeline and what is known of the tools outlive a reload; the upstream is replaced where its address, command or
credentials changed, and the old one ends its calls meanwhile. The whole is assembled in `app`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from mcp_sidecar import settings
from mcp_sidecar.catalogue import Catalogue
from mcp_sidecar.errors import CallError, Reason, Rejected, SecretError
from mcp_sidecar.health import HealthCheck
from mcp_sidecar.pipeline.breaker import State
from mcp_sidecar.pipeline.cache_policy import CHANGES, CacheSettings, ServerPolicy
from mcp_sidecar.pipeline.call import Call, Reply
from mcp_sidecar.pipeline.stack import Pipeline, Tasks
from mcp_sidecar.pipeline.upstream import Upstream
from mcp_sidecar.server import Server
from mcp_sidecar.telemetry.log import Log
from mcp_sidecar.telemetry.record import CallRecorder
from mcp_sidecar.upstream.channel_upstream import ChannelUpstream
from mcp_sidecar.upstream.http_server import HttpServer

if TYPE_CHECKING:
    from mcp_sidecar import config

_MAX_PAGES = 50
"""Pages of `tools/list` that the sidecar asks for itself."""


class ManagedUpstream(Upstream, Protocol):
    """An upstream with the parts of its life that only its unit uses."""

    async def drain(self, grace: float) -> Any:
        """Let calls finish, then end."""

    async def close(self) -> None:
        """End everything now."""

    def rotate(self) -> bool:
        """Use new secrets. False where they cannot be used: the old ones stay."""

    async def list_tools(self, cursor: str | None) -> bytes | None:
        """A page of `tools/list`, None where it cannot be had."""

    def legacy_scope(self, call: Call) -> bytes | None:
        """What a legacy answer depends on, None where it must not be kept."""

    def announces(self, call: Call, method: str) -> bool:
        """Whether the server promised to say when the list of a method changes."""


MakeUpstream = Callable[[str, "config.Server"], ManagedUpstream]
"""Raises SecretError or ValueError where the values of the server cannot be used."""


class ServerUnit:
    """One server. `start` needs a running loop."""

    def __init__(
        self,
        name: str,
        configured: config.Server,
        make_upstream: MakeUpstream,
        *,
        recorder: CallRecorder,
        log: Log,
        tasks: Tasks,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.config = configured
        self.log = log.bind(server=name)
        self._make_upstream = make_upstream
        self._recorder = recorder
        self._tasks = tasks
        self._clock = clock
        self._upstream: ManagedUpstream | None = None
        self._retiring: set[ManagedUpstream] = set()
        self.catalogue = Catalogue(settings.kinds(configured))
        self.pipeline = Pipeline(settings.pipeline(configured), self._exchange, self._policy, spawn=tasks, clock=clock)
        self.pipeline.breaker.on_transition = self._transition
        self.health = HealthCheck(
            settings.health(configured), self._probe, self.pipeline.breaker, on_up=self._came_up, clock=clock
        )
        self.server = Server(name, settings.server(configured), self.catalogue, self._front(), self.pipeline.handle)
        self.speaks_sse = False
        """Its URL was found to speak the transport of 2024-11-05, which is another upstream."""
        self._check: asyncio.Task[None] | None = None
        self._successor: asyncio.Task[None] | None = None
        recorder.add_server(name)

    @property
    def upstream(self) -> ManagedUpstream | None:
        """The upstream in use; None while its values cannot be used."""
        return self._upstream

    @property
    def refusal(self) -> str | None:
        """Why the server takes no calls, None where it does."""
        return self.server.refusal

    def start(self) -> None:
        """Connect, and begin to check."""
        self.renew()
        if self._check is None:
            self._check = self._tasks(self.health.run(), f"health {self.name}")

    def renew(self) -> None:
        """Make a new upstream of the values as they are now.

        It takes over when it has answered; until then, and if it never does, the old one serves. Raises nothing: what
        is wrong is logged and in `refusal`.
        """
        old = self._upstream
        try:
            new = self._make_upstream(self.name, self.config)
        except (SecretError, ValueError) as error:
            if old is None:
                self.server.refusal = f"server {self.name} is not ready: {error}"
            self.log.error("the server's values cannot be used", error=str(error), kept=old is not None)
            return
        if old is None:
            self._upstream = self.server.upstream = new
            self.server.refusal = None
            return
        if self._successor is not None:
            self._successor.cancel()
        self._successor = self._tasks(self._succeed(old, new), f"replace {self.name}")

    async def _succeed(self, old: ManagedUpstream, new: ManagedUpstream) -> None:
        pause = 1.0
        try:
            while True:
                try:
                    async with asyncio.timeout(self.health.settings.start_timeout):
                        await new.probe()
                    break
                except (CallError, TimeoutError) as error:
                    reason = error.message if isinstance(error, CallError) else "no answer in time"
                    self.log.error("the new server does not answer; the old one is kept", error=reason)
                    await asyncio.sleep(pause)
                    pause = min(30.0, pause * 2)
            if isinstance(new, ChannelUpstream) and isinstance(old, ChannelUpstream):
                await new.adopt(old)
        except BaseException:
            await new.close()
            raise
        self._upstream = self.server.upstream = new
        if self.pipeline.cache is not None:
            self.pipeline.cache.clear()
        self.log.info("the new server has taken over")
        self._retiring.add(old)
        self._tasks(self._retire(old), f"retire {self.name}")
        await self._came_up()

    def rotate(self) -> None:
        """New secrets: new connections and processes use them, the old ones end their calls."""
        upstream = self._upstream
        if upstream is None:
            self.renew()
        elif not upstream.rotate():
            self.log.error("the new secrets cannot be used; the old ones stay in use")

    async def _retire(self, old: ManagedUpstream) -> None:
        try:
            await old.drain(self.config.total_timeout)
            await old.close()
        finally:
            self._retiring.discard(old)

    def reconfigure(self, configured: config.Server, *, replace: bool) -> None:
        """Use a new config: tunables at once, and with `replace` a new upstream."""
        self.config = configured
        self.server.settings = settings.server(configured)
        self.catalogue.reconfigure(settings.kinds(configured))
        self.pipeline.reconfigure(settings.pipeline(configured))
        self.server.handler = self.pipeline.handle
        self.health.reconfigure(settings.health(configured))
        if replace:
            self.renew()

    # --- what the parts ask

    def _front(self) -> Upstream:
        """The front must see an upstream even before there is one; `refusal` keeps calls away from it."""
        return _Nowhere(self.config)

    def _policy(self, cache: CacheSettings) -> ServerPolicy:
        return ServerPolicy(cache, legacy_scope=self._legacy_scope, announces=self._announces)

    def _legacy_scope(self, call: Call) -> bytes | None:
        return self._upstream.legacy_scope(call) if self._upstream is not None else None

    def _announces(self, call: Call, method: str) -> bool:
        return self._upstream is not None and self._upstream.announces(call, method)

    def changed(self, group: str, uri: str | None) -> None:
        """The upstream said that something changed."""
        cache = self.pipeline.cache
        if cache is None:
            return
        if group == "resource":
            cache.notified("notifications/resources/updated", uri)
        elif f"notifications/{group}/list_changed" in CHANGES:
            cache.notified(f"notifications/{group}/list_changed", None)

    async def _exchange(self, call: Call) -> Reply:
        """The innermost handler: one attempt, measured."""
        upstream = self._upstream
        assert upstream is not None
        began = self._clock()
        reply: Reply | None = None
        failure: BaseException | None = None
        try:
            reply = await upstream.exchange(call)
        except BaseException as error:
            failure = error
            raise
        finally:
            now = self._clock()
            if reply is not None:
                self.health.proved()
            self._recorder.attempt(call, now - began, reply, failure)
        return reply

    async def _probe(self) -> None:
        if self._upstream is None:
            self.renew()
        upstream = self._upstream
        if upstream is None:
            raise _not_ready(self.server.refusal or "the server's values cannot be used")
        await upstream.probe()
        if isinstance(upstream, HttpServer) and upstream.found_sse and self.config.transport == "Auto":
            self.speaks_sse = True
            self.renew()

    def waiting_for(self) -> str:
        """What keeps the server from answering, in words."""
        if self.refusal is not None:
            return self.refusal
        upstream = self._upstream
        started = upstream.last_words() if isinstance(upstream, ChannelUpstream) else ""
        return "; ".join(filter(None, [self.health.last_error, started])) or "its first answer"

    async def _came_up(self) -> None:
        """The server answered for the first time, or again: learn its tools."""
        await self._learn_tools()
        self.log.info("server is up", tools=len(self.catalogue))

    async def _learn_tools(self) -> None:
        upstream = self._upstream
        if upstream is None:
            return
        cursor: str | None = None
        for page in range(_MAX_PAGES):
            try:
                result = await upstream.list_tools(cursor)
            except CallError as error:
                self.log.warning("the list of tools cannot be had", error=error.message)
                return
            if result is None:
                return
            more = self.catalogue.learn(result, first_page=page == 0)
            self._recorder.tools_listed(self.name, result)
            if not more:
                return
            cursor = self.catalogue.next_cursor

    def _transition(self, old: State, new: State) -> None:
        write = self.log.warning if new is State.OPEN else self.log.info
        write("circuit breaker changed", old=old.name.lower(), new=new.name.lower(), last_error=self.health.last_error)

    # --- the end

    async def drain(self, grace: float) -> None:
        """Let calls end, within `grace` seconds."""
        if self._check is not None:
            self._check.cancel()
        upstream = self._upstream
        if upstream is not None:
            await upstream.drain(grace)

    async def close(self) -> None:
        """End everything of this server now."""
        if self._check is not None:
            self._check.cancel()
        if self._successor is not None:
            self._successor.cancel()
        for upstream in [*self._retiring, *([self._upstream] if self._upstream is not None else [])]:
            await upstream.close()
        self._recorder.remove_server(self.name)

    def sweep(self) -> None:
        """Now and then: drop what is old."""
        if self.pipeline.cache is not None:
            self.pipeline.cache.sweep()
        sweep = getattr(self._upstream, "sweep", None)
        if sweep is not None:
            sweep()

    def status(self) -> dict[str, Any]:
        """For `/status`: plain values, no secrets."""
        pipeline, health, breaker = self.pipeline, self.health, self.pipeline.breaker
        status: dict[str, Any] = {
            "up": health.up and self.refusal is None,
            "answered": health.answered,
            "kind": self.config.kind,
            "problem": self.refusal,
            "health": {
                "checks": health.checks,
                "failed": health.failed_checks,
                "failuresInARow": health.failures,
                "lastSuccess": _timestamp(health.last_success),
                "lastError": health.last_error or None,
                "waitingSeconds": round(self._clock() - health.waiting_since, 1)
                if health.waiting_since is not None
                else None,
            },
            "tools": {"count": len(self.catalogue), "complete": self.catalogue.complete},
            "breaker": {
                "state": breaker.state.name.lower() if self.config.circuit_breaker.enabled else "disabled",
                "forced": breaker.forced,
                "rejected": breaker.rejected,
                "retryAfterSeconds": round(breaker.retry_after, 1) if breaker.state is State.OPEN else None,
            },
        }
        if pipeline.bulkhead is not None:
            bulkhead = pipeline.bulkhead
            status["bulkhead"] = {
                "inFlight": bulkhead.in_flight,
                "limit": bulkhead.settings.limit,
                "queued": bulkhead.queued,
                "maxQueue": bulkhead.settings.max_queue,
            }
        if pipeline.retry is not None:
            pipeline.retry.budget.refill()
            status["retryBudget"] = {"tokens": round(pipeline.retry.budget.tokens, 2)}
        if pipeline.cache is not None:
            cache = pipeline.cache
            status["cache"] = {
                "entries": len(cache),
                "bytes": cache.bytes,
                "hits": cache.hits,
                "misses": cache.misses,
                "stale": cache.stale,
            }
        if self._upstream is not None:
            status["upstream"] = self._upstream.status()
        if self._retiring:
            status["retiring"] = len(self._retiring)
        return status


def _not_ready(message: str) -> Rejected:
    """The server's values cannot be used, so there is nothing to ask."""
    return Rejected(Reason.SERVER_NOT_READY, message, retry_after=10.0)


def _timestamp(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class _Nowhere:
    """What the front sees of a server that has no upstream: calls are refused before they get here."""

    def __init__(self, configured: config.Server) -> None:
        self.holds_sessions = configured.kind != "StreamableHTTP"

    async def exchange(self, call: Call) -> Reply:
        raise _not_ready("the server is not ready")

    listen = exchange

    async def notify(self, session: Any, message: bytes, *, version: str, headers: Any = ()) -> int:
        raise _not_ready("the server is not ready")

    async def stream(
        self, session: Any, sink: Any, *, version: str, last_event_id: bytes | None = None, headers: Any = ()
    ) -> None:
        raise _not_ready("the server is not ready")

    def session_opened(self, session: Any) -> None:
        return

    async def end_session(self, session: Any) -> None:
        return

    async def probe(self) -> None:
        raise _not_ready("the server is not ready")

    def status(self) -> dict[str, Any]:
        return {}

"""Everything of one configured server, from its secrets to its health: made, reloaded, drained and closed as one.

The pipeline and what is known of the tools outlive a reload; the upstream is replaced where its address, command or
credentials changed, and the old one ends its calls meanwhile. The whole is assembled in `app`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from mcp_sidecar import settings
from mcp_sidecar.catalogue import Catalogue
from mcp_sidecar.errors import CallError, Reason, Rejected, SecretError
from mcp_sidecar.health import HealthCheck
from mcp_sidecar.managed_upstream import MakeUpstream, ManagedUpstream, Nowhere, not_ready
from mcp_sidecar.pipeline.breaker import State
from mcp_sidecar.pipeline.cache_policy import CHANGES, CacheSettings, ServerPolicy
from mcp_sidecar.pipeline.call import Call, Reply
from mcp_sidecar.pipeline.stack import Pipeline, Tasks
from mcp_sidecar.pipeline.upstream import Upstream
from mcp_sidecar.server import Server
from mcp_sidecar.telemetry.log import Log
from mcp_sidecar.telemetry.record import CallRecorder
from mcp_sidecar.unit_status import LastErrors, status_of
from mcp_sidecar.upstream.channel_upstream import ChannelUpstream
from mcp_sidecar.upstream.http_server import HttpServer

if TYPE_CHECKING:
    from mcp_sidecar import config

_FIRST_NOTICE: Final = 4.9
_MAX_PAGES: Final = 50
"""Pages of `tools/list` that the sidecar asks for itself."""


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
        self.clock = clock
        self._upstream: ManagedUpstream | None = None
        self._tunes: dict[ManagedUpstream, Callable[[config.Config], None]] = {}
        """Every upstream there is: the one in use, the one that is to take over, those that end their calls."""
        self._retiring: set[ManagedUpstream] = set()
        self.replacement_problem: str | None = None
        """Why the upstream of the newest config or secrets has not taken over, None where it has."""
        self.errors = LastErrors()
        self.bytes_sent = 0
        self.bytes_received = 0
        """Of params and results, framing not counted."""
        self.catalogue = Catalogue(settings.kinds(configured))
        self.pipeline = Pipeline(settings.pipeline(configured), self._exchange, self._policy, spawn=tasks, clock=clock)
        self.pipeline.breaker.on_transition = self._transition
        self.health = HealthCheck(
            settings.health(configured), self._probe, self.pipeline.breaker, on_up=self._came_up, clock=clock
        )
        self.health.on_failed = lambda message: self.errors.add(message, "(check)", "check_failed")
        self.server = Server(name, settings.server(configured), self.catalogue, self._front(), self.pipeline.handle)
        self.speaks_sse = False
        """Its URL was found to speak the transport of 2024-11-05, which is another upstream."""
        self._check: asyncio.Task[None] | None = None
        self._successor: asyncio.Task[None] | None = None
        self._notice = _FIRST_NOTICE
        self._began = clock()
        recorder.add_server(name)

    @property
    def upstream(self) -> ManagedUpstream | None:
        """The upstream in use; None while its values cannot be used."""
        return self._upstream

    @property
    def retiring(self) -> int:
        """Upstreams that were replaced and end their calls."""
        return len(self._retiring)

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
        if self._successor is not None:
            self._successor.cancel()
            self._successor = None
        try:
            new, tune = self._make_upstream()
        except (SecretError, ValueError) as error:
            problem = f"server {self.name} is not ready: {error}"
            if problem != (self.replacement_problem if old is not None else self.server.refusal):
                self.log.error("the server's values cannot be used", error=str(error), kept=old is not None)
            if old is None:
                self.server.refusal = problem
            else:
                self.replacement_problem = problem
            return
        self._tunes[new] = tune
        if isinstance(new, HttpServer):
            new.on_opened, new.on_ended, new.pool.on_waited = self._recorder.connections(self.name)
        self.replacement_problem = None
        if old is None:
            self._upstream = self.server.upstream = new
            self.server.refusal = None
            self.health.check_now()
            return
        self._successor = self._tasks(self._succeed(old, new), f"replace {self.name}")

    async def _succeed(self, old: ManagedUpstream, new: ManagedUpstream) -> None:
        pause = 1.0
        try:
            while True:
                try:
                    async with asyncio.timeout(self.health.settings.start_timeout):
                        await new.probe()
                    if self._found_sse(new):
                        self.renew()  # with what was found; it cancels this task
                        await asyncio.sleep(0)
                    break
                except (CallError, TimeoutError) as error:
                    reason = error.message if isinstance(error, CallError) else "no answer in time"
                    self.replacement_problem = f"the new server does not answer: {reason}"
                    self.log.error("the new server does not answer; the old one is kept", error=reason)
                    await asyncio.sleep(pause)
                    pause = min(30.0, pause * 2)
            if isinstance(new, ChannelUpstream) and isinstance(old, ChannelUpstream):
                await new.adopt(old)
        except BaseException:
            self._tunes.pop(new, None)
            await new.close()
            raise
        self._successor = None
        self.replacement_problem = None
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
        if upstream is None or self.replacement_problem is not None:
            self.renew()
        elif not upstream.rotate():
            self.log.error("the new secrets cannot be used; the old ones stay in use")

    async def _retire(self, old: ManagedUpstream) -> None:
        try:
            await old.drain(self.config.total_timeout)
            await old.close()
        finally:
            self._retiring.discard(old)
            self._tunes.pop(old, None)

    def reconfigure(self, configured: config.Server, whole: config.Config, *, replace: bool) -> None:
        """Use a new config: tunables at once, and with `replace` a new upstream."""
        self.config = configured
        self.server.settings = settings.server(configured)
        self.catalogue.reconfigure(settings.kinds(configured))
        self.pipeline.reconfigure(settings.pipeline(configured))
        self.server.handler = self.pipeline.handle
        self.health.reconfigure(settings.health(configured))
        if replace:
            self.speaks_sse = False
            self.renew()
        else:
            for tune in list(self._tunes.values()):
                tune(whole)

    # --- what the parts ask

    def _front(self) -> Upstream:
        """The front must see an upstream even before there is one; `refusal` keeps calls away from it."""
        return Nowhere(self.config)

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
        began = self.clock()
        reply: Reply | None = None
        failure: BaseException | None = None
        try:
            reply = await self._attempt(call)
        except BaseException as error:
            failure = error
            if isinstance(error, CallError):
                self.errors.add(error.message, call.method, error.reason.label)
            raise
        finally:
            now = self.clock()
            if call.params is not None:
                self.bytes_sent += len(call.params)
            if reply is not None:
                self.health.proved()
                if reply.result is not None:
                    self.bytes_received += len(reply.result)
            self._recorder.attempt(call, now - began, reply, failure)
        return reply

    async def _attempt(self, call: Call) -> Reply:
        while True:
            upstream = self._upstream
            if upstream is None:
                raise not_ready(self.refusal or "the server's values cannot be used")
            try:
                return await upstream.exchange(call)
            except Rejected as refusal:
                # it waited for a process or connection of an upstream that has been replaced meanwhile
                if refusal.reason is not Reason.SHUTTING_DOWN or self._upstream is upstream:
                    raise

    async def _probe(self) -> None:
        if self._upstream is None:
            self.renew()
        upstream = self._upstream
        if upstream is None:
            raise not_ready(self.server.refusal or "the server's values cannot be used")
        await upstream.probe()
        if self._found_sse(upstream):
            # nothing can be asked of the one that found it
            self._upstream = None
            self._retiring.add(upstream)
            self._tasks(self._retire(upstream), f"retire {self.name}")
            await self._probe()

    def _found_sse(self, upstream: ManagedUpstream) -> bool:
        """Whether the URL was just found to speak the old transport; then a new upstream is under way or in use."""
        if not isinstance(upstream, HttpServer) or not upstream.found_sse or self.config.transport != "Auto":
            return False
        self.speaks_sse = True
        return True

    def announce(self) -> None:
        """Say what is being waited for, where anything is: after 5 s, and then each time twice as long."""
        waited = self.clock() - self._began
        if self.health.answered or waited < self._notice:
            return
        self._notice = waited * 2
        what = self.waiting_for()
        self.log.warning("still waiting for the server's first answer", seconds=round(waited), what=what)

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
        if self._successor is not None:
            self._successor.cancel()
        upstream = self._upstream
        if upstream is not None:
            await upstream.drain(grace)

    async def close(self) -> None:
        """End everything of this server now."""
        if self._check is not None:
            self._check.cancel()
        if self._successor is not None:
            self._successor.cancel()
        upstreams = {*self._retiring, *([self._upstream] if self._upstream is not None else [])}
        await asyncio.gather(*(upstream.close() for upstream in upstreams))

    def sweep(self) -> None:
        """Now and then: drop what is old."""
        if self.pipeline.cache is not None:
            self.pipeline.cache.sweep()
        sweep = getattr(self._upstream, "sweep", None)
        if sweep is not None:
            sweep()

    def status(self) -> dict[str, Any]:
        """For `/status`: plain values, no secrets."""
        return status_of(self)

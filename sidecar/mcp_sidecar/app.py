"""The sidecar as a whole: makes the parts, starts them, reloads them, and ends them in good order.

The only module that knows all the others; `daemon` makes a process of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mcp_sidecar import __version__, settings
from mcp_sidecar.binding import SidecarMetrics, UnitMetrics
from mcp_sidecar.config.loaded import LoadedConfig, file_hash
from mcp_sidecar.errors import ConfigError
from mcp_sidecar.front.admin import AdminHandler
from mcp_sidecar.front.endpoint import Endpoint
from mcp_sidecar.front.gate import FrontGate
from mcp_sidecar.front.hosts import HostPolicy
from mcp_sidecar.front.limits import ListenerSettings
from mcp_sidecar.front.listener import Listener
from mcp_sidecar.front.replicas import KEPT_IDLE, Forwarding, Replicas
from mcp_sidecar.front.request import Request
from mcp_sidecar.front_files import FrontFiles
from mcp_sidecar.pipeline.stack import Tasks
from mcp_sidecar.probes import SidecarProbes
from mcp_sidecar.protocol.revisions import LATEST_MODERN
from mcp_sidecar.reload import Changes, Reload
from mcp_sidecar.secrets import Redactor, SecretStore, Watcher
from mcp_sidecar.telemetry.audit import ArgumentMode, Audit, AuditPolicy
from mcp_sidecar.telemetry.catalogue import Catalogue
from mcp_sidecar.telemetry.lines import LineWriter
from mcp_sidecar.telemetry.log import Level, Log
from mcp_sidecar.telemetry.metrics import Registry
from mcp_sidecar.telemetry.process import LoopLag, ProcessMetrics
from mcp_sidecar.telemetry.record import CallRecorder
from mcp_sidecar.unit import ServerUnit
from mcp_sidecar.upstream.connection_quota import ConnectionQuota
from mcp_sidecar.upstream.start_limiter import StartLimiter
from mcp_sidecar.upstreams import Made, UpstreamFactory

if TYPE_CHECKING:
    from mcp_sidecar.config import Config

_SWEEP: Final = 30.0
"""Seconds between two looks for what is old; more often where a session may idle for less than four of them."""
_FAREWELL: Final = 2.0
"""Seconds after SIGTERM in which callers on kept connections are served once more, and told to go elsewhere."""
_NOTICE: Final = 5.0
"""Seconds after which a server that has not answered yet is mentioned in the log: npx and uvx download first."""


class Sidecar:
    """One running sidecar. Make it on the loop it runs on. Raises ConfigError where files of the front are bad."""

    def __init__(self, loaded: LoadedConfig, log: Log, log_writer: LineWriter) -> None:
        config: Config = loaded.config
        self.loaded = loaded
        self.config = config
        self.log = log
        self.serving = False
        self.shutting_down = False
        self.redactor = Redactor()
        self.reloading = Reload()
        self.tasks = Tasks()
        self._clock = time.monotonic
        log_writer.redact = self.redactor.redact
        self.registry = Registry()
        self.catalogue = Catalogue(self.registry)
        ProcessMetrics(self.registry)
        self.lag = LoopLag(self.catalogue.loop_lag.labels(), clock=self._clock)
        self.catalogue.build(__version__, LATEST_MODERN)
        self._audit_writer = LineWriter(1, redact=self.redactor.redact, name="audit")
        self._audit = Audit(self._audit_writer)
        self.recorder = CallRecorder(
            self.catalogue,
            log,
            self._audit,
            clock=self._clock,
        )
        self.watcher = Watcher(config.secrets.poll_interval)
        self._files = FrontFiles(log, self.catalogue, self.watcher)
        address = settings.address(config)
        self.store = SecretStore(config, directory=loaded.directory, redactor=self.redactor, clock=self._clock)
        self._unwatch_secrets = self._watch_secrets()
        quota = config.max_concurrent_connections
        self.factory = UpstreamFactory(
            clock=self._clock,
            rng=random.random,
            log=log,
            redactor=self.redactor,
            limiter=StartLimiter(config.max_concurrent_starts),
            quota=ConnectionQuota(quota) if quota is not None else None,
            spawn=self.tasks,
            instance=os.urandom(6).hex(),
            address=address,
        )
        self.units: dict[str, ServerUnit] = {}
        self._leaving: set[ServerUnit] = set()
        self.gate = FrontGate(HostPolicy((), ()))
        self.sessions, session_key = self._files.sessions(loaded, address)
        self.endpoint = Endpoint(
            {}, self.gate, self.sessions, self.recorder, clock=self._clock, run_id=os.urandom(3).hex() + "-"
        )
        self.tls = self._files.tls(loaded)
        self.addresses: dict[str, tuple[str, int]] = {}
        if address:
            self.endpoint.replicas = Replicas(
                address,
                session_key,
                port=lambda: self.addresses["mcp"][1],
                tls=self.tls,
                on_done=self._forwarded,
                clock=self._clock,
            )
        self.listener = Listener(
            self.endpoint, settings.listener(config.front), clock=self._clock, handler_failed=self._handler_failed
        )
        self.probes = SidecarProbes(self)
        self.admin = Listener(AdminHandler(self.probes), ListenerSettings(max_body_bytes=1024))
        self._collectors: dict[str, UnitMetrics] = {}
        self._own_metrics = SidecarMetrics(self)
        self.registry.on_collect(self._collect)
        self._apply()

    # --- the parts

    def _apply(self) -> None:
        """Use the tunables of the config as it is now, but for those of the servers."""
        config = self.config
        replicas = self.endpoint.replicas
        own = (replicas.address,) if replicas is not None else ()
        self.gate.hosts = HostPolicy((*config.front.allowed_hosts, *own), config.front.allowed_origins)
        if replicas is not None:
            replicas.idle_timeout = min(KEPT_IDLE, config.front.idle_timeout / 2)
        self.gate.tokens = self._files.tokens(self.loaded)
        self.listener.reconfigure(settings.listener(config.front))
        self.sessions.reconfigure(settings.sessions(config))
        self.endpoint.max_batch = config.front.max_calls_per_connection
        self.watcher.interval = config.secrets.poll_interval
        self.log.level = Level[config.log.level.upper()]
        self._audit.arguments = ArgumentMode[config.audit.arguments.upper()]
        self._audit.policy = AuditPolicy[config.audit.on_full.upper()]
        self.recorder.log = self.log if config.log.calls else None
        self.recorder.audit = self._audit if config.audit.enabled else None
        self.recorder.reconfigure(
            max_tool_labels=config.metrics.max_tool_labels, tool_histograms=config.metrics.tool_histograms
        )

    def _make_unit(self, name: str) -> ServerUnit:
        def make() -> Made:
            return self.factory.make(
                name, self.config, self.store.servers[name], self.loaded.directory, unit.changed, sse=unit.speaks_sse
            )

        unit = ServerUnit(
            name,
            self.config.servers[name],
            make,
            recorder=self.recorder,
            log=self.log,
            tasks=self.tasks,
            clock=self._clock,
        )
        return unit

    def _collect(self) -> None:
        self._own_metrics.collect()
        for metrics in self._collectors.values():
            metrics.collect()

    def _handler_failed(self, request: Request, error: BaseException | None) -> None:
        """A defect of ours: the caller got a plain 500, the log gets the place."""
        place = "".join(traceback.format_exception(error)[-6:]) if error is not None else "no answer"
        self.log.error("a request was not handled", path=request.path, method=request.method, error=place)

    def _forwarded(self, done: Forwarding) -> None:
        """A request of a session that another replica holds was passed on."""
        self.catalogue.forwarded_requests.labels(done.outcome).inc()
        if self.recorder.log is not None:
            detail = {"detail": done.detail} if done.detail else {}
            self.log.info(
                "forwarded",
                method=done.method,
                replica=done.address,
                outcome=done.outcome,
                ms=round(done.seconds * 1000, 3),
                **detail,
            )

    # --- life

    async def start(self) -> None:
        """Open the ports and start the servers. Raises OSError where a port cannot be had."""
        config, front = self.config, self.config.front
        for warning in self.loaded.warnings:
            self.log.warning("config", path=warning.path, note=warning.message)
        self.lag.start()
        self.addresses["admin"] = await self.admin.start(front.admin_host, front.admin_port)
        self._serve_servers()
        tls = self.tls
        self.addresses["mcp"] = await self.listener.start(front.host, front.port, tls.context if tls else None)
        self.serving = True
        self._tell_config()
        scheme = "https" if tls else "http"
        host, port = self.addresses["mcp"]
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        admin_host, admin_port = self.addresses["admin"]
        paths = [f"/servers/{name}/mcp" for name in self.units]
        self.log.info(
            "serving",
            version=__version__,
            url=f"{scheme}://{authority}{'/mcp' if len(paths) == 1 else ''}",
            admin=f"http://{admin_host}:{admin_port}",
            paths=paths,
            config=self.loaded.source,
            config_hash=config.config_hash(),
        )
        self.tasks(self._watch(), "watch files")
        self.tasks(self._sweep(), "sweep")
        self.tasks(self._announce_slow_starts(), "slow starts")

    async def _watch(self) -> None:
        path = self.loaded.path
        if path is not None:
            self.watcher.add([path], self.reload)
            try:
                written = file_hash(await asyncio.to_thread(path.read_bytes)) != self.loaded.file_hash
            except OSError:
                written = False
            if written:  # after it was read and before it was watched
                try:
                    await self.reload()
                except ConfigError:
                    pass  # told by `reload`
        await self.watcher.run()

    def _serve_servers(self) -> None:
        """Make units for the servers of the config that have none, and serve them all."""
        for name in self.config.enabled_servers:
            if name not in self.units:
                unit = self.units[name] = self._make_unit(name)
                self._collectors[name] = UnitMetrics(self.catalogue, unit)
                unit.start()
        audit = self._audit
        for unit in self.units.values():
            blocks = self.recorder.audit is not None and audit.policy is AuditPolicy.BLOCK
            unit.server.admit = audit.admit if blocks else None
        self.endpoint.serve({name: unit.server for name, unit in self.units.items()})

    def _watch_secrets(self) -> Callable[[], None]:
        return self.store.watch(self.watcher, self._secret_changed, self._secret_failed)

    def _secret_failed(self, name: str, failure: str) -> None:
        self.catalogue.secret_reloads.labels(name, "error").inc()
        self.log.error("the new secrets cannot be used; the old ones stay in use", server=name, error=failure)

    def _secret_changed(self, name: str) -> None:
        unit = self.units.get(name)
        self.catalogue.secret_reloads.labels(name, "ok").inc()
        if unit is not None:
            self.log.info("secrets changed: new connections and processes use them", server=name)
            unit.rotate()

    async def reload(self) -> None:
        """Read the config again. A bad one is refused, reported and counted; the running one stays."""
        try:
            loaded = await asyncio.to_thread(self.loaded.reload)
            changes = self.reloading.compare(self.config, loaded.config)
            store = SecretStore(loaded.config, directory=loaded.directory, redactor=self.redactor, clock=self._clock)
        except ConfigError as error:
            self.reloading.refuse(error)
            self.catalogue.config_reloads.labels("refused").inc()
            self.log.error(
                "the new config is refused; the old one stays in use", problems=[str(p) for p in error.problems]
            )
            raise
        if self.shutting_down:
            return
        if changes.nothing:
            self.loaded = loaded  # says the same in another text
            self._tell_config()
            self.reloading.last_refusal = []
            return
        replaced = set(changes.replaced)
        if "secrets.keyFile" in changes.changed:
            replaced |= set(loaded.config.enabled_servers)
        store.adopt(self.store, set(loaded.config.enabled_servers) - replaced)
        self._unwatch_secrets()
        self.loaded, self.config, self.store = loaded, loaded.config, store
        self._unwatch_secrets = self._watch_secrets()
        self._apply()
        for name in [name for name in self.units if name not in self.config.enabled_servers]:
            self._remove(name)
        for name, unit in self.units.items():
            unit.reconfigure(self.config.servers[name], self.config, replace=name in replaced)
        self._serve_servers()
        self._report(changes, replaced)

    def _tell_config(self) -> None:
        self.catalogue.config_in_use(self.config.config_hash(), self.loaded.file_hash)

    def _report(self, changes: Changes, replaced: set[str]) -> None:
        self.reloading.succeed()
        self.catalogue.config_reloads.labels("ok").inc()
        self._tell_config()
        self.log.info(
            "new config in use",
            config_hash=self.config.config_hash(),
            replaced=sorted(replaced & set(self.units)),
            needs_restart=sorted(changes.needs_restart),
        )
        for warning in self.loaded.warnings:
            self.log.warning("config", path=warning.path, note=warning.message)

    def _remove(self, name: str) -> None:
        unit = self.units.pop(name)
        self._collectors.pop(name)
        unit.server.refusal = f"server {name} was taken out of the config"
        self._leaving.add(unit)
        self.tasks(self._let_go(unit), f"remove {name}")

    async def _let_go(self, unit: ServerUnit) -> None:
        try:
            await unit.drain(unit.config.total_timeout)
            await unit.close()
        finally:
            self._leaving.discard(unit)
            if unit.name not in self.units:
                self.recorder.remove_server(unit.name)

    async def _sweep(self) -> None:
        while True:
            idle = self.config.sessions.idle_timeout
            await asyncio.sleep(max(0.25, min(_SWEEP, idle / 4)))
            for unit in self.units.values():
                unit.sweep()
            for session in self.sessions.idle_since(idle):
                holder = self.units.get(session.server)
                if holder is None or holder.upstream is None or holder.upstream.rest(session):
                    self.sessions.forget(session)

    async def _announce_slow_starts(self) -> None:
        """Say what is being waited for, as long as anything is; less and less often."""
        while True:
            await asyncio.sleep(_NOTICE)
            for unit in self.units.values():
                unit.announce()

    async def stop(self) -> None:
        """Not ready at once, streams ended, callers sent away, calls drained, the rest cancelled, no process left."""
        grace = self.config.shutdown.grace_period
        began = self._clock()
        self.shutting_down = True
        self.log.info("shutting down", grace_seconds=grace, calls=self.listener.open_requests)
        await self.endpoint.end_streams()
        await self.listener.farewell(min(_FAREWELL, grace))
        self.endpoint.shutting_down = True
        # callers are told to go elsewhere until the last call is over; after that there is nobody to tell them
        if not await self.listener.finish(max(0.0, grace - (self._clock() - began))):
            self.log.warning("calls were cancelled", calls=self.listener.open_requests)
        await self.listener.close()
        if self.endpoint.replicas is not None:
            self.endpoint.replicas.close()
        units = [*self.units.values(), *self._leaving]
        await asyncio.gather(*(unit.close() for unit in units), return_exceptions=True)
        await self.tasks.cancel()
        self.lag.stop()
        await self.admin.close()
        self.log.info("stopped", seconds=round(self._clock() - began, 3))

    def close_writers(self) -> None:
        """Write what is left of the audit."""
        self._audit_writer.close()

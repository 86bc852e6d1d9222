"""The sidecar as a whole: makes the parts, starts them, reloads them, and ends them in good order.

The only module that knows all the others.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mcp_sidecar import __version__, settings
from mcp_sidecar.binding import UnitMetrics
from mcp_sidecar.config.loaded import LoadedConfig
from mcp_sidecar.config.patterns import NamePatterns
from mcp_sidecar.errors import ConfigError, Problem, SecretError
from mcp_sidecar.front.admin import AdminHandler
from mcp_sidecar.front.endpoint import Endpoint
from mcp_sidecar.front.gate import FrontGate
from mcp_sidecar.front.hosts import HostPolicy
from mcp_sidecar.front.limits import ListenerSettings
from mcp_sidecar.front.listener import Listener
from mcp_sidecar.front.request import Request
from mcp_sidecar.front.sessions import Sessions, load_key
from mcp_sidecar.front.tls import ServerTls, TlsFiles
from mcp_sidecar.front.tokens import BearerTokens, TokenFile
from mcp_sidecar.pipeline.stack import Tasks
from mcp_sidecar.probes import SidecarProbes
from mcp_sidecar.protocol.revisions import LATEST_MODERN
from mcp_sidecar.reaper import Reaper, become_subreaper
from mcp_sidecar.reload import Reload
from mcp_sidecar.secrets import Redactor, SecretStore, Watcher
from mcp_sidecar.telemetry.audit import ArgumentMode, Audit, AuditPolicy
from mcp_sidecar.telemetry.catalogue import Catalogue
from mcp_sidecar.telemetry.lines import LineWriter
from mcp_sidecar.telemetry.log import Level, Log, bridge, open_log
from mcp_sidecar.telemetry.metrics import Registry
from mcp_sidecar.telemetry.process import LoopLag, ProcessMetrics
from mcp_sidecar.telemetry.record import CallRecorder
from mcp_sidecar.unit import ManagedUpstream, ServerUnit
from mcp_sidecar.upstream.start_limiter import StartLimiter
from mcp_sidecar.upstreams import UpstreamFactory

if TYPE_CHECKING:
    from mcp_sidecar.config import Config

_SWEEP: Final = 30.0
_STARTING_NOTICE: Final = 5.0
"""Seconds after which a server that has not answered yet is mentioned in the log: npx and uvx download first."""


class Sidecar:
    """One running sidecar. Make it on the loop it runs on."""

    def __init__(self, loaded: LoadedConfig, log: Log, log_writer: LineWriter) -> None:
        config = loaded.config
        self.loaded = loaded
        self.config: Config = config
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
        self.recorder = CallRecorder(
            self.catalogue,
            log if config.log.calls else None,
            self._make_audit(config),
            max_tool_labels=config.metrics.max_tool_labels,
            clock=self._clock,
        )
        self.watcher = Watcher(config.secrets.poll_interval)
        self.store = SecretStore(config, directory=loaded.directory, redactor=self.redactor, clock=self._clock)
        self.limiter = StartLimiter(config.max_concurrent_starts)
        self.factory = UpstreamFactory(
            clock=self._clock,
            rng=random.random,
            log=log,
            redactor=self.redactor,
            limiter=self.limiter,
            spawn=self.tasks,
            instance=os.urandom(6).hex(),
        )
        self.units: dict[str, ServerUnit] = {}
        self._collectors: dict[str, UnitMetrics] = {}
        self.registry.on_collect(self._collect)
        self.gate = FrontGate(HostPolicy(config.front.allowed_hosts, config.front.allowed_origins))
        self._tokens(config)
        self.sessions = self._make_sessions(config)
        self.endpoint = Endpoint(
            {},
            self.gate,
            self.sessions,
            self.recorder,
            max_batch=config.front.max_calls_per_connection,
            clock=self._clock,
            run_id=os.urandom(3).hex() + "-",
        )
        self.tls = self._make_tls(config)
        self.listener = Listener(
            self.endpoint, settings.listener(config.front), clock=self._clock, handler_failed=self._handler_failed
        )
        self.admin = Listener(AdminHandler(SidecarProbes(self)), ListenerSettings(max_body_bytes=1024))
        self.addresses: dict[str, tuple[str, int]] = {}

    # --- making the parts

    def _path(self, name: str) -> Path:
        return self.loaded.directory / Path(name).expanduser()

    def _make_audit(self, config: Config) -> Audit | None:
        if not config.audit.enabled:
            return None
        return Audit(
            self._audit_writer,
            arguments=ArgumentMode[config.audit.arguments.upper()],
            policy=AuditPolicy[config.audit.on_full.upper()],
        )

    def _make_sessions(self, config: Config) -> Sessions:
        whole = config.sessions
        state = self._path(whole.state_directory) if whole.state_directory else _state_directory()
        key_file = self._path(whole.key_file) if whole.key_file else None
        try:
            key = load_key(key_file, state)
        except SecretError as error:
            if key_file is not None:
                raise ConfigError([Problem("sessions.keyFile", str(error))], self.loaded.source) from None
            self.log.warning("session ids will not outlive this process", error=str(error))
            key = os.urandom(32)
        deleted = state / "deleted-sessions" if state.is_dir() else None
        return Sessions(key, settings.sessions(config), deleted_file=deleted)

    def _make_tls(self, config: Config) -> ServerTls | None:
        tls = config.front.tls
        if tls is None:
            return None
        ca = self._path(tls.client_ca_file) if tls.client_ca_file else None
        files = TlsFiles(self._path(tls.cert_file), self._path(tls.key_file), ca)
        try:
            context = ServerTls(files)
        except SecretError as error:
            raise ConfigError([Problem("front.tls", str(error))], self.loaded.source) from None
        watched = [files.cert_file, files.key_file, *([ca] if ca is not None else [])]
        self.watcher.add(watched, lambda: self._reread("tls", context.reload, lambda: context.problem))
        return context

    def _tokens(self, config: Config) -> None:
        if not config.front.tokens:
            self.gate.tokens = None
            return
        files = [
            TokenFile(token.name, self._path(token.file), NamePatterns(token.tools)) for token in config.front.tokens
        ]
        tokens = self.gate.tokens = BearerTokens(files)
        for problem in tokens.problems:
            self.log.error("a bearer token cannot be used", error=problem)
        self.watcher.add(
            [entry.file for entry in files],
            lambda: self._reread("tokens", tokens.reload, lambda: "; ".join(tokens.problems)),
        )

    def _reread(self, what: str, read: Callable[[], bool], problem: Callable[[], str]) -> None:
        changed = read()
        wrong = problem()
        self.catalogue.secret_reloads.labels(what, "error" if wrong else "ok").inc()
        if wrong:
            self.log.error(f"{what}: the new files cannot be used", error=wrong)
            raise SecretError(wrong)
        if changed:
            self.log.info(f"{what}: new files are in use")

    def _make_unit(self, name: str) -> ServerUnit:
        def make(name: str, _: object) -> ManagedUpstream:
            unit = self.units[name]
            return self.factory.make(
                name, self.config, self.store.servers[name], self.loaded.directory, unit.changed, sse=unit.speaks_sse
            )

        return ServerUnit(
            name,
            self.config.servers[name],
            make,
            recorder=self.recorder,
            log=self.log,
            tasks=self.tasks,
            clock=self._clock,
        )

    def _collect(self) -> None:
        for metrics in self._collectors.values():
            metrics.collect()
        self.catalogue.front_connections.labels().set(self.listener.open_connections)
        for name, unit in self.units.items():
            age = self.store.age(name)
            if age is not None:
                self.catalogue.secret_age.labels(name).set(age)
            count = sum(1 for session in self.sessions.known() if session.server == name)
            self.catalogue.sessions.labels(name).set(count)
            del unit

    def _handler_failed(self, request: Request, error: BaseException | None) -> None:
        """A defect of ours: the caller got a plain 500, the log gets the place."""
        place = "".join(traceback.format_exception(error)[-6:]) if error is not None else "no answer"
        self.log.error("a request was not handled", path=request.path, method=request.method, error=place)

    # --- life

    async def start(self) -> None:
        """Open the ports and start the servers. Raises OSError where a port cannot be had."""
        config, front = self.config, self.config.front
        self.lag.start()
        self.addresses["admin"] = await self.admin.start(front.admin_host, front.admin_port)
        self._serve_servers()
        tls = self.tls
        self.addresses["mcp"] = await self.listener.start(front.host, front.port, tls.context if tls else None)
        self.serving = True
        self.catalogue.config_in_use(config.config_hash())
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
        for warning in self.loaded.warnings:
            self.log.warning("config", path=warning.path, note=warning.message)
        self.store.watch(self.watcher, self._secret_changed)
        if self.loaded.path is not None:
            self.watcher.add([self.loaded.path], self.reload)
        self.tasks(self.watcher.run(), "watch files")
        self.tasks(self._sweep(), "sweep")
        self.tasks(self._announce_slow_starts(), "slow starts")

    def _serve_servers(self) -> None:
        """Make units for the servers of the config that have none, and serve them all."""
        for name in self.config.enabled_servers:
            if name not in self.units:
                unit = self.units[name] = self._make_unit(name)
                self._collectors[name] = UnitMetrics(self.catalogue, unit)
                unit.start()
        self.endpoint.serve({name: unit.server for name, unit in self.units.items()})

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
        if changes.nothing:
            return
        self.loaded, self.config, self.store = loaded, loaded.config, store
        store.watch(self.watcher, self._secret_changed)
        self._apply(changes.replaced)
        self.reloading.succeed(changes)
        self.catalogue.config_reloads.labels("ok").inc()
        self.catalogue.config_in_use(loaded.config.config_hash())
        self.log.info(
            "new config in use",
            config_hash=loaded.config.config_hash(),
            replaced=sorted(changes.replaced),
            needs_restart=sorted(changes.needs_restart),
        )

    def _apply(self, replaced: set[str]) -> None:
        config = self.config
        self.gate.hosts = HostPolicy(config.front.allowed_hosts, config.front.allowed_origins)
        self._tokens(config)
        self.listener.reconfigure(settings.listener(config.front))
        self.sessions.reconfigure(settings.sessions(config))
        self.endpoint.max_batch = config.front.max_calls_per_connection
        self.watcher.interval = config.secrets.poll_interval
        self.log.level = Level[config.log.level.upper()]
        self.recorder.log = self.log if config.log.calls else None
        self.recorder.audit = self._make_audit(config)
        for name in [name for name in self.units if name not in config.enabled_servers]:
            unit = self.units.pop(name)
            del self._collectors[name]
            self.tasks(self._remove(unit), f"remove {name}")
        for name, unit in self.units.items():
            unit.reconfigure(config.servers[name], replace=name in replaced)
        self._serve_servers()

    async def _remove(self, unit: ServerUnit) -> None:
        await unit.drain(self.config.shutdown.grace_period)
        await unit.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            for unit in self.units.values():
                unit.sweep()

    async def _announce_slow_starts(self) -> None:
        """Say what is being waited for, as long as anything is."""
        waited = 0.0
        while any(not unit.health.answered for unit in self.units.values()):
            await asyncio.sleep(_STARTING_NOTICE)
            waited += _STARTING_NOTICE
            for name, unit in self.units.items():
                if not unit.health.answered:
                    what = unit.waiting_for()
                    self.log.warning(
                        "still waiting for the server's first answer", server=name, seconds=waited, what=what
                    )

    async def stop(self) -> None:
        """Not ready at once, no new calls, streams ended, calls drained, the rest cancelled, no process left."""
        grace = self.config.shutdown.grace_period
        began = self._clock()
        self.shutting_down = self.endpoint.shutting_down = True
        self.log.info("shutting down", grace_seconds=grace, calls=self.listener.open_requests)
        await self.endpoint.end_streams()
        drained = await self.listener.drain(max(0.0, grace - (self._clock() - began)))
        if not drained:
            self.log.warning("calls were cancelled", calls=self.listener.open_requests)
        self.listener.stop_accepting()
        await self.listener.close()
        await asyncio.gather(*(unit.close() for unit in self.units.values()), return_exceptions=True)
        await self.tasks.cancel()
        self.lag.stop()
        await self.admin.close()
        self.log.info("stopped", seconds=round(self._clock() - began, 3))

    def close_writers(self) -> None:
        """Write what is left of the audit."""
        self._audit_writer.close()


def _state_directory() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "outrigger"


async def _main(loaded: LoadedConfig, log: Log, writer: LineWriter) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    sidecar = Sidecar(loaded, log, writer)
    if os.getpid() != 1:
        become_subreaper()
    reaper = Reaper()
    reaper.start()
    second = False

    def end() -> None:
        nonlocal second
        if second:
            log.warning("second signal: ending at once")
            for task in asyncio.all_tasks():
                task.cancel()
        second = True
        ended.set()

    async def reload() -> None:
        try:
            await sidecar.reload()
        except ConfigError:
            return

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, lambda: sidecar.tasks(reload(), "reload"))
    try:
        await sidecar.start()
        await ended.wait()
    finally:
        await sidecar.stop()
        reaper.stop()
        sidecar.close_writers()


def run(loaded: LoadedConfig) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status: 0, 1 where a port cannot be had, 2 for a bad config."""
    import uvloop

    level = Level[loaded.config.log.level.upper()]
    log, writer = open_log(level=level)
    undo = bridge(log)
    try:
        uvloop.run(_main(loaded, log, writer))
    except asyncio.CancelledError:
        return 1
    except OSError as error:
        log.error("cannot serve", error=error.strerror or str(error), address=str(error.filename or ""))
        return 1
    finally:
        undo()
        writer.close()
    return 0

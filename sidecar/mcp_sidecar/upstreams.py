"""Makes the upstream of a configured server: which transport, with which values, tied to what it may tell.

The values are read when the upstream is made, and by stdio servers again at each start of a process, so that a rotation
reaches new connections and processes and nothing else. Tunables reach an upstream by what `make` gives beside it: an
upstream that is being replaced must not see the address or the command of its successor.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mcp_sidecar import settings
from mcp_sidecar.pipeline.singleflight import Spawn
from mcp_sidecar.secrets import Redactor, ServerSecrets
from mcp_sidecar.telemetry.log import Log
from mcp_sidecar.upstream.audience import OnChange
from mcp_sidecar.upstream.channel import Channel
from mcp_sidecar.upstream.channel_upstream import ChannelUpstream
from mcp_sidecar.upstream.child import ChildChannel
from mcp_sidecar.upstream.child_pool import ChildPool
from mcp_sidecar.upstream.connection_quota import ConnectionQuota
from mcp_sidecar.upstream.http_server import HttpServer
from mcp_sidecar.upstream.http_upstream import HttpUpstreamSettings
from mcp_sidecar.upstream.process import child_environment
from mcp_sidecar.upstream.route import is_local
from mcp_sidecar.upstream.shared_processes import SharedPeer, Started
from mcp_sidecar.upstream.shared_server import SharedServer
from mcp_sidecar.upstream.socket_channel import SocketChannel, SocketSettings
from mcp_sidecar.upstream.sse_channel import SseChannel, SseSettings
from mcp_sidecar.upstream.start_limiter import StartLimiter

if TYPE_CHECKING:
    from mcp_sidecar import config


class Made(NamedTuple):
    """An upstream, and what takes it to another config whose address, command and credentials are the same."""

    upstream: HttpServer | ChannelUpstream
    tune: Callable[[config.Config], None]


class UpstreamFactory:
    """Makes upstreams that share the sidecar's counter of ids and its limits of starts and connections."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        rng: Callable[[], float],
        log: Log,
        redactor: Redactor,
        limiter: StartLimiter,
        quota: ConnectionQuota | None,
        spawn: Spawn,
        instance: str,
        address: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.ids = itertools.count(1).__next__
        self._clock = clock
        self._rng = rng
        self._log = log
        self._redactor = redactor
        self._limiter = limiter
        self._quota = quota
        self._spawn = spawn
        self._instance = instance
        self._address = address
        self._environ = os.environ if environ is None else environ

    def make(
        self,
        name: str,
        whole: config.Config,
        secrets: ServerSecrets,
        directory: Path,
        on_change: OnChange,
        *,
        sse: bool = False,
    ) -> Made:
        """The upstream of one server. `sse`: its URL was found to speak the old transport. Raises SecretError for
        values that cannot be had, ValueError for ones that cannot be used."""
        server = whole.servers[name]
        if server.kind == "StreamableHTTP" and not sse:
            return self._http(name, whole, secrets, directory, on_change)
        return self._channels(name, whole, secrets, directory, on_change, sse=sse or server.kind == "SSE")

    def _http(
        self, name: str, whole: config.Config, secrets: ServerSecrets, directory: Path, on_change: OnChange
    ) -> Made:
        url = secrets.values().url or ""

        def chosen(whole: config.Config) -> HttpUpstreamSettings:
            server = whole.servers[name]
            return settings.http(name, server, settings.dial(server, url, directory))

        upstream = HttpServer(
            chosen(whole),
            ids=self.ids,
            headers=lambda: secrets.values().headers,
            clock=self._clock,
            rng=self._rng,
            environ=self._environ,
            quota=self._quota,
            address=self._address if is_local(url) else "",
        )
        upstream.on_change = on_change
        return Made(upstream, lambda whole: upstream.reconfigure(chosen(whole)))

    def _channels(
        self,
        name: str,
        whole: config.Config,
        secrets: ServerSecrets,
        directory: Path,
        on_change: OnChange,
        *,
        sse: bool,
    ) -> Made:
        log = self._log.bind(server=name)

        def report(kind: str, sample: bytes) -> None:
            log.warning("the server sent what is not understood", kind=kind, sample=sample.decode("utf-8", "replace"))

        secrets.values()  # a server whose values cannot be had must not be started

        def open_channel() -> Channel:
            server = whole.servers[name]
            if sse:
                dialled = settings.dial(server, secrets.values().url or "", directory)
                return SseChannel(
                    SseSettings(dial=dialled, event_limit=server.limits.max_response_bytes),
                    headers=lambda: secrets.values().headers,
                    clock=self._clock,
                    environ=self._environ,
                )
            if server.socket is not None:
                path = directory / Path(server.socket).expanduser()
                return SocketChannel(SocketSettings(path=str(path), line_limit=server.limits.max_response_bytes))
            return self._child(whole, server, secrets, log)

        def make_processes(started: Started, probe: Started) -> ChildPool:
            return ChildPool(
                settings.processes(whole.servers[name]),
                open_channel,
                make_peer=lambda: SharedPeer(shared.audience),
                on_started=started,
                probe=probe,
                ids=self.ids,
                limiter=self._limiter,
                clock=self._clock,
                rng=self._rng,
                spawn=self._spawn,
                report=report,
                name=name,
            )

        shared = SharedServer(make_processes, on_change=on_change, clock=self._clock)
        upstream = ChannelUpstream(
            settings.channel(whole, whole.servers[name], sse=sse, address=self._address),
            None if sse else shared,
            open_channel=open_channel,
            ids=self.ids,
            clock=self._clock,
            report=report,
            instance=self._instance,
        )

        def tune(changed: config.Config) -> None:
            nonlocal whole
            whole = changed
            server = whole.servers[name]
            upstream.reconfigure(settings.channel(whole, server, sse=sse, address=self._address))
            for pool in upstream.pools():
                pool.reconfigure(settings.processes(server))

        return Made(upstream, tune)

    def _child(self, whole: config.Config, server: config.Server, secrets: ServerSecrets, log: Log) -> ChildChannel:
        values = secrets.values()
        assert values.command is not None
        return ChildChannel(
            settings.child(whole, server, values.command, values.args, values.working_dir),
            environment=lambda: child_environment(secrets.values().env, self._environ),
            clock=self._clock,
            log=lambda line: log.info("stderr", line=line),
            redact=self._redactor.redact,
        )

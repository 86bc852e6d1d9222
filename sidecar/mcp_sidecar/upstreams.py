"""Makes the upstream of a configured server: which transport, with which values, tied to what it may tell.

The values are read when the upstream is made, and by stdio servers again at each start of a process, so that a rotation
reaches new connections and processes and nothing else.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_sidecar import settings
from mcp_sidecar.pipeline.singleflight import Spawn
from mcp_sidecar.secrets import Redactor, ServerSecrets
from mcp_sidecar.telemetry.log import Log
from mcp_sidecar.upstream.audience import OnChange
from mcp_sidecar.upstream.channel import Channel
from mcp_sidecar.upstream.channel_upstream import ChannelUpstream
from mcp_sidecar.upstream.child import ChildChannel, ChildSettings
from mcp_sidecar.upstream.child_pool import ChildPool, ChildPoolSettings
from mcp_sidecar.upstream.http_server import HttpServer
from mcp_sidecar.upstream.process import child_environment
from mcp_sidecar.upstream.shared_server import SharedPeer, SharedServer, Started
from mcp_sidecar.upstream.socket_channel import SocketChannel, SocketSettings

# from mcp_sidecar.upstream.sse_channel import SseChannel, SseSettings
from mcp_sidecar.upstream.start_limiter import RestartSettings, StartLimiter

if TYPE_CHECKING:
    from mcp_sidecar import config


class UpstreamFactory:
    """Makes upstreams that share the sidecar's counter of ids and its limit of starts."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        rng: Callable[[], float],
        log: Log,
        redactor: Redactor,
        limiter: StartLimiter,
        spawn: Spawn,
        instance: str,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.ids = itertools.count(1).__next__
        self._clock = clock
        self._rng = rng
        self._log = log
        self._redactor = redactor
        self._limiter = limiter
        self._spawn = spawn
        self._instance = instance
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
    ) -> HttpServer | ChannelUpstream:
        """The upstream of one server. `sse`: its URL was found to speak the old transport. Raises SecretError for
        values that cannot be had, ValueError for ones that cannot be used."""
        server = whole.servers[name]
        if server.kind == "StreamableHTTP" and not sse:
            return self._http(name, server, secrets, directory, on_change)
        return self._channels(name, whole, server, secrets, directory, on_change, sse=sse or server.kind == "SSE")

    def _http(
        self, name: str, server: config.Server, secrets: ServerSecrets, directory: Path, on_change: OnChange
    ) -> HttpServer:
        dialled = settings.dial(server, secrets.values().url or "", directory)
        upstream = HttpServer(
            settings.http(name, server, dialled),
            ids=self.ids,
            headers=lambda: secrets.values().headers,
            clock=self._clock,
            rng=self._rng,
            environ=self._environ,
        )
        upstream.on_change = on_change
        return upstream

    def _channels(
        self,
        name: str,
        whole: config.Config,
        server: config.Server,
        secrets: ServerSecrets,
        directory: Path,
        on_change: OnChange,
        *,
        sse: bool,
    ) -> ChannelUpstream:
        log = self._log.bind(server=name)

        def report(kind: str, sample: bytes) -> None:
            log.warning("the server sent what is not understood", kind=kind, sample=sample.decode("utf-8", "replace"))

        secrets.values()  # a server whose values cannot be had must not be started

        def open_channel() -> Channel:
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
            return self._child(server, secrets, whole.log.stderr_lines_per_second, log)

        def make_processes(started: Started, probe: Started) -> ChildPool:
            return ChildPool(
                ChildPoolSettings(
                    size=server.processes,
                    acquire_timeout=server.start_timeout,
                    start_timeout=server.start_timeout,
                    drain_timeout=server.total_timeout,
                    probe_timeout=server.health.timeout,
                    restart=RestartSettings(
                        base=server.restart.backoff_base,
                        cap=server.restart.backoff_max,
                        reset_after=server.restart.reset_after,
                    ),
                ),
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
        return ChannelUpstream(
            settings.channel(whole, server),
            None if sse else shared,
            open_channel=open_channel,
            ids=self.ids,
            clock=self._clock,
            report=report,
            instance=self._instance,
        )

    def _child(self, server: config.Server, secrets: ServerSecrets, stderr_rate: int, log: Log) -> ChildChannel:
        values = secrets.values()
        assert values.command is not None
        return ChildChannel(
            ChildSettings(
                command=values.command,
                args=values.args,
                cwd=values.working_dir,
                line_limit=server.limits.max_response_bytes,
                stdin_grace=server.stop.stdin_grace,
                term_grace=server.stop.term_grace,
                stderr_rate=float(stderr_rate),
            ),
            environment=lambda: child_environment(secrets.values().env, self._environ),
            clock=self._clock,
            log=lambda line: log.info("stderr", line=line),
            redact=self._redactor.redact,
        )

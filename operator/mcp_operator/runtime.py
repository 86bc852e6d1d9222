"""`outrigger run`: one operator process, from its settings to its exit.

Opens the admin port, stands for the Lease, does the leader's work while it holds it (`operation`), and gives it back at
the end. Who loses the Lease exits: a new process is the surest way to forget what is no longer true, and Kubernetes
starts one.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from mcp_operator import __version__
from mcp_operator.admin import AdminServer
from mcp_operator.config import Log, OperatorConfig
from mcp_operator.errors import LeadershipLost, SettingsError
from mcp_operator.kube.client import Client
from mcp_operator.kube.lease import LeaderElection
from mcp_operator.kube.transport import Limits
from mcp_operator.metrics import OperatorMetrics
from mcp_operator.operation import Operation, Progress

log = logging.getLogger(__name__)

_LAG_INTERVAL = 1.0
_LAG_MAX = 30.0
"""Seconds that the event loop may stand still before `/livez` says so."""


@dataclass
class _State:
    progress: Progress
    turned: float
    """When the event loop last turned, monotonic seconds."""


async def run(config: OperatorConfig) -> int:
    """Run the operator until a signal or the loss of the Lease; the exit code.

    Raises SettingsError where the API server or the admin port cannot be used at all.
    """
    configure_logging(config.log)
    stop = asyncio.Event()
    _on_signals(stop)
    metrics = OperatorMetrics()
    state = _State(Progress("connecting"), time.monotonic())
    admin = AdminServer(lambda: _live(state), lambda: _ready(state), metrics.scrape)
    try:
        port = await admin.start(config.admin.host, config.admin.port)
    except OSError as problem:
        raise SettingsError(f"admin port {config.admin.host}:{config.admin.port}: {problem.strerror}") from problem
    turning = asyncio.create_task(_turn(state), name="loop-watch")
    limits = Limits(
        qps=config.api_server.qps,
        burst=config.api_server.burst,
        concurrency=config.api_server.concurrency,
        timeout=config.api_server.timeout,
    )
    try:
        async with await Client.connect(
            config.kubeconfig, config.context, identity=config.identity, limits=limits
        ) as client:
            log.info(
                "outrigger %s, admin port %d, API server %s, %s",
                __version__,
                port,
                client.connection.server,
                f"namespaces {', '.join(config.watch_namespaces)}" if config.watch_namespaces else "all namespaces",
            )
            operation = Operation(config, client, metrics)
            return await _lead(config, client, operation, state, stop)
    finally:
        turning.cancel()
        await admin.close()


async def _lead(
    config: OperatorConfig, client: Client, operation: Operation, state: _State, stop: asyncio.Event
) -> int:
    async def work() -> None:
        log.info("leading as %s", config.identity)
        state.progress = operation.progress
        await operation.run(stop)

    if not config.leader_election.enabled:
        await work()
        return 0
    settings = config.leader_election
    election = LeaderElection(
        client,
        config.namespace,
        settings.lease_name,
        config.identity,
        lease_duration=settings.lease_duration,
        renew_deadline=settings.renew_deadline,
        retry_period=settings.retry_period,
    )
    client.fence = lambda: election.is_leader
    state.progress = Progress("standing by for the Lease", ready=True)
    log.info("standing for Lease %s/%s as %s", config.namespace, settings.lease_name, config.identity)
    standing = asyncio.create_task(election.run(work), name="election")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({standing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if state.progress is not operation.progress:
            standing.cancel()  # a leader ends its work itself, and then gives the Lease back
        await standing
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
    except LeadershipLost as lost:
        log.error("%s; exiting", lost)
        return 1
    finally:
        stopped.cancel()
        standing.cancel()
    return 0


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _turn(state: _State) -> None:
    while True:
        state.turned = time.monotonic()
        await asyncio.sleep(_LAG_INTERVAL)


def _live(state: _State) -> tuple[bool, str]:
    lag = time.monotonic() - state.turned
    return (lag < _LAG_MAX, f"the event loop turned {lag:.1f} s ago")


def _ready(state: _State) -> tuple[bool, str]:
    return state.progress.ready, state.progress.step


def configure_logging(settings: Log) -> None:
    """One line a record on stderr: JSON, or text for people. The libraries' own chatter begins at Warning."""
    handler = logging.StreamHandler(sys.stderr)
    formatter: Callable[[], logging.Formatter] = _json if settings.format == "Json" else _text
    handler.setFormatter(formatter())
    handler.addFilter(_without_kopf_objects)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    if settings.level != "Debug":
        for name in ("kopf", "aiohttp", "asyncio"):
            logging.getLogger(name).setLevel(logging.WARNING)
    # It says that it leaves the signals alone, as it should.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.CRITICAL)


def _without_kopf_objects(record: logging.LogRecord) -> bool:
    """kopf hands its settings and objects on with each record: nothing for a line of text."""
    for name in ("settings", "k8s_ref", "k8s_skip"):
        record.__dict__.pop(name, None)
    return True


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    formatter: logging.Formatter = JsonFormatter(
        "{asctime}{levelname}{name}{message}",
        style="{",
        datefmt="%Y-%m-%dT%H:%M:%SZ",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
    )
    formatter.converter = time.gmtime
    return formatter


def _text() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")

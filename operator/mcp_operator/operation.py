"""Everything that the leader runs: watches, queue, workers, polls. Wires the parts and knows them all.

Order of the start: the informers have listed what exists before the first MCPServer is looked at, or everything would
be applied as if it were new. On stop, workers end the reconcile they are at (each write is whole), then the watches.
Who leads, signals and the admin port are left to `runtime`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mcp_operator.applier import APPLIED, Applier
from mcp_operator.config import OperatorConfig
from mcp_operator.desired import Cluster, Images
from mcp_operator.errors import KubeError, OperatorError
from mcp_operator.first_list import read_all
from mcp_operator.handlers import watch
from mcp_operator.inventory import Inventory
from mcp_operator.kube.client import Client
from mcp_operator.kube.connection import Connection
from mcp_operator.kube.events import EventRecorder
from mcp_operator.kube.informer import Informer
from mcp_operator.kube.resources import DEPLOYMENTS, MCP_SERVERS, POD_MONITORS, PODS, REPLICA_SETS, Resource
from mcp_operator.metrics import OperatorMetrics, Sources
from mcp_operator.observed import ChildView, DeploymentView, PodView, ReplicaSetView
from mcp_operator.pod_reports import PodReports, PollIntervals
from mcp_operator.queue import QueueClosed, WorkQueue
from mcp_operator.reconciler import Reconciler, ReconcilerSettings
from mcp_operator.references import ReadIntervals, References
from mcp_operator.rollouts import FleetRollout
from mcp_operator.session_key import SessionKeys
from mcp_operator.sidecar_status import StatusPoller
from mcp_operator.status_writer import StatusWriter
from mcp_operator.store import Key, Store
from mcp_operator.turns import PodTurns

log = logging.getLogger(__name__)

SELECTOR = "app.kubernetes.io/managed-by=outrigger"
"""Of every object that the operator applies, and of the pods."""

_STOP_GRACE = 5.0
"""Seconds that reconciles under way get at the end."""
_DISCOVERY_INTERVAL = 300.0
"""Seconds between two looks whether PodMonitors are served."""
_LIST_INTERVAL = 2.0
"""Seconds between two tries to list the MCPServers."""
_CRD_INTERVAL = 5.0
"""Seconds between two looks whether the CRD is there."""


@dataclass
class Progress:
    """How far the start got, for `/readyz`."""

    step: str = "starting"
    ready: bool = False


class Operation:
    """The leader's work, from `run` to its end. Used once."""

    def __init__(self, config: OperatorConfig, client: Client, metrics: OperatorMetrics) -> None:
        self._config = config
        self._client = client
        self._metrics = metrics
        self.progress = Progress()
        clock, rng = time.monotonic, random.random
        self._clock = clock
        self.queue: WorkQueue[Key] = WorkQueue(clock=clock, rng=rng)
        self.store = Store(self._marked, clock=clock)
        self.inventory = Inventory(self.queue.add, self._lost)
        self._applier = Applier(client, clock=clock)
        self._poller = StatusPoller(timeout=config.status_poll.timeout, concurrency=config.status_poll.concurrency)
        self._reports = PodReports(
            self._poller,
            self._pods,
            self._reported,
            clock=clock,
            rng=rng,
            intervals=PollIntervals(config.status_poll.active, config.status_poll.idle),
        )
        self._recorder = EventRecorder(client, config.identity)
        self._rollouts: FleetRollout[Key] = FleetRollout(config.max_concurrent_rollouts)
        self._settings = ReconcilerSettings(
            images=Images(
                sidecar=config.images.sidecar_image,
                sidecar_runtime=config.images.sidecar_runtime_image,
                pull_policy=config.images.pull_policy,
                pull_secrets=config.images.pull_secrets,
            ),
            cluster=Cluster(
                domain=config.cluster_domain,
                operator_namespace=config.namespace,
                operator_labels=config.operator_labels,
                monitoring_from=config.monitoring_from,
            ),
            allowed_service_accounts=config.allowed_service_accounts,
            resync_interval=config.resync_interval,
        )
        polls = config.secret_poll
        self._statuses = StatusWriter(client, self._recorder, clock=clock)
        self.reconciler = Reconciler(
            client=client,
            store=self.store,
            inventory=self.inventory,
            applier=self._applier,
            references=References(
                client,
                clock=clock,
                rng=rng,
                intervals=ReadIntervals(polls.missing, polls.missing_max, polls.resolved),
            ),
            session_keys=SessionKeys(client, clock=clock),
            reports=self._reports,
            turns=PodTurns(self._rollouts, self.store, self.inventory, self._settings.images, self._mark),
            statuses=self._statuses,
            settings=self._settings,
            clock=clock,
            rng=rng,
            timestamp=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        self._informers: dict[Resource, Informer[Any]] = {}
        self._background: list[asyncio.Task[None]] = []
        self._draining = False

    # What the parts tell

    def _marked(self, key: Key, urgent: bool) -> None:
        self.queue.add(key, urgent=urgent)

    def _reported(self, key: Key) -> None:
        self.queue.add(key, urgent=False)

    def _lost(self, key: Key, kind: str, name: str, uid: str) -> None:
        self._applier.lost(key, kind, name, uid)

    def _pods(self, key: Key) -> tuple[PodView, ...]:
        entry = self.store.get(key)
        return self.inventory.of(key, entry.uid).pods if entry is not None else ()

    def _mark(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.queue.add(key, urgent=False)

    # The work

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`. Raises what ends it before: a bug, or credentials that are refused."""
        self._publish()
        try:
            await self._wait_for_crd(stop)
            if not stop.is_set():
                await self._operate(stop)
        finally:
            await self._poller.close()

    async def _operate(self, stop: asyncio.Event) -> None:
        has_pod_monitor = await self._client.serves(POD_MONITORS)
        self.reconciler.settings = self._with_pod_monitor(has_pod_monitor)
        async with asyncio.TaskGroup() as group:
            try:
                for resource in (*APPLIED, REPLICA_SETS, PODS):
                    if resource is not POD_MONITORS or has_pod_monitor:
                        self._inform(group, resource)
                self._spawn(group, self._recorder.run(), "events")
                self._spawn(group, self._reports.run(), "polls")
                self._spawn(group, self._discover(group), "discovery")
                for resource, informer in self._informers.items():
                    self.progress.step = f"reading {resource}"
                    await self._either(informer.synced, stop)
                listed = asyncio.Event()
                self.progress.step = f"reading {MCP_SERVERS}"
                self._spawn(group, self._list_servers(listed), "list")
                await self._either(listed, stop)
                if not stop.is_set():
                    await self._work_until(stop, group)
            finally:
                for task in self._background:
                    task.cancel()

    async def _work_until(self, stop: asyncio.Event, group: asyncio.TaskGroup) -> None:
        """kopf and the workers; at the end the reconciles under way get a moment."""
        watching = asyncio.Event()
        namespaces = self._config.watch_namespaces
        self._spawn(group, watch(self.store, self._connect, namespaces, ready=watching), "kopf")
        if await self._either(watching, stop):
            self.progress.ready, self.progress.step = True, "leading"
        workers = [self._spawn(group, self._work(), f"worker-{number}") for number in range(self._config.workers)]
        await stop.wait()
        self.progress.ready, self.progress.step = False, "stopping"
        self._draining = True
        self.queue.close()
        await asyncio.wait(workers, timeout=_STOP_GRACE)

    async def _list_servers(self, listed: asyncio.Event) -> None:
        told = ""
        while not listed.is_set():
            try:
                await read_all(self._client, self.store, self._config.watch_namespaces)
                listed.set()
            except KubeError as problem:
                if problem.reason != told:
                    told = problem.reason
                    log.warning("MCPServers cannot be listed: %s", problem)
                await asyncio.sleep(_LIST_INTERVAL)

    async def _connect(self) -> Connection:
        return await Connection.load(self._config.kubeconfig, self._config.context, identity=self._config.identity)

    def _spawn(self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = group.create_task(work, name=name)
        self._background.append(task)
        return task

    def _inform(self, group: asyncio.TaskGroup, resource: Resource) -> None:
        informer = self._informers[resource] = self._informer(resource)
        self._spawn(group, informer.run(), f"informer {resource}")

    async def _either(self, wanted: asyncio.Event, stop: asyncio.Event) -> bool:
        """Wait for one of both; True where `wanted` is set."""
        waits = {asyncio.ensure_future(wanted.wait()), asyncio.ensure_future(stop.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return wanted.is_set()

    async def _wait_for_crd(self, stop: asyncio.Event) -> None:
        told = False
        while not stop.is_set():
            try:
                if await self._client.serves(MCP_SERVERS):
                    return
                problem = "the CRD is not installed: outrigger crds | kubectl apply --server-side -f -"
            except KubeError as error:
                problem = f"the API server cannot be asked: {error}"
            self.progress.step = problem
            if not told:
                log.warning(problem)
                told = True
            await self._sleep(_CRD_INTERVAL, stop)

    @staticmethod
    async def _sleep(seconds: float, stop: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            pass

    async def _work(self) -> None:
        """One worker."""
        results = self._metrics.results
        while True:
            try:
                key = await self.queue.get()
            except QueueClosed:
                return
            began = self._clock()
            try:
                result = await self.reconciler.reconcile(key)
            except OperatorError as problem:
                delay = self.queue.retry(key, at_least=getattr(problem, "retry_after", None) or 0.0)
                results["retry"] += 1
                log.info("MCPServer %s/%s: %s; again in %.1f s", *key, problem, delay)
            except Exception:
                self.queue.retry(key)
                results["error"] += 1
                log.exception("MCPServer %s/%s: this is a bug of the operator", *key)
            else:
                if result is None:
                    self.queue.succeeded(key)  # not `forget`: another of its name may have been marked meanwhile
                    results["gone"] += 1
                elif result.failed:
                    self.queue.retry(key)
                    self.queue.add_after(key, result.again)
                    results["refused"] += 1
                else:
                    self.queue.succeeded(key)
                    self.queue.add_after(key, result.again)
                    results["success"] += 1
            finally:
                self._metrics.duration.observe(self._clock() - began)
                self.queue.done(key)

    async def _discover(self, group: asyncio.TaskGroup) -> None:
        """PodMonitors may be installed, or removed, while the operator runs."""
        while True:
            await asyncio.sleep(_DISCOVERY_INTERVAL)
            try:
                served = await self._client.serves(POD_MONITORS)
            except KubeError:
                continue
            if served and POD_MONITORS not in self._informers:
                self._inform(group, POD_MONITORS)
            if served != self.reconciler.settings.cluster.has_pod_monitor:
                self.reconciler.settings = self._with_pod_monitor(served)
                self._mark(self.store)

    def _with_pod_monitor(self, served: bool) -> ReconcilerSettings:
        return replace(self._settings, cluster=replace(self._settings.cluster, has_pod_monitor=served))

    def _informer(self, resource: Resource) -> Informer[Any]:
        projections: Mapping[Resource, Callable[[Any], Any]] = {
            DEPLOYMENTS: DeploymentView.of,
            REPLICA_SETS: ReplicaSetView.of,
            PODS: PodView.of,
        }
        return Informer(
            self._client,
            resource,
            self._config.watch_namespaces or None,
            SELECTOR,
            projections.get(resource, ChildView.of),
            self.inventory.observer(resource),
            metadata_only=resource not in projections,
        )

    def silence(self) -> dict[str, float]:
        """Resource → seconds since its watch was last heard of."""
        now = self._clock()
        return {str(resource): now - informer.last_contact for resource, informer in self._informers.items()}

    def _publish(self) -> None:
        """Let the metrics read here."""
        self._metrics.sources = Sources(
            leading=lambda: not self._draining,
            queue_depth=lambda: len(self.queue),
            queue_oldest=lambda: self.queue.oldest,
            queue_working=lambda: self.queue.working,
            queue_added=lambda: self.queue.added,
            queue_retries=lambda: self.queue.retried,
            repaired=lambda: self._applier.repaired,
            rollouts=lambda: self._rollouts.running,
            rollouts_failed=lambda: len(self._rollouts.failed),
            pod_polls=lambda: self._reports.polls,
            conditions=lambda: self._statuses.conditions,
            requests=lambda: self._client.requests,
            request_seconds=lambda: self._client.seconds,
            watch_silence=self.silence,
            events_dropped=lambda: sum(self._recorder.dropped.values()),
        )

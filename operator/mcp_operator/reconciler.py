"""One MCPServer from what is to what is wanted: read, compute, apply, prune, tell.

`reconcile(key)` may be called at any time and any number of times, after any crash, and does the same: it starts from
what the API server said last, computes what is wanted (`desired`, pure), writes what differs (`applier`), and puts what
it saw into the status (`status`, pure). It keeps nothing that it could not find again. When to call it is the queue's
business; here is only how soon it must be called again without an event.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mcp_operator.api.v1alpha1 import MCPServer, parse
from mcp_operator.applier import Applier, Outcome
from mcp_operator.conditions import transitions
from mcp_operator.desired import Cluster, Desired, Images, desired, session_secret
from mcp_operator.errors import KubeError, NameConflict, NotFound, Problem, SpecError
from mcp_operator.inventory import Inventory, Owned
from mcp_operator.kube.events import EventType, ObjectReference
from mcp_operator.kube.resources import MCP_SERVERS, PODS, Resource
from mcp_operator.observed import CONFIG_HASH_ANNOTATION
from mcp_operator.pod_reports import PodReports
from mcp_operator.references import References, Resolution
from mcp_operator.rollouts import FleetRollout, Turn
from mcp_operator.session_key import SessionKeys
from mcp_operator.sidecar_status import SidecarReport
from mcp_operator.status import Facts, build
from mcp_operator.store import Entry, Key, Store

log = logging.getLogger(__name__)

_FRESH = 5.0
"""An entry of the store that is younger (seconds) is believed without asking the API server before a write."""
_CONFLICT_RETRY = 15.0
"""Seconds until a name that is taken is looked at again: nobody tells us when it becomes free."""


Confirm = Callable[[], Awaitable[None]]


class ReconcilerClient(Protocol):
    """What is needed of the API beyond what the parts use."""

    async def get(
        self, resource: Resource, namespace: str, name: str, *, metadata_only: bool = False
    ) -> dict[str, Any] | None:
        """The object, None where there is none."""

    async def apply_status(self, resource: Resource, namespace: str, name: str, status: Mapping[str, Any]) -> object:
        """Server-side apply of a status."""

    async def annotate(self, resource: Resource, namespace: str, name: str, annotations: Mapping[str, str]) -> object:
        """Set annotations."""


class Recorder(Protocol):
    """Takes Events; never fails the caller."""

    def record(self, about: ObjectReference, type: EventType, reason: str, message: str) -> None:
        """Post an Event, soon."""


class Gone(Exception):
    """The MCPServer does not exist any more."""


@dataclass(frozen=True)
class ReconcilerSettings:
    """What all MCPServers have in common."""

    images: Images
    cluster: Cluster
    allowed_service_accounts: tuple[str, ...] = ()
    resync_interval: float = 1200.0


@dataclass(slots=True)
class _Memory:
    """What is remembered of one MCPServer to spare requests; losing it costs requests, nothing else."""

    uid: str
    cluster_ips: tuple[str, ...] = ()
    status: Mapping[str, Any] | None = None
    status_written_at: float = 0.0
    outcome_refused: KubeError | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """`again`: seconds until the next look without an event; `failed`: something was refused, so back off."""

    again: float
    failed: bool = False


class Reconciler:
    """Reconciles MCPServers. One call for a key at a time."""

    def __init__(
        self,
        *,
        client: ReconcilerClient,
        store: Store,
        inventory: Inventory,
        applier: Applier,
        references: References,
        session_keys: SessionKeys,
        reports: PodReports,
        rollouts: FleetRollout[Key],
        recorder: Recorder,
        settings: ReconcilerSettings,
        clock: Callable[[], float],
        rng: Callable[[], float],
        timestamp: Callable[[], str],
        others_may_go: Callable[[], None],
    ) -> None:
        self._client = client
        self._store = store
        self._inventory = inventory
        self._applier = applier
        self._references = references
        self._session_keys = session_keys
        self._reports = reports
        self._rollouts = rollouts
        self._recorder = recorder
        self.settings = settings
        self._clock = clock
        self._rng = rng
        self._timestamp = timestamp
        self._others_may_go = others_may_go
        self._memory: dict[Key, _Memory] = {}
        self.ready: dict[Key, tuple[str, str]] = {}
        """Status and reason of `Ready`, for the metrics."""

    async def reconcile(self, key: Key) -> Result | None:
        """Do what there is to do. None where the MCPServer is gone. Raises OperatorErrors that pass by themselves."""
        entry = self._store.get(key)
        if entry is None or entry.deleting:
            # Without a finalizer there is nothing to do: the garbage collector takes what it owned.
            self._forget(key)
            return None
        memory = self._memory.get(key)
        if memory is None or memory.uid != entry.uid:
            memory = self._memory[key] = _Memory(entry.uid)
        try:
            return await self._reconcile(key, entry, memory)
        except Gone:
            self._store.drop(key, entry.uid)
            self._forget(key)
            return None
        except KubeError as error:
            if error.terminating:
                return None  # the namespace goes, and everything in it
            raise

    async def _reconcile(self, key: Key, entry: Entry, memory: _Memory) -> Result:
        owned = self._inventory.of(key, entry.uid)
        facts = Facts(
            namespace=key[0],
            name=key[1],
            generation=entry.generation,
            now=self._timestamp(),
            previous=self._previous(entry, memory),
            deployment=owned.deployment,
            replica_sets=owned.replica_sets,
            pods=owned.pods,
            reports=self._reports.of(key),
        )
        again = self.settings.resync_interval * (0.5 + self._rng())
        confirm = self._confirmation(key, entry)
        try:
            server = self._parse(entry)
        except SpecError as problem:
            await self._tell(key, entry, memory, replace(facts, problems=tuple(problem.problems)), confirm)
            return Result(again)

        wanted: Desired | None = None
        outcome = Outcome()
        try:
            session_key = await self._session_key(key, server, confirm)
            images, turn = self._images(key, server, owned)
            wanted, resolution = await self._desired(key, server, images, session_key, owned, memory)
            facts = replace(
                facts,
                problems=tuple(Problem(problem.path, problem.message) for problem in wanted.problems),
                url=wanted.url,
                selector=wanted.selector,
                config_hash=wanted.config_hash,
                needs_references=bool(wanted.references),
                missing=resolution.missing,
                versions=resolution.versions,
                turn=turn,
            )
            if resolution.read_again is not None:
                again = min(again, resolution.read_again)
            if not wanted.problems:
                found = await self._applier.apply_service(key, entry.uid, wanted.manifests, owned, confirm)
                if found and found != memory.cluster_ips:
                    # The addresses of its own Service are among the allowed hosts, so the config comes after it.
                    memory.cluster_ips = found
                    wanted, _ = await self._desired(key, server, images, session_key, owned, memory)
                    facts = replace(facts, config_hash=wanted.config_hash)
                outcome = await self._applier.apply(key, entry.uid, wanted.manifests, owned, confirm)
                await self._refresh_pods(key, wanted, owned, outcome.config_replaced)
                if outcome.refused is None:
                    await self._applier.prune(key, wanted.manifests, owned)
        except NameConflict as conflict:
            facts = replace(facts, conflict=conflict)
            again = min(again, _CONFLICT_RETRY)
        known = self._applier.deployment(key, owned.deployment)
        facts = replace(facts, apply_error=outcome.refused, deployment=known)
        status = await self._tell(key, entry, memory, facts, confirm)
        self._follow(key, owned, status, wanted)
        return Result(min(again, outcome.again), failed=outcome.refused is not None)

    def _parse(self, entry: Entry) -> MCPServer:
        server = parse(dict(entry.manifest))
        account = server.spec.pod_template.service_account_name if server.spec.pod_template is not None else None
        allowed = self.settings.allowed_service_accounts
        if account and account not in allowed and "*" not in allowed:
            said = f"only {', '.join(allowed)}" if allowed else "none"
            raise SpecError(
                [
                    Problem(
                        "spec.podTemplate.serviceAccountName",
                        f"{account} is not allowed: the operator's allowedServiceAccounts allows {said}",
                    )
                ]
            )
        return server

    async def _session_key(self, key: Key, server: MCPServer, confirm: Confirm) -> bytes:
        sessions = server.spec.sessions
        if sessions is not None and sessions.key_secret_ref is not None:
            reference = sessions.key_secret_ref
            return await self._session_keys.given(key[0], reference.name, reference.key)
        return await self._session_keys.ensure(session_secret(server), server.metadata.uid, confirm)

    def _images(self, key: Key, server: MCPServer, owned: Owned) -> tuple[Images, Turn]:
        """The images to use now: those of the running pods while others have their turn."""
        images = self.settings.images
        running = owned.deployment.image if owned.deployment is not None else ""
        if not running or running in (images.sidecar, images.sidecar_runtime):
            self._observe_rollout(key, owned)
            return images, "Go"
        turn = self._rollouts.turn(key, running, images.sidecar)
        if turn == "Go":
            return images, turn
        return replace(images, sidecar=running, sidecar_runtime=running), turn

    def _observe_rollout(self, key: Key, owned: Owned) -> None:
        deployment = owned.deployment
        if deployment is None:
            return
        stuck = any(
            condition.type == "Progressing" and condition.status == "False" for condition in deployment.conditions
        )
        state = "Complete" if deployment.complete else "Failed" if stuck else "Rolling"
        if self._rollouts.observe(key, self.settings.images.sidecar, state):  # type: ignore[arg-type]
            self._others_may_go()

    async def _desired(
        self, key: Key, server: MCPServer, images: Images, session_key: bytes, owned: Owned, memory: _Memory
    ) -> tuple[Desired, Resolution]:
        cluster = replace(self.settings.cluster, cluster_ips=memory.cluster_ips)
        wanted = desired(server, cluster, images)
        resolution = await self._references.resolve(key, wanted.references, session_key)
        checksum = resolution.checksum
        if checksum and owned.deployment is not None and owned.deployment.environment_checksum:
            in_environment = {(each.kind, each.name, each.key) for each in wanted.references if each.in_environment}
            if any((each.kind, each.name, each.key) in in_environment for each in resolution.missing):
                # Pods that work are not replaced by pods that cannot start.
                checksum = owned.deployment.environment_checksum
        return (desired(server, cluster, images, checksum=checksum) if checksum else wanted), resolution

    def _confirmation(self, key: Key, entry: Entry) -> Confirm:
        """What is awaited before a write on the word of an old entry: does the MCPServer still exist, is it the same?

        Raises Gone. Asks once.
        """
        confirmed = False

        async def confirm() -> None:
            nonlocal confirmed
            if confirmed or self._clock() - entry.seen_at < _FRESH:
                return
            found = await self._client.get(MCP_SERVERS, *key)
            if found is None or found["metadata"].get("uid") != entry.uid or found["metadata"].get("deletionTimestamp"):
                raise Gone
            self._store.put(found)
            confirmed = True

        return confirm

    async def _refresh_pods(self, key: Key, wanted: Desired, owned: Owned, replaced: bool) -> None:
        """Make the kubelet look at the ConfigMap now: it does when the annotations of a pod change."""
        reports = self._reports.of(key)
        for pod in owned.pods:
            if pod.config_map != wanted.config_map or pod.config_hash == wanted.config_hash or pod.deleting:
                continue
            report = reports.get(pod.uid)
            late = isinstance(report, SidecarReport) and report.file_hash not in ("", wanted.config_hash)
            if replaced or late:
                try:
                    await self._client.annotate(PODS, key[0], pod.name, {CONFIG_HASH_ANNOTATION: wanted.config_hash})
                except NotFound:
                    continue
        if replaced:
            self._reports.ask_now(key)

    def _previous(self, entry: Entry, memory: _Memory) -> Mapping[str, Any]:
        if memory.status is not None and memory.status_written_at >= entry.seen_at:
            return memory.status
        found = entry.manifest.get("status")
        return found if isinstance(found, Mapping) else {}

    async def _tell(self, key: Key, entry: Entry, memory: _Memory, facts: Facts, confirm: Confirm) -> Mapping[str, Any]:
        status = build(facts)
        for condition in status.get("conditions", ()):
            if condition["type"] == "Ready":
                self.ready[key] = (condition["status"], condition["reason"])
        if status != facts.previous:
            await confirm()
            try:
                await self._client.apply_status(MCP_SERVERS, *key, status)
            except NotFound:
                raise Gone from None
            memory.status, memory.status_written_at = status, self._clock()
            about = ObjectReference.of(entry.manifest["metadata"])
            for event in transitions(facts.previous, status):
                self._recorder.record(about, event.type, event.reason, event.message)
        return status

    def _follow(self, key: Key, owned: Owned, status: Mapping[str, Any], wanted: Desired | None) -> None:
        if not owned.pods:
            self._reports.forget(key)
            return
        good = {condition["type"] for condition in status.get("conditions", ()) if condition["status"] == "True"}
        settled = {"Ready", "ServerReachable", "ConfigApplied", "SecretsResolved"} <= good
        self._reports.follow(key, settled=settled)

    def _forget(self, key: Key) -> None:
        memory = self._memory.pop(key, None)
        if memory is not None:
            log.info("MCPServer %s/%s is gone", *key)
        self.ready.pop(key, None)
        self._applier.forget(key)
        self._references.forget(key)
        self._session_keys.forget(*key)
        self._reports.forget(key)
        if self._rollouts.forget(key):
            self._others_may_go()

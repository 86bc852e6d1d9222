"""One MCPServer from what is to what is wanted: read, compute, apply, prune, tell.

`reconcile(key)` may be called at any time and any number of times, after any crash, and does the same: it starts from
what the API server said last, computes what is wanted (`desired`, pure), writes what differs (`applier`), and puts what
it saw into the status (`status`, pure). It keeps nothing that it could not find again. When to call it is the queue's
business; here is only how soon it must be called again without an event.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from mcp_operator.api.v1alpha1 import MCPServer, parse
from mcp_operator.applier import Applier, Outcome
from mcp_operator.desired import Cluster, Desired, Images, session_secret
from mcp_operator.errors import BeingReplaced, KubeError, NameConflict, Problem, SpecError
from mcp_operator.inventory import Inventory, Owned
from mcp_operator.kube.resources import MCP_SERVERS, PODS, Resource
from mcp_operator.observed import CONFIG_HASH_ANNOTATION
from mcp_operator.patience import Patience
from mcp_operator.plans import Basis, Plans
from mcp_operator.pod_events import Lister, PodEvents
from mcp_operator.pod_reports import PodReports
from mcp_operator.pod_templates import PodTemplates
from mcp_operator.references import References
from mcp_operator.session_key import SessionKeys
from mcp_operator.sidecar_status import SidecarReport
from mcp_operator.status import Facts, build
from mcp_operator.status_writer import Confirm, Gone, StatusWriter
from mcp_operator.store import Entry, Key, Store
from mcp_operator.turns import PodTurns, Turned

log = logging.getLogger(__name__)

_FRESH = 60.0
"""An entry of the store that is younger (seconds) is believed without asking the API server before a write. What is
written for one that was deleted unseen names an owner that is gone, so the garbage collector takes it."""
_CONFLICT_RETRY = 15.0
"""Seconds until a name that is taken is looked at again: nobody tells us when it becomes free."""
_UNREADY_RETRY = 300.0
"""Seconds until pods that are not ready are looked at again: what they wait for may be ours, and time heals words."""
_TERMINATING_RETRY = 60.0
"""Seconds until we look whether an MCPServer has gone with its namespace."""


class ReconcilerClient(Lister, Protocol):
    """What is needed of the API beyond what the parts use."""

    async def get(
        self, resource: Resource, namespace: str, name: str, *, metadata_only: bool = False
    ) -> dict[str, Any] | None:
        """The object, None where there is none."""

    async def annotate(self, resource: Resource, namespace: str, name: str, annotations: Mapping[str, str]) -> object:
        """Set annotations."""


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
    generation: int = 0
    cluster_ips: tuple[str, ...] = ()
    ending: bool = False
    """Whether its namespace is being deleted, which nothing can undo."""


@dataclass(slots=True)
class _Pass:
    """One reconcile: what it started from, and what came of it so far."""

    key: Key
    entry: Entry
    memory: _Memory
    owned: Owned
    facts: Facts
    confirm: Confirm
    again: float
    outcome: Outcome = field(default_factory=Outcome)
    applied: Images | None = None
    """Those of the Deployment, once it is as wanted."""


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
        turns: PodTurns,
        statuses: StatusWriter,
        settings: ReconcilerSettings,
        clock: Callable[[], float],
        rng: Callable[[], float],
        timestamp: Callable[[], str],
    ) -> None:
        self._client = client
        self._store = store
        self._inventory = inventory
        self._applier = applier
        self._patience = Patience(clock)
        self._pod_events = PodEvents(client, clock=clock)
        self._plans = Plans(references, PodTemplates(client))
        self._session_keys = session_keys
        self._reports = reports
        self._turns = turns
        self._statuses = statuses
        self.settings = settings
        self._clock = clock
        self._rng = rng
        self._timestamp = timestamp
        self._memory: dict[Key, _Memory] = {}

    async def reconcile(self, key: Key) -> Result | None:
        """Do what there is to do. None where the MCPServer is gone. Raises OperatorErrors that pass by themselves."""
        entry = self._store.get(key)
        if entry is None or entry.deleting:
            # Without a finalizer there is nothing to do: the garbage collector takes what it owned.
            self._forget(key)
            return None
        memory = self._memory.get(key)
        if memory is not None and memory.uid != entry.uid:
            self._forget(key)
            memory = None
        if memory is None:
            memory = self._memory[key] = _Memory(entry.uid)
        try:
            if memory.ending or self._clock() - entry.seen_at > self.settings.resync_interval:
                # A deletion that the watch did not tell of would never show where there is nothing to write.
                await self._confirmation(key, entry)()
                entry = self._store.get(key) or entry
            if memory.ending:
                return Result(_TERMINATING_RETRY)
            return await self._reconcile(key, entry, memory)
        except Gone:
            self._store.drop(key, entry.uid)
            self._forget(key)
            return None
        except KubeError as error:
            if error.terminating:
                memory.ending = True
                return Result(_TERMINATING_RETRY)  # the namespace goes, and everything in it
            raise

    async def _reconcile(self, key: Key, entry: Entry, memory: _Memory) -> Result:
        owned = self._inventory.of(key, entry.uid)
        owned = replace(owned, deployment=self._applier.deployment(key, owned.deployment))
        self._turns.observe(key, owned)
        facts = Facts(
            namespace=key[0],
            name=key[1],
            generation=entry.generation,
            now=self._timestamp(),
            previous=self._statuses.known(key, entry),
            replica_sets=owned.replica_sets,
            pods=owned.pods,
            reports=self._reports.of(key),
        )
        again = self.settings.resync_interval * (0.5 + self._rng())
        this = _Pass(key, entry, memory, owned, facts, self._confirmation(key, entry), again)
        try:
            await self._converge(this, self._parse(entry))
        except SpecError as problem:
            self._patience.renew(key)
            this.facts = replace(this.facts, problems=tuple(problem.problems))
        except NameConflict as conflict:
            self._patience.renew(key)
            this.facts = replace(this.facts, conflict=conflict)
            this.again = min(this.again, _CONFLICT_RETRY)
        except (KubeError, BeingReplaced) as error:
            if not self._patience.is_over(key, error):
                raise
            this.outcome.refused = error
        else:
            self._patience.renew(key)
        deployment = self._applier.deployment(key, owned.deployment)
        events = await self._pod_events.of(key, owned.pods)
        status = build(replace(this.facts, apply_error=this.outcome.refused, deployment=deployment, events=events))
        wait = await self._statuses.write(key, entry, facts.previous, status, this.confirm)
        self._follow(key, owned, status)
        ask = self._pod_events.again(key)
        again = min(this.again, this.outcome.again, this.again if ask is None else ask)
        if any(not pod.ready for pod in owned.pods):
            again = min(again, _UNREADY_RETRY)
        return Result(min(again, wait) if wait else again, failed=this.outcome.refused is not None)

    async def _converge(self, this: _Pass, server: MCPServer) -> None:
        """Make what is there what is wanted. Raises NameConflict, BeingReplaced, KubeError."""
        session_key = await self._session_key(this, server)
        if this.memory.generation != this.entry.generation:
            this.memory.generation = this.entry.generation
            self._plans.expect_changes(this.key)  # somebody works on it
        basis = Basis(this.key, server, this.owned, session_key)
        wanted, resolution = await self._plans.of(basis, self._cluster(this), self.settings.images)
        turned = self._turns.take(this.key, server, this.owned, wanted)
        try:
            this.facts = replace(
                this.facts,
                turn=turned.turn,
                stopper=turned.failed,
                needs_references=bool(wanted.references),
                missing=resolution.missing,
                versions=resolution.versions,
            )
            if resolution.read_again is not None:
                this.again = min(this.again, resolution.read_again)
            await self._apply(this, basis, wanted, turned)
        finally:
            self._turns.settle(this.key, server, this.applied)

    async def _apply(self, this: _Pass, basis: Basis, wanted: Desired, turned: Turned) -> None:
        key, owned = this.key, this.owned
        wanted = await self._plans.turned(basis, self._cluster(this), wanted, turned)
        this.facts = replace(
            this.facts,
            problems=wanted.problems,
            url=wanted.url,
            selector=wanted.selector,
            config_hash=wanted.config_hash,
            config_waits=wanted.config_waits,
        )
        if wanted.problems:
            return
        found = await self._applier.apply_service(key, this.entry.uid, wanted.manifests, owned, this.confirm)
        if found and found != this.memory.cluster_ips:
            # The addresses of its own Service are among the allowed hosts, so the config comes after it.
            this.memory.cluster_ips = found
            wanted, _ = await self._plans.of(basis, self._cluster(this), self.settings.images)
            wanted = await self._plans.turned(basis, self._cluster(this), wanted, turned)
            this.facts = replace(this.facts, config_hash=wanted.config_hash)
        this.outcome = await self._applier.apply(key, this.entry.uid, wanted.manifests, owned, this.confirm)
        if this.outcome.deployed:
            this.applied = turned.images
        await self._refresh_pods(key, wanted, owned, this.outcome.config_replaced)
        if this.outcome.refused is None:
            await self._applier.prune(key, wanted.manifests, owned, spare_accounts=turned.holds)

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

    async def _session_key(self, this: _Pass, server: MCPServer) -> bytes:
        sessions = server.spec.sessions
        waiting = any(not pod.ready for pod in this.owned.pods)
        if sessions is not None and sessions.key_secret_ref is not None:
            reference = sessions.key_secret_ref
            return await self._session_keys.given(this.key, reference.name, reference.key, soon=waiting)
        manifest, uid = session_secret(server), server.metadata.uid
        return await self._session_keys.ensure(this.key, manifest, uid, this.confirm, soon=waiting)

    def _cluster(self, this: _Pass) -> Cluster:
        return replace(self.settings.cluster, cluster_ips=this.memory.cluster_ips)

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
        for pod in () if wanted.config_waits else owned.pods:
            if pod.config_map != wanted.config_map or pod.config_hash == wanted.config_hash or pod.deleting:
                continue
            report = reports.get(pod.uid)
            late = isinstance(report, SidecarReport) and report.file_hash not in ("", wanted.config_hash)
            if replaced or late:
                try:
                    await self._client.annotate(PODS, key[0], pod.name, {CONFIG_HASH_ANNOTATION: wanted.config_hash})
                except KubeError as error:  # gone, or not allowed: the kubelet looks by itself within two minutes
                    if error.transient:
                        raise
                    log.debug("pod %s/%s could not be annotated: %s", key[0], pod.name, error)
        if replaced:
            self._reports.ask_now(key)

    def _follow(self, key: Key, owned: Owned, status: Mapping[str, Any]) -> None:
        if not owned.pods:
            self._reports.forget(key)
            return
        found = {condition["type"]: condition for condition in status.get("conditions", ())}
        good = {kind for kind, condition in found.items() if condition["status"] == "True"}
        if found.get("ConfigApplied", {}).get("reason") == "WaitingForTurn":
            good.add("ConfigApplied")  # that takes as long as it takes
        settled = {"Ready", "ServerReachable", "ConfigApplied", "SecretsResolved"} <= good
        self._reports.follow(key, settled=settled)
        answers = self._reports.of(key)
        # a pod that became ready since it was asked knows its server now
        ready = {uid for uid, answer in answers.items() if isinstance(answer, SidecarReport) and answer.ready}
        asked = (pod for pod in owned.pods if pod.ip and not pod.deleting and not pod.finished)
        if any(pod.uid not in (ready if pod.ready else answers) for pod in asked):
            self._reports.ask_now(key)

    def _forget(self, key: Key) -> None:
        if self._memory.pop(key, None) is not None:
            log.info("MCPServer %s/%s is gone", *key)
        self._statuses.forget(key)
        self._applier.forget(key)
        self._patience.renew(key)
        self._pod_events.forget(key)
        self._plans.forget(key)
        self._session_keys.forget(key)
        self._reports.forget(key)
        self._turns.forget(key)

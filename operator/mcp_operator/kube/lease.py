"""Which of several operators works: the one whose name is in a Lease.

The library's own election is not used: there a holder whose work has died renews for ever. The rules are client-go's:
the holder renews every `retry_period`; who sees the record unchanged for `lease_duration`, on its own clock, takes it.
Times in the record are for people and never compared, so clocks may be wrong; they must only run about equally fast.

What must be true is that two never work at once. The holder therefore counts from the moment at which it *sent* the
last renewal that succeeded, and stops at `renew_deadline`, before anybody who saw that renewal can have waited for
`lease_duration`; a renewal whose answer was lost counts for nothing. `is_leader` looks at the clock, so that it is
False right after a pause of the process, before any task has run: the client's fence asks it before each write. Every
change of the record carries the resourceVersion that was read. A Lease that was deleted while somebody held it is
treated as held by all that had seen it. What the work is, and what follows when the leadership is lost, is left to the
caller.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from mcp_operator.errors import Conflict, KubeError, LeadershipLost, NotFound
from mcp_operator.kube.client import Client
from mcp_operator.kube.resources import LEASES

logger = logging.getLogger(__name__)

JITTER = 1.2
"""A candidate waits up to this much longer than `retry_period`, so that two do not try in step."""

_NEVER = -math.inf


class LeaderElection:
    """One candidate."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        *,
        lease_duration: float = 15.0,
        renew_deadline: float = 10.0,
        retry_period: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        """Seconds. `identity` must differ between processes, not only between pods."""
        if not retry_period * JITTER < renew_deadline < lease_duration:
            raise ValueError("needed: retry_period * 1.2 < renew_deadline < lease_duration")
        self.holder = ""
        """Who held the Lease when it was last seen."""
        self.last_contact = _NEVER
        """When the API server last answered, on `clock`."""
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._lease_duration = lease_duration
        self._renew_deadline = renew_deadline
        self._retry_period = retry_period
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._rng = rng
        self._valid_until = _NEVER
        self._held: dict[str, Any] | None = None
        """The Lease as we wrote it last; None where it must be read first."""
        self._seen: str | None = None
        """The version of another's Lease, and when it was first seen."""
        self._seen_at = _NEVER
        self._seen_duration = lease_duration

    @property
    def is_leader(self) -> bool:
        """Whether this process may do what only one may do, now."""
        return self._clock() < self._valid_until

    async def run(self, lead: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait for the Lease, run `lead()` while it is held, give the Lease back.

        Returns when `lead()` does, raises what it raises, and LeadershipLost where it was cancelled since the Lease was
        lost. When this is cancelled, `lead()` is; the Lease is held until it has ended, then released, so that another
        takes over at once.
        """
        await self._acquire()
        logger.info("%s leads", self._identity)
        work = asyncio.create_task(lead(), name="lead")
        holding = asyncio.create_task(self._hold(), name="hold lease")
        lost = ""
        try:
            await asyncio.wait({work, holding}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            try:
                lost = await self._stop(work, holding)
            finally:  # cancelled once more: in a hurry
                work.cancel()
                holding.cancel()
        if lost:
            raise LeadershipLost(f"{self._identity} lost the lease: {lost}")
        work.result()

    async def _stop(self, work: asyncio.Task[None], holding: asyncio.Task[str]) -> str:
        """End the work, holding the Lease meanwhile if we can, then give it back; why it was lost, else nothing."""
        if holding.done():
            self._valid_until = _NEVER
            logger.error("stopping what only the leader may do: %s", _outcome(holding))
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
            if not work.cancelled() and (error := work.exception()) is not None:
                logger.error("the leader's work ended badly", exc_info=error)
        if holding.done():
            return _outcome(holding)
        holding.cancel()
        await asyncio.wait({holding})
        await self._release()
        return ""

    async def _acquire(self) -> None:
        complaint = ""
        while True:
            wait = self._retry_period * (1 + (JITTER - 1) * self._rng())
            try:
                if await self._attempt(self._renew_deadline) and self.is_leader:
                    return
                complaint = ""
            except KubeError as problem:
                if problem.reason != complaint:
                    complaint = problem.reason
                    logger.warning("cannot get the lease %s/%s: %s", self._namespace, self._name, problem)
            if self._seen is not None:  # not a moment later than allowed
                wait = min(wait, max(self._seen_at + self._seen_duration - self._clock(), self._retry_period / 10))
            await self._sleep(wait)

    async def _hold(self) -> str:
        """Renew for as long as it works; gives why it does not any more."""
        expiring = asyncio.create_task(self._expire(), name="lease expiry")
        renewing = asyncio.create_task(self._renew(), name="renew lease")
        try:
            done, _ = await asyncio.wait({expiring, renewing}, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            expiring.cancel()
            renewing.cancel()
            await asyncio.wait({expiring, renewing})

    async def _expire(self) -> str:
        """Whatever a request is waiting for: at the deadline the leadership ends."""
        while (left := self._valid_until - self._clock()) > 0:
            await self._sleep(left)
        return f"it could not be renewed for {self._renew_deadline:g} s"

    async def _renew(self) -> str:
        wait = self._retry_period
        while True:
            await self._sleep(wait)
            started = self._clock()
            try:
                if not await self._attempt(max(self._retry_period, (self._valid_until - started) / 2)):
                    return f"{self.holder or 'somebody else'} has it"
                wait = self._retry_period
            except KubeError as problem:
                logger.warning("cannot renew the lease %s/%s: %s", self._namespace, self._name, problem)
                wait = max(self._retry_period - (self._clock() - started), self._retry_period / 4)

    async def _attempt(self, timeout: float) -> bool:
        """Take or renew the Lease if it is ours or free. Whether it is ours then; `timeout` is of one request."""
        for last in (False, True):
            lease, self._held = self._held, None  # to be read again where this fails: who knows how far it got
            if lease is None:
                lease = await self._client.get(LEASES, self._namespace, self._name, timeout=timeout)
                self.last_contact = self._clock()
            if not self._free(lease):
                return False
            started = self._clock()
            try:
                if lease is None:
                    self._held = await self._client.create(self._record({}, taken=True), timeout=timeout)
                else:
                    taken = self._holder(lease) != self._identity
                    self._held = await self._client.replace(self._record(lease, taken=taken), timeout=timeout)
                break
            except (Conflict, NotFound):  # somebody was faster, or a renewal of ours whose answer was lost
                if last:
                    raise
        self.last_contact = self._clock()
        self.holder = self._identity
        self._seen = None
        self._valid_until = started + self._renew_deadline
        return True

    def _free(self, lease: dict[str, Any] | None) -> bool:
        """Whether we may write our name into it: it is ours, nobody's, or was unchanged for too long."""
        now = self._clock()
        if lease is None:  # never made, or deleted in the hand of who may still work
            return self._seen is None or now - self._seen_at >= self._seen_duration
        holder = self._holder(lease)
        if holder != self.holder:
            logger.info("the lease %s/%s is held by %s", self._namespace, self._name, holder or "nobody")
            self.holder = holder
        if holder in ("", self._identity):
            return True
        spec = lease["spec"]
        version = lease["metadata"]["resourceVersion"]  # not renewTime: the other's clock may stand still
        if version != self._seen:
            self._seen, self._seen_at = version, now
            self._seen_duration = max(self._lease_duration, float(spec.get("leaseDurationSeconds") or 0))
        return now - self._seen_at >= self._seen_duration

    async def _release(self) -> None:
        self._valid_until = _NEVER
        try:
            try:
                await self._give_back(self._held)
            except Conflict:  # a renewal that was cancelled arrived
                await self._give_back(None)
            logger.info("%s has released the lease", self._identity)
        except KubeError as problem:
            logger.warning("cannot release the lease %s/%s: %s", self._namespace, self._name, problem)
        self._held = None

    async def _give_back(self, lease: dict[str, Any] | None) -> None:
        if lease is None:
            lease = await self._client.get(LEASES, self._namespace, self._name, timeout=self._retry_period)
        if lease is not None and self._holder(lease) == self._identity:
            record = self._record(lease, taken=False)
            record["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
            await self._client.replace(record, timeout=self._retry_period)

    def _record(self, lease: dict[str, Any], *, taken: bool) -> dict[str, Any]:
        """The Lease with our name in it. `taken`: it was not there before."""
        now = datetime.fromtimestamp(self._wall_clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict(lease.get("spec") or {})
        if taken:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + bool(lease)
        spec |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": math.ceil(self._lease_duration),
            "renewTime": now,
        }
        metadata = lease.get("metadata") or {"namespace": self._namespace, "name": self._name}
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}

    @staticmethod
    def _holder(lease: dict[str, Any]) -> str:
        return str((lease.get("spec") or {}).get("holderIdentity") or "")


def _outcome(holding: asyncio.Task[str]) -> str:
    error = holding.exception()
    return holding.result() if error is None else f"renewing it failed: {error!r}"

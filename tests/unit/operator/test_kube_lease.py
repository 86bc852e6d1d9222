"""The Lease: one leads, never two, whatever happens to requests and clocks; and somebody leads soon."""

import asyncio
import copy
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_operator.errors import AlreadyExists, Conflict, LeadershipLost, NotFound, Unavailable
from mcp_operator.kube.lease import LeaderElection
from virtual_clock import on_virtual_loop, run

NAMESPACE, NAME = "outrigger", "outrigger-operator"


class Server:
    """One Lease with optimistic locking, as an API server keeps it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.versions = itertools.count(1)
        self.holders: list[str] = []

    def read(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.lease)

    def create(self, lease: dict[str, Any]) -> dict[str, Any]:
        if self.lease is not None:
            raise AlreadyExists(409, "AlreadyExists", "it is there")
        return self._keep(lease)

    def replace(self, lease: dict[str, Any]) -> dict[str, Any]:
        if self.lease is None:
            raise NotFound(404, "NotFound", "it is not there")
        if lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "it was changed")
        return self._keep(lease)

    def _keep(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(next(self.versions))
        self.holders.append(lease["spec"]["holderIdentity"])
        return copy.deepcopy(self.lease)


@dataclass(frozen=True)
class Fault:
    """What happens to one request. Seconds of real time on the way there and on the way back."""

    there: float = 0.01
    back: float = 0.01
    lost: bool = False
    answer_lost: bool = False


@dataclass
class Link:
    """The way of one candidate to the server. `rate`: how fast its clock runs."""

    server: Server
    rate: float = 1.0
    faults: Iterator[Fault] = field(default_factory=lambda: itertools.repeat(Fault()))
    requests: int = 0
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    late: set[asyncio.Task[None]] = field(default_factory=set)

    def clock(self) -> float:
        return self.loop.time() * self.rate

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.rate)

    async def get(self, resource: Any, namespace: str, name: str, *, timeout: float) -> dict[str, Any] | None:
        return await self.ask(self.server.read, timeout)

    async def create(self, lease: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        return await self.ask(lambda: self.server.create(lease), timeout)

    async def replace(self, lease: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        return await self.ask(lambda: self.server.replace(lease), timeout)

    async def ask(self, what: Callable[[], Any], timeout: float) -> Any:
        """A request that is under way arrives even if nobody waits for the answer any more."""
        self.requests += 1
        fault = next(self.faults, Fault())
        answer: asyncio.Future[Any] = self.loop.create_future()

        async def travel() -> None:
            await asyncio.sleep(fault.there)
            if fault.lost:
                return
            try:
                result, error = what(), None
            except Exception as problem:
                result, error = None, problem
            await asyncio.sleep(fault.back)
            if not fault.answer_lost and not answer.done():
                answer.set_exception(error) if error else answer.set_result(result)

        task = self.loop.create_task(travel())
        self.late.add(task)
        task.add_done_callback(self.late.discard)
        try:
            async with asyncio.timeout(timeout / self.rate):
                return await answer
        except TimeoutError:
            raise Unavailable(0, "Timeout", "no answer") from None


def candidate(link: Link, identity: str, **options: Any) -> LeaderElection:
    return LeaderElection(
        link, NAMESPACE, NAME, identity, clock=link.clock, sleep=link.sleep, wall_clock=lambda: 1.8e9, **options
    )


class Work:
    """What only a leader may do: says when it began and ended."""

    def __init__(self) -> None:
        self.running = False
        self.begun = asyncio.Event()
        self.finish = asyncio.Event()

    async def __call__(self) -> None:
        self.running = True
        self.begun.set()
        try:
            await self.finish.wait()
        finally:
            self.running = False


def now() -> float:
    return asyncio.get_running_loop().time()


async def within(seconds: float, awaitable: Awaitable[Any]) -> Any:
    async with asyncio.timeout(seconds):
        return await awaitable


@on_virtual_loop
async def test_first_leads_at_once() -> None:
    server, work = Server(), Work()
    election = candidate(Link(server), "a")
    task = asyncio.create_task(election.run(work))
    await within(0.1, work.begun.wait())
    assert election.is_leader
    assert server.lease["spec"]["holderIdentity"] == "a"
    assert server.lease["spec"]["leaseTransitions"] == 0
    assert server.lease["spec"]["renewTime"].endswith("Z")
    work.finish.set()
    await task


@on_virtual_loop
async def test_leader_renews_and_the_other_waits() -> None:
    server, first, second = Server(), Work(), Work()
    tasks = [asyncio.create_task(candidate(Link(server), "a").run(first))]
    await first.begun.wait()
    other = candidate(Link(server), "b")
    tasks.append(asyncio.create_task(other.run(second)))
    await asyncio.sleep(600)
    assert first.running
    assert not second.running
    assert not other.is_leader
    assert other.holder == "a"
    assert set(server.holders) == {"a"}
    assert 290 <= len(server.holders) <= 302


@on_virtual_loop
async def test_released_when_stopped() -> None:
    server, first, second = Server(), Work(), Work()
    task = asyncio.create_task(candidate(Link(server), "a").run(first))
    await first.begun.wait()
    other = asyncio.create_task(candidate(Link(server), "b").run(second))
    await asyncio.sleep(60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not first.running
    assert server.lease["spec"]["holderIdentity"] == ""
    await within(2.5, second.begun.wait())
    assert server.lease["spec"]["leaseTransitions"] == 1
    other.cancel()


@on_virtual_loop
async def test_held_until_the_work_has_ended() -> None:
    server, begun = Server(), asyncio.Event()
    ended: list[float] = []

    async def slow_to_stop() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(60)
            ended.append(now())

    second = Work()
    task = asyncio.create_task(candidate(Link(server), "a").run(slow_to_stop))
    await begun.wait()
    asyncio.create_task(candidate(Link(server), "b").run(second))  # noqa: RUF006
    await asyncio.sleep(10)
    task.cancel()
    await second.begun.wait()
    assert ended
    assert now() - ended[0] < 3


@on_virtual_loop
async def test_crash_is_seen_after_the_lease_duration() -> None:
    server, first, second = Server(), Work(), Work()
    link = Link(server)
    task = asyncio.create_task(candidate(link, "a").run(first))
    await first.begun.wait()
    asyncio.create_task(candidate(Link(server), "b").run(second))  # noqa: RUF006
    await asyncio.sleep(60)
    link.faults = itertools.repeat(Fault(lost=True))  # as if it had died
    dead = now()
    await within(60, second.begun.wait())
    assert 13 <= now() - dead <= 15 + 2.5
    with pytest.raises(LeadershipLost):
        await task
    assert server.holders[-1] == "b"


@on_virtual_loop
async def test_partitioned_leader_stops_at_the_renew_deadline() -> None:
    server, work = Server(), Work()
    link = Link(server)
    election = candidate(link, "a")
    task = asyncio.create_task(election.run(work))
    await work.begun.wait()
    await asyncio.sleep(30.5)
    link.faults = itertools.repeat(Fault(answer_lost=True))  # arrives, but it cannot know
    cut = now()
    with pytest.raises(LeadershipLost, match="could not be renewed for 10 s"):
        await task
    assert now() - cut <= 10
    assert not work.running
    assert not election.is_leader


@on_virtual_loop
async def test_late_answer_gives_no_more_time() -> None:
    server, first, second = Server(), Work(), Work()
    slow = itertools.chain([Fault(), Fault(back=9)], itertools.repeat(Fault(lost=True)))
    election = candidate(Link(server, faults=slow), "a")
    task = asyncio.create_task(election.run(first))
    await asyncio.sleep(1)
    written = now() - 1
    asyncio.create_task(candidate(Link(server), "b").run(second))  # noqa: RUF006
    await first.begun.wait()
    assert now() - written > 9
    with pytest.raises(LeadershipLost):
        await task
    assert now() - written < 10.1
    await second.begun.wait()


@on_virtual_loop
async def test_a_pause_ends_the_leadership_before_any_task_runs() -> None:
    server, work = Server(), Work()
    link = Link(server)
    election = candidate(link, "a")
    task = asyncio.create_task(election.run(work))
    await work.begun.wait()
    await asyncio.sleep(5)
    loop = asyncio.get_running_loop()
    loop.now += 11  # the process was stopped
    assert not election.is_leader
    assert work.running  # nothing had a chance to end it, hence the fence
    with pytest.raises(LeadershipLost):
        await task


@on_virtual_loop
async def test_work_that_ends_gives_the_lease_back() -> None:
    server = Server()

    async def work() -> None:
        await asyncio.sleep(30)

    await candidate(Link(server), "a").run(work)
    assert server.lease["spec"]["holderIdentity"] == ""


@on_virtual_loop
async def test_work_that_fails_gives_the_lease_back() -> None:
    server = Server()

    async def work() -> None:
        await asyncio.sleep(1)
        raise ZeroDivisionError

    election = candidate(Link(server), "a")
    with pytest.raises(ZeroDivisionError):
        await election.run(work)
    assert server.lease["spec"]["holderIdentity"] == ""
    assert not election.is_leader


@on_virtual_loop
async def test_lease_taken_by_another_ends_the_work() -> None:
    server, work = Server(), Work()
    task = asyncio.create_task(candidate(Link(server), "a").run(work))
    await work.begun.wait()
    taken = server.read()
    taken["spec"]["holderIdentity"] = "thief"
    server.replace(taken)
    with pytest.raises(LeadershipLost, match="thief has it"):
        await within(5, task)
    assert not work.running
    assert server.lease["spec"]["holderIdentity"] == "thief"


@on_virtual_loop
async def test_own_lost_renewal_is_recognized() -> None:
    server, work = Server(), Work()
    link = Link(server)
    election = candidate(link, "a")
    task = asyncio.create_task(election.run(work))
    await work.begun.wait()
    for _ in range(20):
        link.faults = itertools.chain([Fault(answer_lost=True)], itertools.repeat(Fault()))
        await asyncio.sleep(12)
        assert election.is_leader
    assert not task.done()
    assert server.lease["spec"]["leaseTransitions"] == 0


@on_virtual_loop
async def test_deleted_lease_is_made_again_by_its_holder() -> None:
    server, first, second = Server(), Work(), Work()
    asyncio.create_task(candidate(Link(server), "a").run(first))  # noqa: RUF006
    await first.begun.wait()
    asyncio.create_task(candidate(Link(server), "b").run(second))  # noqa: RUF006
    await asyncio.sleep(20)
    for _ in range(10):
        server.lease = None
        await asyncio.sleep(3.3)
        assert server.lease["spec"]["holderIdentity"] == "a"
    assert first.running
    assert not second.running


@on_virtual_loop
async def test_longer_duration_of_the_holder_counts() -> None:
    server, first, second = Server(), Work(), Work()
    link = Link(server)
    asyncio.create_task(candidate(link, "a", lease_duration=60, renew_deadline=40).run(first))  # noqa: RUF006
    await first.begun.wait()
    asyncio.create_task(candidate(Link(server), "b").run(second))  # noqa: RUF006
    await asyncio.sleep(10)
    link.faults = itertools.repeat(Fault(lost=True))
    dead = now()
    await second.begun.wait()
    assert 57 <= now() - dead <= 63
    assert not first.running


@on_virtual_loop
async def test_unreachable_server_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    server, work = Server(), Work()
    link = Link(server, faults=itertools.chain(itertools.repeat(Fault(lost=True), 20), itertools.repeat(Fault())))
    asyncio.create_task(candidate(link, "a").run(work))  # noqa: RUF006
    await within(20 * 13, work.begun.wait())
    assert sum("cannot get the lease" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("durations", [(15, 15, 2), (15, 2, 2), (10, 15, 2)])
@on_virtual_loop
async def test_unsafe_durations_are_refused(durations: tuple[float, float, float]) -> None:
    duration, deadline, period = durations
    with pytest.raises(ValueError, match="renew_deadline"):
        candidate(Link(Server()), "a", lease_duration=duration, renew_deadline=deadline, retry_period=period)


faults = st.builds(
    Fault,
    there=st.sampled_from([0.0, 0.01, 0.5, 1.9, 4.0, 9.0, 12.0, 20.0]),
    back=st.sampled_from([0.0, 0.01, 0.5, 1.9, 4.0, 9.0, 12.0]),
    lost=st.booleans(),
    answer_lost=st.booleans(),
) | st.just(Fault())


@settings(max_examples=25, deadline=None)
@given(
    scripts=st.lists(st.lists(faults, max_size=20), min_size=2, max_size=3),
    rates=st.lists(st.sampled_from([0.85, 0.95, 1.0, 1.05, 1.15]), min_size=3, max_size=3),
    starts=st.lists(st.sampled_from([0.0, 0.003, 0.01, 1.0, 7.0]), min_size=3, max_size=3),
    deletions=st.lists(st.floats(20, 120), max_size=2),
    seed=st.randoms(use_true_random=False),
)
def test_two_never_lead(
    scripts: list[list[Fault]], rates: list[float], starts: list[float], deletions: list[float], seed: Any
) -> None:
    async def scenario() -> None:
        server = Server()
        elections: list[LeaderElection] = []
        working: set[int] = set()

        def check() -> None:
            assert sum(election.is_leader for election in elections) <= 1

        async def live(number: int) -> None:
            link = Link(server, rate=rates[number], faults=iter(scripts[number]))
            election = candidate(link, f"candidate-{number}", rng=seed.random)
            elections.append(election)

            async def work() -> None:
                check()
                assert not working
                working.add(number)
                try:
                    while True:
                        await asyncio.sleep(0.3)
                        check()
                finally:
                    working.discard(number)

            await asyncio.sleep(starts[number])
            while True:
                with suppress(LeadershipLost):
                    await election.run(work)

        async def delete() -> None:
            for when in sorted(deletions):
                await asyncio.sleep(max(0.0, 1000 + when - now()))
                # who has never seen it cannot know that there was one
                if len(elections) == len(scripts) and all(election.holder for election in elections):
                    server.lease = None

        tasks = [asyncio.create_task(live(number)) for number in range(len(scripts))]
        deleting = asyncio.create_task(delete())
        waiting = asyncio.create_task(asyncio.sleep(420))
        done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        await deleting
        assert sum(election.is_leader for election in elections) == 1, "the scripts are over: somebody must lead"

    run(scenario())

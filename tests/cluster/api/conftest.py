"""Operators for the tests: one that most share, and more where a test needs its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.control_plane import Cluster
from cluster.kubeconfigs import Access
from cluster.operator_process import OperatorProcess, install, uninstall

NAMESPACE = "outrigger-test"

StartOperator = Callable[..., OperatorProcess]


class Operators:
    """The operators of a test run; at most one of them is the shared one."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self._access: Access | None = None
        self._shared: OperatorProcess | None = None
        self.own: list[OperatorProcess] = []

    @property
    def access(self) -> Access:
        """The operator's rights, all namespaces."""
        if self._access is None:
            self._access = install(self.cluster, NAMESPACE)
        return self._access

    def shared(self) -> OperatorProcess:
        """The one that most tests use, started where it does not run."""
        if self._shared is None or not self._shared.process.running:
            self.free_lease()
            self._shared = self.make().start().wait_until_leading()
        return self._shared

    def make(self, *, access: Access | None = None, **options: Any) -> OperatorProcess:
        """A new one, not started."""
        return OperatorProcess(access or self.access, self.directory, **{"namespace": NAMESPACE, **options})

    def stop_shared(self) -> None:
        """So that another can lead."""
        if self._shared is not None:
            stopped, self._shared = self._shared, None
            stopped.stop()

    def free_lease(self) -> None:
        """Of one that died or was killed: the next need not wait until it is stale."""
        self.cluster.api.delete("leases", NAMESPACE, "outrigger-operator")

    def close(self) -> None:
        try:
            self.stop_shared()
        finally:
            if self._access is not None:
                uninstall(self.cluster, NAMESPACE)

    def logs(self) -> str:
        """The end of every operator's log."""
        every = [*self.own, *([self._shared] if self._shared else [])]
        return "\n".join(one.describe() for one in every)

    def checked(self) -> None:
        """Fail where the shared one logged a bug, or ended."""
        if self._shared is not None:
            self._shared.check()
            assert self._shared.process.running, self._shared.describe()


@pytest.fixture(scope="session")
def operators(
    cluster: Cluster,
    pod_monitors: None,
    tmp_path_factory: pytest.TempPathFactory,
    failure_logs: dict[str, Callable[[], str]],
) -> Iterator[Operators]:
    # PodMonitors are there before the first operator: it looks for them when it begins to lead, and then seldom
    made = Operators(cluster, tmp_path_factory.mktemp("operators"))
    failure_logs["operator"] = made.logs
    yield made
    del failure_logs["operator"]
    made.close()


@pytest.fixture
def operator(operators: Operators) -> Iterator[OperatorProcess]:
    """An operator that leads and works in all namespaces; it must not have logged a bug when the test is done."""
    yield operators.shared()
    operators.checked()


@pytest.fixture
def no_operator(operators: Operators) -> None:
    """The shared operator is stopped: what a test writes stays as it is."""
    operators.stop_shared()


@pytest.fixture
def start_operator(operators: Operators) -> Iterator[StartOperator]:
    """`start_operator(name=…, settings=…)`: operators of the test's own, the shared one stopped."""
    operators.stop_shared()
    operators.free_lease()

    def start(*, ready: bool = True, **options: Any) -> OperatorProcess:
        made = operators.make(**options)
        operators.own.append(made)
        return made.start(ready=ready)

    yield start
    try:
        for one in operators.own:
            if one.process.running:
                one.stop()
            else:
                one.check()
    finally:
        for one in operators.own:
            one.process.kill()
        operators.own.clear()

"""What the tests against a Kubernetes API server share: the control plane, `kubectl`, a namespace for each test.

They run only where they are named (`make test-cluster`, or `pytest tests/cluster`), for they start a control plane and
may first have to build it. The control plane is ours, made on the spot; `OUTRIGGER_TEST_KUBECONFIG` names another, on
which the tests that must break it are skipped. The tests in `node/` start a whole cluster of their own.
"""

from __future__ import annotations

import os
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import kubeconfigs
from cluster.api import Api, eventually
from cluster.container_process import possible
from cluster.control_plane import Cluster, ControlPlane
from cluster.crds import POD_MONITOR, install_crds
from cluster.kubectl import Command
from cluster.kubectl import kubectl as kubectl_of
from cluster.kubernetes_programs import programs
from cluster.node_cluster import prepare as prepare_nodes
from cluster.pod_agent import PodAgent

HERE = Path(__file__).resolve().parent
EXISTING = os.environ.get("OUTRIGGER_TEST_KUBECONFIG")
TIMEOUT, NODE_TIMEOUT = 180, 300
GROUPS = ("api", "node")

_logs = pytest.StashKey[dict[str, Callable[[], str]]]()
"""What is added to the report of a test that fails: title → text."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "api: needs an API server, no node")
    config.addinivalue_line("markers", "node: needs a node that runs pods, and our images")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if _named(config) else True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not _named(config):
        terminalreporter.write_line("NOT RUN: tests/cluster (against a real Kubernetes API server): make test-cluster")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for group in GROUPS:
            if item.path.is_relative_to(HERE / group):
                item.add_marker(group)
        if item.path.is_relative_to(HERE) and item.get_closest_marker("timeout") is None:
            # the first test on nodes waits for all of them
            item.add_marker(pytest.mark.timeout(NODE_TIMEOUT if item.path.is_relative_to(HERE / "node") else TIMEOUT))


def pytest_collection_finish(session: pytest.Session) -> None:
    # Here and not in a fixture: a first build takes longer than a test may.
    if session.config.option.collectonly:
        return
    if any(item.path.is_relative_to(HERE) for item in session.items):
        programs(*(["kubectl"] if EXISTING else []))
    if any(item.path.is_relative_to(HERE / "node") for item in session.items):
        prepare_nodes()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        report.sections.extend((title, _told(text)) for title, text in item.session.stash.get(_logs, {}).items())
    return report


def _told(text: Callable[[], str]) -> str:
    # A cluster that a test has broken may not tell its logs: that must not hide why the test failed.
    try:
        return text()
    except (Exception, pytest.fail.Exception) as error:  # the test's time may be over meanwhile
        return "".join(traceback.format_exception(error))


def _named(config: pytest.Config) -> bool:
    named = [Path(config.invocation_params.dir, str(argument).split("::")[0]).resolve() for argument in config.args]
    return any(path.is_relative_to(HERE) for path in named)


@pytest.fixture(scope="session")
def failure_logs(request: pytest.FixtureRequest) -> dict[str, Callable[[], str]]:
    """Title → what is added under it to the report of a test that fails."""
    return request.session.stash.setdefault(_logs, {})


@pytest.fixture(scope="session")
def cluster(failure_logs: dict[str, Callable[[], str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster of this run, with our CRDs, everybody's administrator."""
    if EXISTING:
        directory = tmp_path_factory.mktemp("existing-cluster")
        existing = Cluster(kubeconfigs.read(Path(EXISTING), directory), directory)
        install_crds(existing.api)
        yield existing
        return
    with ControlPlane() as started:
        failure_logs["control plane"] = started.logs
        install_crds(started.api)
        yield started
        del failure_logs["control plane"]


@pytest.fixture
def control_plane(cluster: Cluster) -> ControlPlane:
    """The cluster, for a test that restarts, stops or audits it."""
    if not isinstance(cluster, ControlPlane):
        pytest.skip("OUTRIGGER_TEST_KUBECONFIG names a cluster that is not ours to break")
    return cluster


@pytest.fixture(scope="session")
def api(cluster: Cluster) -> Api:
    """The administrator's client."""
    return cluster.api


@pytest.fixture(scope="session")
def pod_agent(cluster: Cluster, failure_logs: dict[str, Callable[[], str]]) -> Iterator[PodAgent]:
    """What stands for a node; it acts in the namespaces that it is told to serve."""
    with PodAgent(cluster) as agent:
        failure_logs["pods"] = agent.logs
        yield agent
        del failure_logs["pods"]


@pytest.fixture
def real_pods(pod_agent: PodAgent, namespace: str) -> PodAgent:
    """The same, which really runs the containers of the pods in the test's namespace."""
    if not possible():
        pytest.skip("not root: the containers of a pod need mount namespaces")
    pod_agent.serve(namespace, real=True)
    return pod_agent


@pytest.fixture(scope="session")
def pod_monitors(api: Api) -> None:
    """The cluster knows PodMonitors from here on."""
    install_crds(api, POD_MONITOR)


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster) -> Command:
    """`kubectl("get", "pods", input=…)` → what it printed. Raises CalledProcessError, with stderr as a note."""
    return kubectl_of(cluster)


@pytest.fixture
def make_namespace(api: Api) -> Iterator[Callable[..., str]]:
    """Makes namespaces with the given labels, in which pods must be *restricted*; they go with the test."""
    made: list[str] = []

    def make(**labels: str) -> str:
        name = f"test-{uuid.uuid4().hex[:10]}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted", **labels}
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        made.append(name)
        # pods are refused before it is there
        # after a test that stopped the API server, its controller may first have to find out that its watch is dead
        look = lambda: api.get("serviceaccounts", name, "default")  # noqa: E731
        eventually(look, f"the default ServiceAccount of {name}", timeout=90)
        return name

    yield make
    for name in made:
        api.delete("namespaces", None, name)


@pytest.fixture
def namespace(make_namespace: Callable[..., str]) -> str:
    """A namespace of the test's own."""
    return make_namespace()

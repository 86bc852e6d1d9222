"""A whole cluster for the tests of this folder: nodes that run pods, and Outrigger installed by helm as a user does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from chart.tools import helm as helm_program
from cluster.api import Api
from cluster.kubectl import Command, command
from cluster.kubectl import kubectl as kubectl_of
from cluster.node_agents import CNI_PLUGINS, PROGRAMS
from cluster.node_cluster import NodeCluster
from cluster.node_machine import possible
from cluster.operator_process import QUICK, merged

CHART = Path(__file__).resolve().parents[3] / "charts" / "outrigger"
NAMESPACE = "outrigger-system"
ATTENTIVE = {
    "statusPoll": {"idle": "2s"},
    "leaderElection": {"leaseDuration": "10s", "renewDeadline": "7s", "retryPeriod": "1s"},
}
"""It asks pods often though nothing is wrong, and one that dies is soon followed by the other."""


@dataclass(frozen=True)
class Installed:
    """The release `outrigger` of the chart."""

    namespace: str
    release: str
    arguments: tuple[str, ...]
    """What helm was told beside release and chart, for an upgrade that keeps it."""


@pytest.fixture(scope="session")
def node_cluster(failure_logs: dict[str, Callable[[], str]]) -> Iterator[NodeCluster]:
    """The cluster of this run: two nodes, our images on them."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if not CNI_PLUGINS.is_dir():
        missing.append(str(CNI_PLUGINS))
    if missing or not possible():
        why = f"no node can be made: missing {', '.join(missing) or 'root'}"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    with NodeCluster(nodes=2) as started:
        failure_logs["nodes"] = started.logs
        started.import_images()
        yield started
        del failure_logs["nodes"]


# These stand for the ones of the folder above, which are of another cluster and may be kept from another test.


@pytest.fixture(scope="session")
def cluster(node_cluster: NodeCluster) -> NodeCluster:
    """The same, as the fixtures that all clusters share know it."""
    return node_cluster


@pytest.fixture(scope="session")
def api(node_cluster: NodeCluster) -> Api:
    """The administrator's client."""
    return node_cluster.api


@pytest.fixture(scope="session")
def kubectl(node_cluster: NodeCluster) -> Command:
    """`kubectl("get", "pods", input=…)` → what it printed."""
    return kubectl_of(node_cluster)


@pytest.fixture(scope="session")
def helm(node_cluster: NodeCluster) -> Command:
    """`helm("list", "--all-namespaces")` → what it printed."""
    return command(helm_program(), node_cluster)


@pytest.fixture(scope="session")
def installed(helm: Command, node_cluster: NodeCluster, failure_logs: dict[str, Callable[[], str]]) -> Installed:
    """The chart, installed once; its operator looks and polls as often as a test wants."""
    values = node_cluster.directory / "values.json"
    values.write_text(json.dumps({"operator": {"config": merged(QUICK, ATTENTIVE)}}))
    arguments = ("--namespace", NAMESPACE, "--values", str(values), "--wait", "--timeout", "120s")
    failure_logs["operator"] = lambda: kubectl_of(node_cluster)(
        "--namespace",
        NAMESPACE,
        "logs",
        "--selector",
        "app.kubernetes.io/name=outrigger-operator",
        "--prefix",
        "--tail=60",
        timeout=15,
    )
    helm("install", "outrigger", CHART, "--create-namespace", *arguments, timeout=150)
    return Installed(NAMESPACE, "outrigger", arguments)

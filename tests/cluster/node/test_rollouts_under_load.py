"""New pods in the place of old ones, under load: no failed call, and nothing that works is replaced by what does not.

Rollouts by a change of the user's, by a change that is broken, and by another version of the operator.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.api import Api, eventually
from cluster.deployed import PLACE, deploy, names
from cluster.kubectl import Command
from cluster.node_cluster import NodeCluster
from cluster.samples import Samples
from cluster.servers import condition
from cluster.sidecars import Witness
from cluster.steady_load import SteadyLoad
from images.contents import REGISTRY, version

from .conftest import CHART, Installed

NEXT = f"{version()}-next"
TURN = "WaitingForTurn"
OURS = "app.kubernetes.io/managed-by=outrigger"


def assert_no_failure(load: SteadyLoad) -> None:
    """Every call was answered well, and some were after this moment."""
    load.more()
    assert not load.failures, load.summary()


def test_a_change_of_the_users(api: Api, installed: Installed, namespace: str) -> None:
    """All kinds at the same time; legacy sessions of a Shared server outlive it, others are told to begin anew."""
    kinds = {
        "stdio": deploy(api, namespace, "stdio", replicas=1),
        "stdio-legacy": deploy(api, namespace, "stdio-legacy", replicas=2),
        "image": deploy(api, namespace, "image", "stdio-image"),
        "http": deploy(api, namespace, "http", "http", replicas=2),
        "http-legacy": deploy(api, namespace, "http-legacy", "http-legacy"),
    }
    before = {name: names(server.ready().pods()) for name, server in kinds.items()}
    with contextlib.ExitStack() as stack:
        loads = {
            name: stack.enter_context(SteadyLoad(server.url, callers=3, modern="legacy" not in name))
            for name, server in kinds.items()
        }
        for server in kinds.values():
            server.roll("2")
        for name, server in kinds.items():
            server.ready()
            now = server.ready_pods(len(before[name]))
            assert names(now).isdisjoint(before[name])
        for name, load in loads.items():
            load.more()
            assert not load.failures, f"{name}: {load.summary()}"
    assert not loads["stdio-legacy"].sessions_lost
    # its server ended, and with it the sessions it kept: each of the three callers once
    assert 1 <= len(loads["http-legacy"].sessions_lost) <= 3


BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "image": ("http", {"http": {"image": f"{REGISTRY}/no-such-image:1"}}, "ImagePullFailed"),
    "command": ("stdio", {"stdio": {"command": "no-such-command"}}, "CommandNotFound"),
    "argument": ("stdio", {"stdio": {"args": [f"{PLACE}/no-such-script.py"]}}, "ServerCrashing"),
    "secret": (
        "stdio",
        {"stdio": {"env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "t"}}}]}},
        "SecretMissing",
    ),
    "volume": (
        "stdio",
        {"podTemplate": {"volumes": [{"name": "scripts", "configMap": {"name": "absent"}}]}},
        "ConfigMapMissing",
    ),
}
"""Name → kind, what is merged into a spec that works, and the reason of Ready."""


@pytest.mark.timeout(300)
def test_what_is_broken_replaces_nothing(api: Api, installed: Installed, namespace: str) -> None:
    servers = {name: deploy(api, namespace, name, kind) for name, (kind, _, _) in BROKEN.items()}
    good = {name: server.ready().ready_pods(1) for name, server in servers.items()}
    specs = {name: server.object["spec"] for name, server in servers.items()}
    with contextlib.ExitStack() as stack:
        loads = {name: stack.enter_context(SteadyLoad(server.url, callers=2)) for name, server in servers.items()}
        for name, (_, change, _) in BROKEN.items():
            servers[name].patch(**change)
        for name, (_, _, reason) in BROKEN.items():
            said = servers[name].wait("Ready", "False", reason)
            assert said["message"], name
            servers[name].wait("Available", "True")
        for name, server in servers.items():
            assert names(good[name]) <= names(server.pods()), "the pod that works was replaced"
            loads[name].more()
            api.patch("mcpservers", namespace, name, [{"op": "replace", "path": "/spec", "value": specs[name]}])
        for name, server in servers.items():
            server.ready()
            assert names(server.ready_pods(1)) == names(good[name])
            assert_no_failure(loads[name])


# Another version of the operator


def rolling(api: Api, tag: str, done: set[str]) -> int:
    """How many MCPServers of the cluster roll to this version now; `done` keeps those that did."""
    new = [one for one in api.list("deployments", labelSelector=OURS) if tag_of(one) == tag]
    done.update(one["metadata"]["uid"] for one in new if complete(one))
    return sum(one["metadata"]["uid"] not in done for one in new)


def tag_of(deployment: dict[str, Any]) -> str:
    """Of the sidecar's image."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return str(container["image"].rpartition(":")[2])


def complete(deployment: dict[str, Any]) -> bool:
    """As `kubectl rollout status` judges."""
    wanted, status = deployment["spec"]["replicas"], deployment.get("status", {})
    seen = status.get("observedGeneration") == deployment["metadata"]["generation"]
    return bool(
        seen and status.get("updatedReplicas") == status.get("replicas") == status.get("availableReplicas") == wanted
    )


@pytest.fixture
def upgrade(node_cluster: NodeCluster, helm: Command, installed: Installed) -> Iterator[Callable[..., None]]:
    """`upgrade("image.tag=…")`: the release with these values, two MCPServers at a time; taken back after the test."""
    for image in ("sidecar", "sidecar-runtime", "operator"):
        tags = (f"{REGISTRY}/{image}:{tag}" for tag in (version(), NEXT))
        node_cluster.ctr("images", "tag", "--force", *tags)

    def run(*values: str) -> None:
        options = [word for value in values for word in ("--set", value)]
        helm("upgrade", installed.release, CHART, *installed.arguments, *options, timeout=240)

    yield lambda *values: run("operator.config.maxConcurrentRollouts=2", *values)
    run()


@pytest.mark.timeout(300)
def test_another_version_takes_turns(api: Api, upgrade: Callable[..., None], namespace: str) -> None:
    fleet = [deploy(api, namespace, f"server-{number}") for number in range(5)]
    for server in fleet:
        server.ready()
    waited: set[str] = set()
    done: set[str] = set()
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(SteadyLoad(server.url, callers=2)) for server in fleet]
        witness = stack.enter_context(Witness(api, namespace, fleet[-1].name))
        at_once = stack.enter_context(Samples(lambda: rolling(api, NEXT, done)))
        upgrade(f"image.tag={NEXT}")

        def rolled() -> bool:
            deployments = api.list("deployments", namespace)
            servers = api.list("mcpservers", namespace)
            waited.update(one["metadata"]["name"] for one in servers if condition(one, "Progressing")["reason"] == TURN)
            return all(tag_of(one) == NEXT and complete(one) for one in deployments)

        eventually(rolled, "all have the new image", 150)
        for server in fleet:
            server.ready()
        for load in loads:
            assert_no_failure(load)
    assert max(at_once.values) == 2, "at most, and indeed, two at a time"
    assert waited, "who waits says so"
    assert ("Available", "False", "NoReplicasAvailable") not in witness.seen


@pytest.mark.timeout(300)
def test_a_version_that_does_not_start(api: Api, upgrade: Callable[..., None], namespace: str) -> None:
    """Its image does not exist: two wait for it, old pods serve on, and taking it back mends all."""
    fleet = [deploy(api, namespace, f"server-{number}") for number in range(4)]
    before = {server.name: names(server.ready().ready_pods(1)) for server in fleet}
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(SteadyLoad(server.url, callers=2)) for server in fleet]
        upgrade(f"image.digests.sidecarRuntime=sha256:{'0' * 64}")
        try:

            def told() -> bool:
                # the turns are of the whole cluster, and MCPServers of other tests may be on their way out
                found = Counter(condition(one, "Ready")["reason"] for one in api.list("mcpservers"))
                mine = {condition(server.object, "Ready")["reason"] for server in fleet}
                assert found["ImagePullFailed"] == 2, found
                assert mine <= {"ImagePullFailed", "RolloutWaiting"}, mine
                return True

            eventually(told, "two fail, two wait", 90)
            for server in fleet:
                server.wait("Available", "True")
        finally:
            upgrade("image.digests.sidecarRuntime=")
        for server in fleet:
            server.ready()
            assert names(server.ready_pods(1)) == before[server.name]
        for load in loads:
            assert_no_failure(load)

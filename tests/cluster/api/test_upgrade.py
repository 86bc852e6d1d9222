"""An operator of another version rolls its sidecar image to a few MCPServers at a time, and stops when that fails."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from cluster import pod_faults
from cluster.api import Api, eventually
from cluster.operator_process import OperatorProcess
from cluster.pod_agent import PodAgent
from cluster.servers import condition, mcp_server, wait_for

Start = Callable[..., OperatorProcess]
NAMES = [f"server-{number}" for number in range(5)]
NOT_PULLED = pod_faults.IMAGE_BACK_OFF.of("sidecar")


def version(tag: str, **images: Any) -> dict[str, Any]:
    """Settings of an operator whose images have this tag."""
    return {"images": {"tag": tag, **images}, "maxConcurrentRollouts": 2}


def images(api: Api, namespace: str) -> dict[str, str]:
    """MCPServer → tag of the sidecar image in its Deployment."""
    found = {}
    for each in api.list("deployments", namespace):
        (sidecar,) = each["spec"]["template"]["spec"]["containers"]
        found[each["metadata"]["name"]] = sidecar["image"].rpartition(":")[2]
    return found


def having(api: Api, namespace: str, tag: str) -> set[str]:
    return {name for name, found in images(api, namespace).items() if found == tag}


def reasons(api: Api, namespace: str, kind: str) -> dict[str, str]:
    servers = api.list("mcpservers", namespace)
    return {each["metadata"]["name"]: condition(each, kind)["reason"] for each in servers}


def fleet(api: Api, agent: PodAgent, namespace: str, *names: str) -> set[str]:
    """MCPServers that serve with the first version; the names of their pods."""
    agent.serve(namespace)
    for name in names:
        api.create(mcp_server(namespace, name, kind="remote"))
    for name in names:
        wait_for(api, namespace, name, "Available", "True")
    pods = {pod["metadata"]["name"] for pod in api.list("pods", namespace)}
    assert len(pods) == len(names)
    agent.spare(*((namespace, pod) for pod in pods))
    return pods


def late(api: Api, namespace: str, name: str) -> None:
    """The Deployment controller gives up on a rollout, as it does after ten minutes."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    given_up = {
        "type": "Progressing",
        "status": "False",
        "reason": "ProgressDeadlineExceeded",
        "message": "has timed out progressing.",
        "lastUpdateTime": now,
        "lastTransitionTime": now,
    }

    def waits_for_its_pod() -> Any:
        found = api.get("deployments", namespace, name)
        assert found is not None
        status = found["status"]
        assert status["observedGeneration"] == found["metadata"]["generation"]
        assert (status.get("updatedReplicas"), status["replicas"]) == (1, 2)
        return found

    # any progress would take the verdict back
    deployment = eventually(waits_for_its_pod, "a rollout that waits for its pod")
    others = [each for each in deployment["status"].get("conditions", ()) if each["type"] != "Progressing"]
    api.patch("deployments", namespace, name, {"status": {"conditions": [*others, given_up]}}, subresource="status")


def test_a_few_at_a_time(api: Api, start_operator: Start, pod_agent: PodAgent, namespace: str) -> None:
    first = start_operator(name="first", settings=version("1")).wait_until_leading()
    fleet(api, pod_agent, namespace, *NAMES)
    first.stop()
    for name in NAMES:
        pod_agent.fail(namespace, name, NOT_PULLED)  # new pods do not start yet
    second = start_operator(name="second", settings=version("2")).wait_until_leading()
    went = eventually(lambda: len(having(api, namespace, "2")) == 2 and having(api, namespace, "2"), "two roll")
    waiting = set(NAMES) - went

    def told() -> bool:
        found = reasons(api, namespace, "Ready")
        return {name for name in NAMES if found[name] == "RolloutWaiting"} == waiting

    eventually(told, "the others wait")
    for name in waiting:
        server = wait_for(api, namespace, name, "Ready", "True", "RolloutWaiting")
        assert condition(server, "Progressing")["reason"] == "WaitingForTurn"
    # any other change of theirs is applied at once, with the pods they have
    changed = min(waiting)
    api.patch("mcpservers", namespace, changed, {"spec": {"service": {"port": 9999}, "retry": {"maxRetries": 1}}})
    eventually(lambda: (api.get("services", namespace, changed) or {})["spec"]["ports"][0]["port"] == 9999, "the port")
    assert having(api, namespace, "2") == went
    assert second.metrics()["outrigger_operator_fleet_rollouts"] == 2

    for name in NAMES:
        pod_agent.heal(namespace, name)
    for name in NAMES:
        wait_for(api, namespace, name, "Progressing", "True", "RolloutComplete", timeout=60)
    assert having(api, namespace, "2") == set(NAMES)
    assert second.metrics()["outrigger_operator_fleet_rollouts"] == 0


@pytest.mark.parametrize("tag", ["1", "2"])
def test_who_waits_keeps_the_whole_pod_template(
    api: Api, start_operator: Start, pod_agent: PodAgent, namespace: str, tag: str
) -> None:
    """An upgrade changes more of the pods than their image, or something else than it: all of it takes turns."""

    def templates() -> dict[str, Any]:
        return {each["metadata"]["name"]: each["spec"]["template"] for each in api.list("deployments", namespace)}

    def upgraded() -> set[str]:
        found = {name: each["spec"]["containers"][0]["imagePullPolicy"] for name, each in templates().items()}
        return {name for name, policy in found.items() if policy == "Always"}

    first = start_operator(name="first", settings=version("1", pullPolicy="IfNotPresent")).wait_until_leading()
    fleet(api, pod_agent, namespace, *NAMES)
    before = templates()
    first.stop()
    for name in NAMES:
        pod_agent.fail(namespace, name, NOT_PULLED)
    settings = version(tag, pullPolicy="Always", pullSecrets=["mirror"])
    second = start_operator(name="second", settings=settings).wait_until_leading()
    went = eventually(lambda: len(upgraded()) == 2 and upgraded(), "two roll")
    waiting = set(NAMES) - went
    for name in waiting:
        wait_for(api, namespace, name, "Progressing", "False", "WaitingForTurn")
        assert templates()[name] == before[name]
    # what is no matter of the pods' template is applied, and leaves it
    scaled, changed = sorted(waiting)[:2]
    api.patch("mcpservers", namespace, scaled, {"spec": {"replicas": 2, "timeouts": {"timeout": "7s"}}})
    eventually(lambda: (api.get("deployments", namespace, scaled) or {})["spec"]["replicas"] == 2, "the replicas")
    # another leader knows as much, and writes nothing
    second.stop()
    versions = {each["metadata"]["name"]: each["metadata"]["generation"] for each in api.list("deployments", namespace)}
    third = start_operator(name="third", settings=settings).wait_until_leading()
    eventually(lambda: third.metrics()["outrigger_operator_fleet_rollouts"] == 2, "it knows of both")
    eventually(lambda: third.metrics()["outrigger_operator_reconcile_duration_seconds_count"] >= len(NAMES), "all seen")
    assert {name for name in NAMES if templates()[name] == before[name]} == waiting
    assert upgraded() == went
    now = {each["metadata"]["name"]: each["metadata"]["generation"] for each in api.list("deployments", namespace)}
    assert now == versions
    # a change of the user's is not held up, with the image of before
    api.patch("mcpservers", namespace, changed, {"spec": {"podTemplate": {"labels": {"team": "ours"}}}})
    eventually(lambda: templates()[changed]["metadata"]["labels"].get("team") == "ours", "the change")
    assert changed in upgraded(), "as this operator renders it"
    assert images(api, namespace)[changed] == "1"
    for name in NAMES:
        pod_agent.heal(namespace, name)
    for name in NAMES:
        wait_for(api, namespace, name, "Progressing", "True", "RolloutComplete", timeout=60)
    assert upgraded() == set(NAMES)
    if tag == "2":  # else there is no other image
        assert having(api, namespace, tag) == set(NAMES)


def test_who_waits_keeps_the_fixed_part_of_its_configuration(
    api: Api, start_operator: Start, pod_agent: PodAgent, namespace: str
) -> None:
    """As after an upgrade that writes that part otherwise, under another name."""
    names = NAMES[:3]
    first = start_operator(name="first", settings=version("1")).wait_until_leading()
    fleet(api, pod_agent, namespace, *names)
    first.stop()
    for name in names:
        named_by_an_older_operator(api, namespace, name)
    for name in names:
        eventually(lambda name=name: complete(api, namespace, name), f"the older pods of {name}")
    pod_agent.spare(*((namespace, pod["metadata"]["name"]) for pod in api.list("pods", namespace)))
    for name in names:
        pod_agent.fail(namespace, name, NOT_PULLED)
    start_operator(name="second", settings=version("2")).wait_until_leading()
    went = eventually(lambda: len(having(api, namespace, "2")) == 2 and having(api, namespace, "2"), "two roll")
    (name,) = set(names) - went
    wait_for(api, namespace, name, "ConfigApplied", "False", "WaitingForTurn")
    wait_for(api, namespace, name, "Ready", "True", "RolloutWaiting")
    assert api.get("configmaps", namespace, f"{name}-older") is not None
    for each in names:
        pod_agent.heal(namespace, each)
    wait_for(api, namespace, name, "Progressing", "True", "RolloutComplete", timeout=60)
    assert having(api, namespace, "2") == set(names)


def complete(api: Api, namespace: str, name: str) -> bool:
    found = api.get("deployments", namespace, name)
    assert found is not None
    status = found["status"]
    counts = [status.get(key) for key in ("replicas", "updatedReplicas", "availableReplicas")]
    return counts == [1, 1, 1] and status["observedGeneration"] == found["metadata"]["generation"]


def named_by_an_older_operator(api: Api, namespace: str, name: str) -> None:
    """Let the pods of a Deployment mount their configuration under a name that this operator would not give it."""
    deployment = api.get("deployments", namespace, name)
    assert deployment is not None
    (volume,) = (each for each in deployment["spec"]["template"]["spec"]["volumes"] if each["name"] == "config")
    found = api.get("configmaps", namespace, volume["configMap"]["name"])
    assert found is not None
    volume["configMap"]["name"] = f"{name}-older"
    annotations = deployment["metadata"]["annotations"]
    annotations["outrigger.dev/pod-template"] = annotations["outrigger.dev/pod-template"].partition("-")[0] + "-older"
    found["metadata"]["name"] = f"{name}-older"
    for each in (found, deployment):
        kept = ("annotations", "labels", "name", "namespace", "ownerReferences")
        each["metadata"] = {key: value for key, value in each["metadata"].items() if key in kept}
        each.pop("status", None)
        api.apply(each, manager="outrigger")


def test_a_failure_stops_the_fleet(api: Api, start_operator: Start, pod_agent: PodAgent, namespace: str) -> None:
    first = start_operator(name="first", settings=version("1")).wait_until_leading()
    pods = fleet(api, pod_agent, namespace, *NAMES)
    first.stop()
    for name in NAMES:
        pod_agent.fail(namespace, name, NOT_PULLED)
    second = start_operator(name="second", settings=version("2")).wait_until_leading()
    went = eventually(lambda: len(having(api, namespace, "2")) == 2 and having(api, namespace, "2"), "two roll")
    waiting = set(NAMES) - went
    bad, good = sorted(went)
    late(api, namespace, bad)
    wait_for(api, namespace, bad, "Progressing", "False", "RolloutStuck")
    server = wait_for(api, namespace, bad, "Ready", "False", "ImagePullFailed")
    assert condition(server, "Available")["status"] == "True"
    for name in waiting:
        server = wait_for(api, namespace, name, "Progressing", "False", "FleetStopped")
        assert f"MCPServer {namespace}/{bad}," in condition(server, "Progressing")["message"]
        wait_for(api, namespace, name, "Ready", "True", "RolloutWaiting")
    assert second.metrics()["outrigger_operator_fleet_rollouts_failed"] == 1

    # one that succeeds makes no room for others, neither for the next leader
    pod_agent.heal(namespace, good)
    wait_for(api, namespace, good, "Progressing", "True", "RolloutComplete")
    second.stop()
    third = start_operator(name="third", settings=version("2")).wait_until_leading()
    eventually(lambda: third.metrics()["outrigger_operator_fleet_rollouts_failed"] == 1, "it knows of the failure")
    for name in waiting:
        assert reasons(api, namespace, "Progressing")[name] == "FleetStopped"
    assert having(api, namespace, "2") == went
    third.stop()

    # the upgrade is taken back: no pod that worked was touched
    fourth = start_operator(name="fourth", settings=version("1")).wait_until_leading()
    for name in NAMES:
        wait_for(api, namespace, name, "Progressing", "True", "RolloutComplete", timeout=60)
    assert having(api, namespace, "1") == set(NAMES)
    untouched = {
        pod["metadata"]["name"] for pod in api.list("pods", namespace) if "deletionTimestamp" not in pod["metadata"]
    }
    assert len(pods & untouched) == 4
    assert fourth.metrics()["outrigger_operator_fleet_rollouts_failed"] == 0


def test_what_was_broken_before_holds_up_nobody(
    api: Api, start_operator: Start, pod_agent: PodAgent, namespace: str
) -> None:
    """As many as there are places never served; the rest is upgraded all the same."""
    first = start_operator(name="first", settings=version("1")).wait_until_leading()
    fleet(api, pod_agent, namespace, "whole-1", "whole-2")
    broken = ["a-broken", "b-broken", "c-broken"]
    for name in broken:
        pod_agent.fail(namespace, name, pod_faults.CRASHING.of("sidecar"))
        api.create(mcp_server(namespace, name, kind="remote"))
    for name in broken:
        wait_for(api, namespace, name, "Ready", "False", "SidecarCrashing")
    first.stop()
    second = start_operator(name="second", settings=version("2")).wait_until_leading()
    for name in ("whole-1", "whole-2"):
        wait_for(api, namespace, name, "Progressing", "True", "RolloutComplete", timeout=60)
    eventually(lambda: len(having(api, namespace, "2")) == 5, "all have the new image")
    for name in broken:
        late(api, namespace, name)
    wait_for(api, namespace, "a-broken", "Progressing", "False", "RolloutStuck")
    assert second.metrics()["outrigger_operator_fleet_rollouts_failed"] == 0

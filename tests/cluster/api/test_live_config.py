"""A change of an MCPServer reaches its sidecars: tunables without a restart, the rest by new pods that must be good.

The sidecars are real ones. Nothing but an annotation of the pod makes the node refresh a ConfigMap within these tests.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mcp_sidecar
from cluster.api import Api, ApiError, eventually
from cluster.operator_process import OperatorProcess
from cluster.pod_agent import PodAgent
from cluster.pod_faults import UNSCHEDULABLE
from cluster.servers import CHILD, condition, mcp_server, owned, settled, wait_for
from cluster.sidecars import Sidecar, Witness, living, mounted, sidecars
from mcp_callers import Exchange

HASH_ANNOTATION = "outrigger.dev/config-hash"
COMMAND = {"command": sys.executable, "args": ["-S", "-E", CHILD]}
Kubectl = Callable[..., str]


def patch(api: Api, namespace: str, **spec: Any) -> dict[str, Any]:
    return api.patch("mcpservers", namespace, "one", {"spec": spec})


def hashes(running: list[Sidecar]) -> set[str]:
    return {sidecar.status()["config"]["fileHash"] for sidecar in running}


def config_maps(api: Api, namespace: str) -> set[str]:
    return {name for resource, name in owned(api, namespace, "one") if resource == "configmaps"}


def template(api: Api, namespace: str) -> Any:
    deployment = api.get("deployments", namespace, "one")
    assert deployment is not None
    return deployment["spec"]["template"]


def is_denied(sidecar: Sidecar, tool: str) -> bool:
    answer = sidecar.caller().call(tool).answer()
    return "error" in answer


def test_a_tunable_reaches_every_sidecar_without_a_restart(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    api.create(mcp_server(namespace, replicas=2))
    wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied", timeout=60)
    wait_for(api, namespace, "one", "Progressing", "True", "RolloutComplete", timeout=60)
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    running = sidecars(api, real_pods, namespace, 2)
    before = [sidecar.identity for sidecar in running]
    children = [sidecar.text("pid") for sidecar in running]
    pod_template, config = template(api, namespace), config_maps(api, namespace)
    assert not any(is_denied(sidecar, "echo") for sidecar in running)

    with Witness(api, namespace) as witness:
        patch(api, namespace, deniedTools=["echo"], timeouts={"timeout": "7s"})
        server = wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied")
        witness.wait_for(("ConfigApplied", "False", "Propagating"), ("ConfigApplied", "True", "Applied"))
    wanted = server["status"]["configHash"]
    assert witness.messages("ConfigApplied", "Propagating")[0] == f"0 of 2 pods run configuration {wanted}"
    assert hashes(running) == {wanted}
    assert all(is_denied(sidecar, "echo") for sidecar in running)
    assert condition(server, "Ready")["status"] == "True"
    assert {("Ready", "False", "Progressing"), ("Available", "False", "NoReplicasAvailable")}.isdisjoint(witness.seen)

    # the same pods, processes, servers; the same template and ConfigMap
    assert [sidecar.identity for sidecar in running] == before
    assert [sidecar.text("pid") for sidecar in running] == children
    assert all(one["restartCount"] == 0 for each in running for one in each.pod["status"]["containerStatuses"])
    assert template(api, namespace) == pod_template
    assert config_maps(api, namespace) == config
    # this is what made the node look
    assert {sidecar.pod["metadata"]["annotations"][HASH_ANNOTATION] for sidecar in running} == {wanted}


def test_a_tunable_does_not_end_calls_and_sessions(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str, tmp_path: Path
) -> None:
    api.create(mcp_server(namespace))
    wait_for(api, namespace, "one", "ConfigApplied", "True", timeout=60)
    (sidecar,) = sidecars(api, real_pods, namespace, 1)
    caller = sidecar.caller(version="2025-06-18").open()
    gate = tmp_path / "gate"
    waiting: Exchange = caller.call("wait", path=str(gate))
    patch(api, namespace, limits={"maxConcurrent": 3})
    wait_for(api, namespace, "one", "ConfigApplied", "True")
    assert not waiting.over
    gate.touch()
    assert "result" in waiting.answer()
    assert caller.text("echo", text="x") == '{"text": "x"}'


def test_changes_on_the_heels_of_each_other(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    """The last one counts, also where a value comes back that the pod was annotated with before."""
    api.create(mcp_server(namespace))
    first = wait_for(api, namespace, "one", "ConfigApplied", "True", timeout=60)["status"]["configHash"]
    (sidecar,) = sidecars(api, real_pods, namespace, 1)
    for number in range(12):
        patch(api, namespace, deniedTools=["echo"] if number % 2 else ["pid"])
    patch(api, namespace, deniedTools=["exit"])
    wait_for(api, namespace, "one", "ConfigApplied", "True")
    assert is_denied(sidecar, "exit")
    assert not is_denied(sidecar, "echo")
    patch(api, namespace, deniedTools=None)
    server = wait_for(api, namespace, "one", "ConfigApplied", "True")
    assert server["status"]["configHash"] == first
    eventually(lambda: hashes([sidecar]) == {first}, "the first configuration again")
    assert not is_denied(sidecar, "echo")
    assert sidecar.pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_counts_the_pods_that_run_it(api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str) -> None:
    api.create(mcp_server(namespace))
    wait_for(api, namespace, "one", "ConfigApplied", "True", timeout=60)
    (sidecar,) = sidecars(api, real_pods, namespace, 1)
    real_pods.spare((namespace, sidecar.name))
    real_pods.fail(namespace, "one", UNSCHEDULABLE)
    patch(api, namespace, replicas=2)
    server = wait_for(api, namespace, "one", "ConfigApplied", "False", "AwaitingPods")
    assert condition(server, "ConfigApplied")["message"].startswith("1 of 2 pods run configuration ")
    wait_for(api, namespace, "one", "Ready", "False", "Unschedulable")
    real_pods.heal(namespace, "one")
    wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied", timeout=60)


def test_a_rolling_change_and_the_way_back(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    api.create(mcp_server(namespace))
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    (old,) = sidecars(api, real_pods, namespace, 1)
    old_map, old_hash = old.config_map, old.status()["config"]["fileHash"]
    content = api.get("configmaps", namespace, old_map)
    old_set = old.pod["metadata"]["ownerReferences"][0]["name"]

    with Witness(api, namespace) as witness:
        patch(api, namespace, stdio={**COMMAND, "args": [*COMMAND["args"], "--modern"]}, deniedTools=["pid"])
        wait_for(api, namespace, "one", "Ready", "True", timeout=60)
        (new,) = sidecars(api, real_pods, namespace, 1)
        witness.wait_for(("Ready", "False", "Progressing"), ("Progressing", "True", "RollingOut"))
        assert ("Available", "False", "NoReplicasAvailable") not in witness.seen
    assert new.uid != old.uid
    assert new.config_map != old_map
    assert "--modern" in new.text("args")
    assert is_denied(new, "pid")
    # what the old pods had is as it was
    assert config_maps(api, namespace) == {old_map, new.config_map}
    kept = api.get("configmaps", namespace, old_map)
    assert kept is not None
    assert content is not None
    assert kept["data"] == content["data"]

    patch(api, namespace, stdio=COMMAND, deniedTools=None)
    server = wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    (back,) = sidecars(api, real_pods, namespace, 1)
    assert back.config_map == old_map
    assert back.pod["metadata"]["ownerReferences"][0]["name"] == old_set
    again = api.get("configmaps", namespace, old_map)
    assert again is not None
    assert again["metadata"]["uid"] == content["metadata"]["uid"]
    assert hashes([back]) == {old_hash} == {server["status"]["configHash"]}
    assert len(api.list("replicasets", namespace)) == 2


def test_a_broken_rolling_change_leaves_good_pods_alone(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    api.create(mcp_server(namespace))
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    (good,) = sidecars(api, real_pods, namespace, 1)
    before, old_hash, child = good.identity, good.status()["config"]["fileHash"], good.text("pid")

    with Witness(api, namespace) as witness:
        patch(api, namespace, stdio={"command": "no-such-server", "args": None})
        server = wait_for(api, namespace, "one", "Ready", "False", "CommandNotFound")
        assert "no-such-server" in condition(server, "Ready")["message"]
        # a tunable meanwhile is for the new pods, and for those of a way back
        patch(api, namespace, deniedTools=["echo"])
        server = wait_for(api, namespace, "one", "Ready", "False", "CommandNotFound")
        wait_for(api, namespace, "one", "Available", "True")
        assert server["status"]["replicas"] == 2
        assert hashes([good]) == {old_hash}
        assert not is_denied(good, "echo")
        broken = next(pod for pod in living(api, namespace) if pod["metadata"]["uid"] != good.uid)
        assert mounted(broken["spec"]) != good.config_map

        patch(api, namespace, stdio=COMMAND)
        server = wait_for(api, namespace, "one", "Ready", "True", "Ready", timeout=60)
        wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied", timeout=60)
        assert ("Available", "False", "NoReplicasAvailable") not in witness.seen
    assert [sidecar.identity for sidecar in sidecars(api, real_pods, namespace, 1)] == [before]
    assert good.text("pid") == child
    assert is_denied(good, "echo"), "the tunable of meanwhile, in the same pod"


def older_sidecar(directory: Path) -> list[str]:
    """The command of a sidecar that does not know `metrics.toolHistograms`: a copy of ours, without the name."""
    package = directory / "mcp_sidecar"
    shutil.copytree(Path(mcp_sidecar.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    module = package / "config" / "vocabulary.py"
    source = module.read_text()
    known = "    renamed, foreign = RENAMED"
    assert source.count(known) == 1
    module.write_text(source.replace(known, f'    names.pop("toolHistograms", None)\n{known}'))
    places = (
        "OUTRIGGER__FRONT__HOST=$POD_IP OUTRIGGER__FRONT__ADMIN_HOST=$POD_IP MCP_CONFIG_PATH=/etc/outrigger/config.json"
    )
    run = f"exec env PYTHONPATH={directory} {places} {sys.executable} -m mcp_sidecar.cli run"
    return ["sh", "-c", run]


def test_a_configuration_that_a_sidecar_refuses(
    api: Api,
    start_operator: Callable[..., OperatorProcess],
    real_pods: PodAgent,
    namespace: str,
    tmp_path: Path,
) -> None:
    """Pods of an older image, as while an upgrade waits for its turn or where the image is pinned."""
    image = "test.local/older-sidecar-runtime:0"
    real_pods.images[image] = older_sidecar(tmp_path)
    start_operator(settings={"images": {"sidecarRuntime": image}})
    api.create(mcp_server(namespace))
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    (sidecar,) = sidecars(api, real_pods, namespace, 1)
    assert sidecar.pod["spec"]["containers"][0]["image"] == image
    before, old_hash = sidecar.identity, sidecar.status()["config"]["fileHash"]

    patch(api, namespace, metrics={"toolHistograms": True}, deniedTools=["echo"])
    server = wait_for(api, namespace, "one", "ConfigApplied", "False", "Refused")
    said = condition(server, "ConfigApplied")["message"]
    assert "metrics.toolHistograms: unknown key" in said
    server = wait_for(api, namespace, "one", "Ready", "False", "ConfigRefused")
    assert said in condition(server, "Ready")["message"]
    assert condition(server, "Available")["status"] == "True"
    eventually(lambda: "ConfigRefused" in {event["reason"] for event in api.list("events", namespace)}, "an Event")
    # it runs on with what it had, all of it
    assert hashes([sidecar]) == {old_hash}
    assert not is_denied(sidecar, "echo")

    patch(api, namespace, metrics=None)
    wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied")
    wait_for(api, namespace, "one", "Ready", "True")
    assert is_denied(sidecar, "echo")
    assert sidecar.identity == before


def test_scale_by_kubectl_to_zero_and_back(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str, kubectl: Kubectl
) -> None:
    api.create(mcp_server(namespace))
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    (first,) = sidecars(api, real_pods, namespace, 1)
    kubectl("-n", namespace, "scale", "mcpserver", "one", "--replicas=2")
    both = sidecars(api, real_pods, namespace, 2)
    assert first.uid in {sidecar.uid for sidecar in both}
    server = wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied")
    assert server["status"]["replicas"] == 2
    assert owned(api, namespace, "one") >= {("poddisruptionbudgets", "one")}

    kubectl("-n", namespace, "scale", "mcpserver", "one", "--replicas=0")
    server = wait_for(api, namespace, "one", "Ready", "False", "ScaledToZero")
    wait_for(api, namespace, "one", "Available", "False", "ScaledToZero")
    server = wait_for(api, namespace, "one", "ServerReachable", "Unknown", "NoPods")
    eventually(lambda: not api.list("pods", namespace), "no pods")
    assert condition(server, "Progressing")["status"] == "True", "nothing is wrong with the rollout"
    assert server["status"]["url"], "callers may know it already"

    kubectl("-n", namespace, "scale", "mcpserver", "one", "--replicas=1")
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    sidecars(api, real_pods, namespace, 1)


def test_scale_as_an_autoscaler_does(api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str) -> None:
    """It reads and writes /scale of the MCPServer, and our next apply does not take it back."""
    pod_agent.serve(namespace)
    api.create(mcp_server(namespace, autoscaling={"minReplicas": 1, "maxReplicas": 5}))
    wait_for(api, namespace, "one", "Available", "True", "ReplicasAvailable")
    hpa = api.get("horizontalpodautoscalers", namespace, "one")
    assert hpa is not None
    target = hpa["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "outrigger.dev/v1alpha1", "kind": "MCPServer", "name": "one"}
    where = f"/apis/outrigger.dev/v1alpha1/namespaces/{namespace}/mcpservers/one/scale"
    scale = api.request("GET", where)
    assert scale["status"]["replicas"] == 1
    selector = scale["status"]["selector"]
    assert len(api.list("pods", namespace, labelSelector=selector)) == 1, "what its metrics are of"

    def scaled() -> bool:
        scale = api.request("GET", where)
        scale["spec"]["replicas"] = 3
        try:
            api.request("PUT", where, scale)
        except ApiError as error:
            if error.status != 409:  # the status was written meanwhile
                raise
            return False
        return True

    eventually(scaled, "the scale written")
    eventually(lambda: api.request("GET", where)["status"]["replicas"] == 3, "three replicas")
    patch(api, namespace, service={"labels": {"team": "a"}})
    settled(api, namespace)
    server = wait_for(api, namespace, "one", "Available", "True", "ReplicasAvailable")
    assert server["spec"]["replicas"] == 3
    assert len(living(api, namespace)) == 3


@pytest.mark.parametrize("seconds", [0, 1])
def test_pods_that_come_while_a_tunable_changes(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str, seconds: int
) -> None:
    """A pod may have mounted what was there a moment ago."""
    api.create(mcp_server(namespace))
    settled(api, namespace)
    if seconds:
        eventually(lambda: living(api, namespace) and living(api, namespace)[0].get("status", {}).get("podIP"), "a pod")
    patch(api, namespace, deniedTools=["echo"])
    server = wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied", timeout=60)
    (sidecar,) = sidecars(api, real_pods, namespace, 1)
    assert hashes([sidecar]) == {server["status"]["configHash"]}
    assert is_denied(sidecar, "echo")

"""Conditions as a user sees them in a real API server: each one True and False, and Unknown where the table has it.

Together with the other modules here it shows every row of `mcp_operator.reasons`; that none is left out is checked by
tests/unit/operator/test_condition_coverage.py, which reads the rows that these tests wait for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster.api import Api, ApiError, eventually
from cluster.operator_process import OperatorProcess
from cluster.pod_agent import PodAgent
from cluster.pod_faults import CRASHING, IMAGE_BACK_OFF, UNSCHEDULABLE, Fault
from cluster.servers import KINDS, condition, mcp_server, settled, wait_for
from cluster.sidecars import Witness, living, sidecars

Start = Callable[..., OperatorProcess]


def stdio(**settings: Any) -> dict[str, Any]:
    return {**KINDS["stdio"]["stdio"], **settings}


def patch(api: Api, namespace: str, **spec: Any) -> None:
    api.patch("mcpservers", namespace, "one", {"spec": spec})


def pod_status(api: Api, namespace: str, name: str, **status: Any) -> None:
    api.patch("pods", namespace, name, {"status": status}, subresource="status")


def deadline_exceeded(api: Api, namespace: str, name: str = "one") -> None:
    """What the Deployment's controller says after ten minutes without progress; it sticks to it until there is some."""

    def write() -> bool:
        found = api.get("deployments", namespace, name)
        assert found is not None
        # pods made later would be progress, and the end of it
        assert found["status"].get("observedGeneration") == found["metadata"]["generation"]
        assert found["status"].get("updatedReplicas") == found["spec"]["replicas"]
        conditions = [one for one in found["status"].get("conditions", ()) if one["type"] != "Progressing"]
        late = {
            "type": "Progressing",
            "status": "False",
            "reason": "ProgressDeadlineExceeded",
            "message": "no progress",
        }
        found["status"]["conditions"] = [*conditions, late]
        where = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}/status"
        try:
            api.request("PUT", where, found)
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        return True

    eventually(write, "the Deployment's condition written")


# From the first moment to the last


def test_a_server_comes_up_and_goes_down(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    with Witness(api, namespace) as witness:
        api.create(mcp_server(namespace))
        wait_for(api, namespace, "one", "Ready", "True", "Ready", timeout=60)
        wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied")
        witness.wait_for(
            ("Ready", "False", "Progressing"),
            ("Available", "Unknown", "NotYetKnown"),
            ("Available", "False", "NoReplicasAvailable"),
            ("Available", "True", "ReplicasAvailable"),
            ("Progressing", "Unknown", "NotYetKnown"),
            ("Progressing", "True", "RollingOut"),
            ("Progressing", "True", "RolloutComplete"),
            ("ServerReachable", "Unknown", "NoPods"),
            ("ServerReachable", "True", "Reachable"),
            ("SecretsResolved", "True", "NoneNeeded"),
            ("ConfigApplied", "Unknown", "NoPods"),
        )
        patch(api, namespace, replicas=0)
        witness.wait_for(("Ready", "False", "ScaledToZero"), ("Available", "False", "ScaledToZero"))
    for one in witness.objects:
        kinds = [each["type"] for each in (one.get("status") or {}).get("conditions", ())]
        assert kinds in (
            [],
            ["Ready", "Available", "Progressing", "ServerReachable", "SecretsResolved", "ConfigApplied"],
        )
    bad = {row for row in witness.seen if row[1] == "False"} - {
        ("Ready", "False", "Progressing"),
        ("Ready", "False", "ScaledToZero"),
        ("Available", "False", "NoReplicasAvailable"),
        ("Available", "False", "ScaledToZero"),
        ("ConfigApplied", "False", "AwaitingPods"),
    }
    assert not bad, "nothing was wrong, and nothing was said to be"


def test_a_spec_that_cannot_be_used_from_the_start(api: Api, operator: OperatorProcess, namespace: str) -> None:
    api.create(mcp_server(namespace, podTemplate={"serviceAccountName": "robot"}))
    server = wait_for(api, namespace, "one", "Ready", "False", "InvalidSpec")
    assert "allowedServiceAccounts" in condition(server, "Ready")["message"]
    wait_for(api, namespace, "one", "Available", "False", "NotDeployed")
    wait_for(api, namespace, "one", "Progressing", "False", "Blocked")
    wait_for(api, namespace, "one", "ServerReachable", "Unknown", "NoPods")
    wait_for(api, namespace, "one", "SecretsResolved", "Unknown", "NotYetKnown")
    wait_for(api, namespace, "one", "ConfigApplied", "False", "Blocked")
    patch(api, namespace, podTemplate=None)
    wait_for(api, namespace, "one", "SecretsResolved", "True", "NoneNeeded")
    settled(api, namespace)


# The rollout


def test_a_rollout_that_makes_no_progress(
    api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str
) -> None:
    """Nothing is known of its pods: no node has taken them."""
    api.create(mcp_server(namespace))
    settled(api, namespace)
    wait_for(api, namespace, "one", "Progressing", "True", "RollingOut")
    deadline_exceeded(api, namespace)
    wait_for(api, namespace, "one", "Ready", "False", "RolloutStuck")
    wait_for(api, namespace, "one", "Progressing", "False", "RolloutStuck")
    pod_agent.serve(namespace)
    wait_for(api, namespace, "one", "Progressing", "True", "RolloutComplete")


def test_a_rollout_that_somebody_paused(
    api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str
) -> None:
    pod_agent.serve(namespace)
    api.create(mcp_server(namespace))
    wait_for(api, namespace, "one", "Progressing", "True", "RolloutComplete")
    api.patch("deployments", namespace, "one", {"spec": {"paused": True}})
    patch(api, namespace, stdio=stdio(workingDir="/tmp"))
    server = wait_for(api, namespace, "one", "Progressing", "False", "RolloutPaused")
    assert f"kubectl -n {namespace} rollout resume deployment/one" in condition(server, "Progressing")["message"]
    api.patch("deployments", namespace, "one", {"spec": {"paused": False}})
    wait_for(api, namespace, "one", "Progressing", "True", "RolloutComplete")


def test_an_upgrade_of_the_operator_takes_turns(
    api: Api, start_operator: Start, pod_agent: PodAgent, namespace: str
) -> None:
    """The new sidecar image fails: one MCPServer tries it, the other keeps what it has and says so."""
    pod_agent.serve(namespace)
    before = start_operator(name="before", settings={"images": {"sidecarRuntime": "test.local/runtime:1"}})
    names = ("one", "two")
    for name in names:
        api.create(mcp_server(namespace, name))
    for name in names:
        wait_for(api, namespace, name, "Progressing", "True", "RolloutComplete")
    before.stop()
    pod_agent.spare(*((namespace, pod["metadata"]["name"]) for pod in living(api, namespace)))
    for name in names:
        pod_agent.fail(namespace, name, IMAGE_BACK_OFF.of("sidecar"))
    start_operator(
        name="after", settings={"images": {"sidecarRuntime": "test.local/runtime:2"}, "maxConcurrentRollouts": 1}
    )

    def waiting() -> str:
        found = [
            name
            for name in names
            if condition(api.get("mcpservers", namespace, name), "Progressing")["reason"] == "WaitingForTurn"
        ]
        assert len(found) == 1, found
        return found[0]

    later = eventually(waiting, "one that waits")
    first = next(name for name in names if name != later)
    wait_for(api, namespace, first, "Ready", "False", "ImagePullFailed")
    wait_for(api, namespace, first, "Available", "True", "ReplicasAvailable")
    wait_for(api, namespace, later, "Progressing", "False", "WaitingForTurn")
    wait_for(api, namespace, later, "Ready", "True", "RolloutWaiting")

    deadline_exceeded(api, namespace, first)
    wait_for(api, namespace, later, "Progressing", "False", "FleetStopped")
    wait_for(api, namespace, later, "Ready", "True", "RolloutWaiting")
    for name in names:
        pod_agent.heal(namespace, name)
    for name in names:
        wait_for(api, namespace, name, "Progressing", "True", "RolloutComplete", timeout=60)
    images = {pod["spec"]["containers"][0]["image"] for pod in living(api, namespace)}
    assert images == {"test.local/runtime:2"}


# Pods


REFUSED = Fault("server", "CreateContainerError", "failed to generate spec: path /data is not shared")
PORT = replace(
    CRASHING, terminated={**CRASHING.terminated, "message": "OSError: [Errno 98] Address already in use: 8000"}
)


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [(REFUSED, "ContainerRefused", "/data is not shared"), (PORT, "PortInUse", "spec.http.port")],
    ids=lambda value: value.waiting if isinstance(value, Fault) else None,
)
def test_pod_that_does_not_start(
    api: Api,
    operator: OperatorProcess,
    pod_agent: PodAgent,
    namespace: str,
    fault: Fault,
    reason: str,
    words: str,
) -> None:
    pod_agent.serve(namespace)
    pod_agent.fail(namespace, "one", fault)
    api.create(mcp_server(namespace, kind="http"))
    server = wait_for(api, namespace, "one", "Ready", "False", reason)
    assert words in condition(server, "Ready")["message"]
    pod_agent.heal(namespace, "one")
    wait_for(api, namespace, "one", "Ready", "True")


def test_a_container_that_something_else_put_into_the_pod(
    api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str
) -> None:
    """As a mesh does, by a policy of the cluster."""
    group = "admissionregistration.k8s.io/v1"
    if not any(one["name"] == "mutatingadmissionpolicies" for one in api.request("GET", f"/apis/{group}")["resources"]):
        assert os.environ.get("OUTRIGGER_TEST_KUBECONFIG"), "our own API server has no MutatingAdmissionPolicy v1"
        pytest.skip("the API server of OUTRIGGER_TEST_KUBECONFIG has no MutatingAdmissionPolicy v1")
    name = f"mesh-{namespace}"
    security = "Object.spec.containers.securityContext"
    container = (
        'Object.spec.containers{name: "mesh", image: "test.local/mesh:1", '
        f"securityContext: {security}{{allowPrivilegeEscalation: false, runAsNonRoot: true, "
        f'capabilities: {security}.capabilities{{drop: ["ALL"]}}, '
        f'seccompProfile: {security}.seccompProfile{{type: "RuntimeDefault"}}}}}}'
    )
    added = f'[JSONPatch{{op: "add", path: "/spec/containers/-", value: {container}}}]'
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    policy = {
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "resourceRules": [rule],
        },
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": added}}],
        "reinvocationPolicy": "Never",
    }
    base = f"/apis/{group}/mutatingadmissionpolicies"
    meta = {"apiVersion": group, "metadata": {"name": name}}
    api.request("POST", base, {**meta, "kind": "MutatingAdmissionPolicy", "spec": policy})
    binding = {**meta, "kind": "MutatingAdmissionPolicyBinding", "spec": {"policyName": name}}
    api.request("POST", f"{base[:-3]}ybindings", binding)
    try:

        def in_force() -> bool:
            pod = {"metadata": {"name": "probe", "namespace": namespace}, "spec": probe_spec()}
            made = api.create({"apiVersion": "v1", "kind": "Pod", **pod}, dryRun="All")
            return len(made["spec"]["containers"]) == 2

        eventually(in_force, "the policy in force")
        pod_agent.serve(namespace)
        pod_agent.fail(namespace, "one", CRASHING.of("mesh"))
        api.create(mcp_server(namespace))
        server = wait_for(api, namespace, "one", "Ready", "False", "ContainerCrashing")
        assert "container mesh" in condition(server, "Ready")["message"]
        pod_agent.heal(namespace, "one")
        wait_for(api, namespace, "one", "Ready", "True")
    finally:
        api.request("DELETE", f"{base[:-3]}ybindings/{name}")
        api.request("DELETE", f"{base}/{name}")


def probe_spec() -> dict[str, Any]:
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {"containers": [{"name": "probe", "image": "test.local/probe:1", "securityContext": security}]}


def test_a_pod_that_its_node_cannot_prepare(
    api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str
) -> None:
    """A volume cannot be mounted: the kubelet says so in Events only."""
    api.create(mcp_server(namespace))
    (pod,) = eventually(lambda: living(api, namespace), "its pod")
    waits = {"type": "PodReadyToStartContainers", "status": "False"}
    pod_status(api, namespace, pod["metadata"]["name"], phase="Pending", conditions=[waits])
    about = {"apiVersion": "v1", "kind": "Pod", "namespace": namespace}
    about |= {key: pod["metadata"][key] for key in ("name", "uid")}
    event = {
        "metadata": {"name": "mount", "namespace": namespace},
        "involvedObject": about,
        "type": "Warning",
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "data" : the disk is of another node',
        "source": {"component": "kubelet"},
    }
    api.request("POST", f"/api/v1/namespaces/{namespace}/events", {"apiVersion": "v1", "kind": "Event", **event})
    server = wait_for(api, namespace, "one", "Ready", "False", "PodNotPrepared", timeout=60)
    assert 'volume "data" : the disk is of another node' in condition(server, "Ready")["message"]
    pod_agent.serve(namespace)
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)


def test_a_pod_that_its_node_threw_out(
    api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str
) -> None:
    pod_agent.serve(namespace)
    api.create(mcp_server(namespace))
    wait_for(api, namespace, "one", "Available", "True", "ReplicasAvailable")
    (pod,) = living(api, namespace)
    name = pod["metadata"]["name"]
    pod_agent.spare((namespace, name))
    # its replacement waits, and nothing is wrong with that
    pod_agent.fail(namespace, "one", Fault("", "SchedulingGated", "waits for a gate"))
    pod_status(api, namespace, name, phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    server = wait_for(api, namespace, "one", "Ready", "False", "PodEvicted")
    assert "low on resource: memory" in condition(server, "Ready")["message"]
    pod_agent.heal(namespace, "one")
    wait_for(api, namespace, "one", "Ready", "True")


def test_some_replicas(api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str) -> None:
    pod_agent.serve(namespace)
    api.create(mcp_server(namespace))
    wait_for(api, namespace, "one", "Available", "True", "ReplicasAvailable")
    pod_agent.spare(*((namespace, pod["metadata"]["name"]) for pod in living(api, namespace)))
    pod_agent.fail(namespace, "one", UNSCHEDULABLE)
    patch(api, namespace, replicas=3)
    server = wait_for(api, namespace, "one", "Available", "True", "SomeReplicasAvailable")
    assert condition(server, "Available")["message"] == "1 of 3 replicas are available"
    pod_agent.heal(namespace, "one")
    wait_for(api, namespace, "one", "Available", "True", "ReplicasAvailable")


def test_a_sidecar_that_stands_still(api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str) -> None:
    """The rollout was complete, and no pod says why it does not serve."""
    api.create(mcp_server(namespace))
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    (sidecar,) = sidecars(api, real_pods, namespace, 1)
    sidecar.process.pause()
    try:
        wait_for(api, namespace, "one", "Ready", "False", "NoReplicasAvailable", timeout=60)
        wait_for(api, namespace, "one", "Available", "False", "NoReplicasAvailable")
    finally:
        sidecar.process.resume()
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)

"""What the API server, a quota or a node refuses ends as a condition and an Event in words, and heals by itself."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cluster import pod_faults
from cluster.api import Api, ApiError, eventually
from cluster.crds import install_crds
from cluster.operator_process import OperatorProcess
from cluster.pod_agent import PodAgent
from cluster.pod_faults import Fault
from cluster.servers import condition, mcp_server, settled, wait_for

TRACE = re.compile(r"Traceback|Error\(|Exception|0x[0-9a-f]{6}")


def events(api: Api, namespace: str) -> set[str]:
    """Reasons of the Events about MCPServers."""
    found = api.list("events", namespace)
    return {one["reason"] for one in found if one["regarding"].get("kind") == "MCPServer"}


def explained(api: Api, server: dict[str, Any], reason: str) -> str:
    """The message of Ready, which must be in words, and in an Event too."""
    namespace = server["metadata"]["namespace"]
    message = str(condition(server, "Ready")["message"])
    assert len(message) > 20
    assert not TRACE.search(message), message
    eventually(lambda: reason in events(api, namespace), f"an Event {reason}")
    return message


def test_secret_that_is_missing(api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str) -> None:
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "vendor", "key": "token"}}}]
    server = mcp_server(namespace)
    server["spec"]["stdio"] = {**server["spec"]["stdio"], "env": env}
    pod_agent.serve(namespace)
    api.create(server)
    said = explained(api, wait_for(api, namespace, "one", "Ready", "False", "SecretMissing"), "SecretMissing")
    assert "vendor" in said
    wait_for(api, namespace, "one", "SecretsResolved", "False", "SecretMissing")

    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vendor", "namespace": namespace}}
    api.create(secret)
    said = explained(api, wait_for(api, namespace, "one", "Ready", "False", "KeyMissing"), "KeyMissing")
    assert "token" in said

    api.apply(secret | {"stringData": {"token": "marker-of-a-secret"}})
    healed = wait_for(api, namespace, "one", "SecretsResolved", "True", "Resolved")
    (version,) = healed["status"]["secrets"]
    assert re.fullmatch("[0-9a-f]{12}", version["version"])
    api.delete("secrets", namespace, "vendor")
    wait_for(api, namespace, "one", "SecretsResolved", "False", "SecretMissing")


def test_secret_of_one_server_stops_no_other(api: Api, operator: OperatorProcess, namespace: str) -> None:
    broken = mcp_server(namespace, "broken")
    broken["spec"]["stdio"] = {**broken["spec"]["stdio"], "envFrom": [{"secretRef": {"name": "nowhere"}}]}
    api.create(broken)
    api.create(mcp_server(namespace, "whole"))
    settled(api, namespace, "whole")
    wait_for(api, namespace, "broken", "Ready", "False", "SecretMissing")
    wait_for(api, namespace, "whole", "SecretsResolved", "True")


def without_rules(schema: Any) -> Any:
    """A schema, the CEL rules left out."""
    if isinstance(schema, dict):
        return {name: without_rules(inner) for name, inner in schema.items() if name != "x-kubernetes-validations"}
    return [without_rules(inner) for inner in schema] if isinstance(schema, list) else schema


def accepts(api: Api, manifest: dict[str, Any]) -> bool:
    try:
        api.create(manifest, dryRun="All")
    except ApiError as error:
        if error.status != 422:
            raise
        return False
    return True


def test_spec_from_before_a_rule(api: Api, operator: OperatorProcess, namespace: str) -> None:
    """An MCPServer may be older than a rule of its CRD. It is told so, and what runs stays."""
    api.create(mcp_server(namespace))
    settled(api, namespace)
    before = api.get("deployments", namespace, "one")
    assert before is not None
    bad = mcp_server(namespace, "probe", front={"port": 9090, "adminPort": 9090})
    crd = api.get("customresourcedefinitions", None, "mcpservers.outrigger.dev")
    assert crd is not None
    try:
        api.update(without_rules(crd))
        eventually(lambda: accepts(api, bad), "the rules gone")
        api.patch("mcpservers", namespace, "one", {"spec": {"front": bad["spec"]["front"]}})
    finally:
        install_crds(api)
    eventually(lambda: not accepts(api, bad), "the rules in force")
    server = wait_for(api, namespace, "one", "Ready", "False", "InvalidSpec")
    assert "spec.front.adminPort: port and adminPort must differ" in explained(api, server, "InvalidSpec")
    after = api.get("deployments", namespace, "one")
    assert after is not None
    assert after["spec"] == before["spec"]
    api.patch("mcpservers", namespace, "one", {"spec": {"front": {"adminPort": 9091}}})
    eventually(
        lambda: condition(api.get("mcpservers", namespace, "one"), "Ready")["reason"] != "InvalidSpec", "another reason"
    )


def quota(namespace: str, **hard: str) -> dict[str, Any]:
    metadata = {"name": "tight", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}}


def test_quota_on_pods(api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str) -> None:
    pod_agent.serve(namespace)
    made = api.create(quota(namespace, pods="0"))
    eventually(
        lambda: (api.get("resourcequotas", namespace, "tight") or {}).get("status", {}).get("hard"), "the quota counted"
    )
    api.create(mcp_server(namespace))
    said = explained(api, wait_for(api, namespace, "one", "Ready", "False", "PodRefused"), "PodRefused")
    assert "exceeded quota" in said
    api.delete("resourcequotas", namespace, made["metadata"]["name"])
    # the ReplicaSet controller tries again in its own time; a new ReplicaSet at once
    wait_for(api, namespace, "one", "Available", "True", timeout=90)


def test_webhook_that_is_down(api: Api, operator: OperatorProcess, namespace: str) -> None:
    """The API server answers 500, as if that passed by itself; it does when somebody mends the webhook."""
    group = "admissionregistration.k8s.io/v1"
    place = f"/apis/{group}/validatingwebhookconfigurations"
    webhook = {
        "name": "policies.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["services"]}],
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
    }
    metadata = {"name": f"down-{namespace}"}
    made = {"apiVersion": group, "kind": "ValidatingWebhookConfiguration", "metadata": metadata, "webhooks": [webhook]}
    api.request("POST", place, made)
    try:
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "probe", "namespace": namespace}}

        def in_force() -> bool:
            try:
                api.create({**service, "spec": {"ports": [{"port": 80}]}}, dryRun="All")
            except ApiError as error:
                return (error.status, error.reason) == (500, "InternalError")
            return False

        eventually(in_force, "the webhook in force")
        api.create(mcp_server(namespace))
        server = wait_for(api, namespace, "one", "Ready", "False", "ApplyFailed")
        said = explained(api, server, "ApplyFailed")
        assert "refuses Service one: " in said
        assert "policies.example.com" in said
    finally:
        api.request("DELETE", f"{place}/{metadata['name']}")
    settled(api, namespace)
    wait_for(api, namespace, "one", "SecretsResolved", "True", "NoneNeeded")
    eventually(lambda: api.get("deployments", namespace, "one") is not None, "the Deployment")


def test_quota_on_services(api: Api, operator: OperatorProcess, namespace: str) -> None:
    made = api.create(quota(namespace, services="0"))
    eventually(
        lambda: (api.get("resourcequotas", namespace, "tight") or {}).get("status", {}).get("hard"), "the quota counted"
    )
    api.create(mcp_server(namespace))
    said = explained(api, wait_for(api, namespace, "one", "Ready", "False", "ApplyFailed"), "ApplyFailed")
    assert "exceeded quota" in said
    api.delete("resourcequotas", namespace, made["metadata"]["name"])
    eventually(lambda: api.get("services", namespace, "one"), "the Service", timeout=90)


def test_limit_range(api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str) -> None:
    pod_agent.serve(namespace)
    limit = {"type": "Container", "max": {"memory": "8Mi"}}
    api.create(
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "small", "namespace": namespace},
            "spec": {"limits": [limit]},
        }
    )
    api.create(mcp_server(namespace))
    said = explained(api, wait_for(api, namespace, "one", "Ready", "False", "PodRefused"), "PodRefused")
    assert "memory" in said


def test_admission_policy(api: Api, operator: OperatorProcess, namespace: str) -> None:
    name = f"no-service-{namespace}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["services"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"namespaceSelector": selector, "resourceRules": [rule]},
            "validations": [{"expression": "false", "message": "services need a ticket number"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    api.create(policy)
    api.create(binding)
    try:

        def refused() -> bool:
            probe = {"metadata": {"name": "probe", "namespace": namespace}, "spec": {"ports": [{"port": 80}]}}
            try:
                api.create({"apiVersion": "v1", "kind": "Service", **probe}, dryRun="All")
            except Exception as error:
                return "ticket" in str(error)
            return False

        eventually(refused, "the policy in force")
        api.create(mcp_server(namespace))
        said = explained(api, wait_for(api, namespace, "one", "Ready", "False", "ApplyFailed"), "ApplyFailed")
        assert "services need a ticket number" in said
        # what is not refused is there
        assert api.get("serviceaccounts", namespace, "one")
    finally:
        api.delete("validatingadmissionpolicybindings", None, name)
        api.delete("validatingadmissionpolicies", None, name)
    eventually(lambda: api.get("services", namespace, "one"), "the Service", timeout=90)
    settled(api, namespace)


@pytest.mark.parametrize(
    ("kind", "fault", "reason", "words"),
    [
        ("http", pod_faults.IMAGE_MISSING, "ImagePullFailed", "test.local/server:1"),
        ("http", pod_faults.IMAGE_BACK_OFF, "ImagePullFailed", "test.local/server:1"),
        ("http", pod_faults.IMAGE_NAME_INVALID, "ImagePullFailed", "test.local/server:1"),
        ("http", pod_faults.IMAGE_NEVER_PULLED, "ImagePullFailed", "test.local/server:1"),
        ("http", pod_faults.ROOT_IMAGE, "ImageUserNotAllowed", "podTemplate.server.securityContext.runAsUser"),
        ("stdio-image", pod_faults.NAMED_USER_IMAGE, "ImageUserNotAllowed", "runAsUser"),
        ("http", pod_faults.NO_SUCH_COMMAND, "CommandNotFound", "no-such-server"),
        ("http", pod_faults.CRASHING, "ServerCrashing", "exit code 1"),
        ("stdio-image", pod_faults.OUT_OF_MEMORY, "ServerCrashing", "memory"),
        ("remote", pod_faults.CRASHING.of("sidecar"), "SidecarCrashing", "sidecar"),
        ("http", pod_faults.UNSCHEDULABLE, "Unschedulable", "Insufficient memory"),
    ],
    ids=lambda value: value.waiting if isinstance(value, Fault) else None,
)
def test_pod_that_does_not_start(
    api: Api,
    operator: OperatorProcess,
    pod_agent: PodAgent,
    namespace: str,
    kind: str,
    fault: Fault,
    reason: str,
    words: str,
) -> None:
    pod_agent.serve(namespace)
    pod_agent.fail(namespace, "one", fault)
    api.create(mcp_server(namespace, kind=kind))
    server = wait_for(api, namespace, "one", "Ready", "False", reason)
    assert words in explained(api, server, reason)
    wait_for(api, namespace, "one", "Available", "False")
    pod_agent.heal(namespace, "one")
    wait_for(api, namespace, "one", "Available", "True")


def test_broken_rollout_never_replaces_good_pods(
    api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str
) -> None:
    pod_agent.serve(namespace)
    api.create(mcp_server(namespace, kind="http", replicas=2))
    wait_for(api, namespace, "one", "Available", "True")
    good = {pod["metadata"]["name"] for pod in api.list("pods", namespace)}
    pod_agent.fail(namespace, "one", pod_faults.IMAGE_BACK_OFF)
    pod_agent.spare(*((namespace, name) for name in good))
    api.patch("mcpservers", namespace, "one", {"spec": {"http": {"image": "test.local/server:2"}}})
    server = wait_for(api, namespace, "one", "Ready", "False", "ImagePullFailed")
    assert condition(server, "Available")["status"] == "True"
    assert good <= {pod["metadata"]["name"] for pod in api.list("pods", namespace)}
    # and back
    api.patch("mcpservers", namespace, "one", {"spec": {"http": {"image": "test.local/server:1"}}})
    wait_for(api, namespace, "one", "Progressing", "True", "RolloutComplete")
    assert good == {
        pod["metadata"]["name"] for pod in api.list("pods", namespace) if "deletionTimestamp" not in pod["metadata"]
    }

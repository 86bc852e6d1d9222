"""A real API server takes every golden manifest as it is: strict, stored as sent, unchanged by a second apply."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.api import Api, eventually, plural
from desired_goldens import CHECKSUM, CLUSTER, IMAGES, NAMES, manifest, object_of
from mcp_operator.api.v1alpha1 import parse
from mcp_operator.desired import Desired, desired, session_secret
from mcp_operator.kube.owned_fields import owned_fields

CLASSES = {
    "/apis/scheduling.k8s.io/v1/priorityclasses": {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "high"},
        "value": 1000,
    },
    "/apis/node.k8s.io/v1/runtimeclasses": {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "gvisor"},
        "handler": "gvisor",
    },
}
"""What the golden files name of a cluster; pods are refused without it."""

pytestmark = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def wanted(api: Api, namespace: str, name: str) -> Desired:
    """The manifests of a golden file in the test's namespace, their owner applied before."""
    found = copy.deepcopy(manifest(name))
    found["metadata"] = {"name": name, "namespace": namespace}
    found["metadata"]["uid"] = api.apply(found)["metadata"]["uid"]
    return desired(parse(found), CLUSTER, IMAGES, checksum=CHECKSUM)


@pytest.fixture
def classes(api: Api) -> Iterator[None]:
    for place, each in CLASSES.items():
        api.request("POST", place, each)
    yield
    for place, each in CLASSES.items():
        api.request("DELETE", f"{place}/{each['metadata']['name']}")


def appliable(found: Desired) -> list[dict[str, Any]]:
    """Without the PodMonitor, of which this cluster knows nothing."""
    return [each for each in found.manifests if each["kind"] != "PodMonitor"]


def missing(sent: Any, stored: Any, path: str) -> list[str]:
    """Places of `sent` that `stored` does not have as they are. Lists keep their order."""
    if isinstance(sent, dict) and isinstance(stored, dict):
        return [place for key in sent for place in missing(sent[key], stored.get(key), f"{path}.{key}")]
    if isinstance(sent, list) and isinstance(stored, list) and len(sent) == len(stored):
        return [
            place
            for index, pair in enumerate(zip(sent, stored, strict=True))
            for place in missing(*pair, f"{path}[{index}]")
        ]
    return [] if sent == stored else [f"{path}: sent {sent!r}, stored {stored!r}"]


def unchanged(api: Api, sent: dict[str, Any]) -> bool:
    """Whether an apply leaves an object as it is. Controllers write its status meanwhile, until they have done so."""
    metadata = sent["metadata"]
    before = api.get(plural(sent), metadata["namespace"], metadata["name"])
    after = api.apply(sent, manager="outrigger")
    return before is not None and before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]


def test_stored_as_sent_and_a_second_apply_changes_nothing(api: Api, wanted: Desired) -> None:
    for each in appliable(wanted):
        first = api.apply(each, manager="outrigger")
        assert missing(each, first, each["kind"]) == []
        eventually(lambda each=each: unchanged(api, each), f"a second apply of {each['kind']} that changes nothing")


def test_the_pod_template_is_found_again_in_the_deployment(api: Api, wanted: Desired) -> None:
    """As who waits for an upgrade keeps it: others' fields and defaults left out, and applying it changes nothing."""
    each = object_of(wanted, "Deployment")
    stored = api.apply(each, manager="outrigger")
    found = owned_fields(stored, "outrigger")["spec"]["template"]
    assert found == each["spec"]["template"]


def test_pods_are_admitted_where_they_must_be_restricted(
    api: Api, wanted: Desired, namespace: str, classes: None
) -> None:
    for each in appliable(wanted):
        api.apply(each, manager="outrigger")
    template = object_of(wanted, "Deployment")["spec"]["template"]
    account = template["spec"]["serviceAccountName"]
    api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}})
    metadata = {**template["metadata"], "name": "one", "namespace": namespace}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    created = api.create(pod, dryRun="All")
    assert all(not volume["name"].startswith("kube-api-access") for volume in created["spec"]["volumes"])


def test_session_secret_is_accepted(api: Api, namespace: str, name: str) -> None:
    found = {**manifest(name), "metadata": {"name": name, "namespace": namespace}}
    assert api.create(session_secret(parse(found)), dryRun="All")["type"] == "Opaque"

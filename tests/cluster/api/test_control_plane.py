"""The control plane of the tests itself: real, with rights enforced, and gone when it is closed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from cluster.api import Api, ApiError, eventually
from cluster.control_plane import Cluster, ControlPlane
from cluster.kubernetes_programs import version
from process_table import alive


def config_map(namespace: str, name: str = "one", **data: str) -> dict:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def test_is_the_version_that_was_asked_for(control_plane: ControlPlane, kubectl: Callable[..., str]) -> None:
    said = json.loads(kubectl("version", "--output=json"))
    assert said["serverVersion"]["gitVersion"] == said["clientVersion"]["gitVersion"] == version()


def test_rights_are_enforced(cluster: Cluster, namespace: str) -> None:
    nobody = cluster.service_account(namespace, "default").api()
    with pytest.raises(ApiError) as refused:
        nobody.list("secrets", namespace)
    assert refused.value.status == 403


def test_pods_must_be_restricted(api: Api, namespace: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "rooted", "namespace": namespace},
        "spec": {"containers": [{"name": "one", "image": "x"}]},
    }
    with pytest.raises(ApiError, match="violates PodSecurity"):
        api.create(pod)


def test_controllers_make_pods_and_collect_them(api: Api, namespace: str) -> None:
    labels = {"app": "one"}
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "one", "image": "x", "securityContext": security}]},
    }
    api.create(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "one", "namespace": namespace},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
        }
    )
    eventually(lambda: len(api.list("pods", namespace)) == 2, "two pods")
    api.delete("deployments", namespace, "one", propagationPolicy="Background")
    eventually(lambda: not api.list("pods", namespace), "no pods")


def test_requests_are_audited(control_plane: ControlPlane, namespace: str) -> None:
    mark = control_plane.audit_mark()
    control_plane.api.apply(config_map(namespace))
    control_plane.api.list("configmaps", namespace)
    seen = [one for one in control_plane.audit(mark) if (one.namespace, one.resource) == (namespace, "configmaps")]
    assert [(one.verb, one.code, one.is_write) for one in seen if one.verb != "create"] == [
        ("patch", 201, True),
        ("list", 200, False),
    ]


def test_data_survives_a_restart(control_plane: ControlPlane, namespace: str) -> None:
    before = control_plane.api_server.pid
    control_plane.api.create(config_map(namespace, x="1"))
    control_plane.restart_api_server(kill=True)
    assert control_plane.api_server.pid != before
    found = control_plane.api.get("configmaps", namespace, "one")
    assert found is not None
    assert found["data"] == {"x": "1"}


def test_history_can_be_forgotten(control_plane: ControlPlane, namespace: str) -> None:
    first = control_plane.api.create(config_map(namespace, x="1"))["metadata"]["resourceVersion"]
    control_plane.api.apply(config_map(namespace, x="2"))
    control_plane.forget_history()
    with pytest.raises(ApiError) as gone:
        next(control_plane.api.watch("configmaps", namespace, resourceVersion=first, seconds=5))
    assert gone.value.status == 410


def test_api_server_that_stands_still_answers_later(control_plane: ControlPlane) -> None:
    hasty = control_plane.access.api(timeout=0.5)
    eventually(lambda: hasty.list("namespaces"), "an answer in time")
    control_plane.api_server.pause()
    try:
        with pytest.raises(OSError, match="timed out"):
            hasty.list("namespaces")
    finally:
        control_plane.api_server.resume()
    control_plane.wait_for_api_server()
    eventually(lambda: hasty.list("namespaces"), "an answer in time")


def test_nothing_is_left(control_plane: ControlPlane) -> None:
    with ControlPlane(controllers=False) as other:
        processes = [other.etcd.pid, other.api_server.pid]
        assert all(alive(pid) for pid in processes)
        assert {one["metadata"]["name"] for one in other.api.list("namespaces")} >= {"default", "kube-system"}
    assert not any(alive(pid) for pid in processes)
    assert not other.directory.exists()
    assert control_plane.ready()

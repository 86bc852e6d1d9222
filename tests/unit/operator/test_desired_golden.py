"""Every manifest that the operator makes, as files to read; and what must hold for all of them.

The files are written by `python tests/desired_goldens.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from desired_goldens import (
    CHECKSUM,
    CLUSTER,
    FOLDER,
    IMAGES,
    NAMES,
    manifest,
    object_of,
    rendered,
    rendered_path,
    wanted,
)
from mcp_operator.api.v1alpha1 import default, parse
from mcp_operator.desired import desired, session_secret
from mcp_sidecar.config import parse as parse_config
from pod_security import violations

ORDER = (
    "ServiceAccount",
    "ConfigMap",
    "Service",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "PodMonitor",
    "Deployment",
)

pytestmark = pytest.mark.parametrize("name", NAMES)


def template(name: str) -> dict[str, Any]:
    return object_of(wanted(name), "Deployment")["spec"]["template"]


def containers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def reversed_keys(value: Any) -> Any:
    """The same data with the keys of every object the other way round."""
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


def nodes(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from nodes(item, f"{path}.{key}")
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from nodes(item, f"{path}[{index}]")


def test_rendered_as_in_the_golden_file(name: str) -> None:
    path = rendered_path(name)
    assert rendered(name) == path.read_text(encoding="utf-8"), "if wanted: python tests/desired_goldens.py"


def test_no_golden_file_is_left_over(name: str) -> None:
    assert sorted(path.stem for path in (FOLDER / "rendered").glob("*")) == sorted(NAMES)


def test_nothing_is_wrong_with_it(name: str) -> None:
    assert wanted(name).problems == ()


def test_same_bytes_whatever_the_order_of_keys(name: str) -> None:
    other = desired(parse(reversed_keys(manifest(name))), CLUSTER, IMAGES, checksum=CHECKSUM)
    assert json.dumps(other.manifests, sort_keys=True) == json.dumps(wanted(name).manifests, sort_keys=True)
    assert other.config_json == wanted(name).config_json


def test_same_with_the_defaults_of_the_api_server(name: str) -> None:
    other = desired(parse(default(manifest(name))), CLUSTER, IMAGES, checksum=CHECKSUM)
    assert other.manifests == wanted(name).manifests


def test_applied_in_order(name: str) -> None:
    kinds = [each["kind"] for each in wanted(name).manifests]
    assert kinds == sorted(kinds, key=ORDER.index)


def test_owned_and_labelled(name: str) -> None:
    server = manifest(name)["metadata"]
    owner = {"apiVersion": "outrigger.dev/v1alpha1", "kind": "MCPServer", "name": server["name"], "uid": server["uid"]}
    for each in (*wanted(name).manifests, session_secret(parse(manifest(name)))):
        metadata = each["metadata"]
        assert metadata["ownerReferences"] == [{**owner, "controller": True}]
        assert metadata["namespace"] == server["namespace"]
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "outrigger"
        assert metadata["labels"]["outrigger.dev/mcpserver"] == server["name"]


def test_holds_nothing_that_the_api_server_would_drop(name: str) -> None:
    selects_all = ("podSelector", "namespaceSelector", "emptyDir")
    for path, value in nodes(wanted(name).manifests):
        assert value is not None, path
        assert value not in ([], "") or path.endswith(".value"), path
        assert value != {} or path.endswith(selects_all), path


def test_restricted_pod_security(name: str) -> None:
    assert violations(template(name)["spec"]) == []


def test_selectors_find_the_pods_and_never_change(name: str) -> None:
    labels = template(name)["metadata"]["labels"]
    selector = {"app.kubernetes.io/name": "mcpserver", "app.kubernetes.io/instance": manifest(name)["metadata"]["name"]}
    assert selector.items() <= labels.items()
    assert object_of(wanted(name), "Deployment")["spec"]["selector"] == {"matchLabels": selector}
    assert object_of(wanted(name), "Service")["spec"]["selector"] == selector
    assert wanted(name).selector == ",".join(f"{key}={value}" for key, value in sorted(selector.items()))


def test_every_mount_has_a_volume_and_every_path_once(name: str) -> None:
    spec = template(name)["spec"]
    volumes = [volume["name"] for volume in spec["volumes"]]
    assert len(volumes) == len(set(volumes))
    for container in containers(spec):
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(paths) == len(set(paths))
        assert "/tmp" in paths


def test_names_are_unique_where_server_side_apply_merges_by_them(name: str) -> None:
    spec = template(name)["spec"]
    for container in containers(spec):
        variables = [variable["name"] for variable in container.get("env", ())]
        assert len(variables) == len(set(variables))
    pulled = [secret["name"] for secret in spec["imagePullSecrets"]]
    assert pulled[0] == "mirror"
    assert len(pulled) == len(set(pulled))


def test_every_file_of_the_config_is_mounted_in_the_sidecar(name: str) -> None:
    spec = template(name)["spec"]
    found = wanted(name)
    (sidecar,) = spec["containers"]
    mounted = [mount["mountPath"] for mount in sidecar["volumeMounts"]]
    variables = [variable.get("value") for variable in sidecar["env"]]
    paths = [value for _, value in nodes(json.loads(found.config_json)) if isinstance(value, str)] + variables
    for path in paths:
        if isinstance(path, str) and path.startswith("/run/outrigger/"):
            assert any(path == place or path.startswith(f"{place}/") for place in mounted), path


def test_the_server_sees_no_secret_of_the_sidecar(name: str) -> None:
    spec = template(name)["spec"]
    servers = {mount["name"] for each in containers(spec) if each["name"] == "server" for mount in each["volumeMounts"]}
    assert servers.isdisjoint({"config", "session", "state", "home", "tmp"})
    sidecars = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    assert {volume for volume in servers & sidecars if volume != "socket"} == set()


def test_the_sidecar_takes_the_config_without_a_warning(name: str) -> None:
    warnings = parse_config(json.loads(wanted(name).config_json)).warnings
    # Two are meant: the user turned verification off, or has tokens and no TLS.
    assert [each for each in warnings if not each.path.endswith(("tls.verify", "front.tokens"))] == []


def test_hash_is_of_the_text_that_is_mounted(name: str) -> None:
    found = wanted(name)
    (one,) = (each for each in found.manifests if each["kind"] == "ConfigMap")
    assert one["data"] == {"config.json": found.config_json}
    assert one["metadata"]["name"] == found.config_map
    config = next(each for each in template(name)["spec"]["volumes"] if each["name"] == "config")
    assert config["configMap"]["name"] == found.config_map
    assert len(found.config_map) <= 63

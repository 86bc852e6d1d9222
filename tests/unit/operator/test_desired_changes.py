"""Live or Rolls: what a change of each field does to the pods, field by field of the CRD.

A Live field changes no byte of the pod template and reaches running sidecars through the ConfigMap that they have
mounted (or is about something else than pods); a Rolls field changes the template. Either way it changes something.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, get_args, get_origin

import pytest

from desired_goldens import CHECKSUM, CLUSTER, IMAGES, NAMES, manifest, object_of
from mcp_operator.api.schema import Place, inner_model, places
from mcp_operator.api.v1alpha1 import MCPServerSpec, parse
from mcp_operator.desired import Desired, desired
from mcp_operator.errors import SpecError

SECRET = {"secretKeyRef": {"name": "s", "key": "k"}}
CONFIG_MAP = {"configMapKeyRef": {"name": "c", "key": "k"}}
SELECTOR = {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
PEERS = [
    {"podSelector": SELECTOR, "namespaceSelector": SELECTOR},
    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
]
LOCALHOST = {"type": "Localhost", "localhostProfile": "a.json"}

MORE: dict[str, dict[str, Any]] = {
    "shared": {"stdio": {"command": "x", "isolation": "Shared"}},
    "per-session": {"stdio": {"command": "x", "isolation": "PerSession", "maxSessions": 4}},
    "stopped": {
        "stdio": {
            "command": "x",
            "processes": 2,
            "restart": {"backoffBase": "2s", "backoffMax": "1m", "resetAfter": "2m"},
            "stop": {"stdinGrace": "1s", "termGrace": "1s"},
        }
    },
    "own-image": {
        "stdio": {"command": "x", "image": "i", "imagePullPolicy": "Always"},
        "podTemplate": {
            "server": {"env": [{"name": "A", "valueFrom": SECRET}, {"name": "B", "valueFrom": CONFIG_MAP}]}
        },
    },
    "http": {
        "http": {
            "image": "i",
            "imagePullPolicy": "Always",
            "env": [{"name": "A", "valueFrom": SECRET}, {"name": "B", "valueFrom": CONFIG_MAP}],
            "envFrom": [{"configMapRef": {"name": "c"}}],
            "headers": [{"name": "A", "valueFrom": CONFIG_MAP}],
        },
    },
    "ca": {
        "remote": {"url": "https://a.example/mcp", "transport": "SSE", "tls": {"caCertificate": SECRET}},
        "front": {"tls": {"secretName": "t", "clientCA": CONFIG_MAP}},
    },
    "peers": {
        "stdio": {"command": "x"},
        "networkPolicy": {"from": PEERS},
        "monitoring": {"from": PEERS},
        "disruption": {"mode": "Enabled"},
        "replicas": 2,
    },
    "other-pod": {
        "http": {"image": "i"},
        "disruption": {"minAvailable": 1},
        "replicas": 3,
        "podTemplate": {
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway"},
            ],
            "volumes": [{"name": "one", "emptyDir": {}}, {"name": "12", "emptyDir": {}}, {"name": "2", "emptyDir": {}}],
            "server": {"volumeMounts": [{"name": "2", "mountPath": "/one"}]},
            "sidecar": {"volumeMounts": [{"name": "2", "mountPath": "/one"}]},
        },
    },
    "pod": {
        "http": {"image": "i"},
        "podTemplate": {
            "securityContext": {"seccompProfile": LOCALHOST},
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "z",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": SELECTOR,
                    "matchLabelKeys": ["pod-template-hash"],
                }
            ],
            "volumes": [
                {"name": "c", "configMap": {"name": "c", "optional": False, "defaultMode": 292}},
                {
                    "name": "s",
                    "secret": {
                        "secretName": "s",
                        "optional": False,
                        "defaultMode": 292,
                        "items": [{"key": "k", "path": "p", "mode": 292}],
                    },
                },
            ],
            "server": {
                "securityContext": {"seccompProfile": LOCALHOST},
                "volumeMounts": [{"name": "c", "mountPath": "/c"}],
            },
            "sidecar": {
                "resources": {"requests": {"cpu": "1m"}},
                "securityContext": {"seccompProfile": LOCALHOST, "runAsGroup": 3, "readOnlyRootFilesystem": False},
                "volumeMounts": [{"name": "s", "mountPath": "/s", "subPath": "p", "readOnly": True}],
            },
        },
    },
}
"""Specs that have the fields which no golden file has."""

KIND_FIELDS = re.compile(r"^spec\.(stdio|http|remote)$")


@cache
def manifests() -> tuple[dict[str, Any], ...]:
    shell = {"apiVersion": "outrigger.dev/v1alpha1", "kind": "MCPServer"}
    more = [
        {**shell, "metadata": {"name": name, "namespace": "n", "uid": "u"}, "spec": spec} for name, spec in MORE.items()
    ]
    return (*(manifest(name) for name in NAMES), *more)


def computed(found: dict[str, Any]) -> Desired:
    return desired(parse(found), CLUSTER, IMAGES, checksum=CHECKSUM)


LEAVES = {place.path: place for place in places(MCPServerSpec, "spec") if inner_model(place.info.annotation)[0] is None}


def find(value: Any, steps: list[str]) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a manifest that the path leads to."""
    step, rest = steps[0].removesuffix("[]"), steps[1:]
    if not isinstance(value, dict) or step not in value:
        return
    if not rest:
        yield value, step
        return
    below = value[step]
    for each in below if steps[0].endswith("[]") else [below]:
        yield from find(each, rest)


def others(target: tuple[Any, Any], place: Place) -> Iterator[Any]:
    """Values that are not the one at `target` and may be good ones."""
    value = target[0][target[1]]
    choices = literals(place.info.annotation)
    if choices:
        yield from (choice for choice in choices if choice != value)
        return
    match value:
        case bool():
            yield not value
        case int() | float():
            yield from (value + 1, value - 1)
        case str():
            yield from (f"2{value}", f"{value}2", value.replace("0.0.0/8", "128.0.0/9"), "9.9.9.0/24")
            yield from (
                value.removesuffix("2") + "12",
                "21s",
                "9s",
                f"/2{value}",
                "2MiB",
                "https://other.example",
                "30%",
            )
        case list() if all(isinstance(item, str) for item in value):
            yield [*value, "search2"]
            yield [*value[:-1], "https://other.example"]
            yield ["10.2.0.0/16"]
        case list() if all(isinstance(item, int) for item in value):
            yield [*value, 4321]
        case list():
            yield [*value, copy.deepcopy(value[0])]
        case dict() if all(isinstance(item, str | int) for item in value.values()):
            first = next(iter(value))
            yield {**value, "another": value[first]}
            yield {**value, "cpu": "7"}
        case dict():
            yield {**value, "another": {"x": "y"}}


def literals(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (tuple, dict):
        return ()
    return tuple(choice for inner in get_args(annotation) for choice in literals(inner))


@cache
def changed(path: str) -> tuple[Desired, Desired]:
    """An MCPServer before and after a change of the field at `path` alone."""
    place = LEAVES[path]
    seen = False
    for original in manifests():
        for number in range(len(list(find(original, path.split("."))))):
            seen = True
            for value in others(list(find(original, path.split(".")))[number], place):
                other = copy.deepcopy(original)
                container, key = list(find(other, path.split(".")))[number]
                if value == container[key]:
                    continue
                container[key] = value
                if path.endswith("seccompProfile.type"):
                    container.pop("localhostProfile", None)
                try:
                    return computed(original), computed(other)
                except SpecError:
                    continue
    raise AssertionError("no other value is accepted" if seen else "no MCPServer of this test has it: add it to MORE")


def template(found: Desired) -> str:
    return json.dumps(object_of(found, "Deployment")["spec"]["template"], sort_keys=True)


@pytest.mark.parametrize("path", LEAVES)
def test_change_does_what_the_reference_says(path: str) -> None:
    before, after = changed(path)
    assert before.manifests != after.manifests, "the field has no effect"
    if LEAVES[path].change == "Live":
        assert template(after) == template(before)
        assert after.config_map == before.config_map
    else:
        assert template(after) != template(before)


@pytest.mark.parametrize("path", LEAVES)
def test_pods_never_see_a_config_that_names_what_they_lack(path: str) -> None:
    # Pods keep their template; a ConfigMap that keeps its name is changed under them.
    before, after = changed(path)
    if after.config_map != before.config_map:
        return
    old, new = json.loads(before.config_json), json.loads(after.config_json)
    assert files(new) <= files(old)
    assert {key: old["front"][key] for key in ("host", "port", "adminPort")} == {
        key: new["front"][key] for key in ("host", "port", "adminPort")
    }


def files(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value} if value.startswith("/run/outrigger/") else set()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {path for item in items for path in files(item)}


def spec_of(name: str, **change: Any) -> Desired:
    found = copy.deepcopy(manifest(name))
    found["spec"] |= change
    return computed(found)


def test_replicas_change_the_deployment_and_not_the_pods() -> None:
    one, two = spec_of("stdio"), spec_of("stdio", replicas=7)
    assert template(one) == template(two)
    assert object_of(two, "Deployment")["spec"]["replicas"] == 7


def test_addresses_of_the_service_reach_running_pods() -> None:
    server = parse(manifest("stdio"))
    one = desired(server, CLUSTER, IMAGES)
    two = desired(server, type(CLUSTER)(cluster_ips=("10.96.9.9", "None", "")), IMAGES)
    assert one.config_map == two.config_map
    assert template(one) == template(two)
    hosts = json.loads(two.config_json)["front"]["allowedHosts"]
    assert "10.96.9.9" in hosts
    assert {"None", ""}.isdisjoint(hosts)


def test_another_image_gets_another_config_map() -> None:
    # An older sidecar would refuse what it does not know, so its config is left alone.
    server = parse(manifest("stdio"))
    newer = type(IMAGES)(sidecar="s:2", sidecar_runtime="r:2")
    assert desired(server, CLUSTER, newer).config_map != desired(server, CLUSTER, IMAGES).config_map


def test_a_new_token_of_a_mounted_file_is_live_and_a_new_file_rolls() -> None:
    tokens = manifest("remote")["spec"]["front"]["tokens"]
    front = manifest("remote")["spec"]["front"]
    before = spec_of("remote")
    same_file = spec_of("remote", front={**front, "tokens": [*tokens, {**tokens[0], "name": "third"}]})
    assert (template(same_file), same_file.config_map) == (template(before), before.config_map)
    other = {"name": "third", "secretKeyRef": {"name": "callers", "key": "third"}}
    new_file = spec_of("remote", front={**front, "tokens": [*tokens, other]})
    assert template(new_file) != template(before)
    assert new_file.config_map != before.config_map


@pytest.mark.parametrize("name", NAMES)
def test_values_in_the_environment_roll_the_pods_and_files_do_not(name: str) -> None:
    server = parse(manifest(name))
    one, two = (desired(server, CLUSTER, IMAGES, checksum=checksum) for checksum in ("a" * 12, "b" * 12))
    assert (template(one) != template(two)) == any(each.in_environment for each in one.references) == (name == "http")
    assert one.config_map == two.config_map

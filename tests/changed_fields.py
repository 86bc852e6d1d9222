"""Every field of the CRD changed alone, and what is wanted before and after: for the tests that go through all fields.

What a change must do, and where it must be seen, is left to those tests.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, get_args, get_origin

from desired_goldens import CHECKSUM, CLUSTER, IMAGES, NAMES, manifest
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


@cache
def manifests() -> tuple[dict[str, Any], ...]:
    shell = {"apiVersion": "outrigger.dev/v1alpha1", "kind": "MCPServer"}
    more = [
        {**shell, "metadata": {"name": name, "namespace": "n", "uid": "u"}, "spec": spec} for name, spec in MORE.items()
    ]
    # A copy without shared parts, or a change of one field would be a change of several.
    return tuple(json.loads(json.dumps(each)) for each in (*(manifest(name) for name in NAMES), *more))


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

"""Every rule of the CRD where it stands, with an MCPServer that it accepts and one that it refuses.

From the same tables as the CRD, so none is left out; what a rule says is in `rules_of_server`, `rules_of_policies` and
`rules_of_pods`. The tests run each against `parse` and against a real API server.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from mcp_operator.api.declared import rules_of
from mcp_operator.api.rule import Declared, bound_rule
from mcp_operator.api.rules_of_server import HTTP, REMOTE, STDIO
from mcp_operator.api.schema import Place, bounds, flattened, inner_model, places, unit_of
from mcp_operator.api.v1alpha1.spec import API_VERSION, KIND, MCPServer, MCPServerSpec
from mcp_sidecar.config import show_duration, show_size

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule at its place. `accepted` and `refused` are whole manifests; nothing but this rule refuses the second."""

    id: str
    """`spec.pool/min-at-most-max`: unique."""
    path: str
    """Where `rule` is evaluated: `spec.stdio.env[]`; nothing for the whole object."""
    field: str
    """Where the message is reported, as `path` is written."""
    rule: str
    message: str
    accepted: Json
    refused: Json


def _all() -> Iterator[Rule]:
    yield from (_rule("", rule, lambda data: _manifest(STDIO, **data)) for rule in rules_of(MCPServer))
    yield from (_rule("spec", rule, _manifest) for rule in rules_of(MCPServerSpec))
    for place in places(MCPServerSpec, "spec"):
        inner, step = inner_model(place.info.annotation)
        if inner is not None:
            path = place.path + step
            yield from (_rule(path, rule, placed(path)) for rule in rules_of(inner))
        else:
            yield from _bounds(place)


def _rule(path: str, declared: Declared, whole: Callable[[Json], Json]) -> Rule:
    field = (path + declared.field).lstrip(".")
    accepted, refused = whole(declared.accepted), whole(declared.refused)
    return Rule(f"{path}/{declared.id}", path, field, declared.rule, declared.message, accepted, refused)


def _bounds(place: Place) -> Iterator[Rule]:
    """The rule of a duration or size, or of a map of them."""
    annotation, metadata, path = place.info.annotation, list(place.info.metadata), place.path
    if getattr(annotation, "__origin__", None) is dict:
        (annotation, metadata), path = flattened(get_args(annotation)[1]), f"{path}.NAME"
    unit = unit_of(annotation, metadata)
    declared = bound_rule(unit, bounds(metadata)) if unit in ("duration", "size") else None
    if unit is None or declared is None:
        return
    show = show_duration if unit == "duration" else _show_size
    low, high, _ = bounds(metadata)
    good = _default(place.info) if path == place.path else 60.0
    bad = high + 1 if high is not None and path not in _BELOW_ANOTHER else (low or 0) / 2
    place_in = placed(path)
    yield Rule(f"{path}/bounds", path, path, declared.rule, declared.message, place_in(show(good)), place_in(show(bad)))


def _show_size(size: float) -> str:
    return show_size(int(size))


def _default(info: FieldInfo) -> float:
    make: Any = info.default_factory
    return float(info.default if make is None else make({}))


_NEEDED: dict[str, Json] = {
    "spec.stdio": STDIO["stdio"],
    "spec.http": HTTP["http"],
    "spec.remote": REMOTE["remote"],
    "spec.front.tls": {"secretName": "certificate"},
    "spec.autoscaling": {"maxReplicas": 3},
    "spec.limits.rate": {"requestsPerSecond": 5},
    # the mounts of examples are of this volume
    "spec.podTemplate": {"volumes": [{"name": "data", "emptyDir": {}}]},
    "spec.podTemplate.volumes[]": {"name": "data"},
    "spec.podTemplate.volumes[].configMap": {"name": "files"},
    "spec.podTemplate.volumes[].secret": {"secretName": "files"},
    "spec.podTemplate.topologySpreadConstraints[]": {
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "ScheduleAnyway",
    },
}
"""What an example needs beside the part it is about, by the path of what is around that part."""
_BELOW_ANOTHER = ("spec.health.timeout", "spec.sessions.idleTimeout", "spec.monitoring.scrapeTimeout")
"""Times that are at most another: one above all bounds would break that rule too."""
_NAMED = {"env[]": {"name": "TOKEN"}, "headers[]": {"name": "X-Token"}}


def placed(path: str) -> Callable[[Any], Json]:
    """A function that puts data at `path` into a manifest that is fine otherwise."""
    if path.startswith("spec.podTemplate"):
        kind = HTTP
    elif path.startswith(("spec.timeouts.startTimeout", "spec.stdio")):
        kind = STDIO
    else:
        kind = HTTP if path.startswith("spec.http") else REMOTE

    def put(data: Any) -> Json:
        steps = path.split(".")
        for length in range(len(steps), 1, -1):
            around, step = ".".join(steps[: length - 1]), steps[length - 1]
            needed = _NEEDED.get(around, _NAMED.get(steps[length - 2], {}))
            data = {**needed, **({step[:-2]: [data]} if step.endswith("[]") else {_key(step): data})}
        return _manifest({**kind, **data})

    return put


def _key(step: str) -> str:
    return "search" if step == "NAME" else step


def _manifest(spec: Json, *, metadata: Json | None = None) -> Json:
    named = {"name": "example", **(metadata or {})}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": named, "spec": copy.deepcopy(spec)}


RULES: tuple[Rule, ...] = tuple(_all())

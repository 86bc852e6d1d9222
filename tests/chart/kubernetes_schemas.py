"""JSON Schemas of what the chart makes, for kubeconform, from sources that need no network: one file, `schemas.json`.

It is taken once from a real API server (`/openapi/v2`) and from the CRDs of the Prometheus Operator (its Go module),
cut down to the kinds that the chart makes and to what a validator looks at, and made strict: an unknown field is an
error.

    cd tests && PYTHONPATH=. python -m chart.kubernetes_schemas     writes schemas.json anew
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mcp_operator.yaml_text import load_all

Schema = dict[str, Any]

FILE = Path(__file__).with_name("schemas.json")
CRD = Path(__file__).resolve().parents[2] / "crds" / "outrigger.dev_mcpservers.yaml"
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.92.1"
KINDS = {
    "apiextensions.k8s.io/v1": ("CustomResourceDefinition",),
    "apps/v1": ("Deployment",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
    "rbac.authorization.k8s.io/v1": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "v1": ("ConfigMap", "Pod", "Secret", "Service", "ServiceAccount"),
}
MONITORING = ("PodMonitor", "PrometheusRule", "ServiceMonitor")
_DROPPED = ("default", "description", "example", "format", "title")


def write_into(directory: Path) -> str:
    """A file for each kind, named as kubeconform asks for it; its `-schema-location`."""
    schemas = json.loads(FILE.read_text(encoding="utf-8"))
    schemas["kinds"]["outrigger.dev/v1alpha1/MCPServer"] = _of_crd(yaml.safe_load(CRD.read_text(encoding="utf-8")))
    for name, schema in schemas["kinds"].items():
        version, _, kind = name.rpartition("/")
        group, _, number = version.rpartition("/")
        document = {**schema, "definitions": schemas["definitions"]}
        # of the core kinds kubeconform takes the version for the group too
        file = directory / f"{group or number}_{number}_{kind.lower()}.json"
        file.write_text(json.dumps(document), encoding="utf-8")
    return str(directory) + "/{{ .Group }}_{{ .ResourceAPIVersion }}_{{ .ResourceKind }}.json"


def collect(openapi: Schema, crds: list[Schema]) -> Schema:
    """What schemas.json holds. `openapi` is the API server's /openapi/v2."""
    kinds: dict[str, Schema] = {}
    found: dict[str, Schema] = {}
    by_kind = {
        (one.get("group", ""), one["version"], one["kind"]): name
        for name, schema in openapi["definitions"].items()
        for one in schema.get("x-kubernetes-group-version-kind", ())
    }
    for version, names in KINDS.items():
        group, _, number = version.rpartition("/")
        for kind in names:
            definition = by_kind[group, number, kind]
            kinds[f"{version}/{kind}"] = {"$ref": f"#/definitions/{definition}"}
            _follow(definition, openapi["definitions"], found)
    for crd in crds:
        spec = crd["spec"]
        kinds[f"{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['kind']}"] = _of_crd(crd)
    return {"kinds": dict(sorted(kinds.items())), "definitions": dict(sorted(found.items()))}


def _follow(name: str, definitions: dict[str, Schema], found: dict[str, Schema]) -> None:
    if name in found:
        return
    found[name] = _strict(definitions[name])
    for reference in _references(found[name]):
        _follow(reference, definitions, found)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].rpartition("/")[2]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _references(item)


def _of_crd(crd: Schema) -> Schema:
    (version,) = (one for one in crd["spec"]["versions"] if one["storage"])
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"].update(apiVersion={"type": "string"}, kind={"type": "string"}, metadata={"type": "object"})
    return schema


def _strict(node: Any, *, names: bool = False) -> Any:
    """Without what no validator reads; `names`: the keys are of properties and not of the schema."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if names:
        return {name: _strict(item) for name, item in node.items()}
    if node.get("format") == "int-or-string" or node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = {
        name: _strict(item, names=name in ("properties", "definitions"))
        for name, item in node.items()
        if name not in _DROPPED and not name.startswith("x-kubernetes")
    }
    open_ended = "additionalProperties" in kept or node.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in kept and not open_ended:
        kept["additionalProperties"] = False
    return kept


def main() -> int:
    """Ask a control plane of its own and write the file."""
    from cluster.control_plane import ControlPlane

    said = subprocess.run(
        [Path(sys.executable).with_name("go"), "mod", "download", "-json", PROMETHEUS_OPERATOR],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    folder = Path(json.loads(said.stdout)["Dir"], "example", "prometheus-operator-crd")
    files = [folder / f"monitoring.coreos.com_{kind.lower()}s.yaml" for kind in MONITORING]
    crds = [document for file in files for _, document in load_all(file.read_text(encoding="utf-8"))]
    with ControlPlane(controllers=False) as cluster:
        openapi = cluster.api.request("GET", "/openapi/v2")
    FILE.write_text(json.dumps(collect(openapi, crds), separators=(",", ":"), sort_keys=True) + "\n", encoding="utf-8")
    print(f"{FILE.name}: {FILE.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

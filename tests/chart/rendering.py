"""The chart as `helm template` renders it, for tests: values in, manifests out, or the words of the refusal.

No cluster is asked. Other chart folders than the repository's are rendered the same way, for tests that change files.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from chart.tools import helm
from mcp_operator.yaml_text import load_all

Manifest = dict[str, Any]

CHART = Path(__file__).resolve().parents[2] / "charts" / "outrigger"
SCENARIOS = sorted((CHART / "ci").glob("*-values.yaml"))
NAMESPACE = "outrigger-system"


class Refused(Exception):
    """Helm would not have it; the message is what it printed."""


class Rendered(list[Manifest]):
    """The manifests of one rendering, hooks included."""

    def of(self, kind: str, name: str | None = None) -> Manifest:
        """The only one of this kind (and name)."""
        (found,) = self.all(kind, name)
        return found

    def all(self, kind: str, name: str | None = None) -> list[Manifest]:
        """Those of this kind (and name)."""
        return [one for one in self if one["kind"] == kind and name in (None, one["metadata"]["name"])]

    def keys(self) -> set[tuple[str, str, str]]:
        """(kind, namespace, name) of each."""
        return {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]) for one in self}


def run_helm(*arguments: str | Path) -> str:
    """What helm printed, without a cluster. Raises Refused."""
    with tempfile.TemporaryDirectory(prefix="outrigger-helm-") as home:
        environment = {**os.environ, "KUBECONFIG": os.devnull, "HOME": home}
        for name in ("CACHE", "CONFIG", "DATA"):
            environment[f"HELM_{name}_HOME"] = home
        done = subprocess.run(
            [helm(), *arguments], env=environment, capture_output=True, text=True, timeout=60, cwd=home
        )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def render_text(
    values: Mapping[str, Any] | Path | None = None,
    *,
    chart: Path = CHART,
    release: str = "outrigger",
    namespace: str = NAMESPACE,
) -> str:
    """The text of all manifests. Raises Refused."""
    return _rendered(_given(values), chart, release, namespace)


def render(
    values: Mapping[str, Any] | Path | None = None,
    *,
    chart: Path = CHART,
    release: str = "outrigger",
    namespace: str = NAMESPACE,
) -> Rendered:
    """The manifests; a repeated key in one is an error. Raises Refused."""
    text = render_text(values, chart=chart, release=release, namespace=namespace)
    return Rendered(document for _, document in load_all(text) if document)


def notes(values: Mapping[str, Any] | None = None, *, release: str = "outrigger") -> str:
    """What `helm install` would say at the end."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(_given(values))
        file.flush()
        flags = ("--dry-run=client", "--namespace", NAMESPACE, "--values", file.name)
        return run_helm("install", release, CHART, *flags).partition("\nNOTES:\n")[2]


def nested(path: str, value: Any) -> dict[str, Any]:
    """`a.b` and 1: {"a": {"b": 1}}."""
    for name in reversed(path.split(".")):
        value = {name: value}
    made: dict[str, Any] = value
    return made


def merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """As Helm merges values: objects into each other, the last one wins."""
    result: dict[str, Any] = {}
    for each in values:
        for name, value in each.items():
            known = result.get(name)
            result[name] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return result


def _given(values: Mapping[str, Any] | Path | None) -> str:
    if isinstance(values, Path):
        values = yaml.safe_load(values.read_text(encoding="utf-8"))
    return json.dumps(values or {})


@cache
def _rendered(values: str, chart: Path, release: str, namespace: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(values)
        file.flush()
        return run_helm("template", release, chart, "--namespace", namespace, "--values", file.name)

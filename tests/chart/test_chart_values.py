"""Each value: documented once, with an effect, and refused in words where it is wrong."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.rendering import CHART, Refused, merged, nested, render, render_text, run_helm
from mcp_operator.config import OperatorConfig

ROOT = CHART.parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import chart_files  # noqa: E402
from chart_values import Value, values  # noqa: E402

DIGEST = "sha256:" + "1" * 64
ALERTS_ON = nested("alerts.enabled", True)
AN_ALERT = "OutriggerNoLeader"
CHANGED: dict[str, Any] = {
    "alerts.disabled": [AN_ALERT],
    "alerts.overrides": {AN_ALERT: {"for": "99m"}},
    "alerts.errorBudget": 0.002,
    "alerts.minimumCallRate": 3,
    "affinity": {"podAffinity": {}},
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}}],
    "image.digests.operator": DIGEST,
    "image.digests.sidecar": DIGEST,
    "image.digests.sidecarRuntime": DIGEST,
    "image.pullPolicy": "Always",
    "image.pullSecrets": ["registry"],
    "livenessProbe": {"periodSeconds": 11},
    "readinessProbe": {"periodSeconds": 11},
    "monitoring.from": [{"podSelector": {}}],
    "operator.config": {"workers": 9},
    "podDisruptionBudget.minAvailable": "50%",
    "topologySpreadConstraints": [],
    "watchNamespaces": ["tools"],
    "strategy": {"type": "Recreate"},
}
"""Another value, where its type alone does not say one."""
NEEDS: dict[str, dict[str, Any]] = {
    "alerts.": ALERTS_ON,
    "alerts.grafanaUrl": ALERTS_ON,
    "docsUrl": ALERTS_ON,
    "monitoring.serviceMonitor.": nested("monitoring.serviceMonitor.enabled", True),
    "monitoring.podMonitor.": nested("monitoring.podMonitor.enabled", True),
    "serviceAccount.create": nested("serviceAccount.name", "given"),
}
"""What must be on for a value to matter, by the beginning of its path."""
WITHOUT_EFFECT = {
    "enabled": "read by a parent chart, as the condition of its dependency",
    "global": "given to every chart by a parent",
}


def other(value: Value) -> Any:
    """A value that is good and not the default."""
    if value.path in CHANGED:
        return CHANGED[value.path]
    if isinstance(value.default, bool):
        return not value.default
    if isinstance(value.default, int | float):
        return value.default + 1
    if isinstance(value.default, dict):
        return {"a-key": "a-value"}
    if isinstance(value.default, list):
        return [{"name": "one", "key": "two"}]
    return "77s" if "interval" in value.path.lower() or "Timeout" in value.path else "another"


def test_paths_are_told_once() -> None:
    paths = [value.path for value in values()]
    assert len(set(paths)) == len(paths) > 60
    assert WITHOUT_EFFECT.keys() <= set(paths)
    assert CHANGED.keys() <= set(paths)


@pytest.mark.parametrize("value", values(), ids=lambda value: value.path)
def test_has_an_effect(value: Value) -> None:
    needed = next((given for path, given in NEEDS.items() if value.path.startswith(path)), {})
    if value.path in ("alerts.enabled", "monitoring.serviceMonitor.enabled", "monitoring.podMonitor.enabled"):
        needed = {}
    before, after = render_text(needed), render_text(merged(needed, nested(value.path, other(value))))
    assert (before != after) == (value.path not in WITHOUT_EFFECT), WITHOUT_EFFECT.get(value.path)


def test_values_file_holds_every_value_and_no_other() -> None:
    given = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert given == merged(*(nested(value.path, value.default) for value in values()))


@pytest.mark.parametrize("name", chart_files.FILES)
def test_generated_files_are_fresh(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == chart_files.FILES[name](), "run `make generate`"


def test_readme_names_every_value() -> None:
    text = (CHART / "README.md").read_text(encoding="utf-8")
    for value in values():
        assert text.count(f"| `{value.path}` | ") == 1
    assert "<!-- values -->" not in text


def test_schema_says_what_each_value_is_and_takes_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert schema["additionalProperties"] is False
    for value in values():
        place = schema
        for name in value.path.split("."):
            assert place.get("additionalProperties") is False, value.path
            place = place["properties"][name]
            assert place["description"], value.path
        assert place["default"] == value.default


@pytest.mark.parametrize(
    "given, words",
    [
        ({"replicsa": 3}, "additional properties 'replicsa' not allowed"),
        ({"image": {"digest": DIGEST}}, "at '/image': additional properties 'digest' not allowed"),
        ({"replicas": "3"}, "at '/replicas': got string, want integer"),
        ({"replicas": -1}, "at '/replicas'"),
        ({"watchNamespaces": "tools"}, "at '/watchNamespaces': got string, want array"),
        ({"watchNamespaces": ["tools", "tools"]}, "at '/watchNamespaces'"),
        ({"watchNamespaces": ["Tools"]}, "at '/watchNamespaces/0': 'Tools' does not match pattern"),
        ({"image": {"digests": {"operator": "latest"}}}, "at '/image/digests/operator'"),
        ({"image": {"pullPolicy": "always"}}, "at '/image/pullPolicy': value must be one of 'Always'"),
        ({"operator": {"config": {"logs": {}}}}, "at '/operator/config': additional properties 'logs' not allowed"),
        ({"operator": {"config": {"workers": 0}}}, "at '/operator/config/workers'"),
        ({"operator": {"config": {"statusPoll": {"idle": "1 minute"}}}}, "at '/operator/config/statusPoll/idle'"),
        ({"operator": {"config": {"watchNamespaces": ["a"]}}}, "it is the value watchNamespaces"),
        ({"operator": {"config": {"kubeconfig": "x"}}}, "operator.config.kubeconfig is not to be set here"),
        ({"operator": {"config": {"leaderElection": {"enabled": False}}}}, "set replicas=1"),
        ({"operator": {"config": {"admin": {"port": 0}}}}, "operator.config.admin.port must not be 0"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.create=false needs serviceAccount.name"),
        (
            {"monitoring": {"service": {"enabled": False}, "serviceMonitor": {"enabled": True}}},
            "monitoring.serviceMonitor.enabled needs monitoring.service.enabled",
        ),
        ({"alerts": {"overrides": {"OutriggerNoLeader": {"while": "5m"}}}}, "additional properties 'while'"),
        ({"alerts": {"enabled": True, "disabled": ["OutriggerNoLeeder"]}}, "names OutriggerNoLeeder: there are"),
        ({"alerts": {"enabled": True, "overrides": {"OutriggerX": {"for": "1m"}}}}, "names OutriggerX: there are"),
        ({"alerts": {"errorBudget": 1}}, "at '/alerts/errorBudget'"),
        ({"livenessProbe": {"httpGet": {}}}, "at '/livenessProbe': additional properties 'httpGet'"),
        ({"commonLabels": {"a": 1}}, "at '/commonLabels/a': got number, want string"),
    ],
)
def test_refuses(given: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refused:
        render(given)
    assert words in str(refused.value)


def test_takes_every_setting_of_the_operator() -> None:
    """Those that the chart sets itself are refused by a template, all others are in the schema."""
    schema = chart_files.schema()["properties"]["operator"]["properties"]["config"]
    names = {info.alias or name for name, info in OperatorConfig.model_fields.items()}
    assert schema["properties"].keys() == names
    assert schema["additionalProperties"] is False
    checks = (CHART / "templates" / "_checks.tpl").read_text(encoding="utf-8")
    for name in chart_files.SET_BY_CHART:
        assert re.search(rf'^  "{name}" "', checks, re.M), name


def test_examples_in_values_are_taken() -> None:
    for value in values():
        if value.example is not None:
            needed = {"replicas": 1} if value.path == "operator.config" else {}
            render(merged(needed, nested(value.path, value.example)))


def test_as_a_dependency_of_another_chart(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text(
        "apiVersion: v2\nname: parent\nversion: 1.0.0\n"
        "dependencies:\n- name: outrigger\n  version: '*'\n  condition: outrigger.enabled\n"
        f"  repository: file://{CHART}\n"
    )
    (tmp_path / "values.yaml").write_text("global: {region: here}\noutrigger: {enabled: true, replicas: 3}\n")
    run_helm("dependency", "build", tmp_path)
    assert render(chart=tmp_path).of("Deployment")["spec"]["replicas"] == 3
    assert render(nested("outrigger.enabled", False), chart=tmp_path) == []

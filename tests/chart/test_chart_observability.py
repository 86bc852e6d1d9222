"""Monitors, dashboards and rules: found by Prometheus and Grafana, whatever files there are."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import desired_goldens
from chart.rendering import CHART, NAMESPACE, Rendered, merged, nested, render

ON = {"alerts": {"enabled": True}}
RULES = {
    "groups": [
        {
            "name": "first",
            "interval": "1m",
            "rules": [
                {"record": "outrigger:error_budget:ratio", "expr": "vector(0.5)"},
                {"record": "another:rate", "expr": "rate(a[5m])"},
                {
                    "alert": "OutriggerBroken",
                    "expr": "up == 0",
                    "for": "5m",
                    "labels": {"severity": "critical"},
                    "annotations": {
                        "summary": "{{ $labels.server }} is broken",
                        "runbook_url": "RUNBOOK_URL/OutriggerBroken.md",
                        "dashboard": "d/outrigger-server?var-server={{ $labels.server }}",
                    },
                },
            ],
        },
        {"name": "second", "rules": [{"alert": "OutriggerSlow", "expr": "slow > 1", "labels": {"severity": "info"}}]},
    ]
}


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A copy without dashboards and rules, to put some in."""
    copy = tmp_path / "outrigger"
    shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("files"))
    (copy / "files" / "rules").mkdir(parents=True)
    (copy / "files" / "dashboards").mkdir()
    return copy


def rules(chart: Path, values: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Alert or record → the rule."""
    found = {}
    for manifest in render(merged(ON, values or {}), chart=chart).all("PrometheusRule"):
        for group in manifest["spec"]["groups"]:
            for rule in group["rules"]:
                found[rule.get("alert") or rule["record"]] = rule
    return found


# Monitors

FOREIGN = {
    "app.kubernetes.io/component": "mine",
    "app.kubernetes.io/managed-by": "outrigger",
    "app.kubernetes.io/name": "mcpserver",
    "team": "a",
}
"""Labels of the user that would have the chart's pods pass for sidecars."""


def labels(one: Mapping[str, Any]) -> dict[str, str]:
    """Those of an object or of a template of pods."""
    found: dict[str, str] = one["metadata"]["labels"]
    return found


def selects(selector: Mapping[str, Any], one: Mapping[str, Any]) -> bool:
    """Whether a selector that wants labels, and nothing else, finds it."""
    assert set(selector) == {"matchLabels"}
    assert selector["matchLabels"], "it would select everything"
    return bool(selector["matchLabels"].items() <= labels(one).items())


def named_ports(template: Mapping[str, Any], name: str) -> list[int]:
    """The numbers of the ports of this name; Prometheus scrapes each."""
    spec = template["spec"]
    containers = (*spec["containers"], *spec.get("initContainers", ()))
    return [port["containerPort"] for each in containers for port in each.get("ports", ()) if port.get("name") == name]


def config(manifests: Rendered) -> str:
    """What the operator is configured with."""
    [found] = [one["data"]["config.yaml"] for one in manifests.all("ConfigMap") if "config.yaml" in one["data"]]
    return str(found)


def test_service_monitor_finds_the_metrics() -> None:
    values = nested("monitoring.serviceMonitor", {"enabled": True, "labels": {"release": "p"}, "interval": "15s"})
    manifests = render(values)
    monitor = manifests.of("ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "p"
    service = manifests.of("Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": [NAMESPACE]}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    assert endpoint["honorLabels"] is True
    assert endpoint["interval"] == "15s"


def test_pod_monitor_finds_all_sidecars() -> None:
    values = nested("monitoring.podMonitor", {"enabled": True, "labels": {"release": "p"}})
    monitor = render(values).of("PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "p"
    assert monitor["spec"]["namespaceSelector"] == {"any": True}
    assert monitor["spec"]["selector"] == {"matchLabels": {"app.kubernetes.io/managed-by": "outrigger"}}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "admin"
    assert endpoint["relabelings"][0]["targetLabel"] == "mcpserver"
    some = render(merged(values, {"watchNamespaces": ["tools"]})).of("PodMonitor")
    assert some["spec"]["namespaceSelector"] == {"matchNames": ["tools"]}


BOTH = nested("monitoring", {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}})
SITUATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "default": ({}, "outrigger"),
    "other names": ({"nameOverride": "mcp", "fullnameOverride": "gate"}, "prod"),
    "labels of the user": ({"commonLabels": FOREIGN, "podLabels": FOREIGN}, "outrigger"),
    "admin port moved": (nested("operator.config.admin.port", 9999), "outrigger"),
}


@pytest.mark.parametrize(("values", "release"), SITUATIONS.values(), ids=SITUATIONS)
def test_service_monitor_leads_to_the_operators_pods(values: dict[str, Any], release: str) -> None:
    manifests = render(merged(BOTH, values), release=release)
    spec = manifests.of("ServiceMonitor")["spec"]
    [service] = [one for one in manifests.all("Service") if selects(spec["selector"], one)]
    assert service["metadata"]["namespace"] in spec["namespaceSelector"]["matchNames"]
    [endpoint] = spec["endpoints"]
    [target] = [port["targetPort"] for port in service["spec"]["ports"] if port["name"] == endpoint["port"]]

    template = manifests.of("Deployment")["spec"]["template"]
    assert selects({"matchLabels": service["spec"]["selector"]}, template)
    assert named_ports(template, target) == [yaml.safe_load(config(manifests)).get("admin", {}).get("port", 8081)]
    assert not selects({"matchLabels": service["spec"]["selector"]}, manifests.of("Pod")), "the test's pod"
    others = render(merged(BOTH, values), release="second")
    assert not any(selects(spec["selector"], one) for one in others.all("Service")), "those of another release"


@pytest.mark.parametrize("name", desired_goldens.NAMES)
def test_pod_monitor_selects_the_pods_that_the_operator_makes(name: str) -> None:
    spec = render(BOTH).of("PodMonitor")["spec"]
    [endpoint] = spec["podMetricsEndpoints"]
    made = desired_goldens.wanted(name)
    template = desired_goldens.object_of(made, "Deployment")["spec"]["template"]
    assert selects(spec["selector"], template)
    [front] = [json.loads(one["data"]["config.json"])["front"] for one in made.manifests if one["kind"] == "ConfigMap"]
    assert named_ports(template, endpoint["port"]) == [front["adminPort"]]
    [relabeling] = endpoint["relabelings"]
    told = {f"__meta_kubernetes_pod_label_{re.sub('[^a-zA-Z0-9_]', '_', label)}": label for label in labels(template)}
    [source] = relabeling["sourceLabels"]
    assert labels(template)[told[source]] == desired_goldens.server(name).metadata.name


@pytest.mark.parametrize(("values", "release"), SITUATIONS.values(), ids=SITUATIONS)
def test_pod_monitor_selects_no_pod_of_the_chart(values: dict[str, Any], release: str) -> None:
    """The operator's would be scraped twice, without `honorLabels` once."""
    manifests = render(merged(BOTH, values), release=release)
    selector = manifests.of("PodMonitor")["spec"]["selector"]
    for one in (manifests.of("Deployment")["spec"]["template"], *manifests.all("Pod")):
        assert not selects(selector, one)


def test_own_relabelings_come_after_ours() -> None:
    own = {"targetLabel": "cluster", "replacement": "one"}
    values = nested("monitoring.podMonitor", {"enabled": True, "relabelings": [own]})
    (endpoint,) = render(values).of("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert [one["targetLabel"] for one in endpoint["relabelings"]] == ["mcpserver", "cluster"]


# Dashboards


def test_no_dashboards_and_no_rules_are_no_error(chart: Path) -> None:
    manifests = render(ON, chart=chart)
    assert [one["metadata"]["name"] for one in manifests.all("ConfigMap")] == ["outrigger-operator"]
    assert manifests.all("PrometheusRule") == []
    shutil.rmtree(chart / "files")
    assert render(ON, chart=chart).keys() == manifests.keys()


def test_each_dashboard_is_a_config_map(chart: Path) -> None:
    boards = {f"board_{number}.json": {"title": f"{{{{ no template {number} }}}}", "url": "a"} for number in range(5)}
    for name, board in boards.items():
        (chart / "files" / "dashboards" / name).write_text(json.dumps(board, indent=2))
    (chart / "files" / "dashboards" / "README.md").write_text("no dashboard")
    made = [one for one in render(chart=chart).all("ConfigMap") if "-dashboard-" in one["metadata"]["name"]]
    assert len(made) == 5
    for manifest in made:
        ((name, text),) = manifest["data"].items()
        assert json.loads(text) == boards[name]
        assert manifest["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert manifest["metadata"]["annotations"] == {"grafana_folder": "Outrigger"}


def test_dashboards_where_they_are_wanted() -> None:
    values = {"namespace": "monitoring", "labels": {"find": "me"}, "folder": "", "annotations": {"a": "b"}}
    made = [one for one in render({"dashboards": values}).all("ConfigMap") if "-dashboard-" in one["metadata"]["name"]]
    assert made
    for manifest in made:
        assert manifest["metadata"]["namespace"] == "monitoring"
        assert manifest["metadata"]["labels"]["find"] == "me"
        assert manifest["metadata"]["annotations"] == {"a": "b"}


def test_every_dashboard_of_the_chart_is_in_it() -> None:
    files = {path.name for path in (CHART / "files" / "dashboards").glob("*.json")}
    made = {name for one in render().all("ConfigMap") for name in one["data"] if name.endswith(".json")}
    assert made == files != set()
    for manifest in render({"docsUrl": "https://docs.example/"}).all("ConfigMap"):
        for name, text in manifest["data"].items():
            if name.endswith(".json"):
                json.loads(text)
                assert "outrigger.dev/docs" not in text


# Rules


def test_rules_are_off_by_default() -> None:
    assert render().all("PrometheusRule") == []


def test_each_file_of_rules_is_a_prometheus_rule(chart: Path) -> None:
    for name in ("one", "two"):
        (chart / "files" / "rules" / f"{name}.yaml").write_text(yaml.safe_dump(RULES))
    values = {"alerts": {"enabled": True, "labels": {"release": "p"}, "namespace": "monitoring"}}
    made = render(values, chart=chart).all("PrometheusRule")
    assert {one["metadata"]["name"] for one in made} == {"outrigger-one", "outrigger-two"}
    for manifest in made:
        assert manifest["metadata"]["labels"]["release"] == "p"
        assert manifest["metadata"]["namespace"] == "monitoring"
        assert [group["name"] for group in manifest["spec"]["groups"]] == ["first", "second"]
        assert manifest["spec"]["groups"][0]["interval"] == "1m"


def test_rules_as_written_but_for_what_is_chosen(chart: Path) -> None:
    (chart / "files" / "rules" / "some.yaml").write_text(yaml.safe_dump(RULES))
    broken = rules(chart)["OutriggerBroken"]
    assert broken["annotations"]["summary"] == "{{ $labels.server }} is broken"
    assert broken["annotations"]["runbook_url"] == "https://outrigger.dev/docs/runbooks/OutriggerBroken.md"
    assert "dashboard_url" not in broken["annotations"]
    assert rules(chart)["another:rate"]["expr"] == "rate(a[5m])"
    assert rules(chart)["outrigger:error_budget:ratio"]["expr"] == "vector(0.01)"

    chosen = rules(
        chart,
        {
            "alerts": {
                "runbookUrl": "https://wiki.example/",
                "grafanaUrl": "https://grafana.example/",
                "errorBudget": 0.001,
                "ruleLabels": {"team": "a", "severity": "page"},
                "disabled": ["OutriggerSlow"],
                "overrides": {
                    "OutriggerBroken": {"for": "1h", "expr": "up < 1", "severity": "warning", "labels": {"team": "b"}}
                },
            }
        },
    )
    assert chosen.keys() == {"outrigger:error_budget:ratio", "another:rate", "OutriggerBroken"}
    broken = chosen["OutriggerBroken"]
    assert (broken["for"], broken["expr"]) == ("1h", "up < 1")
    assert broken["labels"] == {"team": "b", "severity": "warning"}
    assert broken["annotations"]["runbook_url"] == "https://wiki.example/OutriggerBroken.md"
    assert broken["annotations"]["dashboard_url"].startswith("https://grafana.example/d/outrigger-server?")
    assert chosen["outrigger:error_budget:ratio"]["expr"] == "vector(0.001)"


def test_every_rule_of_the_chart_is_in_it() -> None:
    files = sorted((CHART / "files" / "rules").glob("*.yaml"))
    written = [
        rule for path in files for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
    ]
    assert {rule.get("alert") or rule["record"] for rule in written} == rules(CHART).keys() != set()
    for name, rule in rules(CHART).items():
        if "alert" in rule:
            assert rule["annotations"]["runbook_url"] == f"https://outrigger.dev/docs/runbooks/{name}.md"

"""Monitors, dashboards and rules: found by Prometheus and Grafana, whatever files there are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.rendering import CHART, NAMESPACE, merged, nested, render

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

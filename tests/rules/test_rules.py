"""What rules name is there: metrics, labels and their values, reasons of conditions, runbooks, dashboards."""

from __future__ import annotations

import calendar
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mcp_operator.metrics import OperatorMetrics, Sources
from mcp_operator.reasons import REASONS, TYPES
from mcp_sidecar.errors import Reason
from mcp_sidecar.telemetry.catalogue import ERROR_TYPES, OUTCOMES, SIDES, Catalogue
from mcp_sidecar.telemetry.metrics import OTHER, Family, Registry
from prometheus_process import required
from rules.alert_cases import CASES, pod
from rules.test_alerts import ALERTS, RULES, promtool

ROOT = Path(__file__).resolve().parents[2]
RUNBOOKS = ROOT / "docs/runbooks"
DASHBOARDS = ROOT / "charts/outrigger/files/dashboards"
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
TARGET_LABELS = {"namespace", "pod", "job", "instance"}
"""What scraping adds."""
VALUES: dict[str, set[str]] = {
    "outcome": set(OUTCOMES),
    "side": set(SIDES),
    "error_type": set(ERROR_TYPES),
    "server": {OTHER},
    "type": set(TYPES),
    "status": {"True", "False", "Unknown"},
    "result": {"ok", "failed", "skipped", *OperatorMetrics().results},
    "state": {"open", "half_open", "closed"},
    "reason": {reason.label for reason in Reason} | {reason for _, reason in REASONS},
}
_SERIES = re.compile(r"\b([a-z_]+:[\w:]+|outrigger_\w+)(\{[^}]*\})?")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


def metrics() -> dict[str, set[str]]:
    """Every metric of sidecar and operator by name, with its labels."""
    families = [each for each in vars(Catalogue(Registry())).values() if isinstance(each, Family)]
    found = {family.name: set(family.label_names) for family in families}
    sources = Sources(
        leading=lambda: True,
        conditions=lambda: {("shop", "web"): tuple(REASONS.values())},
        requests=lambda: {("get", "pods", "200"): 1},
        request_seconds=lambda: {("get", "pods"): 1.0},
        watch_silence=lambda: {"pods": 1.0},
    )
    for family in text_string_to_metric_families(OperatorMetrics(sources).scrape().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def selectors() -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    """Rule, metric, matchers, for every selector of every rule."""
    return [
        (rule.get("alert") or rule["record"], found[1], _MATCHER.findall(found[2] or ""))
        for rule in RULES
        for found in _SERIES.finditer(rule["expr"])
    ]


@pytest.mark.parametrize(("rule", "metric", "matchers"), selectors())
def test_selector(rule: str, metric: str, matchers: list[tuple[str, str, str]]) -> None:
    if metric in RECORDED:
        return
    known = metrics()
    assert metric in known, "no such metric"
    for label, operation, value in matchers:
        assert label in known[metric] | TARGET_LABELS, f"{metric} has no label {label}"
        values = value.split("|") if "~" in operation else [value]
        assert set(values) <= VALUES[label], f"{label} is never one of {values}"
    types = [value for label, _, value in matchers if label == "type"]
    for label, _, value in matchers:
        if types and label == "reason":
            statuses = {REASONS[types[0], reason].status for reason in value.split("|")}  # type: ignore[index]
            assert statuses == {each for name, _, each in matchers if name == "status"}


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_annotations(alert: str) -> None:
    rule: dict[str, Any] = ALERTS[alert]
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["for"]
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard"}
    assert annotations["runbook_url"].endswith(f"/runbooks/{alert}.md")
    assert annotations["summary"].endswith(".")
    assert len(annotations["summary"]) < 160
    used = set(re.findall(r"\$labels\.(\w+)", json.dumps(annotations)))
    fired = [labels for case in CASES if case.alert == alert for told in case.fires.values() for labels in told]
    # an alert on what is not there at all has no labels, and asks for them with `if`
    assert all(used <= set(labels) for labels in fired if labels)


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("Outrigger*.md")} == set(ALERTS)


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_runbook_says_what_one_needs(alert: str) -> None:
    text = (RUNBOOKS / f"{alert}.md").read_text()
    assert text.startswith(f"# {alert}\n")
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert headings == ["What it means", "Confirm", "Causes", "Mend", "Over when", "Followed"]
    assert ALERTS[alert]["labels"]["severity"] in text
    assert len(text.splitlines()) < 90


@pytest.mark.parametrize("page", sorted(path.name for path in RUNBOOKS.glob("*.md")))
def test_runbook_was_followed(page: str) -> None:
    """When, and with what that was seen."""
    _, found, followed = (RUNBOOKS / page).read_text().partition("\n## Followed\n")
    followed = followed.partition("\n## ")[0].strip()
    assert found
    assert followed, "the section is empty"
    assert re.search(rf"\b(?:{'|'.join(calendar.month_name[1:])}) 20\d\d\b", followed), "no month and year"
    assert re.search(r"`[^`]*\w[^`]*`", followed), "nothing that was seen is quoted"


def test_prometheus_reads_the_queries_of_the_runbooks(tmp_path: Path) -> None:
    lines = [
        line for path in RUNBOOKS.glob("*.md") for line in path.read_text().splitlines() if line.startswith("    ")
    ]
    shells = ("kubectl ", "outrigger ")
    queries = [
        line.partition("   #")[0].strip() for line in (each.strip() for each in lines) if not line.startswith(shells)
    ]
    assert len(queries) > 25
    rules = [{"record": "runbook:query", "labels": {"n": str(n)}, "expr": query} for n, query in enumerate(queries)]
    path = tmp_path / "queries.yaml"
    path.write_text(json.dumps({"groups": [{"name": "runbooks", "rules": rules}]}))
    done = subprocess.run([required("promtool"), "check", "rules", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    named = {found[1] for query in queries for found in _SERIES.finditer(query)}
    known = {*RECORDED, *metrics(), "outrigger_build_info", "outrigger_config_hash_info"}
    assert {re.sub("_bucket$", "", name) for name in named} <= known


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_dashboard_link_leads_somewhere(alert: str) -> None:
    path, _, query = ALERTS[alert]["annotations"]["dashboard"].partition("?")
    boards = {board["uid"]: board for board in map(json.loads, map(Path.read_text, DASHBOARDS.glob("*.json")))}
    board = boards[path.removeprefix("d/")]
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert {part.partition("=")[0].removeprefix("var-") for part in query.split("&") if part} <= variables


def test_the_guide_lists_every_alert_with_its_severity_and_its_wait() -> None:
    guide = (ROOT / "docs/guides/observability.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\(\.\./runbooks/\1\.md\) \| (\w+) \| (\d+) (min|h) \|", guide, re.M)
    listed = {name: (severity, count + unit[0]) for name, severity, count, unit in rows}
    assert listed == {name: (rule["labels"]["severity"], rule["for"]) for name, rule in ALERTS.items()}


def test_recorded_ratios(tmp_path: Path) -> None:
    labels = '{namespace="shop",server="web"}'
    series = {
        pod("outrigger_calls_total", "a", outcome="ok"): "0+90x120",
        pod("outrigger_calls_total", "b", outcome="error"): "0+10x120",
        pod("outrigger_calls_total", "b", outcome="cancelled"): "0+500x120",
        pod("outrigger_errors_total", "b", side="sidecar", error_type="queue_full"): "0x60 0+10x60",
        pod("outrigger_errors_total", "b", side="caller", error_type="rate_limited"): "0+10x120",
    }
    expected = {
        ("namespace_server:outrigger_calls:rate5m", 50): 100 / 60,
        ("namespace_server:outrigger_failures:rate5m", 50): 0,
        ("namespace_server:outrigger_failures:ratio_rate1h", 50): 0,
        ("namespace_server:outrigger_failures:rate5m", 100): 10 / 60,
        ("namespace_server:outrigger_failures:ratio_rate5m", 100): 0.1,
        ("namespace_server:outrigger_failures:ratio_rate30m", 100): 0.1,
    }
    checks = [
        {
            "expr": f"round({name}, 0.0001)",
            "eval_time": f"{at}m",
            "exp_samples": [{"labels": labels, "value": round(value, 4)}],
        }
        for (name, at), value in expected.items()
    ]
    # an error ratio of a server that nobody calls is no number, not zero
    checks.append({"expr": "namespace_server:outrigger_failures:ratio_rate3d", "eval_time": "0m", "exp_samples": []})
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": checks,
    }
    assert promtool(tmp_path, test) == ""

"""The rules of Grafana's dashboard-linter, and ours, on the dashboards as they are shipped.

The linter is no Go program that can be installed by itself; its rules are few and clear (its docs/rules). Where a
dashboard breaks one on purpose, EXCLUDED says so with the reason, as the linter's `.lint` file would.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboard_files import NAMES, Target, dashboard, filled, panels, targets, variables
from mcp_operator.metrics import OperatorMetrics
from mcp_sidecar.telemetry.catalogue import Catalogue
from mcp_sidecar.telemetry.metrics import Registry
from mcp_sidecar.telemetry.process import ProcessMetrics
from prometheus_process import required

ROOT = Path(__file__).resolve().parent.parent.parent

EXCLUDED: dict[str, str] = {
    "template-job-rule fleet": "series are found by namespace and MCPServer: names of jobs are the monitoring stack's",
    "template-job-rule server": "as fleet",
    "template-instance-rule fleet": "an MCPServer is a set of pods; its instances come and go",
    "template-instance-rule server": "the variable is `pod`, which means something to people",
    "template-instance-rule operator": "as server",
}
MATCHERS = {
    "fleet": ({"namespace", "server"}, {"namespace", "name"}),
    # what is told of an MCPServer as a whole is not of a pod
    "server": (
        {"namespace", "server", "pod"},
        {"namespace", "mcpserver", "pod"},
        {"namespace", "server"},
        {"namespace", "name"},
    ),
    # what the leader tells of MCPServers is of whichever pod leads
    "operator": ({"job", "pod"}, {"job"}),
}
"""The labels that every selector must match with variables: one of these sets."""
COUNTER = re.compile(r"\w+_total\b|\w+_(?:bucket|count|sum)\b")
SELECTOR = re.compile(r"\b(outrigger_\w+|process_\w+)(\{[^}]*\})?")
PLACES = [(name, panel) for name in NAMES for panel in panels(dashboard(name))]
TARGETS = [target for name in NAMES for target in targets(name)]


def titled(value: Any) -> str:
    return value["title"] if isinstance(value, dict) else str(value)


def selectors(target: Target) -> Iterator[tuple[str, str]]:
    """Metric and what is in its braces."""
    for found in SELECTOR.finditer(target.expression):
        yield found[1], (found[2] or "{}")[1:-1]


def exposed() -> dict[str, str]:
    """Every metric of the sidecar and of the operator: name as in an exposition → its type."""
    registry = Registry()
    Catalogue(registry)
    ProcessMetrics(registry)
    kinds = {name: family.kind for name, family in registry._families.items()}
    # the families of info() are made when they are told
    kinds |= {"outrigger_config_hash_info": "gauge", "outrigger_build_info": "gauge"}
    for family in OperatorMetrics().registry.collect():
        kinds[f"{family.name}_total" if family.type == "counter" else family.name] = family.type
    histograms = [name for name, kind in kinds.items() if kind == "histogram"]
    return kinds | {f"{name}_{part}": "counter" for name in histograms for part in ("bucket", "count", "sum")}


# Of a dashboard


@pytest.mark.parametrize("name", NAMES)
def test_the_data_source_is_chosen(name: str) -> None:
    made = dashboard(name)
    first = made["templating"]["list"][0]
    assert (first["type"], first["name"], first["query"]) == ("datasource", "datasource", "prometheus")
    assert first["label"] == "Data source"
    for panel in panels(made):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_variables_follow_the_time_range(name: str) -> None:
    asked = [each for each in dashboard(name)["templating"]["list"] if each["type"] == "query"]
    assert asked
    for variable in asked:
        assert variable["refresh"] == 2, variable["name"]
        assert re.fullmatch(r"label_values\(\w+(\{.+\})?, \w+\)", variable["query"]["query"]), variable["name"]
        assert variable["datasource"]["uid"] == "${datasource}"
        assert variable["label"]
        assert variable["description"]
        assert not variable["multi"] or (variable["includeAll"] and variable["allValue"] == ".*")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", ["job", "instance"])
def test_job_and_instance_are_variables(name: str, rule: str) -> None:
    found = {variable["name"] for variable in dashboard(name)["templating"]["list"]}
    assert (rule in found) != (f"template-{rule}-rule {name}" in EXCLUDED)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_not_editable_and_keeps_its_address(name: str) -> None:
    made = dashboard(name)
    assert made["editable"] is False
    assert made["uid"] == f"outrigger-{name}"
    assert "id" not in made
    assert made["schemaVersion"] == 41
    assert made["title"].startswith("Outrigger / ")
    assert made["description"]
    assert made["tags"] == ["outrigger", "mcp"]
    assert made["refresh"]


@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_stable(name: str) -> None:
    made = dashboard(name)
    text = (ROOT / "charts/outrigger/files/dashboards" / f"{name}.json").read_text(encoding="utf-8")
    assert text == json.dumps(made, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert [panel["id"] for panel in made["panels"]] == list(range(1, len(made["panels"]) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_panels_lie_on_the_grid(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard(name)["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    bottom = max(y for _, y in taken) + 1
    # a gap is a line of panels that do not fill it
    assert len(taken) == 24 * bottom, [(x, y) for y in range(bottom) for x in range(24) if (x, y) not in taken][:24]


@pytest.mark.parametrize("name", NAMES)
def test_it_leads_to_the_others_and_to_the_documentation(name: str) -> None:
    links = dashboard(name)["links"]
    assert links[0]["type"] == "dashboards"
    assert links[0]["tags"] == ["outrigger"]
    assert links[0]["keepTime"] is True
    assert links[0]["includeVars"] is True
    pages = [link["url"].rsplit("/docs/", 1)[1] for link in links[1:]]
    assert pages
    assert [page for page in pages if not (ROOT / "docs" / page).is_file()] == []


def test_the_fleet_leads_to_the_server() -> None:
    table = next(panel for panel in panels(dashboard("fleet")) if panel["type"] == "table")
    links = [
        each["value"][0]["url"]
        for override in table["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == "links"
    ]
    assert links
    assert links[0].startswith(f"/d/{dashboard('server')['uid']}?")
    assert "var-namespace=${__data.fields" in links[0]
    assert "var-server=${__data.fields" in links[0]


# Of a panel


@pytest.mark.parametrize("name, panel", PLACES, ids=titled)
def test_a_panel_says_what_it_shows(name: str, panel: dict[str, Any]) -> None:
    assert panel["title"][0].isupper()
    assert len(panel["description"]) > 30
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    if panel["type"] == "timeseries":
        assert panel["options"]["legend"]["showLegend"] is True
        assert panel["fieldConfig"]["defaults"]["min"] == 0
    if panel["type"] == "stat":
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
    if panel["type"] == "statetimeline":
        assert panel["fieldConfig"]["defaults"]["mappings"]


@pytest.mark.parametrize("name", NAMES)
def test_titles_tell_panels_apart(name: str) -> None:
    found = [panel["title"] for panel in panels(dashboard(name))]
    assert sorted(set(found)) == sorted(found)


def settings() -> set[str]:
    """Every field of an MCPServer's spec: `retry.tools`, `limits.maxConcurrent`, …"""
    crd = yaml.safe_load((ROOT / "crds/outrigger.dev_mcpservers.yaml").read_text(encoding="utf-8"))
    found: set[str] = set()

    def walk(schema: dict[str, Any], path: str) -> None:
        for name, inner in schema.get("properties", {}).items():
            found.add(f"{path}{name}")
            walk(inner, f"{path}{name}.")

    walk(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "")
    return found


def test_settings_that_are_advised_exist() -> None:
    advised = {
        word
        for _, panel in PLACES
        for word in re.findall(r"`([a-z]+\.[a-zA-Z.]+)`", panel["description"])
        if not word.startswith("outrigger")
    }
    assert advised >= {"limits.maxConcurrent", "retry.tools", "pool.max"}
    assert sorted(advised - settings()) == []


def test_panels_that_are_named_exist() -> None:
    for name, panel in PLACES:
        known = {each["title"].split(",")[0] for each in panels(dashboard(name))}
        for named in re.findall(r"(?<!\*)\*([A-Z][^*]+)\*", panel["description"]):
            assert any(title.startswith(named) for title in (*known, "Trouble")), (panel["title"], named)


# Of a query


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_query_selects_by_the_variables(target: Target) -> None:
    found = list(selectors(target))
    assert found
    for metric, inside in found:
        matched = dict(re.findall(r'(\w+)=~"\$(\w+)"', inside))
        assert set(matched) in MATCHERS[target.dashboard], f"{metric}{{{inside}}}"
        assert set(matched.values()) <= set(variables(dashboard(target.dashboard))), f"{metric}{{{inside}}}"


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_counters_are_read_as_rates(target: Target) -> None:
    for found in COUNTER.finditer(target.expression):
        before = target.expression[: found.start()]
        assert re.search(r"(?:rate|increase)\($", before), found[0]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_rates_are_over_the_rate_interval(target: Target) -> None:
    """The whole time range is for a number of events in the time shown, which is asked once, not for each moment."""
    for function, span in re.findall(r"\b(i?rate|increase)\([^\[]*\[([^\]]*)\]", target.expression):
        assert span == "$__rate_interval" or (function == "increase" and span == "$__range" and target.instant)
    assert set(re.findall(r"\$__\w+", target.expression)) <= {"$__rate_interval", "$__range"}


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_only_metrics_that_exist_are_asked_for(target: Target) -> None:
    kinds = exposed()
    for metric, _ in selectors(target):
        assert metric in kinds, metric
        is_rate = re.search(rf"(?:rate|increase)\({metric}\b", target.expression) is not None
        assert is_rate == (kinds[metric] == "counter"), metric


def test_every_query_is_promql(tmp_path: Path) -> None:
    """As promtool reads it: it takes rules, so each query becomes one."""
    made = {name: dashboard(name) for name in NAMES}
    rules = [
        {
            "record": f"query:number:{number}",
            "expr": filled(target.expression, made[target.dashboard], interval="1m", span="1h"),
        }
        for number, target in enumerate(TARGETS)
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(
        [required("promtool"), "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@pytest.mark.parametrize("name, panel", PLACES, ids=titled)
def test_legends_use_labels_that_the_query_keeps(name: str, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), (panel["title"], label)


def test_every_metric_of_ours_is_on_a_dashboard() -> None:
    shown = {metric for target in TARGETS for metric, _ in selectors(target)}
    shown |= {re.sub(r"_(?:bucket|count|sum)$", "", metric) for metric in shown}
    ours = {name for name in exposed() if name.startswith("outrigger_")}
    ours = {name for name in ours if not re.search(r"_(?:bucket|count|sum|created)$", name)}
    assert sorted(ours - shown - NOT_SHOWN.keys()) == []
    assert sorted(NOT_SHOWN.keys() & shown) == []


NOT_SHOWN = {
    "outrigger_label_overflow_total": "a bound of the metrics themselves; `_other` shows where it was met",
}

"""Every query of every panel, asked of a real Prometheus that scrapes real sidecars under load and faults.

The names of metrics and labels, the variables and the PromQL are right when each gives data: a panel that is empty
because of a typing error looks like a fleet that is well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dashboard_files import NAMES, Target, dashboard, filled, panels, targets, variables
from dashboard_preview import answers, browse
from dashboard_scene import Scene
from prometheus_process import Prometheus, required
from prometheus_process import Target as Scraped
from told_operator import ToldOperator, conditions

EXCEPTIONS: dict[str, str] = {}
"""`dashboard / panel / reference` → why it may have no data."""

JOB = "outrigger"
TOLD = {
    ("shop", "orders"): conditions(),
    ("shop", "search"): conditions(Progressing="RollingOut", ConfigApplied="Propagating"),
    ("data", "reports"): conditions(),
    ("data", "archive"): conditions(),
    ("data", "legacy-crm"): conditions(
        Ready="ServerUnreachable", Available="NoReplicasAvailable", ServerReachable="Unreachable"
    ),
}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Has scraped a fleet in which everything happened that a dashboard shows; the fleet is still there."""
    with (
        Scene(tmp_path_factory.mktemp("scene")) as scene,
        ToldOperator(TOLD) as leader,
        ToldOperator({}, leads=False) as other,
    ):
        operators = [
            Scraped(one.address, {"namespace": "outrigger-system", "pod": f"outrigger-{name}"})
            for name, one in (("a", leader), ("b", other))
        ]
        jobs = {JOB: operators, "sidecars": scene.scraped()}
        with Prometheus(jobs, interval="1s") as prometheus:
            prometheus.wait_until_scraped()

            def seen(expression: str, what: str) -> None:
                told = '{__name__=~"outrigger_(breaker|retr|queue|rejected|config).*"}'
                prometheus.wait(lambda: bool(prometheus.query(expression)), what, 30, lambda: prometheus.query(told))

            scene.everything_happens(seen)
            yield prometheus


def answered(prometheus: Prometheus, target: Target) -> bool:
    """Whether it has data: of a range, at any moment. Looks back to the beginning: some things happened only once."""
    span = int(prometheus.now() - prometheus.began)
    query = filled(target.expression, dashboard(target.dashboard), span=f"{span}s", job=JOB)
    if target.instant:
        return any(value == value for _, value in prometheus.query(query))
    return any(value == value for _, points in prometheus.query_range(query, span, 1) for _, value in points)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", NAMES)
def test_every_query_has_data(prometheus: Prometheus, name: str) -> None:
    asked = targets(name)
    assert len(asked) >= 20
    empty = {str(target) for target in asked}

    def all_answer() -> bool:
        for target in asked:
            if str(target) in empty and answered(prometheus, target):
                empty.discard(str(target))
        return empty <= EXCEPTIONS.keys()

    prometheus.wait(all_answer, f"every query of {name} has data", 20, lambda: sorted(empty - EXCEPTIONS.keys()))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", NAMES)
def test_every_variable_has_values(prometheus: Prometheus, name: str) -> None:
    made = dashboard(name)
    for variable in made["templating"]["list"]:
        if variable["type"] != "query":
            continue
        selector, label = variable["query"]["query"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        found = prometheus.api(f"label/{label}/values", **{"match[]": filled(selector, made)})
        assert len(found) >= (1 if variable["name"] == "job" else 2), (variable["name"], found)


@pytest.mark.timeout(240)
def test_who_is_in_trouble_comes_first(prometheus: Prometheus) -> None:
    made = dashboard("fleet")
    trouble = next(target for target in targets("fleet") if target.kind == "table" and target.reference == "A")

    def points() -> dict[str, float]:
        found = prometheus.query(filled(trouble.expression, made))
        return {f"{labels['namespace']}/{labels['server']}": value for labels, value in found}

    def ranked() -> bool:
        by_name = points()
        if by_name.keys() != {f"{namespace}/{name}" for namespace, name in TOLD}:
            return False
        worst = max(by_name, key=lambda name: by_name[name])
        # a call of the good one may wait for a moment
        return worst == "data/legacy-crm" and by_name[worst] >= 100 and not by_name["data/reports"]

    prometheus.wait(ranked, "the one that nobody reaches stands first, the one that is well last", 30, points)


@pytest.mark.timeout(240)
def test_one_server_chosen_shows_that_server(prometheus: Prometheus) -> None:
    """What the alert's link and a click in Fleet do: `var-namespace=shop&var-server=orders`."""
    made = dashboard("server")
    for target in targets("server"):
        for labels, _ in prometheus.query(filled(target.expression, made, namespace="shop", server="orders")):
            assert labels.get("server", "orders") == "orders", target
            assert labels.get("mcpserver", "orders") == "orders", target
            assert labels.get("pod", "orders-0") in ("orders-0", "orders-1"), target
    assert set(variables(made)) == {"namespace", "server", "pod"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", NAMES)
def test_the_preview_draws_every_panel(prometheus: Prometheus, name: str, tmp_path: Path) -> None:
    required("chromium")
    page = browse(answers(prometheus, name, prometheus.began, prometheus.now()), tmp_path, "--dump-dom")
    assert "<title>drawn</title>" in page
    assert page.count('<section class="panel"') == len(list(panels(dashboard(name))))
    assert page.count("No data") == 0
    assert "undefined" not in page.partition("</script>")[0]
    assert "NaN" not in page.partition("</script>")[0]

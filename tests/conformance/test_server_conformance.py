"""The frozen server requirement sets: directly, over HTTP behind the sidecar, over stdio behind the sidecar."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance import everything, suite
from sidecar_process import running

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent.parent / "docs" / "conformance.md"

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


@pytest.fixture(scope="module")
def everything_url() -> Iterator[str]:
    with everything.over_http() as url:
        yield url


@pytest.fixture(scope="module", params=suite.REVISIONS)
def revision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def scored(revision: str) -> tuple[str, ...]:
    names = suite.required_server_scenarios(revision)
    assert len(names) == suite.SCORED[revision]
    return names


@pytest.fixture(scope="module")
def direct(revision: str, everything_url: str, tmp_path_factory: pytest.TempPathFactory) -> suite.Run:
    """What the everything server itself reaches: the measure for everything in front of it."""
    return suite.run_server(everything_url, tmp_path_factory.mktemp("direct"), requirements=revision)


def test_the_everything_server_passes_without_us(direct: suite.Run, scored: tuple[str, ...]) -> None:
    assert direct.code == 0, direct.report(scored)
    assert direct.misses(scored) == [], direct.report(scored)


@pytest.fixture(scope="module")
def through(revision: str, everything_url: str, tmp_path_factory: pytest.TempPathFactory) -> suite.Run:
    """The same server over HTTP behind the sidecar."""
    with running({"servers": {"everything": {"url": everything_url}}}) as sidecar:
        return suite.run_server(sidecar.url(), tmp_path_factory.mktemp("through"), requirements=revision)


def test_every_scenario_passes_over_http_behind_the_sidecar(
    scored: tuple[str, ...], direct: suite.Run, through: suite.Run
) -> None:
    assert through.misses(scored) == [], through.report(scored)
    assert through.code == 0, through.report(scored)
    # nor does anything unscored get worse, and no check is missing
    unscored = tuple(name for name, scenario in direct.scenarios.items() if scenario.ok and name not in scored)
    assert through.misses(unscored) == [], through.report(unscored)
    assert through.checks(scored) == direct.checks(scored)


def test_headers_are_validated_even_where_the_server_does_not(
    revision: str, direct: suite.Run, through: suite.Run
) -> None:
    name = ("http-header-validation",)
    if revision == "2025-11-25":
        assert name[0] not in through.scenarios
        return
    assert through.misses(name) == [], through.report(name)
    assert direct.misses(name) != [], "uvicorn trims header values now: say so in docs/conformance.md"


def test_over_stdio_only_the_explained_scenarios_miss(
    revision: str, scored: tuple[str, ...], direct: suite.Run, tmp_path: Path
) -> None:
    expected = suite.expected_failures(revision)
    server = everything.over_stdio(isolation="PerSession", maxSessions=100)
    with running({"servers": {"everything": server}}) as sidecar:
        run = suite.run_server(sidecar.url(), tmp_path, requirements=revision, expected_failures=expected)
    # the suite fails on a miss that is not expected and on an expectation that is stale
    assert run.code == 0, run.report(scored)
    missed = {scenario.name for scenario in run.misses(scored)} - {s.name for s in direct.misses(scored)}
    assert missed == set(suite.expectations(expected)), run.report(scored)


@pytest.mark.parametrize("revision_", suite.REVISIONS)
def test_every_expected_failure_is_explained(revision_: str) -> None:
    text = DOCUMENT.read_text()
    for name in suite.expectations(suite.expected_failures(revision_)):
        assert f"`{name}`" in text, f"{name} is not explained in docs/conformance.md"

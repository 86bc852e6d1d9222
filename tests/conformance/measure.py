"""Prints the table of docs/conformance.md as measured now: `.venv/bin/python tests/conformance/measure.py`."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from conformance import everything, fetched, suite
from conformance.test_client_conformance import SCENARIOS, WRAPPER
from sidecar_process import running

UNSCORED = ("http-header-validation", "http-custom-header-server-validation", "json-schema-2020-12")


def cell(run: suite.Run, names: tuple[str, ...]) -> str:
    """`30 (70/70)`: scenarios passed, checks passed of those made."""
    passed, made = run.checks(names)
    return f"{len(names) - len(run.misses(names))} ({passed}/{made})"


def server_row(title: str, url: str) -> None:
    """Measure what is at `url` against both requirement sets and print a row, misses below it."""
    cells, misses, unscored = [], [], "-"
    for revision in suite.REVISIONS:
        names = suite.required_server_scenarios(revision)
        with tempfile.TemporaryDirectory() as results:
            run = suite.run_server(url, Path(results), requirements=revision)
        cells.append(cell(run, names))
        misses += [f"{revision} {miss}" for miss in run.misses(names)]
        if revision == "2026-07-28":
            unscored = ", ".join(f"{name} {'/'.join(map(str, run.checks((name,))))}" for name in UNSCORED)
    print(f"| {title} | {cells[0]} | {cells[1]} | {unscored} |", flush=True)
    for miss in misses:
        print(f"<!-- missed: {miss} -->", flush=True)


def client_row(revision: str, scenario: str) -> None:
    """Measure a client scenario directly and through the sidecar and print a row."""
    cells = []
    for command in ([], [str(WRAPPER)]):
        client = shlex.join([sys.executable, *command, str(fetched.conformance_client())])
        with tempfile.TemporaryDirectory() as results:
            run = suite.run_client(client, Path(results), scenario=scenario, revision=revision, env={})
        cells.append("/".join(map(str, run.checks((scenario,)))))
    print(f"| {revision} | {scenario} | {cells[0]} | {cells[1]} |", flush=True)


def main() -> None:
    """Both tables, as Markdown."""
    print("| in front of the everything server | 2025-11-25 (30) | 2026-07-28 (37) | unscored, 2026-07-28 |")
    print("| --- | --- | --- | --- |")
    with everything.over_http() as url:
        server_row("nothing, HTTP", url)
        with running({"servers": {"everything": {"url": url}}}) as sidecar:
            server_row("the sidecar, HTTP", sidecar.url())
    for isolation in ("PerSession", "Shared"):
        settings = {"isolation": isolation, **({"maxSessions": 100} if isolation == "PerSession" else {})}
        with running({"servers": {"everything": everything.over_stdio(**settings)}}) as sidecar:
            server_row(f"the sidecar, stdio, `{isolation}`", sidecar.url())
    print("\n| revision | client scenario | directly | through the sidecar |\n| --- | --- | --- | --- |")
    for revision, scenario, _ in SCENARIOS:
        client_row(revision, scenario)


if __name__ == "__main__":
    main()

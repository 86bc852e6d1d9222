"""The client scenarios: the suite's mock server ← sidecar ← the SDK's conformance client.

The mock servers look at every byte of what a client sends and at when it sends it, so this is the strictest test of
transparency there is (notes/protocol.md C).
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from conformance import fetched, suite

SCENARIOS = [
    ("2025-11-25", "initialize"),
    ("2025-11-25", "tools_call"),
    ("2025-11-25", "elicitation-sep1034-client-defaults"),
    ("2025-11-25", "sse-retry"),
    ("2025-11-25", "json-schema-2020-12-preservation"),
    ("2026-07-28", "tools_call"),
    ("2026-07-28", "request-metadata"),
    ("2026-07-28", "http-standard-headers"),
    ("2026-07-28", "http-custom-headers"),
    ("2026-07-28", "http-invalid-tool-headers"),
    ("2026-07-28", "sep-2322-client-request-state"),
    ("2026-07-28", "json-schema-ref-no-deref"),
    ("2026-07-28", "json-schema-2020-12-preservation"),
]

EXITS_WITH_ERROR = {("2026-07-28", "sep-2322-client-request-state")}
"""SDK 2.3.0 refuses a result without `resultType`, which the mock server sends on purpose: its client exits 1 although
all checks pass, without the sidecar too (the first test shows it)."""

WRAPPER = Path(__file__).with_name("client_through_sidecar.py")

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


def run(command: list[str], results: Path, scenario: str, revision: str) -> suite.Run:
    return suite.run_client(shlex.join(command), results, scenario=scenario, revision=revision, env={})


@pytest.mark.parametrize(("revision", "scenario"), SCENARIOS)
def test_a_client_behaves_the_same_through_the_sidecar(revision: str, scenario: str, tmp_path: Path) -> None:
    client = str(fetched.conformance_client())
    direct = run([sys.executable, client], tmp_path / "direct", scenario, revision)
    through = run([sys.executable, str(WRAPPER), client], tmp_path / "through", scenario, revision)
    name = (scenario,)
    assert direct.misses(name) == [], "without the sidecar: " + direct.report(name)
    assert through.misses(name) == [], through.report(name)
    assert through.checks(name) == direct.checks(name), through.report(name)
    expected = 1 if (revision, scenario) in EXITS_WITH_ERROR else 0
    assert (direct.code, through.code) == (expected, expected), through.report(name)

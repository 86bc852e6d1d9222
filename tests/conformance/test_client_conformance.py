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
    ("2025-11-25", "initialize", 1),
    ("2025-11-25", "tools_call", 2),
    ("2025-11-25", "elicitation-sep1034-client-defaults", 5),
    ("2025-11-25", "sse-retry", 3),
    ("2025-11-25", "json-schema-2020-12-preservation", 9),
    ("2026-07-28", "tools_call", 2),
    ("2026-07-28", "request-metadata", 8),
    ("2026-07-28", "http-standard-headers", 9),
    ("2026-07-28", "http-custom-headers", 18),
    ("2026-07-28", "http-invalid-tool-headers", 12),
    ("2026-07-28", "sep-2322-client-request-state", 5),
    ("2026-07-28", "json-schema-ref-no-deref", 1),
    ("2026-07-28", "json-schema-2020-12-preservation", 9),
]
"""Revision, scenario, and how many checks the client passes without the sidecar: fewer would mean that some were not
reached."""

EXITS_WITH_ERROR = ("2026-07-28", "sep-2322-client-request-state")
"""SDK 2.3.0 refuses a result without `resultType`, which the mock server sends on purpose: its client exits 1 although
all checks pass, without the sidecar too."""

WRAPPER = Path(__file__).with_name("client_through_sidecar.py")

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


def run(command: list[str], results: Path, scenario: str, revision: str) -> suite.Run:
    return suite.run_client(shlex.join(command), results, scenario=scenario, revision=revision, env={})


@pytest.mark.parametrize(("revision", "scenario", "checks"), SCENARIOS)
def test_a_client_passes_through_the_sidecar(revision: str, scenario: str, checks: int, tmp_path: Path) -> None:
    through = run([sys.executable, str(WRAPPER), str(fetched.conformance_client())], tmp_path, scenario, revision)
    name = (scenario,)
    assert through.misses(name) == [], through.report(name)
    # the sidecar's own requests to the mock server are checked too
    assert through.checks(name)[0] >= checks, through.report(name)
    assert through.code == (1 if (revision, scenario) == EXITS_WITH_ERROR else 0), through.report(name)


def test_what_exits_with_an_error_does_so_without_the_sidecar(tmp_path: Path) -> None:
    revision, scenario = EXITS_WITH_ERROR
    direct = run([sys.executable, str(fetched.conformance_client())], tmp_path, scenario, revision)
    assert direct.code == 1, "the client passes now: expect 0 above, and mend docs/conformance.md"

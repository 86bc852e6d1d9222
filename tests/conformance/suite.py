"""Runs the conformance suite and reads what it wrote: scenarios and their checks, not the words on the screen."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance import fetched

REVISIONS = ("2025-11-25", "2026-07-28")
SCORED = {"2025-11-25": 30, "2026-07-28": 37}
"""How many server scenarios the frozen requirement set of a revision has."""

RUN_TIMEOUT = 150.0
"""Seconds for a whole requirement set; 2 to 6 are usual."""

SCENARIO_TIMEOUT_MS = 30_000

_DIRECTORY = re.compile(r"(?:server-|client-)?(?P<scenario>.+?)-\d{4}-\d{2}-\d{2}T[\d-]+Z$")


@dataclass(frozen=True)
class Scenario:
    """How one scenario ended."""

    name: str
    passed: int
    failed: tuple[str, ...]
    """`check id: what went wrong`, in order."""
    skipped: int = 0

    @property
    def ok(self) -> bool:
        """No check failed, and at least one was made or the suite skips the scenario."""
        return not self.failed and (self.passed > 0 or self.skipped > 0)

    def __str__(self) -> str:
        checks = f"{self.passed}/{self.passed + len(self.failed)}"
        return f"{self.name} {checks}" + "".join(f"\n    {line}" for line in self.failed)


@dataclass(frozen=True)
class Run:
    """One run of the suite."""

    code: int
    output: str
    scenarios: dict[str, Scenario] = field(default_factory=dict)

    def of(self, names: tuple[str, ...]) -> list[Scenario]:
        """These scenarios; one that did not run counts as failed."""
        missing = ("the scenario did not run",)
        return [self.scenarios.get(name, Scenario(name, 0, missing)) for name in names]

    def misses(self, names: tuple[str, ...]) -> list[Scenario]:
        """Those of `names` that did not pass."""
        return [scenario for scenario in self.of(names) if not scenario.ok]

    def checks(self, names: tuple[str, ...]) -> tuple[int, int]:
        """Checks passed and made in these scenarios."""
        found = self.of(names)
        passed = sum(s.passed for s in found)
        return passed, passed + sum(len(s.failed) for s in found)

    def report(self, names: tuple[str, ...]) -> str:
        """What failed, for the eyes of who has to mend it."""
        misses = self.misses(names)
        head = f"{len(names) - len(misses)} of {len(names)} scenarios passed, exit code {self.code}"
        return "\n".join([head, *(f"✗ {miss}" for miss in misses), "--- the suite said ---", self.output[-3000:]])


def required_server_scenarios(revision: str) -> tuple[str, ...]:
    """The scored server scenarios of a revision, as the suite lists them."""
    text = fetched.run(str(fetched.node()), str(fetched.suite()), "list", "--requirements", revision)
    section = text.split("Server scenarios", 1)[1].split("\n\n", 1)[0]
    return tuple(re.findall(r"^\s+- (\S+)$", section, re.MULTILINE))


def expected_failures(revision: str) -> Path:
    """The file of what no server on stdio behind the sidecar passes; docs/conformance.md says why."""
    return Path(__file__).with_name(f"expected-failures-stdio-{revision}.yml")


def expectations(path: Path) -> list[str]:
    """The scenarios of an expected-failures file; entries are `scenario` or `scenario:check`."""
    entries = re.findall(r"^\s+- ([^\s#]+)", path.read_text(), re.MULTILINE)
    return sorted({entry.split(":")[0] for entry in entries})


def run_server(
    url: str, results: Path, *, requirements: str, expected_failures: Path | None = None, force_timeout: float = 0
) -> Run:
    """Run the requirement set of a revision against the server at `url`."""
    arguments = ["server", "--url", url, "--requirements", requirements]
    if expected_failures is not None:
        arguments += ["--expected-failures", str(expected_failures)]
    return _run(arguments, results, {}, force_timeout or RUN_TIMEOUT)


def run_client(command: str, results: Path, *, scenario: str, revision: str, env: Mapping[str, str]) -> Run:
    """Run one client scenario: the suite serves, `command` is the client and gets the URL as last argument."""
    arguments = ["client", "--command", command, "--scenario", scenario, "--spec-version", revision]
    return _run(arguments, results, env, 90.0)


def _run(arguments: list[str], results: Path, env: Mapping[str, str], timeout: float) -> Run:
    results.mkdir(parents=True, exist_ok=True)
    command = [str(fetched.node()), str(fetched.suite()), *arguments]
    command += ["--timeout", str(SCENARIO_TIMEOUT_MS), "--output-dir", str(results)]
    # a group of its own: what the suite started must not outlive it
    process = subprocess.Popen(
        command,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"\nkilled after {timeout:g} s"
    return Run(process.returncode, output, _read(results))


def _read(results: Path) -> dict[str, Scenario]:
    found: dict[str, Scenario] = {}
    for path in sorted(results.glob("**/checks.json")):
        match = _DIRECTORY.match(path.parent.name)
        name = match["scenario"] if match else path.parent.name
        # scenarios named a/b are written to a directory a with b below it
        parent = path.parent.parent.relative_to(results)
        full = name if parent == Path() else f"{str(parent).removeprefix('server-').removeprefix('client-')}/{name}"
        found[full] = _scenario(full, json.loads(path.read_text()))
    return found


def _scenario(name: str, checks: list[dict[str, Any]]) -> Scenario:
    failed = tuple(
        f"{check['id']}: {check.get('errorMessage') or check.get('description', '')}"
        for check in checks
        if check["status"] == "FAILURE"
    )
    passed = sum(check["status"] == "SUCCESS" for check in checks)
    return Scenario(name, passed, failed, sum(check["status"] == "SKIPPED" for check in checks))

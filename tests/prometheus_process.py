"""A real Prometheus (Debian's) on loopback: scrapes what a test tells it to, evaluates rules, answers queries.

Alert rules wait for minutes and look back for hours; `shortened` makes the same rules wait and look back for seconds,
so that a test sees them fire for a real fault. Prometheus takes up to five seconds to see that its targets changed.
Where the rules come from and what they should say is left to others.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import yaml

from cluster.background_process import BackgroundProcess
from sidecar_process import free_ports

START_TIMEOUT = 30.0
_PROMETHEUS = "prometheus (and never start its service)"
_INSTALLED_BY = {
    "prometheus": _PROMETHEUS,
    "promtool": _PROMETHEUS,
    "chromium": "--no-install-recommends chromium fonts-dejavu-core",
}
_RANGE = re.compile(r"(?:(?<=\[)|(?<=offset ))((?:\d+(?:ms|[smhdwy]))+)\b")
_PART = re.compile(r"(\d+)(ms|[smhdwy])")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}


def required(program: str) -> str:
    """The path of a program of Debian. Skips the test where it is not installed, which with CI is a failure."""
    path = shutil.which(program)
    if path is None:
        words = f"{program} is not installed: apt-get install {_INSTALLED_BY[program]}"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)
    return path


@dataclass(frozen=True)
class Target:
    """What is scraped. `labels` are those that service discovery gives: namespace, pod, …"""

    address: str
    """Host and port."""
    labels: Mapping[str, str] = field(default_factory=dict)


def seconds(duration: str) -> float:
    """Of a duration as Prometheus writes it: `1h30m` → 5400."""
    return sum(int(count) * _SECONDS[unit] for count, unit in _PART.findall(duration))


def shortened(rules: Mapping[str, Any], factor: float, replace: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A rule file's content with every `for`, `keep_firing_for`, range and offset `factor` times as short.

    Ranges become no shorter than 2 s, which a scrape interval of 500 ms fills. `replace`: text of expressions, such as
    a threshold in seconds, and what stands for it. Raises AssertionError where such a text is nowhere.
    """

    def shorter(duration: str, least: float) -> str:
        return f"{max(int(seconds(duration) * 1000 / factor), int(least * 1000))}ms"

    used: set[str] = set()
    groups = []
    for group in rules["groups"]:
        made = []
        for rule in group["rules"]:
            expr = rule["expr"]
            for old, new in (replace or {}).items():
                if old in expr:
                    used.add(old)
                    expr = expr.replace(old, new)
            changed = {**rule, "expr": _RANGE.sub(lambda found: shorter(found[1], 2), expr)}
            for name in ("for", "keep_firing_for"):
                if name in rule:
                    changed[name] = shorter(rule[name], 0.5)
            made.append(changed)
        groups.append({**{key: value for key, value in group.items() if key != "interval"}, "rules": made})
    assert used == set(replace or {}), f"not in any expression: {set(replace or {}) - used}"
    return {"groups": groups}


class Prometheus:
    """One server with its data in a directory of its own. A context manager.

    `jobs`: name → what is scraped; it may be changed by `scrape`. A label that a metric brings itself wins over the
    target's (honor_labels), as in the ServiceMonitor of the chart. `rules`: contents of rule files.
    """

    def __init__(
        self,
        jobs: Mapping[str, Sequence[Target]],
        *,
        rules: Sequence[Mapping[str, Any]] = (),
        interval: str = "500ms",
        lookback: str = "5m",
    ) -> None:
        """`interval`: of scrapes and of evaluations."""
        self._temporary = tempfile.TemporaryDirectory(prefix="outrigger-prometheus-")
        self.directory = Path(self._temporary.name)
        self._jobs = {name: tuple(targets) for name, targets in jobs.items()}
        self.began = 0.0
        """When it began to scrape, on its own clock: unix seconds."""
        (self.port,) = free_ports(1)
        names = [self._write(f"rules-{index}.yaml", content) for index, content in enumerate(rules)]
        self._write("prometheus.yml", self._config(interval, names))
        for job in self._jobs:
            self._discover(job)
        self._process = BackgroundProcess(
            "prometheus",
            [
                required("prometheus"),
                f"--config.file={self.directory}/prometheus.yml",
                f"--storage.tsdb.path={self.directory}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
                f"--query.lookback-delta={lookback}",
                "--log.level=warn",
            ],
            self.directory,
        )

    @property
    def url(self) -> str:
        """Of the server, for a data source."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Prometheus:
        self._process.start()
        self._process.wait_until(lambda: self._get("/-/ready")[0] == 200, "ready", START_TIMEOUT)
        self.began = self.now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.stop()
        self._temporary.cleanup()

    def scrape(self, job: str, targets: Sequence[Target]) -> None:
        """Scrape these from now on, in place of the job's targets of before."""
        assert job in self._jobs, f"no such job: {job}"
        self._jobs[job] = tuple(targets)
        self._discover(job)

    def wait_until_scraped(self, timeout: float = 30.0) -> None:
        """Wait until every target was scraped with success; raises AssertionError with what Prometheus says of them."""
        wanted = sorted((job, target.address) for job, targets in self._jobs.items() for target in targets)

        def scraped() -> bool:
            active = self.api("targets?state=active")["activeTargets"]
            found = [(each["labels"]["job"], each["discoveredLabels"]["__address__"]) for each in active]
            return sorted(found) == wanted and all(each["health"] == "up" for each in active)

        self.wait(scraped, "every target was scraped", timeout, lambda: self.api("targets?state=active"))

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values of an instant query, now. Raises AssertionError for a query that is refused."""
        result = self.api("query", query=expression)
        if result["resultType"] == "scalar":
            return [({}, float(result["result"][1]))]
        return [(each["metric"], float(each["value"][1])) for each in result["result"]]

    def query_range(
        self, expression: str, span: float, step: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Labels and (time, value) of the last `span` seconds."""
        now = self.now()
        result = self.api("query_range", query=expression, start=str(now - span), end=str(now), step=str(step))
        return [(each["metric"], [(at, float(value)) for at, value in each["values"]]) for each in result["result"]]

    def now(self) -> float:
        """Unix seconds on the clock of Prometheus."""
        return float(self.query("time()")[0][1])

    def alerts(self, state: str = "firing") -> list[dict[str, Any]]:
        """The alerts in this state (`firing`, `pending`): `labels`, `annotations`, `activeAt`, `value`."""
        return [each for each in self.api("alerts")["alerts"] if each["state"] == state]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {each["labels"]["alertname"] for each in self.alerts()}

    def wait_for_alerts(self, *names: str, timeout: float = 60.0) -> list[dict[str, Any]]:
        """Wait until exactly these fire; they. Without names: until none does."""
        self.wait(lambda: self.firing() == set(names), f"exactly {sorted(names)} fire", timeout, self.described)
        return self.alerts()

    def failed_rules(self) -> list[str]:
        """The errors of rules whose last evaluation failed."""
        groups = self.api("rules")["groups"]
        return [f"{rule['name']}: {rule['lastError']}" for g in groups for rule in g["rules"] if rule.get("lastError")]

    def wait(
        self, ready: Callable[[], bool], what: str, timeout: float, describe: Callable[[], Any] | None = None
    ) -> None:
        """Ask again and again. Raises AssertionError, with what `describe` tells."""
        until = time.monotonic() + timeout
        while not ready():
            assert self._process.running, self._process.describe(f"ended before {what}")
            if time.monotonic() > until:
                told = json.dumps(describe(), indent=1) if describe else ""
                raise AssertionError(f"not within {timeout:g} s: {what}\n{told}")
            time.sleep(0.1)

    def api(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of /api/v1. Raises AssertionError where it is an error."""
        url = f"/api/v1/{path}" + (f"?{urllib.parse.urlencode(parameters)}" if parameters else "")
        status, body = self._get(url)
        answer = json.loads(body)
        assert status == 200, f"{path} {parameters}: {answer.get('error')}"
        return answer["data"]

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def described(self) -> dict[str, Any]:
        """What fires, what is about to, and which rules fail: for messages of tests."""
        return {"alerts": self.api("alerts")["alerts"], "failed": self.failed_rules()}

    def _config(self, interval: str, rules: Sequence[str]) -> dict[str, Any]:
        return {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": list(rules),
            "scrape_configs": [
                {
                    "job_name": job,
                    "honor_labels": True,
                    "scrape_timeout": interval,
                    "file_sd_configs": [{"files": [f"{self.directory}/targets-{job}.json"], "refresh_interval": "1s"}],
                }
                for job in self._jobs
            ],
        }

    def _discover(self, job: str) -> None:
        groups = [{"targets": [each.address], "labels": dict(each.labels)} for each in self._jobs[job]]
        self._write(f"targets-{job}.json", groups)

    def _write(self, name: str, content: Any) -> str:
        """Replace the file in one step: Prometheus watches the folder."""
        path = self.directory / name
        text = json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content, sort_keys=False, width=1000)
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)
        return str(path)

"""Every alert fires when it should, does not when it nearly should, and ends: promtool runs the rules as they ship."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from prometheus_process import required
from rules.alert_cases import CASES, Case

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "charts/outrigger/files/rules").glob("*.yaml"))
RULES: list[dict[str, Any]] = [
    rule for path in FILES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
ABOUT_THE_OPERATOR = {"OutriggerMetricsMissing"}
"""Fires in tests that have no operator, after a quarter of an hour."""


def rendered(template: str, labels: Mapping[str, str], value: str) -> str:
    """What Prometheus makes of an annotation."""
    choice = re.compile(r"{{ if \$labels\.(\w+) }}(.*?){{ else }}(.*?){{ end }}")
    text = choice.sub(lambda found: found[2] if labels.get(found[1]) else found[3], template)
    text = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)
    return text.replace("{{ $value | humanizePercentage }}", value)


def promtool_test(case: Case) -> dict[str, Any]:
    """The case as promtool has it: what fires (`ALERTS`, which knows no annotations), and what each says."""
    alerts, expressions = [], []
    others = "|".join(sorted({case.alert, *case.also, *ABOUT_THE_OPERATOR}))
    rule = ALERTS[case.alert]
    for minute, labels in case.fires.items():
        expected = [{**each, **rule["labels"]} for each in labels]
        firing = f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}'
        samples = [
            {
                "labels": f"ALERTS{{alertname={case.alert!r},alertstate='firing',"
                + ",".join(f"{name}={value!r}" for name, value in each.items())
                + "}",
                "value": 1,
            }
            for each in expected
        ]
        expressions += [
            {"expr": firing, "eval_time": f"{minute}m", "exp_samples": samples},
            {
                "expr": f'ALERTS{{alertname!~"{others}",alertstate="firing"}}',
                "eval_time": f"{minute}m",
                "exp_samples": [],
            },
        ]
        alerts.append(
            {
                "eval_time": f"{minute}m",
                "alertname": case.alert,
                "exp_alerts": [
                    {
                        "exp_labels": each,
                        "exp_annotations": {
                            name: rendered(text, each, case.value) for name, text in rule["annotations"].items()
                        },
                    }
                    for each in expected
                ],
            }
        )
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    return {"interval": "1m", "input_series": series, "alert_rule_test": alerts, "promql_expr_test": expressions}


def promtool(directory: Path, *tests: dict[str, Any]) -> str:
    """What promtool says of failures; empty where all is as expected."""
    path = directory / "test.yaml"
    content = {"rule_files": [str(file) for file in FILES], "evaluation_interval": "1m", "tests": list(tests)}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    done = subprocess.run([required("promtool"), "test", "rules", path], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_alert(case: Case, tmp_path: Path) -> None:
    assert promtool(tmp_path, promtool_test(case)) == ""


def test_prometheus_reads_the_files() -> None:
    done = subprocess.run([required("promtool"), "check", "rules", *FILES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_every_alert_is_seen_firing_not_firing_and_ending(alert: str) -> None:
    cases = [case for case in CASES if case.alert == alert]
    assert any(any(labels for labels in case.fires.values()) for case in cases)
    assert any(not any(labels for labels in case.fires.values()) for case in cases), "no near miss"

    def ends(case: Case) -> bool:
        told = [bool(case.fires[minute]) for minute in sorted(case.fires)]
        return True in told and not told[0] and not told[-1]

    assert any(map(ends, cases)), "none that begins and ends"

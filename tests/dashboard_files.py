"""The dashboards that the chart carries, as what they ask: panels, targets, and PromQL with its variables filled in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).resolve().parent.parent / "charts" / "outrigger" / "files" / "dashboards"
NAMES = ("fleet", "operator", "server")


@dataclass(frozen=True)
class Target:
    """One query of a panel."""

    dashboard: str
    panel: str
    kind: str
    reference: str
    expression: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel} / {self.reference}"


def dashboard(name: str) -> dict[str, Any]:
    """The JSON as it is shipped."""
    loaded: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def panels(made: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All that draw something; those of collapsed rows too."""
    for panel in made["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def targets(name: str) -> list[Target]:
    """Every query of a dashboard."""
    return [
        Target(name, panel["title"], panel["type"], target["refId"], target["expr"], bool(target.get("instant", False)))
        for panel in panels(dashboard(name))
        for target in panel.get("targets", [])
    ]


def variables(made: Mapping[str, Any]) -> list[str]:
    """Names of the variables that stand in queries."""
    return [variable["name"] for variable in made["templating"]["list"] if variable["type"] != "datasource"]


def filled(expression: str, made: Mapping[str, Any], *, interval: str = "10s", span: str = "60s", **chosen: str) -> str:
    """A query as Grafana would send it with All chosen, but for what is said."""
    for name in variables(made):
        expression = expression.replace(f"${name}", chosen.get(name, ".*"))
    return expression.replace("$__rate_interval", interval).replace("$__range", span)

"""The frame of a dashboard: variables, links, layout on the grid, and its JSON text.

Layout is flow: panels of a row from left to right, the next line begins where 24 columns are full. Ids, references and
positions are given here, in order, so that the text changes only where a dashboard does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from dashboards.panels import DATASOURCE, Placed, Row

COLUMNS: Final = 24
SCHEMA_VERSION: Final = 41
"""Of Grafana 11.6."""

ANY: Final = ".*"
"""All of a variable: matches series without the label too, such as those of a sidecar outside of a cluster."""

TAG: Final = "outrigger"
DOCS_URL: Final = "https://outrigger.dev/docs"
"""Where the links to the documentation lead; the chart puts its value `dashboards.docsUrl` in its place."""


def query_variable(
    name: str, label: str, description: str, query: str, *, multi: bool = True
) -> dashboard.QueryVariable:
    """A variable whose values Prometheus knows, asked anew when the time range changes.

    With `multi` several can be chosen and All is the default, else exactly one, by default the first.
    """
    made = (
        dashboard.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(DATASOURCE)
        .query({"query": query, "refId": f"Variable-{name}", "qryType": 1})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(multi)
        .include_all(multi)
    )
    if multi:
        made.all_value(ANY).current(model.VariableOption(selected=True, text="All", value="$__all"))
    return made


def server_variables(description: str) -> list[dashboard.QueryVariable]:
    """`$namespace` and `$server`, of the MCPServers that are scraped; `description` is of the second."""
    return [
        query_variable(
            "namespace", "Namespace", "Of the MCPServers.", "label_values(outrigger_upstream_up, namespace)"
        ),
        query_variable(
            "server", "Server", description, 'label_values(outrigger_upstream_up{namespace=~"$namespace"}, server)'
        ),
    ]


def make(
    *,
    uid: str,
    title: str,
    description: str,
    variables: Sequence[dashboard.QueryVariable],
    rows: Sequence[Row],
    docs: Sequence[tuple[str, str]],
) -> model.Dashboard:
    """A dashboard; `docs` are titles and pages of the documentation. A row without a title gets no heading."""
    frame = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG, "mcp"])
        .readonly()
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource")
            .label("Data source")
            .description("The Prometheus that scrapes the operator and the sidecars.")
            .type("prometheus")
        )
        .link(
            dashboard.DashboardLink("Outrigger")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
            .icon("external link")
        )
    )
    for name, page in docs:
        frame.link(
            dashboard.DashboardLink(name)
            .type(model.DashboardLinkType.LINK)
            .url(f"{DOCS_URL}/{page}")
            .icon("doc")
            .target_blank(True)
        )
    for variable in variables:
        frame.with_variable(variable)
    made = frame.build()
    made.panels = [*_laid_out(rows)]
    made.schema_version = SCHEMA_VERSION
    return made


def text(made: model.Dashboard) -> str:
    """The dashboard as JSON, the same for the same dashboard."""
    return (
        json.dumps(_plain(json.loads(json.dumps(made, cls=JSONEncoder))), indent=1, sort_keys=True, ensure_ascii=False)
        + "\n"
    )


def _laid_out(rows: Sequence[Row]) -> list[model.Panel | model.RowPanel]:
    panels: list[model.Panel | model.RowPanel] = []
    y = 0
    for row in rows:
        if row.title:
            heading = dashboard.Row(row.title).build()
            heading.collapsed = False
            heading.id_val = len(panels) + 1
            heading.grid_pos = model.GridPos(h=1, w=COLUMNS, x=0, y=y)
            panels.append(heading)
            y += 1
        x = tallest = 0
        for placed in row.panels:
            if x + placed.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            panels.append(_panel(placed, len(panels) + 1, x, y))
            x += placed.width
            tallest = max(tallest, placed.height)
        y += tallest
    return panels


def _panel(placed: Placed, number: int, x: int, y: int) -> model.Panel:
    panel = placed.builder.build()
    panel.id_val = number
    panel.grid_pos = model.GridPos(h=placed.height, w=placed.width, x=x, y=y)
    for index, target in enumerate(panel.targets or []):
        target.ref_id = chr(ord("A") + index)  # type: ignore[attr-defined]  # every kind of query has one
    return panel


def _plain(value: Any) -> Any:
    """Without what Grafana takes as absent: the SDK writes some unset members as null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None or key == "value"}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value

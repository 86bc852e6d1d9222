"""The kinds of panel that the dashboards are made of, with one look, so that a dashboard says only what it shows.

Every panel must have a title and a description that says what good looks like and what to do otherwise: both are
arguments without a default. Which queries are worth a panel is in fleet.py, server.py and operator.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")

GREEN: Final = "green"
YELLOW: Final = "yellow"
ORANGE: Final = "orange"
RED: Final = "red"
BLUE: Final = "blue"
GRAY: Final = "#8e8e8e"

Steps = Sequence[tuple[float | None, str]]
"""Thresholds: each value from which a colour holds, ascending; the first value is None."""

Names = Mapping[float, tuple[str, str]]
"""What a value is called, and its colour."""

YES_NO: Final[Names] = {1: ("yes", GREEN), 0: ("no", RED)}
BREAKER: Final[Names] = {0: ("closed", GREEN), 1: ("half open", YELLOW), 2: ("open", RED)}
ZERO_IS_GOOD: Final[Steps] = ((None, GREEN), (1, RED))
ERROR_RATIO: Final[Steps] = ((None, GREEN), (0.01, YELLOW), (0.05, RED))
SECONDS: Final[Steps] = ((None, GREEN), (1, YELLOW), (10, RED))


@dataclass(frozen=True)
class Query:
    """One PromQL expression; `legend` names its series."""

    expression: str
    legend: str = "__auto"


@dataclass(frozen=True)
class Column:
    """A column of a table: the label, or the query's value, that it shows."""

    title: str
    query: str = ""
    """PromQL with the table's key labels; empty where the column is one of the labels."""
    label: str = ""
    unit: str = "short"
    steps: Steps = ()
    names: Names | None = None
    width: int = 0
    link: str = ""
    link_title: str = ""
    bar: bool = False
    hidden: bool = False
    decimals: int | None = None


class Builder(Protocol):
    """What makes a panel of the SDK."""

    def build(self) -> model.Panel: ...


@dataclass(frozen=True)
class Placed:
    """A panel and how much room it takes: columns of 24, and rows of about 30 pixels."""

    builder: Builder
    width: int
    height: int


@dataclass(frozen=True)
class Row:
    """A heading, and what is below it."""

    title: str
    panels: Sequence[Placed]


def series(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    steps: Steps = (),
    colors: Mapping[str, str] | None = None,
    maximum: float | None = None,
    bars: bool = False,
) -> Placed:
    """Lines over time. `steps` draws thresholds as dashed lines, `colors` gives series their colour by name."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(60 if bars else 25 if stacked else 10)
        .show_points(options.VisibilityMode.NEVER)
        .draw_style(options.GraphDrawStyle.BARS if bars else options.GraphDrawStyle.LINE)
        .span_nulls(False)
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.TABLE)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
    )
    if maximum is not None:
        panel.max(maximum)
    if stacked:
        panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL).group("A"))
    if steps:
        panel.thresholds(_thresholds(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.DASHED)
        )
    for name, color in (colors or {}).items():
        panel.override_by_name(name, [_property("color", {"mode": "fixed", "fixedColor": color})])
    for query in queries:
        panel.with_target(_asked(query))
    return Placed(panel, width, height)


def number(
    title: str,
    description: str,
    query: str,
    *,
    unit: str,
    steps: Steps = ((None, BLUE),),
    names: Names | None = None,
    width: int = 3,
    height: int = 4,
    decimals: int | None = None,
    sparkline: bool = True,
    legend: str = "",
    no_value: str = "–",
) -> Placed:
    """The newest value, large, coloured by `steps` or called by `names`."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .thresholds(_thresholds(steps))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .color_mode(options.BigValueColorMode.VALUE)
        .graph_mode(options.BigValueGraphMode.AREA if sparkline else options.BigValueGraphMode.NONE)
        .text_mode(options.BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value(no_value)
        .with_target(_asked(Query(query, legend or title), instant=not sparkline))
    )
    if names is not None:
        panel.mappings([_mapping(names)])
    if decimals is not None:
        panel.decimals(decimals)
    return Placed(panel, width, height)


def timeline(title: str, description: str, *queries: Query, names: Names, width: int = 12, height: int = 6) -> Placed:
    """States over time, a lane for each series."""
    panel = (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit("none")
        .mappings([_mapping(names)])
        .thresholds(_thresholds(((None, GRAY),)))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .show_value(options.VisibilityMode.NEVER)
        .merge_values(True)
        .row_height(0.8)
        .line_width(0)
        .fill_opacity(80)
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    for query in queries:
        panel.with_target(_asked(query))
    return Placed(panel, width, height)


def grid(
    title: str,
    description: str,
    columns: Sequence[Column],
    *,
    sort_by: str,
    width: int = 24,
    height: int = 10,
) -> Placed:
    """A table: one row for each combination of labels that the queries of all columns share, sorted descending.

    Columns with a query show its value, in their order; the rows of all queries with the same labels become one.
    """
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit("short")
        .thresholds(_thresholds(((None, GREEN),)))
        .filterable(True)
        .cell_height(options.TableCellHeight.SM)
        .sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
    )
    asked = [column for column in columns if column.query]
    names: dict[str, str] = {}
    for index, column in enumerate(asked):
        reference = chr(ord("A") + index)
        names[f"Value #{reference}" if len(asked) > 1 else "Value"] = column.title
        panel.with_target(
            prometheus.Dataquery()
            .expr(column.query)
            .ref_id(reference)
            .instant()
            .format(PromQueryFormat.TABLE)
            .legend_format("__auto")
            .datasource(DATASOURCE)
        )
    names |= {column.label: column.title for column in columns if column.label}
    by_title = {title: field for field, title in names.items()}
    if len(asked) > 1:
        panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True, **{by_title[c.title]: True for c in columns if c.hidden}},
                "includeByName": {},
                "indexByName": {by_title[column.title]: index for index, column in enumerate(columns)},
                "renameByName": names,
            },
        )
    )
    for column in columns:
        panel.override_by_name(column.title, _column_properties(column))
    return Placed(panel, width, height)


def _column_properties(column: Column) -> list[model.DynamicConfigValue]:
    properties = [_property("unit", column.unit)] if column.query else []
    if column.decimals is not None:
        properties.append(_property("decimals", column.decimals))
    if column.width:
        properties.append(_property("custom.width", column.width))
    if column.names is not None:
        properties.append(_property("mappings", [_mapping(column.names)]))
        properties.append(_property("custom.cellOptions", {"type": "color-text"}))
    if column.steps:
        properties.append(_property("thresholds", _thresholds(column.steps).build()))
        cell = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"} if column.bar else {"type": "color-text"}
        properties.append(_property("custom.cellOptions", cell))
        if column.bar:
            properties += [_property("min", 0), _property("max", 200)]
    if column.link:
        link = {"title": column.link_title, "url": column.link, "targetBlank": False}
        properties.append(_property("links", [link]))
    return properties


def _asked(query: Query, *, instant: bool = False) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).datasource(DATASOURCE)
    return (made.instant() if instant else made.range()).format(PromQueryFormat.TIME_SERIES)


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    made = [model.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def _mapping(names: Names) -> model.ValueMap:
    return model.ValueMap(
        options={
            f"{value:g}": model.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(names.items())
        }
    )


def _property(name: str, value: Any) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(id_val=name, value=value)

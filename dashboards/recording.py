"""Recording rules: calls and failures of every server over the windows that the burn of its error budget needs.

A failure is an error for which the caller is not to blame: `side` upstream or sidecar. What a tool itself reports as an
error is an answer. Long windows are averages of what is recorded for five minutes: counters of a thousand servers over
three days are more samples than Prometheus reads in one query.
"""

from __future__ import annotations

from typing import Final

from dashboards.rules import Group, Recording

CALLS: Final = "namespace_server:outrigger_calls:rate"
FAILURES: Final = "namespace_server:outrigger_failures:rate"
RATIO: Final = "namespace_server:outrigger_failures:ratio_rate"
BUDGET: Final = "outrigger:error_budget:ratio"
"""Share of the calls that may fail over 30 days; the chart's value `alerts.errorBudget`."""
MINIMUM: Final = "outrigger:minimum_calls:rate"
"""Calls a second below which a share says nothing; the chart's value `alerts.minimumCallRate`."""
WINDOWS: Final = ("5m", "30m", "1h", "6h", "3d")


def _ratio(window: str) -> Recording:
    if window == "5m":
        expr = f"clamp_max({FAILURES}5m / ({CALLS}5m > 0), 1)"
    else:
        failures, calls = (f"avg_over_time({each}5m[{window}])" for each in (FAILURES, CALLS))
        expr = f"clamp_max({failures} / ({calls} > 0), 1)"
    return Recording(f"{RATIO}{window}", expr)


GROUPS: Final = (
    Group(
        "outrigger-objectives",
        (Recording(BUDGET, "vector(0.01)"), Recording(MINIMUM, "vector(0.017)")),
    ),
    Group(
        "outrigger-error-ratios",
        (
            Recording(
                f"{CALLS}5m",
                'sum by (namespace, server) (rate(outrigger_calls_total{outcome!="cancelled",server!="_other"}[5m]))',
            ),
            Recording(
                f"{FAILURES}5m",
                f"""
                sum by (namespace, server) (
                  rate(outrigger_errors_total{{side=~"upstream|sidecar",error_type!="tool_error",server!="_other"}}[5m])
                )
                or 0 * {CALLS}5m
                """,
            ),
            *(Recording(f"{CALLS}{window}", f"avg_over_time({CALLS}5m[{window}])") for window in ("1h", "6h", "3d")),
            *(_ratio(window) for window in WINDOWS),
        ),
    ),
)

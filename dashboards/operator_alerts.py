"""Alerts on the operator itself, and on metrics that are not there, without which all other alerts are silent.

Calls do not need the operator; while it does not work nothing is rolled out, healed or told.
"""

from __future__ import annotations

from typing import Final

from dashboards.rules import Alert, Group
from dashboards.server_alerts import condition

_BY: Final = "by (namespace, job)"
_DASHBOARD: Final = "d/outrigger-operator?var-job={{ $labels.job }}"
_LEADER: Final = "outrigger_operator_leader"

GROUPS: Final = (
    Group(
        "outrigger-operator",
        (
            Alert(
                name="OutriggerNoLeader",
                expr=f"""
                    max {_BY} ({_LEADER}) < 1
                    or (max {_BY} (last_over_time({_LEADER}[1h])) unless max {_BY} ({_LEADER}))
                """,
                wait="2m",
                severity="critical",
                summary="No replica of the operator in {{ $labels.namespace }} leads, so MCPServers are left alone.",
                description="""
                    For two minutes no replica of {{ $labels.namespace }}/{{ $labels.job }} has held the Lease, or
                    none is there any more. Callers are served; changes of MCPServers have no effect, and nothing is
                    repaired.
                """,
                dashboard=_DASHBOARD,
            ),
            Alert(
                name="OutriggerOperatorNotReconciling",
                expr=f"""
                    max {_BY} (outrigger_operator_queue_oldest_seconds) > 300
                    or max {_BY} (outrigger_operator_watch_silence_seconds) > 300
                    or (
                      sum {_BY} (rate(outrigger_operator_reconcile_total{{result=~"retry|error"}}[10m]))
                      > 0.5 * sum {_BY} (rate(outrigger_operator_reconcile_total[10m]))
                    )
                """,
                wait="10m",
                keep="2m",
                severity="warning",
                summary="The operator in {{ $labels.namespace }} leads and does not get on with its work.",
                description="""
                    For ten minutes MCPServers have waited for more than five minutes each, or the API server has told
                    nothing, or most of what {{ $labels.namespace }}/{{ $labels.job }} tries fails. Callers are
                    served; changes of MCPServers come late or never.
                """,
                dashboard=_DASHBOARD,
            ),
        ),
    ),
    Group(
        "outrigger-metrics",
        (
            Alert(
                name="OutriggerMetricsMissing",
                expr=f"""
                    ({condition("Available", "True")} unless on (namespace, server) outrigger_upstream_up)
                    or absent(last_over_time({_LEADER}[1h]))
                """,
                wait="15m",
                severity="warning",
                summary=(
                    "Prometheus has no metrics of {{ if $labels.server }}the sidecars of "
                    "{{ $labels.namespace }}/{{ $labels.server }}{{ else }}the operator{{ end }}."
                ),
                description="""
                    {{ if $labels.server }}Pods of {{ $labels.namespace }}/{{ $labels.server }} serve, but Prometheus
                    has scraped none of their sidecars{{ else }}Prometheus has scraped no replica of the operator for
                    an hour{{ end }}. Alerts that need these metrics cannot fire.
                """,
                dashboard="d/outrigger-fleet",
            ),
        ),
    ),
)

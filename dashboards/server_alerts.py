"""Alerts on MCP servers: each carries exactly `namespace` and `server`, whichever side its metrics come from.

Sidecars and the operator tell of the same faults, and either may be all there is: a sidecar without an operator, or an
MCPServer whose pods do not run. Where one fault shows in several ways, the alert on the cause stands and the others are
left out with `unless`, so that one fault is one page.
"""

from __future__ import annotations

from typing import Final

from dashboards.recording import BUDGET, CALLS, FAILURES, MINIMUM, RATIO
from dashboards.rules import Alert, Group

_BY: Final = "by (namespace, server)"
_ON: Final = "on (namespace, server)"
_WHO: Final = "{{ $labels.namespace }}/{{ $labels.server }}"
_DASHBOARD: Final = "d/outrigger-server?var-namespace={{ $labels.namespace }}&var-server={{ $labels.server }}"
_DESCRIBE: Final = "kubectl -n {{ $labels.namespace }} describe mcpserver {{ $labels.server }}"


def condition(type: str, status: str, *reasons: str) -> str:
    """1 for each MCPServer that has this condition now, for one of these reasons or for any.

    `max`: while the leader changes two replicas may tell of the same one.
    """
    reason = f',reason=~"{"|".join(reasons)}"' if len(reasons) > 1 else f',reason="{reasons[0]}"' if reasons else ""
    metric = f'outrigger_operator_mcpserver_condition{{type="{type}",status="{status}"{reason}}}'
    return f'max {_BY} (label_replace({metric}, "server", "$1", "name", "(.+)"))'


_SIDECARS_SEE_NOTHING: Final = f"""\
(
  max {_BY} (outrigger_upstream_up) == 0
  and {_ON} sum {_BY} (outrigger_health_check_total{{result="failed"}}) > 0
)"""
"""No replica gets an answer, and it was asked: a server that is starting has not failed yet."""

_UNREACHABLE: Final = f"""\
{_SIDECARS_SEE_NOTHING}
or {condition("ServerReachable", "False", "Unreachable")}"""

_ROLLED_OUT: Final = condition("Progressing", "True", "RolloutComplete")


def _burns(rate: float, long: str, short: str) -> str:
    """Both windows spend the budget at `rate` times what it allows (Site Reliability Workbook, chapter 5).

    The server must be known for as long as the short one: its first minutes stand for no three days.
    """
    budget = f"{rate:g} * scalar({BUDGET})"
    return f"""\
(
  {RATIO}{long} > {budget}
  and {RATIO}{short} > {budget}
  and {CALLS}{long} >= scalar({MINIMUM})
  and {CALLS}5m offset {short}
)"""


SERVERS: Final = Group(
    "outrigger-servers",
    (
        Alert(
            name="OutriggerServerUnreachable",
            expr=_UNREACHABLE,
            wait="2m",
            keep="2m",
            severity="critical",
            summary=f"The MCP server {_WHO} does not answer any of its sidecars.",
            description=f"""
                Callers of {_WHO} get errors: none of its sidecars has had an answer of the server for two minutes.
                The last error: {_DESCRIBE}
            """,
            dashboard=_DASHBOARD,
        ),
        Alert(
            name="OutriggerNoReplicas",
            expr=f"""
                {condition("Available", "False", "NoReplicasAvailable")}
                unless {_ON} {_SIDECARS_SEE_NOTHING}
            """,
            wait="5m",
            keep="2m",
            severity="critical",
            summary=f"No replica of the MCPServer {_WHO} takes calls.",
            description=f"""
                Callers of {_WHO} are refused: replicas are wanted, and none has been available for five minutes. The
                reason is that of the condition Ready: {_DESCRIBE}
            """,
            dashboard=_DASHBOARD,
        ),
        Alert(
            name="OutriggerBreakerOpen",
            expr=f"""
                (
                  min {_BY} (max_over_time(outrigger_breaker_state{{state="closed"}}[5m])) == 0
                  and {_ON} {FAILURES}5m > 0
                )
                unless {_ON} {_SIDECARS_SEE_NOTHING}
            """,
            wait="5m",
            keep="2m",
            severity="warning",
            summary=f"Calls to {_WHO} fail so often that its circuit breaker does not close.",
            description=f"""
                The server {_WHO} answers its health checks, but its calls fail: a sidecar's breaker has not been closed
                for ten minutes, and refuses calls (breaker_open). What they fail with: lastErrors in the sidecar's
                /status.
            """,
            dashboard=_DASHBOARD,
        ),
        Alert(
            name="OutriggerQueueSaturated",
            expr=f"""
                max {_BY} (quantile_over_time(0.25, outrigger_queue_length[5m])) > 0
                or sum {_BY} (
                  rate(outrigger_rejected_total{{reason=~"queue_full|queue_timeout|acquire_timeout",server!="_other"}}[5m])
                ) > 0
            """,
            wait="10m",
            severity="warning",
            summary=f"Calls to {_WHO} wait for a place all the time, or are refused for want of one.",
            description=f"""
                For ten minutes more calls have come to {_WHO} than it serves: they queue in the sidecar, or are
                refused with queue_full, queue_timeout or acquire_timeout.
            """,
            dashboard=_DASHBOARD,
        ),
        Alert(
            name="OutriggerChildCrashLoop",
            expr=f"""
                (
                  max {_BY} (increase(outrigger_child_restarts_total[15m])) > 3
                  and {_ON} max {_BY} (increase(outrigger_child_restarts_total[5m])) > 0
                )
                or {condition("Ready", "False", "ServerCrashing", "SidecarCrashing", "ContainerCrashing")}
            """,
            wait="10m",
            keep="5m",
            severity="warning",
            summary=f"A process of {_WHO} ends and is started again and again.",
            description=f"""
                Calls that a process of {_WHO} was serving when it ended fail, and between its lives callers wait.
                Exit code and last words: {_DESCRIBE}
            """,
            dashboard=_DASHBOARD,
        ),
        Alert(
            name="OutriggerSecretNotResolved",
            expr=condition("SecretsResolved", "False"),
            wait="5m",
            keep="2m",
            severity="warning",
            summary=f"The MCPServer {_WHO} names a Secret or ConfigMap that cannot be used.",
            description=f"""
                A Secret, a ConfigMap or a key that {_WHO} names is missing, or may not be read, or cannot be used.
                Pods that run go on with what they have; new ones do not serve. Which one, and the command
                that makes it: {_DESCRIBE}
            """,
            dashboard=_DASHBOARD,
        ),
        Alert(
            name="OutriggerConfigRefused",
            expr=f"""
                max {_BY} (0 * outrigger_upstream_up + on (job, instance) group_left () outrigger_config_refused) == 1
                or {condition("ConfigApplied", "False", "Refused")}
            """,
            wait="5m",
            keep="2m",
            severity="warning",
            summary=f"A sidecar of {_WHO} refuses its newest configuration.",
            description=f"""
                The newest settings of {_WHO} have no effect: a sidecar does not accept them and runs on with those of
                before. Its words: {_DESCRIBE}
            """,
            dashboard=_DASHBOARD,
        ),
        Alert(
            name="OutriggerPodsOnOldConfig",
            expr=f"""
                {condition("ConfigApplied", "False", "Propagating")}
                and {_ON} {_ROLLED_OUT}
            """,
            wait="10m",
            keep="2m",
            severity="warning",
            summary=f"Pods of {_WHO} have run an older configuration for ten minutes.",
            description=f"""
                A change of {_WHO} that needs no new pods has not reached all of them; the kubelet takes two minutes
                at most. How many have it: {_DESCRIBE}
            """,
            dashboard=_DASHBOARD,
        ),
        Alert(
            name="OutriggerRolloutStuck",
            expr=f"""
                {condition("Progressing", "False", "RolloutStuck")}
                unless {_ON} {condition("SecretsResolved", "False")}
            """,
            wait="1m",
            keep="2m",
            severity="warning",
            summary=f"The rollout of {_WHO} does not go on.",
            description=f"""
                The newest spec of {_WHO} made no progress for the deadline of its Deployment (ten minutes). Pods of
                before serve on, where there are any. The reason is that of the condition Ready: {_DESCRIBE}
            """,
            dashboard=_DASHBOARD,
        ),
        Alert(
            name="OutriggerSpecNotApplied",
            expr=condition("Ready", "False", "InvalidSpec", "NameConflict", "ApplyFailed"),
            wait="10m",
            keep="2m",
            severity="warning",
            summary=f"The newest spec of {_WHO} is not applied.",
            description=f"""
                The spec of {_WHO} is not valid, something else has a name that it needs, or the API server refuses
                its objects. What ran before runs on. The reason: {_DESCRIBE}
            """,
            dashboard=_DASHBOARD,
        ),
    ),
)

BUDGETS: Final = Group(
    "outrigger-error-budgets",
    (
        Alert(
            name="OutriggerErrorBudgetBurnFast",
            expr=f"""
                {_burns(14.4, "1h", "5m")}
                or {_burns(6, "6h", "30m")}
            """,
            wait="2m",
            severity="critical",
            summary=f"Calls to {_WHO} fail so fast that its error budget lasts for days at most.",
            description=f"""
                {{{{ $value | humanizePercentage }}}} of the calls to {_WHO} have failed for an hour or more, and
                still do. Counted are errors that are not the caller's and that no tool reported itself. At 14.4 times
                the rate that the budget allows it lasts two days, at 6 times five.
            """,
            dashboard=_DASHBOARD,
        ),
        Alert(
            name="OutriggerErrorBudgetBurnSlow",
            expr=_burns(1, "3d", "6h"),
            wait="1h",
            severity="warning",
            summary=f"Calls to {_WHO} fail more often than its error budget allows.",
            description=f"""
                {{{{ $value | humanizePercentage }}}} of the calls to {_WHO} have failed in three days, and as many in
                the last six hours. If it goes on the budget of 30 days is spent.
            """,
            dashboard=_DASHBOARD,
        ),
    ),
)

GROUPS: Final = (SERVERS, BUDGETS)

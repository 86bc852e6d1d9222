"""What makes each alert fire, what nearly does, and when it is over: series of samples a minute apart, as promtool has
them, and the labels of what fires at some minutes. Run by test_alerts.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Labels = Mapping[str, str]
WEB: Labels = {"namespace": "shop", "server": "web"}
OPERATOR: Labels = {"namespace": "outrigger-system", "job": "operator"}
POD = 'namespace="shop",server="web",job="sidecars",instance="{}"'


@dataclass(frozen=True)
class Case:
    """`fires`: minute → labels of the alerts that fire then, without severity."""

    alert: str
    what: str
    series: Mapping[str, str]
    fires: Mapping[int, Sequence[Labels]]
    value: str = ""
    """`$value | humanizePercentage`, where an annotation has it."""
    also: frozenset[str] = field(default_factory=frozenset)
    """Other alerts that may fire at these minutes. All others must not."""

    @property
    def name(self) -> str:
        """For pytest."""
        return f"{self.alert.removeprefix('Outrigger')}-{self.what.replace(' ', '_')}"


def pod(metric: str, instance: str = "a", **more: str) -> str:
    """A series of a sidecar in a pod."""
    extra = "".join(f',{name}="{value}"' for name, value in more.items())
    return f"{metric}{{{POD.format(instance)}{extra}}}"


def errors(values: str) -> dict[str, str]:
    """Calls that the breaker refuses, and very many that do not fail."""
    return {
        pod("outrigger_errors_total", side="sidecar", error_type="breaker_open"): values,
        pod("outrigger_calls_total", outcome="ok"): "0+9999x90",
    }


def condition(type: str, status: str, reason: str) -> str:
    """A series of the leader."""
    labels = f'namespace="shop",name="web",type="{type}",status="{status}",reason="{reason}"'
    return f'outrigger_operator_mcpserver_condition{{{labels},job="operator",instance="o1"}}'


def leader(instance: str = "o1") -> str:
    """Whether a replica of the operator leads."""
    return f'outrigger_operator_leader{{namespace="outrigger-system",job="operator",instance="{instance}"}}'


def operators(metric: str, **more: str) -> str:
    """Another series of the operator."""
    extra = "".join(f',{name}="{value}"' for name, value in more.items())
    return f'{metric}{{namespace="outrigger-system",job="operator",instance="o1"{extra}}}'


def conditional(
    alert: str, type: str, reason: str, wait: int, *, well: str, keep: int = 2, also: frozenset[str] = frozenset()
) -> tuple[Case, ...]:
    """The cases of an alert on a condition: from the fifth minute on for long enough, and for too short a time."""
    bad, good = condition(type, "False", reason), condition(type, "True", well)
    end = 5 + wait + 10
    return (
        Case(
            alert,
            f"{reason} for long",
            {bad: f"_x5 1x{wait + 9} stale", good: f"1x4 stale _x{wait + 9} 1x20"},
            {4 + wait: [], 6 + wait: [WEB], end - 1: [WEB], end + keep + 2: []},
            also=also,
        ),
        Case(
            alert, f"{reason} for too short", {bad: f"_x5 1x{wait - 1} stale"}, {5 + wait: [], 6 + wait: []}, also=also
        ),
        Case(
            alert,
            f"{reason} told by the next leader",
            {
                bad: f"_x5 1x{wait + 9} stale",
                bad.replace('"o1"', '"o2"'): f"_x{end + 1} 1x20 stale",  # a minute of nobody between them
            },
            {6 + wait: [WEB], end: [WEB], end + 1: [WEB], end + 15: [WEB], end + 30: []},
            also=also,
        ),
    )


UP, FAILED = "outrigger_upstream_up", "outrigger_health_check_total"

SERVERS = (
    Case(
        "OutriggerServerUnreachable",
        "all replicas lost it",
        {
            pod(UP, "a"): "1x4 0x20 1x20",
            pod(UP, "b"): "1x4 0x20 1x20",
            pod(FAILED, "a", result="failed"): "0x4 3+2x20 43x20",
        },
        {4: [], 6: [], 7: [WEB], 25: [WEB], 29: []},
    ),
    Case(
        "OutriggerServerUnreachable",
        "one replica has it",
        {pod(UP, "a"): "0x30", pod(UP, "b"): "1x30", pod(FAILED, "a", result="failed"): "3+2x30"},
        {10: [], 20: [], 30: []},
    ),
    Case(
        "OutriggerServerUnreachable",
        "it is starting",
        {pod(UP): "0x30", pod(FAILED, result="failed"): "0x30"},
        {10: [], 30: []},
    ),
    Case(
        "OutriggerServerUnreachable",
        "gone for a minute",
        {pod(UP): "1x4 0x1 1x20", pod(FAILED, result="failed"): "0x4 3x20"},
        {5: [], 6: [], 7: [], 8: []},
    ),
    *conditional("OutriggerServerUnreachable", "ServerReachable", "Unreachable", 2, well="Reachable"),
    *conditional("OutriggerNoReplicas", "Available", "NoReplicasAvailable", 5, well="ReplicasAvailable"),
    Case(
        "OutriggerNoReplicas",
        "scaled to zero",
        {condition("Available", "False", "ScaledToZero"): "1x30"},
        {20: [], 30: []},
    ),
    Case(
        "OutriggerNoReplicas",
        "the server is the reason",
        {
            condition("Available", "False", "NoReplicasAvailable"): "1x30",
            pod(UP): "0x30",
            pod(FAILED, result="failed"): "3+2x30",
        },
        {20: [], 30: []},
        also=frozenset({"OutriggerServerUnreachable"}),
    ),
    Case(
        "OutriggerBreakerOpen",
        "refuses for long",
        {
            pod(UP): "1x60",
            pod("outrigger_breaker_state", state="closed"): "1x4 0x30 1x30",
            pod("outrigger_breaker_state", state="open"): "0x4 1x30 0x30",
            **errors("0x4 10+10x30 310x30"),
        },
        {13: [], 17: [WEB], 34: [WEB], 40: []},
    ),
    Case(
        "OutriggerBreakerOpen",
        "of one of two replicas",
        {
            pod("outrigger_breaker_state", "a", state="closed"): "0x30",
            pod("outrigger_breaker_state", "b", state="closed"): "1x30",
            **errors("0+10x30"),
        },
        {20: [WEB], 30: [WEB]},
    ),
    Case(
        "OutriggerBreakerOpen",
        "nobody calls",
        {
            pod("outrigger_breaker_state", state="closed"): "0x30",
            **errors("7x30"),
        },
        {20: [], 30: []},
    ),
    Case(
        "OutriggerBreakerOpen",
        "closes now and then",
        {
            pod("outrigger_breaker_state", state="closed"): "0x3 1 0x3 1 0x3 1 0x3 1 0x3 1 0x3 1",
            **errors("0+10x30"),
        },
        {10: [], 20: []},
    ),
    Case(
        "OutriggerBreakerOpen",
        "the server is gone altogether",
        {
            pod(UP): "0x30",
            pod(FAILED, result="failed"): "3+2x30",
            pod("outrigger_breaker_state", state="closed"): "0x30",
            **errors("0+10x30"),
        },
        {20: [], 30: []},
        also=frozenset({"OutriggerServerUnreachable"}),
    ),
    Case(
        "OutriggerQueueSaturated",
        "calls wait all the time",
        {pod("outrigger_queue_length"): "0x4 3x30 0x30"},
        {13: [], 20: [WEB], 34: [WEB], 40: []},
    ),
    Case(
        "OutriggerQueueSaturated",
        "calls are refused all the time",
        {pod("outrigger_rejected_total", reason="queue_full"): "0x4 10+5x30 160x30"},
        {13: [], 17: [WEB], 34: [WEB], 42: []},
    ),
    Case(
        "OutriggerQueueSaturated",
        "one burst",
        {
            pod("outrigger_queue_length"): "0x4 50x2 0x30",
            pod("outrigger_rejected_total", reason="queue_timeout"): "0x4 500x30",
        },
        {8: [], 12: [], 20: []},
    ),
    Case(
        "OutriggerQueueSaturated",
        "other refusals",
        {pod("outrigger_rejected_total", reason="rate_limited"): "0+50x40"},
        {20: [], 40: []},
    ),
    Case(
        "OutriggerChildCrashLoop",
        "again and again",
        {pod("outrigger_child_restarts_total"): "0x4 1+1x40 41x60"},
        {10: [], 25: [WEB], 44: [WEB], 60: []},
    ),
    Case(
        "OutriggerChildCrashLoop",
        "four at once",
        {pod("outrigger_child_restarts_total"): "0x4 4x60"},
        {8: [], 15: [], 25: []},
    ),
    Case(
        "OutriggerChildCrashLoop",
        "once in five minutes",
        {pod("outrigger_child_restarts_total"): "0x4 1x4 2x4 3x4 4x4 5x4 6x4 7x4 8x4"},
        {20: [], 40: []},
    ),
    *conditional("OutriggerChildCrashLoop", "Ready", "ServerCrashing", 10, well="Ready", keep=5),
    *conditional("OutriggerSecretNotResolved", "SecretsResolved", "SecretMissing", 5, well="Resolved"),
    Case(
        "OutriggerSecretNotResolved",
        "the reason changes",
        {
            condition("SecretsResolved", "False", "SecretMissing"): "1x4 stale",
            condition("SecretsResolved", "False", "KeyMissing"): "_x5 1x20",
        },
        {7: [WEB], 20: [WEB]},
    ),
    *conditional("OutriggerConfigRefused", "ConfigApplied", "Refused", 5, well="Applied"),
    Case(
        "OutriggerConfigRefused",
        "a sidecar says so",
        {
            pod(UP, "a"): "1x40",
            pod(UP, "b"): "0x40",
            'outrigger_config_refused{namespace="shop",job="sidecars",instance="a"}': "0x40",
            'outrigger_config_refused{namespace="shop",job="sidecars",instance="b"}': "0x4 1x20 0x20",
        },
        {9: [], 11: [WEB], 25: [WEB], 29: []},
    ),
    *(
        Case(
            case.alert,
            case.what,
            {**case.series, condition("Progressing", "True", "RolloutComplete"): "1x60"},
            case.fires,
        )
        for case in conditional("OutriggerPodsOnOldConfig", "ConfigApplied", "Propagating", 10, well="Applied")
    ),
    Case(
        "OutriggerPodsOnOldConfig",
        "new pods come",
        {
            condition("ConfigApplied", "False", "Propagating"): "1x40",
            condition("Progressing", "False", "RolloutStuck"): "1x40",
        },
        {20: [], 40: []},
        also=frozenset({"OutriggerRolloutStuck"}),
    ),
    *conditional("OutriggerRolloutStuck", "Progressing", "RolloutStuck", 1, well="RolloutComplete"),
    Case(
        "OutriggerRolloutStuck",
        "it goes on or was stopped on purpose",
        {
            condition("Progressing", "True", "RollingOut"): "1x9 stale",
            condition("Progressing", "False", "RolloutPaused"): "_x10 1x20 stale",
            condition("Progressing", "False", "WaitingForTurn"): "_x31 1x10",
        },
        {9: [], 20: [], 40: []},
    ),
    *conditional("OutriggerSpecNotApplied", "Ready", "InvalidSpec", 10, well="Ready"),
)


def calls(per_minute: int, failed: int, minutes: int) -> dict[str, str]:
    """Calls of which some fail, from the start on for so many minutes; then none does."""
    after = 500
    failures = f"0+{failed}x{minutes} {failed * minutes}x{after}"
    return {
        pod("outrigger_calls_total", outcome="ok"): f"0+{per_minute - failed}x{minutes + after}",
        pod("outrigger_calls_total", outcome="error"): failures,
        pod("outrigger_errors_total", side="upstream", error_type="attempt_timeout"): failures,
    }


FAST, SLOW = "OutriggerErrorBudgetBurnFast", "OutriggerErrorBudgetBurnSlow"

BUDGETS = (
    Case(FAST, "a quarter fails", calls(100, 25, 30), {2: [], 7: [], 10: [WEB], 30: [WEB], 70: []}, value="25%"),
    Case(FAST, "a seventh fails", calls(100, 14, 300), {60: [WEB], 240: [WEB]}, value="14%", also=frozenset({SLOW})),
    Case(FAST, "five in a hundred fail", calls(100, 5, 600), {60: [], 400: []}, also=frozenset({SLOW})),
    Case(
        FAST,
        "two calls an hour, and both fail",
        {
            pod("outrigger_calls_total", outcome="error"): "0x9 1x29 2x29 3x29 4x29",
            pod("outrigger_errors_total", side="upstream", error_type="connect_failed"): "0x9 1x29 2x29 3x29 4x29",
        },
        {12: [], 42: [], 100: []},
    ),
    Case(
        FAST,
        "callers and tools are to blame",
        {
            pod("outrigger_calls_total", outcome="error"): "0+100x200",
            pod("outrigger_errors_total", side="caller", error_type="invalid_params"): "0+50x200",
            pod("outrigger_errors_total", side="upstream", error_type="tool_error"): "0+50x200",
        },
        {30: [], 190: []},
    ),
    Case(
        FAST,
        "no call at all",
        {
            pod("outrigger_calls_total", outcome="ok"): "0x200",
            pod("outrigger_errors_total", side="sidecar", error_type="shutting_down"): "0+50x200",
        },
        {30: [], 190: []},
    ),
    Case(
        FAST,
        "counters of a restarted pod",
        {
            pod("outrigger_calls_total", outcome="ok"): "9000+100x30 0+100x30",
            pod("outrigger_errors_total", side="upstream", error_type="connect_failed"): "4000x30 0x30",
        },
        {30: [], 33: [], 60: []},
    ),
    Case(
        SLOW,
        "three in a hundred fail",
        calls(100, 3, 600),
        {350: [], 410: [], 430: [WEB], 600: [WEB], 880: []},
        value="3%",
    ),
    Case(
        SLOW,
        "one in two hundred fails",
        {
            pod("outrigger_calls_total", outcome="ok"): "0+199x600",
            pod("outrigger_errors_total", side="upstream", error_type="connect_failed"): "0+1x600",
        },
        {130: [], 600: []},
    ),
)

OPERATORS = (
    Case(
        "OutriggerNoLeader",
        "nobody leads",
        {leader("o1"): "1x4 0x20 1x20", leader("o2"): "0x50"},
        {6: [], 7: [OPERATOR], 25: [OPERATOR], 27: []},
    ),
    Case("OutriggerNoLeader", "handed over", {leader("o1"): "1x4 0x40", leader("o2"): "0x5 1x40"}, {6: [], 20: []}),
    Case("OutriggerNoLeader", "none is there", {leader(): "1x4 stale"}, {6: [], 9: [OPERATOR], 60: [OPERATOR], 70: []}),
    Case(
        "OutriggerOperatorNotReconciling",
        "the queue grows old",
        {leader(): "1x60", operators("outrigger_operator_queue_oldest_seconds"): "0x4 0+60x30 0x30"},
        {16: [], 21: [OPERATOR], 33: [OPERATOR], 40: []},
    ),
    Case(
        "OutriggerOperatorNotReconciling",
        "a watch is silent",
        {leader(): "1x60", operators("outrigger_operator_watch_silence_seconds", resource="pods"): "0+60x20 30x30"},
        {10: [], 17: [OPERATOR], 30: []},
    ),
    Case(
        "OutriggerOperatorNotReconciling",
        "most fails",
        {
            leader(): "1x90",
            operators("outrigger_operator_reconcile_total", result="retry"): "0+6x40 240x50",
            operators("outrigger_operator_reconcile_total", result="success"): "0+4x90",
        },
        {8: [], 15: [OPERATOR], 40: [OPERATOR], 60: []},
    ),
    Case(
        "OutriggerOperatorNotReconciling",
        "some fails and watches are quiet",
        {
            leader(): "1x90",
            operators("outrigger_operator_queue_oldest_seconds"): "290x90",
            operators("outrigger_operator_watch_silence_seconds", resource="pods"): "90x90",
            operators("outrigger_operator_reconcile_total", result="retry"): "0+4x90",
            operators("outrigger_operator_reconcile_total", result="success"): "0+6x90",
        },
        {30: [], 80: []},
    ),
    Case(
        "OutriggerMetricsMissing",
        "sidecars are not scraped",
        {leader(): "1x90", condition("Available", "True", "ReplicasAvailable"): "1x90", pod(UP): "_x30 1x50"},
        {14: [], 16: [WEB], 29: [WEB], 32: []},
    ),
    Case(
        "OutriggerMetricsMissing",
        "no replica takes calls",
        {leader(): "1x90", condition("Available", "False", "ScaledToZero"): "1x90"},
        {20: [], 80: []},
    ),
    Case("OutriggerMetricsMissing", "no operator", {leader(): "_x30 1x60"}, {14: [], 16: [{}], 29: [{}], 33: []}),
)

CASES = (*SERVERS, *BUDGETS, *OPERATORS)

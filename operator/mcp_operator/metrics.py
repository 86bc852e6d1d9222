"""The operator's Prometheus metrics: one catalogue, read where the values live at the moment of a scrape.

Names begin with `outrigger_operator_`; what callers and sidecars do is told by the sidecars themselves. Labels are
bounded: no metric is labelled by MCPServer but `outrigger_operator_mcpserver_ready` and
`outrigger_operator_mcpserver_condition`, six series each, which say which one to look at. Only the leader has them: it
alone looks at MCPServers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mcp_operator import __version__
from mcp_operator.reasons import Reason

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass
class Sources:
    """Where values are read. Each is asked at a scrape; before the operator leads there is nothing to ask."""

    leading: Callable[[], bool] = lambda: False
    queue_depth: Callable[[], int] = lambda: 0
    queue_oldest: Callable[[], float] = lambda: 0.0
    queue_working: Callable[[], int] = lambda: 0
    queue_added: Callable[[], int] = lambda: 0
    queue_retries: Callable[[], int] = lambda: 0
    repaired: Callable[[], int] = lambda: 0
    rollouts: Callable[[], int] = lambda: 0
    rollouts_failed: Callable[[], int] = lambda: 0
    pod_polls: Callable[[], int] = lambda: 0
    conditions: Callable[[], Mapping[tuple[str, str], Sequence[Reason]]] = dict
    """(namespace, name) → what its conditions are."""
    requests: Callable[[], Mapping[tuple[str, str, str], int]] = dict
    """(verb, resource, code) → requests to the API server."""
    request_seconds: Callable[[], Mapping[tuple[str, str], float]] = dict
    watch_silence: Callable[[], Mapping[str, float]] = dict
    """Resource → seconds since its watch last told anything."""
    events_dropped: Callable[[], int] = lambda: 0


@dataclass
class OperatorMetrics:
    """The registry and what is counted here."""

    sources: Sources = field(default_factory=Sources)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    results: dict[str, int] = field(
        default_factory=lambda: {"success": 0, "refused": 0, "retry": 0, "error": 0, "gone": 0}
    )

    def __post_init__(self) -> None:
        self.duration = Histogram(
            "outrigger_operator_reconcile_duration_seconds",
            "Time of one reconcile of one MCPServer.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_Catalogue(self))
        ProcessCollector(registry=self.registry)

    def scrape(self) -> bytes:
        """Text exposition, version 0.0.4."""
        return generate_latest(self.registry)


class _Catalogue(Collector):
    def __init__(self, metrics: OperatorMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        sources = self._metrics.sources
        yield _gauge("build_info", "Version of the operator; always 1.", {(__version__,): 1.0}, ("version",))
        yield _gauge("leader", "1 while this replica leads.", {(): float(sources.leading())})
        yield _counter(
            "reconcile", "Reconciles by result.", {(key,): n for key, n in self._metrics.results.items()}, ("result",)
        )
        yield _gauge("queue_depth", "MCPServers that wait for a worker.", {(): sources.queue_depth()})
        yield _gauge(
            "queue_oldest_seconds", "How long the longest waiting one has waited.", {(): sources.queue_oldest()}
        )
        yield _gauge("queue_working", "MCPServers that are worked on.", {(): sources.queue_working()})
        yield _counter("queue_adds", "MCPServers that were queued.", {(): sources.queue_added()})
        yield _counter(
            "queue_retries", "MCPServers that were queued again after a failure.", {(): sources.queue_retries()}
        )
        yield _counter("drift_repairs", "Objects that somebody else had changed or deleted.", {(): sources.repaired()})
        yield _gauge(
            "fleet_rollouts", "MCPServers whose pods are replaced for a new sidecar image.", {(): sources.rollouts()}
        )
        yield _gauge(
            "fleet_rollouts_failed", "Those that failed and hold up the others.", {(): sources.rollouts_failed()}
        )
        yield _counter("pod_polls", "Questions to sidecars for their status.", {(): sources.pod_polls()})
        yield _counter("events_dropped", "Events that were not posted.", {(): sources.events_dropped()})
        yield _counter(
            "api_requests",
            "Requests to the API server by verb, resource and HTTP status.",
            sources.requests(),
            ("verb", "resource", "code"),
        )
        yield _counter(
            "api_request_seconds",
            "Time of requests to the API server.",
            sources.request_seconds(),
            ("verb", "resource"),
        )
        yield _gauge(
            "watch_silence_seconds",
            "Time since the watch of a resource last told anything; up to 90 where nothing happens.",
            {(resource,): silence for resource, silence in sources.watch_silence().items()},
            ("resource",),
        )
        conditions = sources.conditions() if sources.leading() else {}
        yield _gauge(
            "mcpserver_ready",
            "1 where the condition Ready is True.",
            {
                (*key, each.reason): float(each.status == "True")
                for key, found in conditions.items()
                for each in found
                if each.type == "Ready"
            },
            ("namespace", "name", "reason"),
        )
        yield _gauge(
            "mcpserver_condition",
            "Always 1: the conditions that MCPServers have now.",
            {(*key, each.type, each.status, each.reason): 1.0 for key, found in conditions.items() for each in found},
            ("namespace", "name", "type", "status", "reason"),
        )


def _gauge(name: str, text: str, values: Mapping[Any, float], labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"outrigger_operator_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, values: Mapping[Any, float], labels: tuple[str, ...] = ()) -> CounterMetricFamily:
    family = CounterMetricFamily(f"outrigger_operator_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family

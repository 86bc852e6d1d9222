"""Rules about how calls are protected and how the workload runs: everything that has a least and a most."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from mcp_operator.api.rule import Declared
from mcp_operator.api.v1alpha1.spec import MCPServerSpec
from mcp_operator.api.v1alpha1.traffic import Front, Sessions, Timeouts
from mcp_operator.api.v1alpha1.workload import (
    Autoscaling,
    Disruption,
    LabelSelectorRequirement,
    Monitoring,
    NetworkPolicy,
    NetworkPolicyPeer,
)
from mcp_sidecar.config import Backoff, CircuitBreaker, Health, Pool, Restart

_REMOTE = {"remote": {"url": "https://mcp.example/mcp"}}
_PEER: dict[str, Any] = {"podSelector": {}}


def _order(low: str, high: str, least: Any, most: Any, *, duration: bool = True, both: bool = False) -> Declared:
    """`low` at most `high`; both are there after defaulting unless the later one has a computed default."""
    left, right = (f"duration(self.{low})", f"duration(self.{high})") if duration else (f"self.{low}", f"self.{high}")
    computed = low if both else high
    return Declared(
        id=f"{low}-at-most-{high}".lower(),
        rule=f"!has(self.{computed}) || {left} <= {right}",
        message=f"{low} must be at most {high}: lower {low}, or raise {high}",
        field=f".{low}" if both else f".{high}",
        accepted={low: least, high: most},
        refused={low: most, high: least},
    )


_TOOLS = Declared(
    id="cached-tool-is-safe",
    rule="!has(self.cache) || !has(self.cache.tools) || !has(self.retry) || !has(self.retry.tools) || "
    "self.cache.tools.all(tool, !(tool in self.retry.tools) || self.retry.tools[tool] != 'Unsafe')",
    message="a tool in cache.tools is Unsafe in retry.tools: what changes something must not be answered from a cache; "
    "remove it from one of both",
    field=".cache.tools",
    accepted={**_REMOTE, "cache": {"tools": {"search": "5m"}}, "retry": {"tools": {"search": "Safe"}}},
    refused={**_REMOTE, "cache": {"tools": {"search": "5m"}}, "retry": {"tools": {"search": "Unsafe"}}},
)

RULES: dict[type[BaseModel], tuple[Declared, ...]] = {
    MCPServerSpec: (_TOOLS,),
    Timeouts: (_order("timeout", "totalTimeout", "10s", "60s"),),
    Backoff: (_order("base", "max", "1s", "10s"),),
    CircuitBreaker: (_order("openDuration", "maxOpenDuration", "10s", "60s"),),
    Pool: (_order("min", "max", 1, 20, duration=False, both=True),),
    Restart: (_order("backoffBase", "backoffMax", "1s", "10s"),),
    Health: (_order("timeout", "interval", "1s", "10s", both=True),),
    Sessions: (_order("idleTimeout", "lifetime", "10m", "2h", both=True),),
    Autoscaling: (_order("minReplicas", "maxReplicas", 2, 5, duration=False),),
    Monitoring: (_order("scrapeTimeout", "interval", "5s", "15s", both=True),),
    Front: (
        Declared(
            id="two-ports",
            rule="self.port != self.adminPort",
            message="port and adminPort must differ",
            field=".adminPort",
            accepted={"port": 8443},
            refused={"port": 9090},
        ),
    ),
    Disruption: (
        Declared(
            id="one-budget",
            rule="!has(self.minAvailable) || !has(self.maxUnavailable)",
            message="give at most one of minAvailable and maxUnavailable",
            accepted={"minAvailable": "50%"},
            refused={"minAvailable": 1, "maxUnavailable": 1},
        ),
        Declared(
            id="budget-is-enabled",
            rule="self.mode == 'Enabled' || (!has(self.minAvailable) && !has(self.maxUnavailable))",
            message="minAvailable and maxUnavailable have no effect with mode: Disabled: remove them, or set "
            "mode: Enabled",
            field=".mode",
            accepted={"mode": "Enabled", "minAvailable": 1},
            refused={"mode": "Disabled", "minAvailable": 1},
        ),
    ),
    NetworkPolicy: (
        Declared(
            id="policy-is-enabled",
            rule="self.mode == 'Enabled' || (!has(self.from) && !has(self.egress))",
            message="from and egress have no effect with mode: Disabled: remove them, or set mode: Enabled",
            field=".mode",
            accepted={"mode": "Enabled", "from": [_PEER]},
            refused={"mode": "Disabled", "from": [_PEER]},
        ),
    ),
    NetworkPolicyPeer: (
        Declared(
            id="peer",
            rule="has(self.ipBlock) != (has(self.podSelector) || has(self.namespaceSelector))",
            message="give either ipBlock, or podSelector, namespaceSelector or both of them",
            accepted=_PEER,
            refused={**_PEER, "ipBlock": {"cidr": "10.0.0.0/8"}},
        ),
    ),
    LabelSelectorRequirement: (
        Declared(
            id="selector-values",
            rule="(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
            message="In and NotIn need values; Exists and DoesNotExist take none",
            field=".values",
            accepted={"key": "team", "operator": "In", "values": ["blue"]},
            refused={"key": "team", "operator": "Exists", "values": ["blue"]},
        ),
    ),
}

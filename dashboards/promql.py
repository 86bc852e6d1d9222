"""PromQL that several panels share: selectors of the three kinds of series, rates, quantiles, the error ratio.

Series of a sidecar carry `server`, the MCPServer's name; those of its process carry the scrape's `mcpserver`. The
operator's carry the scrape's `job` and `pod`; `namespace` and `name` on them are an MCPServer's.
"""

from __future__ import annotations

from typing import Final

INTERVAL: Final = "$__rate_interval"

FLEET: Final = 'namespace=~"$namespace", server=~"$server"'
FLEET_OPERATOR: Final = 'namespace=~"$namespace", name=~"$server"'
SERVER: Final = 'namespace=~"$namespace", server=~"$server", pod=~"$pod"'
PROCESS: Final = 'namespace=~"$namespace", mcpserver=~"$server", pod=~"$pod"'
OPERATOR: Final = 'job=~"$job", pod=~"$pod"'
OPERATOR_FLEET: Final = 'job=~"$job"'
"""Of what the leader tells about MCPServers: whichever replica that is."""
EACH: Final = "namespace, server"
"""The labels of an MCPServer."""
READY: Final = (
    f'max by ({EACH}) (label_replace(outrigger_operator_mcpserver_ready{{{FLEET_OPERATOR}}}, "server", "$1", "name", '
    '"(.*)"))'
)
"""1 where an MCPServer is ready, of those that the operator watches."""
KNOWN: Final = f"({READY} or min by ({EACH}) (outrigger_upstream_up{{{FLEET}}}))"
"""The same; one that no operator tells of counts as its sidecars see it."""


def rate(metric: str, where: str, by: str = "") -> str:
    """How much a counter grows each second, summed over all labels but `by`."""
    return f"sum{_by(by)}(rate({metric}{{{where}}}[{INTERVAL}]))"


def quantile(share: float, metric: str, where: str, by: str = "") -> str:
    """A quantile of a histogram over the rate interval; `metric` without `_bucket`."""
    return f"histogram_quantile({share:g}, {rate(f'{metric}_bucket', where, f'le, {by}' if by else 'le')})"


def total(metric: str, where: str, by: str = "") -> str:
    """The sum of a gauge over all labels but `by`."""
    return f"sum{_by(by)}({metric}{{{where}}})"


def error_ratio(where: str, by: str = "") -> str:
    """Calls that failed and were not the caller's fault, as a share of all; nothing where there are no calls.

    An error that a tool answers (`isError`) is the tool's answer, not a failure of the server.
    """
    calls = rate("outrigger_calls_total", where, by)
    failed = rate("outrigger_errors_total", f'{where}, side!="caller", error_type!="tool_error"', by)
    return f"clamp_max(({failed} or 0 * {calls}) / ({calls} > 0), 1)"


def breaker(where: str, by: str) -> str:
    """0 closed, 1 half open, 2 open: the worst of those with the same labels."""
    return (
        f'max by ({by}) (2 * outrigger_breaker_state{{{where}, state="open"}}'
        f' + ignoring (state) outrigger_breaker_state{{{where}, state="half_open"}})'
    )


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else " "

"""What the sidecars of an MCPServer say together: does the server answer, which configuration runs, who is the server.

Every function is pure and takes the pods that count with their reports. A pod that was not asked yet says nothing, and
neither does one that is starting and cannot be read: where that leaves nothing at all the caller carries over what was
known before, so that a new leader does not unsay it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mcp_operator.conditions import Finding
from mcp_operator.diagnosis import Diagnosis, server_cause
from mcp_operator.observed import PodView
from mcp_operator.sidecar_status import Report, Reports, ServerReport, SidecarReport, Unreadable

SIDECAR = "sidecar"


@dataclass(frozen=True, slots=True)
class Asked:
    """The pods that count, newest spec first, and what they answered."""

    pods: tuple[PodView, ...]
    """Neither on their way out nor finished."""
    running: tuple[tuple[PodView, Report | None], ...]
    """Those whose sidecar runs, with the report; None where it was not asked yet or is starting."""
    newest: str
    """uid of the ReplicaSet that the others give way to; empty where that is not known."""

    @property
    def readable(self) -> list[SidecarReport]:
        """The reports that could be read."""
        return [report for _, report in self.running if isinstance(report, SidecarReport)]

    @property
    def unreadable(self) -> list[tuple[PodView, Unreadable]]:
        """Pods that gave none."""
        return [(pod, report) for pod, report in self.running if isinstance(report, Unreadable)]

    @property
    def servers(self) -> list[ServerReport]:
        """What the readable ones say of the server."""
        return [report.server for report in self.readable if report.server is not None]

    @property
    def unasked(self) -> bool:
        """Whether pods run and nothing was heard of any of them."""
        return bool(self.running) and all(report is None for _, report in self.running)


def asked(pods: Iterable[PodView], reports: Reports, newest: str) -> Asked:
    """`newest`: uid of the ReplicaSet whose pods come first, so that who the server is follows a rollout."""
    living = sorted(
        (pod for pod in pods if not pod.deleting and not pod.finished),
        key=lambda pod: (pod.owner is None or pod.owner.uid != newest, pod.created, pod.name),
    )
    running = tuple((pod, _report(pod, reports)) for pod in living if _runs(pod))
    return Asked(tuple(living), running, newest)


def reachable(found: Asked) -> Finding:
    """`ServerReachable`, where at least one pod was asked or none runs."""
    if not found.running:
        return Finding("ServerReachable", "NoPods", "no sidecar runs, so the server was not asked")
    servers = found.servers
    up = sum(server.up for server in servers)
    down = first_down(found)
    if up and down is None:
        refusing = [server for server in servers if server.up and server.refusing]
        if refusing:
            words = _calls_fail(refusing[0])
            if len(refusing) < up:
                message = f"the server answers calls of {_count(up - len(refusing), found)}; in the others {words}"
                return Finding("ServerReachable", "PartlyReachable", message)
            return Finding("ServerReachable", "CallsFailing", f"the server answers health checks, but {words}")
        return Finding("ServerReachable", "Reachable", f"the server answers {_count(up, found)}")
    if down is not None:
        words = server_cause(down).message
        if up:
            return Finding("ServerReachable", "PartlyReachable", f"the server answers {_count(up, found)}; {words}")
        return Finding("ServerReachable", "Unreachable", words)
    if servers:
        return Finding("ServerReachable", "NotYetKnown", "the server is starting: it did not answer yet")
    if found.unreadable:
        return Finding("ServerReachable", "StatusUnreadable", _unreadable(found))
    return Finding("ServerReachable", "NotYetKnown", "the sidecars were not asked yet")


def first_down(found: Asked) -> ServerReport | None:
    """The server as one of those pods sees it that it does not answer (any more); starting is no such thing."""
    return next((server for server in found.servers if _down(server)), None)


def unreachable_cause(found: Asked) -> Diagnosis | None:
    """Why the server answers none of the pods; None where it answers any, or nothing is known."""
    down = first_down(found)
    return server_cause(down) if down is not None and not any(server.up for server in found.servers) else None


def failing_calls(found: Asked) -> str:
    """What calls fail with, where the server answers health checks and every pod's circuit breaker refuses calls."""
    up = [server for server in found.servers if server.up]
    return _calls_fail(up[0]) if up and not found.unreadable and all(server.refusing for server in up) else ""


def unusable_secret(found: Asked) -> str:
    """What a sidecar says of a value that it cannot use; empty where there is none."""
    return next((server_cause(each).message for each in found.servers if each.secrets_problem), "")


def config_applied(found: Asked, wanted: str) -> Finding:
    """`ConfigApplied`, where at least one pod was asked or none runs. `wanted`: hash of the newest configuration."""
    refused = next((report.last_refusal for report in found.readable if _refuses(report, wanted)), ())
    if refused:
        return Finding("ConfigApplied", "Refused", "the sidecar refuses the configuration: " + "; ".join(refused))
    if not found.running:
        return Finding("ConfigApplied", "NoPods", "no sidecar runs")
    applied = sum(report.file_hash == wanted for report in found.readable)
    if applied == len(found.pods):
        return Finding("ConfigApplied", "Applied", f"all pods run configuration {wanted}")
    if found.unreadable and applied + len(found.unreadable) == len(found.pods):
        return Finding("ConfigApplied", "StatusUnreadable", _unreadable(found))
    count = f"{applied} of {len(found.pods)} pods run configuration {wanted}"
    if any(_stays_behind(pod, report, found.newest, wanted) for pod, report in found.running):
        return Finding("ConfigApplied", "Propagating", count)
    return Finding("ConfigApplied", "AwaitingPods", f"{count}; the others are starting, or give way to new ones")


def described(found: Asked) -> dict[str, Any]:
    """`era`, `server` and `tools` of the status, as far as they are known: what a pod says that the server answers."""
    told: dict[str, Any] = {}
    known = sorted((server for server in found.servers if server.answered), key=lambda server: not server.up)
    eras = next((server.eras for server in known if server.eras), ())
    if eras:
        told["era"] = "Both" if len(eras) > 1 else eras[0]
    named = next((server for server in known if server.name or server.protocol_versions), None)
    if named is not None:
        told["server"] = {
            **({"name": named.name} if named.name else {}),
            **({"version": named.version} if named.version else {}),
            **({"protocolVersions": list(named.protocol_versions)} if named.protocol_versions else {}),
        }
    tools = next((server.tools for server in known if server.tools is not None), None)
    if tools is not None:
        told["tools"] = tools
    return told


def _calls_fail(server: ServerReport) -> str:
    cause = f": {server.call_error}" if server.call_error else ""
    return f"calls fail, and the circuit breaker refuses most of them{cause}"


def _runs(pod: PodView) -> bool:
    return any(each.name == SIDECAR and not each.init and each.state == "running" for each in pod.containers)


def _report(pod: PodView, reports: Reports) -> Report | None:
    report = reports.get(pod.uid)
    return report if pod.ready or isinstance(report, SidecarReport) else None


def _down(server: ServerReport) -> bool:
    return not server.up and (server.answered or server.failing or bool(server.problem or server.secrets_problem))


def _stays_behind(pod: PodView, report: Report | None, newest: str, wanted: str) -> bool:
    older = bool(newest) and pod.owner is not None and pod.owner.uid != newest
    return isinstance(report, SidecarReport) and report.file_hash != wanted and not older


def _refuses(report: SidecarReport, wanted: str) -> bool:
    return bool(report.last_refusal) and report.file_hash != wanted


def _count(up: int, found: Asked) -> str:
    total = len(found.running)
    return "the pod" if total == 1 else f"all {total} pods" if up == total else f"{up} of {total} pods"


def _unreadable(found: Asked) -> str:
    pod, report = found.unreadable[0]
    return (
        f"the status of pod {pod.name} cannot be read: {report.reason}; "
        f"let the operator's pods reach port {pod.admin_port} of this pod"
    )

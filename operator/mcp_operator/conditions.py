"""How a condition keeps its time, and what of a change becomes an Event of the MCPServer.

Which reason holds is left to status.py, what it means to reasons.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mcp_operator.reasons import REASONS, TYPES, ConditionType, Reason

MESSAGE_LIMIT = 1024
"""Characters of a condition's message; Events bear no more either."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What holds for one type: a reason of `REASONS` and the words for this MCPServer."""

    type: ConditionType
    reason: str
    message: str

    @property
    def row(self) -> Reason:
        """What the reason means."""
        return REASONS[self.type, self.reason]


@dataclass(frozen=True, slots=True)
class Event:
    """What becomes an Event of the MCPServer."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def condition(found: Finding, *, generation: int, now: str, previous: Mapping[str, Any] | None) -> dict[str, Any]:
    """A metav1.Condition. `now`: RFC 3339. The time changes only where the status does (Kubernetes API conventions)."""
    status = found.row.status
    since = previous.get("lastTransitionTime") if previous is not None and previous.get("status") == status else None
    return {
        "type": found.type,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": since if isinstance(since, str) and since else now,
        "reason": found.reason,
        "message": shorten(found.message),
    }


def by_type(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The conditions in a status by their type."""
    found = status.get("conditions")
    return {
        str(each.get("type")): each
        for each in (found if isinstance(found, list | tuple) else ())
        if isinstance(each, Mapping)
    }


def transitions(previous: Mapping[str, Any], new: Mapping[str, Any]) -> list[Event]:
    """The Events of a change from one whole status to another: a Warning for what turned bad, Normal for what healed.

    A cause that several conditions show is told once, by `Ready`.
    """
    before, after = by_type(previous), by_type(new)
    events: list[Event] = []
    for kind in TYPES:
        event = _transition(before.get(kind), after[kind]) if kind in after else None
        if event is not None and not any(event.message == told.message for told in events):
            events.append(event)
    return events


def _transition(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Event | None:
    row = _row(after)
    if row is None:
        return None
    old = _row(before) if before is not None else None
    message = str(after.get("message", ""))
    if row.tone == "Bad" or (row.tone == "Lost" and before is not None and before.get("status") == "True"):
        # The same reason is worth another Event where the spec was changed and is bad in another way.
        same = (
            before is not None
            and old is row
            and (
                before.get("observedGeneration") == after.get("observedGeneration") or before.get("message") == message
            )
        )
        return None if same else Event("Warning", row.reason, message)
    if row.tone != "Good":
        return None
    if row.type == "Ready":
        healed = old is None or old.status != "True"
    else:
        healed = old is not None and old.tone in ("Bad", "Lost")
    return Event("Normal", row.reason, message) if healed else None


def _row(found: Mapping[str, Any]) -> Reason | None:
    return REASONS.get((found.get("type"), found.get("reason")))  # type: ignore[arg-type]


def shorten(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Text of at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"

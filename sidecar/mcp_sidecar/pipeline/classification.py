"""Which failed attempts may be tried again: the table of notes/resilience.md B.7 as data.

Three things decide: what happened (reason, HTTP status), how far the request got (`Delivery`), and what a second
execution would do (`CallKind`). An unsafe call is tried again only where it was surely not executed. What is not in
the table is final. How often, how long to wait and at what cost belong to `retry`, `backoff` and `budget`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.call import CallKind


class Times(enum.IntEnum):
    """How often one call may be tried again for one reason, within `max_retries`."""

    NEVER = 0
    ONCE = 1
    MANY = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. `throttled`: the server asked for less, so wait with equal jitter. `timed_out`: costs more budget."""

    times: Times
    throttled: bool = False
    timed_out: bool = False


FINAL: Final = Rule(Times.NEVER)
AGAIN: Final = Rule(Times.MANY)
ONCE: Final = Rule(Times.ONCE)
THROTTLED: Final = Rule(Times.MANY, throttled=True)
TIMED_OUT: Final = Rule(Times.MANY, timed_out=True)

BY_REASON: Final[Mapping[Reason, Rule]] = MappingProxyType(
    {
        Reason.ACQUIRE_TIMEOUT: AGAIN,
        Reason.CONNECT_FAILED: AGAIN,
        Reason.START_FAILED: AGAIN,
        Reason.TLS_FAILED: AGAIN,
        Reason.CONNECTION_LOST: AGAIN,
        Reason.CHILD_EXITED: AGAIN,
        Reason.ATTEMPT_TIMEOUT: TIMED_OUT,
        # Garbage twice is a broken server; an oversized answer will be as large again.
        Reason.PROTOCOL_ERROR: ONCE,
        Reason.RESULT_TOO_LARGE: FINAL,
        Reason.UPSTREAM_THROTTLED: THROTTLED,
        # Once: the upstream refreshes the credential before it reports a refusal (Delivery.REFUSED).
        Reason.UPSTREAM_UNAUTHORIZED: ONCE,
        # Replay into a fresh session would give wrong answers; an upstream that may replay does it itself.
        Reason.SESSION_LOST: FINAL,
        Reason.DEADLINE_EXCEEDED: FINAL,
        Reason.SLOW_CALLER: FINAL,
        Reason.CANCELLED: FINAL,
        Reason.INTERNAL: FINAL,
    }
)
"""Rows by reason; UPSTREAM_STATUS is looked up in BY_STATUS."""

BY_STATUS: Final[Mapping[int, Rule]] = MappingProxyType(
    {
        408: TIMED_OUT,
        425: THROTTLED,
        500: AGAIN,
        502: AGAIN,
        503: THROTTLED,
        504: TIMED_OUT,
    }
)
"""Rows by the upstream's HTTP status (429 has a reason of its own); every other status is an answer and final."""


@dataclass(frozen=True, slots=True)
class ClassificationSettings:
    """What the config may change of the table."""

    retry_429: bool = True
    """Try again after 429, by contract a refusal, whatever the kind of call."""
    retry_503: bool = False
    """Try unsafe calls again after 503 with `Retry-After`; safe and idempotent calls always are."""


def rule_for(error: UpstreamError) -> Rule:
    """The row of an error."""
    if error.reason is Reason.UPSTREAM_STATUS:
        return FINAL if error.status is None else BY_STATUS.get(error.status, FINAL)
    return BY_REASON.get(error.reason, FINAL)


def judged_delivery(error: UpstreamError, settings: ClassificationSettings) -> Delivery:
    """How far the request got, as far as HTTP statuses tell more than the transport knows."""
    if error.reason is Reason.UPSTREAM_THROTTLED:
        return min(error.delivery, Delivery.REFUSED)
    if error.reason is not Reason.UPSTREAM_STATUS or error.delivery is Delivery.NOT_SENT:
        return error.delivery
    if error.status == 503 and error.retry_after is not None and settings.retry_503:
        return Delivery.REFUSED
    # Said by a proxy on the way as often as by the server: the request may have been passed on and executed.
    return Delivery.MAYBE


def classify(error: UpstreamError, kind: CallKind, committed: bool, settings: ClassificationSettings) -> Rule:
    """The rule for one failed attempt: FINAL where it must not be tried again."""
    if committed:
        return FINAL
    rule = rule_for(error)
    if rule.times is Times.NEVER:
        return FINAL
    if error.reason is Reason.UPSTREAM_THROTTLED and not settings.retry_429:
        return FINAL
    delivery = judged_delivery(error, settings)
    if delivery <= Delivery.REFUSED or (delivery is Delivery.MAYBE and kind <= CallKind.IDEMPOTENT):
        return rule
    return FINAL


def worse(one: Delivery, other: Delivery) -> Delivery:
    """Of two attempts, the delivery that tells more of what may have happened: MAYBE beats everything."""
    if one is Delivery.MAYBE or other is Delivery.MAYBE:
        return Delivery.MAYBE
    return max(one, other)

"""Every exception of the operator.

    OperatorError
    ├── SettingsError               the operator's own configuration or credentials
    ├── SpecError                   an MCPServer that cannot be used as it is written: all problems at once
    ├── NameConflict                an object of the name we need belongs to somebody else
    ├── BeingReplaced               such an object belongs to our deleted predecessor: it goes any moment
    ├── NotLeading                  a write was stopped here: another replica leads, or may
    ├── LeadershipLost              the lease could not be renewed in time
    └── KubeError                   the API server refused a request, or could not be asked
        ├── NotFound                404  the object, its namespace or its kind
        ├── Conflict                409  somebody else changed it first
        │   └── AlreadyExists       409
        ├── Invalid                 400, 413, 422: the same request will never be accepted
        ├── Unauthorized            401
        ├── Forbidden               403  RBAC, an admission plugin, a quota, a namespace that is going away
        ├── Expired                 410  a resourceVersion or a page that is too old
        ├── Throttled               429
        └── Unavailable             5xx, a time-out, a connection that failed

`transient` says whether the same request may succeed later without anybody changing anything. Messages are the API
server's own words. They can hold no secret: of all requests only the one that creates a session key carries one, and
an API server does not quote the data of a Secret.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

MESSAGE_LIMIT = 2048
"""Characters kept of an API server's message: conditions and Events bear no more."""


class OperatorError(Exception):
    """Root of the tree."""

    transient: ClassVar[bool] = False


class SettingsError(OperatorError):
    """The operator cannot run as it is configured: its settings, its kubeconfig, its credentials."""


class Problem(NamedTuple):
    """One thing wrong in an MCPServer: a path such as `spec.stdio.env[1].name`, and what would be right."""

    path: str
    message: str


class SpecError(OperatorError):
    """The MCPServer cannot be used. `problems` holds all of them, never only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"{p.path}: {p.message}" if p.path else p.message for p in problems))


class NameConflict(OperatorError):
    """An object exists under a name that we need and is not ours: it is never touched."""

    def __init__(self, kind: str, name: str, owner: str = "") -> None:
        self.kind = kind
        self.name = name
        self.owner = owner
        """Who controls it, such as `Deployment web`; empty where nobody does."""
        held = f"belongs to {owner}" if owner else "was not made by Outrigger"
        super().__init__(f"{kind} {name} exists and {held}")


class BeingReplaced(OperatorError):
    """An object of our name belongs to an MCPServer of the same name that was deleted: it goes any moment."""

    transient = True


class NotLeading(OperatorError):
    """This replica does not lead (any more), so it must not write."""

    transient = True


class LeadershipLost(OperatorError):
    """The lease was not renewed in time, or is another's: what only the leader may do has been stopped."""


class KubeError(OperatorError):
    """An API server's refusal. `status` is the HTTP status, 0 where no answer came."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        causes: tuple[str, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        """The Status object's reason: `NotFound`, `Invalid`, …; a word of ours where it has none."""
        self.message = message[:MESSAGE_LIMIT]
        self.causes = causes
        """Reasons of the Status object's details, such as `NamespaceTerminating` or `FieldValueInvalid`."""
        self.retry_after = retry_after
        """Seconds that the API server asks to wait; None where it does not say."""
        self.about = ""
        """What was to be written, such as `Service web`; empty where that is of no interest."""
        super().__init__(self.message)

    @property
    def terminating(self) -> bool:
        """Refused because the namespace is going away: nothing to repair, nothing to report."""
        return "NamespaceTerminating" in self.causes


class NotFound(KubeError):
    """404: the object, its namespace or its kind does not exist."""


class Conflict(KubeError):
    """409: the object was changed, or replaced by another, since it was read."""

    transient = True


class AlreadyExists(Conflict):
    """409 on create."""


class Invalid(KubeError):
    """400, 413 or 422: the request itself is wrong; `message` names the fields."""


class Unauthorized(KubeError):
    """401: the credentials are not, or no longer, accepted."""

    transient = True


class Forbidden(KubeError):
    """403: by RBAC, an admission plugin (pod security, a webhook), a quota, or a terminating namespace."""


class Expired(KubeError):
    """410: read everything again."""

    transient = True


class Throttled(KubeError):
    """429: `retry_after` is how long to wait."""

    transient = True


class Unavailable(KubeError):
    """5xx, a time-out or a failed connection: it may or may not have been done."""

    transient = True


_BY_STATUS: dict[int, type[KubeError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    413: Invalid,
    422: Invalid,
    429: Throttled,
}


def kube_error(
    status: int,
    reason: str,
    message: str,
    *,
    causes: tuple[str, ...] = (),
    retry_after: float | None = None,
) -> KubeError:
    """The exception for an answer of `status` and the Status object's `reason`."""
    kind = _BY_STATUS.get(status, Unavailable if status >= 500 else KubeError)
    if kind is Conflict and reason == "AlreadyExists":
        kind = AlreadyExists
    return kind(status, reason, message, causes=causes, retry_after=retry_after)

"""What a rule of the CRD is: a CEL expression about one part of the MCPServer, and a message that says what to write.

A rule belongs to a model and holds wherever the model occurs. Its examples are data of that model; `rules` puts them
into whole MCPServers. The rules themselves are in `rules_of_server`, `rules_of_policies` and `rules_of_pods`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mcp_sidecar.config import show_duration, show_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A rule of a model.

    `rule` is CEL over `self`, an object of the model after the CRD's defaults; `field` is the path below it that the
    message is about (`.headers`), nothing for the object itself.
    """

    id: str
    rule: str
    message: str
    accepted: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, Any] = field(default_factory=dict)
    field: str = ""

    def validation(self) -> dict[str, str]:
        """The entry of `x-kubernetes-validations`."""
        entry = {"rule": self.rule, "message": self.message}
        return {**entry, "fieldPath": self.field} if self.field else entry


_SIZE = (
    "int(self.find('^[0-9]+')) * (self.endsWith('GiB') ? 1073741824 : self.endsWith('MiB') ? 1048576 : "
    "self.endsWith('KiB') ? 1024 : 1)"
)


def bound_rule(unit: str, bounds: tuple[float | None, float | None, bool]) -> Declared | None:
    """The rule that keeps a duration or size, a string, between its bounds; None where it has none."""
    low, high, _ = bounds
    if (low == 0 and high is None) or (low is None and high is None):
        return None
    show: Callable[[float], str] = show_duration if unit == "duration" else _show_size
    least, most = show(low or 0), show(high) if high is not None else None
    if unit == "duration":
        tests = [f"duration(self) >= duration('{least}')"] if low else []
        tests += [f"duration(self) <= duration('{most}')"] if most else []
        rule = " && ".join(tests)
    else:
        tests = [f"size >= {int(low)}"] if low else []
        tests += [f"size <= {int(high)}"] if high is not None else []
        rule = f"[{_SIZE}].all(size, {' && '.join(tests)})"
    return Declared(
        id="bounds", rule=rule, message=f"must be from {least} to {most}" if most else f"must be at least {least}"
    )


def _show_size(size: float) -> str:
    return show_size(int(size))

"""The units a config is written in: durations, byte sizes, whole percents, and the base of every section.

People write `30s` and `4MiB`; the code gets float seconds and int bytes. Each unit is one annotated type whose JSON
Schema says both forms, so that an editor, `check` and the CRD agree. What each setting means is left to the sections.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema
from pydantic.alias_generators import to_camel

DURATION_PATTERN = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$"
"""What a duration looks like as a string. One unit only: `1h30m` is refused rather than half understood."""

SIZE_PATTERN = r"^[0-9]+(B|KiB|MiB|GiB)$"
"""What a byte size looks like as a string. Binary units only: `MB` would leave open which one is meant."""

_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)", re.ASCII)
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

DURATION_HELP = "a duration such as 250ms, 30s, 5m or 1h, or plain seconds"
SIZE_HELP = "a size such as 512KiB or 4MiB, or plain bytes"


def parse_duration(value: Any) -> Any:
    """Seconds of `250ms`, `30s`, `5m`, `1h`; anything but a string passes through. Raises ValueError."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value)
    if match is None:
        raise ValueError(f"must be {DURATION_HELP}")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(value: Any) -> Any:
    """Bytes of `512KiB`, `4MiB`; anything but a string passes through. Raises ValueError."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None:
        raise ValueError(f"must be {SIZE_HELP}")
    return int(match[1]) * _BYTES[match[2]]


def show_duration(seconds: float) -> str:
    """`0.25` as `250ms`, `90` as `90s`, `300` as `5m`: the shortest form that `parse_duration` reads back exactly."""
    for unit in ("h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds / _SECONDS[unit])}{unit}"
    if seconds < 1 and round(seconds * 1000, 6) % 1 == 0:
        return f"{round(seconds * 1000)}ms" if seconds else "0s"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def show_size(size: int) -> str:
    """`4194304` as `4MiB`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


class Unit:
    """Marks an annotated type with the unit it is written in, for error messages and the reference."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": DURATION_PATTERN}]}),
    Unit("duration"),
]
"""Float seconds."""

ByteSize = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": SIZE_PATTERN}]}),
    Unit("size"),
]
"""Int bytes."""

Percent = Annotated[int, Unit("percent")]
"""A whole percent; the bounds are the field's."""

Strings = Annotated[tuple[str, ...], Strict(False)]
"""A JSON array of strings. Not strict about list or tuple, strict about its items."""


class Section(BaseModel):
    """Base of every part of the config: strict, frozen, closed, camelCase outside and snake_case inside."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        ser_json_inf_nan="strings",
        allow_inf_nan=False,
    )


def setting(
    default: Any,
    description: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    pattern: str | None = None,
    max_length: int | None = None,
    shown: str | None = None,
    reload: str = "Live",
) -> Any:
    """One field of a section.

    `default` may be a function of the fields before it (then `shown` says it in words). `reload` is what a change of
    the running config does: `Live` (takes effect at once), `Replaces` (new connections or processes, the old ones
    drain), `Restart` (only a new process sees it).
    """
    extra: dict[str, Any] = {"x-reload": reload}
    if shown is not None:
        extra["x-default"] = shown
    bounds: dict[str, Any] = {
        name: bound
        for name, bound in (("ge", ge), ("gt", gt), ("le", le), ("pattern", pattern), ("max_length", max_length))
        if bound is not None
    }
    if callable(default):
        return Field(default_factory=default, description=description, json_schema_extra=extra, **bounds)
    return Field(default, description=description, json_schema_extra=extra, validate_default=False, **bounds)

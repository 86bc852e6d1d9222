"""What every part of the MCPServer is made of: its base, its fields, the types of Kubernetes names, what was written.

The bounds stand here once and go into the CRD, the reference and the messages. What the fields are is left to the
modules of the sections.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, Strict

from mcp_sidecar.config import Section, show_duration, show_size

Change = Literal["Live", "Rolls"]
"""What a change of a field does to running pods: `Live` leaves them as they are, `Rolls` replaces them."""

T = TypeVar("T")
Items = Annotated[tuple[T, ...], Strict(False)]
"""A list. Not strict about list or tuple, strict about its items."""

Raw = dict[str, Any]
"""An object of the Kubernetes API that is passed on as it is; the API server checks it where it is applied."""

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DATA_KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"
VARIABLE_PATTERN = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"
LABEL_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
QUANTITY_PATTERN = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=NAME_PATTERN)]
"""The name of a Secret, ConfigMap, class … (DNS-1123 subdomain)."""

LabelName = Annotated[str, Field(min_length=1, max_length=63, pattern=LABEL_NAME_PATTERN)]
"""A name inside a pod (DNS-1123 label)."""

LabelValue = Annotated[str, Field(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")]
"""The value of a label; may be empty."""

DataKey = Annotated[str, Field(min_length=1, max_length=253, pattern=DATA_KEY_PATTERN)]
"""A key of a Secret or ConfigMap; becomes the name of a file."""

VariableName = Annotated[str, Field(min_length=1, max_length=256, pattern=VARIABLE_PATTERN)]
"""The name of an environment variable, as Kubernetes takes them."""

HeaderName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
"""The name of an HTTP header (RFC 9110 5.1)."""

AbsolutePath = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^/[^\x00]*$")]
Argument = Annotated[str, Field(max_length=4096)]
ToolPattern = Annotated[str, Field(min_length=1, max_length=256)]
Port = Annotated[int, Field(ge=1, le=65535)]


class IntOrString:
    """Marks a type that is an integer or a string (`x-kubernetes-int-or-string`)."""


class Format:
    """Marks a string with its format (`date-time`)."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


Labels = dict[str, LabelValue]
Annotations = dict[str, Annotated[str, Field(max_length=32768)]]
Quantity = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=QUANTITY_PATTERN, max_length=64)], IntOrString()
]
"""An amount such as `500m` or `1Gi`."""

IntOrPercent = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^([1-9]?[0-9]|100)%$", max_length=4)], IntOrString()
]
"""A number or a percentage such as `50%`."""


class Part(Section):
    """Base of every part of the MCPServer: strict, frozen, closed, camelCase outside and snake_case inside."""


def field(
    default: Any,
    description: str,
    *,
    change: Change | None = None,
    alias: str | None = None,
    ge: float | None = None,
    le: float | None = None,
    pattern: str | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    shown: str | None = None,
    list_type: Literal["set", "map", "atomic"] | None = None,
    keys: tuple[str, ...] = (),
    stored: bool = True,
) -> Any:
    """One field of a part; `...` as the default makes it required; a function of the fields before it
    computes one.

    `change` is inherited from the section above when it is not given. `min_length` and `max_length` count characters,
    items or entries. `shown` says a default in words that is computed from others; `stored=False` keeps a static
    default out of the CRD, because what it should be depends on other fields. `list_type` and `keys` are
    `x-kubernetes-list-type` and `-map-keys`.
    """
    extra: dict[str, Any] = {"x-change": change, "x-default": shown, "x-list-type": list_type, "x-keys": keys}
    extra["x-stored"] = stored
    bounds: dict[str, Any] = {"ge": ge, "le": le, "pattern": pattern, "min_length": min_length, "alias": alias}
    bounds |= {"max_length": max_length, "description": description, "json_schema_extra": extra}
    given = {name: value for name, value in bounds.items() if value is not None}
    if default is ...:
        return Field(**given)
    if callable(default):
        return Field(default_factory=default, **given)
    return Field(default, validate_default=False, **given)


def taken(
    section: type[Section],
    name: str,
    *,
    description: str | None = None,
    shown: str | None = None,
    change: Change | None = None,
    stored: bool = True,
) -> Any:
    """The field `name` of a section of the sidecar's config, with its bounds, default and description.

    The annotation is to be written again; a test compares it with the sidecar's.
    """
    info = section.model_fields[name]
    extra: Any = info.json_schema_extra or {}
    bounds: dict[str, Any] = {}
    for entry in info.metadata:
        for bound in ("ge", "gt", "le", "min_length", "max_length", "pattern"):
            value = getattr(entry, bound, None)
            if value is not None:
                bounds[bound] = value
    if info.default_factory is not None:
        bounds["default_factory"] = info.default_factory
    elif not info.is_required():
        bounds |= {"default": info.default, "validate_default": False}
    change = change or ("Rolls" if extra.get("x-reload") == "Restart" else "Live")
    ours = {"x-change": change, "x-default": shown or extra.get("x-default"), "x-stored": stored}
    return Field(description=description or info.description, json_schema_extra=ours, **bounds)


def written(part: BaseModel) -> dict[str, Any]:
    """What was written of `part`, defaults of the CRD included, and nothing else: JSON data in camelCase, durations and
    sizes as strings. It reads back as the same part, and a section of the sidecar's config takes it as it is."""
    out: dict[str, Any] = {}
    for name, info in type(part).model_fields.items():
        if name in part.model_fields_set and (value := getattr(part, name)) is not None:
            out[info.alias or name] = _plain(value, _unit(info.annotation, info.metadata))
    return out


def _plain(value: Any, unit: str | None) -> Any:
    match value:
        case BaseModel():
            return written(value)
        case tuple() | list():
            return [_plain(item, unit) for item in value]
        case dict():
            return {key: _plain(item, unit) for key, item in value.items()}
        case float() if unit == "duration":
            return show_duration(value)
        case int() if unit == "size":
            return show_size(value)
    return value


def _unit(annotation: Any, metadata: list[Any]) -> str | None:
    """`duration` or `size` when the values of a field, or of the map it is, are written in a unit."""
    for entry in metadata:
        if type(entry).__name__ == "Unit":
            return str(entry.name)
    for inner in getattr(annotation, "__args__", ()):
        found = _unit(inner, list(getattr(inner, "__metadata__", ())))
        if found is not None:
            return found
    return None

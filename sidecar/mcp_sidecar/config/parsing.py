"""From JSON data to a checked config: translate, validate, apply the rules, and report everything at once.

A bad value is taken out and the rest is looked at again, so that one mistake never hides another. Messages name the
place as it was written and the shape of the value, never a text value itself.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mcp_sidecar.config.describe import described, field_type, shape
from mcp_sidecar.config.document import Config
from mcp_sidecar.config.paths import Path
from mcp_sidecar.config.rules import Finding, check
from mcp_sidecar.config.scalars import Section
from mcp_sidecar.config.vocabulary import Translation, translate
from mcp_sidecar.errors import ConfigError, Problem

_SECRET_PLACES = frozenset({"env", "headers", "args", "url", "command"})


@dataclass(frozen=True)
class Parsed:
    """A good config, and what should be known about it."""

    config: Config
    warnings: tuple[Problem, ...]


def parse(data: object, source: str = "") -> Parsed:
    """The config that JSON data stands for. Raises ConfigError with all problems."""
    if not isinstance(data, Mapping):
        raise ConfigError([Problem("", f"must be an object with `servers`; it is {shape(data)}")], source)
    translation = translate(copy.deepcopy(dict(data)))
    removed: set[Path] = set()
    config: Config | None = None
    for _ in range(6):  # a section goes when what it needs is missing, so a few rounds may be needed
        try:
            config = Config.model_validate(translation.tree)
            break
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=True)
            for detail in details:
                _report(translation, detail, removed)
            pruned = [_prune(translation.tree, detail, removed) for detail in details]
            if not all(pruned):
                break
    if config is not None:
        _apply_rules(translation, config, removed)
    if translation.problems or config is None:
        raise ConfigError(list(dict.fromkeys(translation.problems)), source)
    return Parsed(config, tuple(dict.fromkeys(translation.warnings)))


def _apply_rules(translation: Translation, config: Config, removed: set[Path]) -> None:
    for finding in check(config):
        if _spoiled(finding, removed):
            continue
        record = translation.refuse if finding.severity == "error" else translation.warn
        record(translation.place(finding.paths[0]), finding.message)


def _spoiled(finding: Finding, removed: set[Path]) -> bool:
    """True when the finding looks at something that was taken out."""
    first, *others = finding.paths
    # A place that only holds the others is where the finding is reported, not what it looked at.
    looked_at = others if any(path[: len(first)] == first for path in others) else finding.paths
    return any(gone == path[: len(gone)] or path == gone[: len(path)] for path in looked_at for gone in removed)


def _location(detail: ErrorDetails) -> Path:
    return tuple(step for step in detail["loc"] if step != "[key]")


def _report(translation: Translation, detail: ErrorDetails, removed: set[Path]) -> None:
    """Turn one pydantic error into a problem."""
    kind, path = detail["type"], _location(detail)
    if kind == "default_factory_not_called" or any(path[: len(gone)] == gone for gone in removed):
        return
    if path == ("servers",) and kind == "missing":
        translation.refuse((), "has no servers: give `servers` (or `mcpServers`), an object of servers by name")
        return
    translation.refuse(translation.place(path), _message(kind, path, detail))


def _message(kind: str, path: Path, detail: ErrorDetails) -> str:
    if "[key]" in detail["loc"]:
        return "the name must begin and end with a letter or digit and hold only letters, digits, `.`, `_` and `-`"
    value = detail["input"]
    secret = not _SECRET_PLACES.isdisjoint(path)
    annotation, field = _declared(path)
    if kind == "missing":
        return f"is missing; it must be {field_type(field) if field is not None else 'given'}"
    it_is = "; it is " + shape(value, secret=secret)
    if kind == "value_error" and isinstance(error := detail.get("ctx", {}).get("error"), ValueError):
        expected = str(error)
        if field is not None and expected.startswith(("must be a duration", "must be a size")):
            expected = "must be " + field_type(field)
        return expected + (it_is if expected.startswith("must be") else "")
    wanted = field_type(field) if field is not None else described(annotation)
    hint = ""
    if kind == "literal_error" and isinstance(value, str):
        close = difflib.get_close_matches(value.lower(), [name.lower() for name in _names(annotation)], n=1)
        hint = next(
            (f"; did you mean {name}?" for name in _names(annotation) if close and name.lower() == close[0]), ""
        )
    if kind == "less_than_equal" and path[-1] in ("timeout", "globalTimeout") and isinstance(value, int | float):
        hint = f"; plain numbers are seconds, milliseconds are written as {value:.10g}ms" if value < 1e9 else ""
    if kind == "string_pattern_mismatch" and field is not None:
        wanted += f" like {detail.get('ctx', {}).get('pattern', '')}"
    return f"must be {wanted}{it_is}{hint}"


def _names(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return tuple(str(name) for name in get_args(annotation))
    return tuple(name for inner in get_args(annotation) for name in _names(inner))


def _declared(path: Path) -> tuple[Any, FieldInfo | None]:
    """The annotation at a canonical path, and its field when the path ends at one."""
    annotation: Any = Config
    field: FieldInfo | None = None
    for step in path:
        annotation = _unwrapped(annotation)
        if isinstance(annotation, type) and issubclass(annotation, Section):
            field = next((info for info in annotation.model_fields.values() if info.alias == step), None)
            if field is None:
                return Any, None
            annotation = field.annotation
        elif get_origin(annotation) in (dict, tuple):
            arguments = get_args(annotation)
            annotation, field = arguments[1 if get_origin(annotation) is dict else 0], None
        else:
            return annotation, field
    return annotation, field


def _unwrapped(annotation: Any) -> Any:
    while get_origin(annotation) is Union or type(annotation).__name__ in ("UnionType", "_AnnotatedAlias"):
        annotation = get_args(annotation)[0]
    return annotation


def _prune(tree: Any, detail: ErrorDetails, removed: set[Path]) -> bool:
    """Take the bad place out of the tree. False when that is not possible: then nothing more can be said."""
    path = _location(detail)
    if detail["type"] == "missing":
        path = path[:-1]
    if not path:
        return False
    removed.add(path)
    for step in path[:-1]:
        try:
            tree = tree[step]
        except (KeyError, IndexError, TypeError):
            return True  # gone already, with something above it
    last = path[-1]
    if isinstance(tree, dict):
        tree.pop(last, None)
        return True
    if isinstance(tree, list):  # places after it would move: the whole list goes
        removed.add(path[:-1])
        tree.clear()
        return True
    return False

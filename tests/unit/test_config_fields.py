"""Every field of every section: accepted under its names, bounded, described, refused with its path when wrong."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, get_args, get_origin

import annotated_types
import pytest
from pydantic.fields import FieldInfo

from mcp_sidecar.config import Config, ConfigError, Problem, Section, parse
from mcp_sidecar.config.describe import field_type
from mcp_sidecar.config.scalars import Unit
from mcp_sidecar.config.vocabulary import inner_section

Place = tuple[str | int, ...]

# What a section needs beside the field that is tested.
NEEDED: dict[str, dict[str, Any]] = {
    "Config": {"servers": {"s": {"command": "true"}}},
    "Server": {"command": "true"},
    "Rate": {"requestsPerSecond": 5},
    "FrontTls": {"certFile": "c.pem", "keyFile": "k.pem"},
    "Token": {"name": "ci", "file": "token"},
}


def walk(model: type[Section], place: Place) -> list[tuple[type[Section], Place]]:
    found = [(model, place)]
    for info in model.model_fields.values():
        section, container = inner_section(info.annotation)
        if section is None:
            continue
        below: Place = (*place, str(info.alias))
        below = (*below, "s") if container is dict else (*below, 0) if container is tuple else below
        found += walk(section, below)
    return found


SECTIONS = walk(Config, ())
FIELDS = [(model, place, name) for model, place in SECTIONS for name in model.model_fields if name != "servers"]


def ids(case: tuple[type[Section], Place, str]) -> str:
    return f"{case[0].__name__}.{case[2]}"


def info_of(case: tuple[type[Section], Place, str]) -> FieldInfo:
    return case[0].model_fields[case[2]]


def document(place: Place, section: dict[str, Any]) -> dict[str, Any]:
    """A whole config with `section` at `place`."""
    node: Any = section
    for step in reversed(place):
        node = [node] if step == 0 else {step: node}
    server = node.setdefault("servers", {}).setdefault("s", {})
    if not {"command", "url", "socket"} & server.keys():
        server["command"] = "true"
    return typing.cast(dict[str, Any], node)


def bounds(info: FieldInfo) -> tuple[float | None, float | None, bool]:
    low = high = None
    open_low = False
    for entry in metadata(info):
        if isinstance(entry, annotated_types.Ge):
            low = typing.cast(float, entry.ge)
        elif isinstance(entry, annotated_types.Gt):
            low, open_low = typing.cast(float, entry.gt), True
        elif isinstance(entry, annotated_types.Le):
            high = typing.cast(float, entry.le)
    return low, high, open_low


def metadata(info: FieldInfo) -> list[Any]:
    found = list(info.metadata)
    for inner in get_args(info.annotation):
        if get_origin(inner) is typing.Annotated and get_origin(info.annotation) is not dict:
            found += get_args(inner)[1:]
    return found


def plain(annotation: Any) -> Any:
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return plain(get_args(annotation)[0])
    if get_origin(annotation) is typing.Annotated:
        return plain(get_args(annotation)[0])
    return annotation


def is_number(info: FieldInfo) -> bool:
    return plain(info.annotation) in (int, float)


def found(data: dict[str, Any]) -> list[Problem]:
    """What is wrong with a config; nothing for a good one."""
    try:
        parse(data)
    except ConfigError as error:
        return error.problems
    return []


def problems(data: dict[str, Any]) -> list[str]:
    return [problem.path for problem in found(data)]


def path(case: tuple[type[Section], Place, str]) -> str:
    shown = ""
    for step in (*case[1], str(info_of(case).alias)):
        shown += f"[{step}]" if isinstance(step, int) else f".{step}" if shown else str(step)
    return shown


@pytest.mark.parametrize("case", FIELDS, ids=ids)
def test_field_says_what_it_is(case: tuple[type[Section], Place, str]) -> None:
    info = info_of(case)
    assert info.description
    assert info.description[0].isupper() or info.description.startswith(("stdio", "`"))
    assert info.description.endswith("."), info.description
    assert field_type(info) != "a value"


@pytest.mark.parametrize("case", [case for case in FIELDS if is_number(info_of(case))], ids=ids)
def test_number_is_bounded(case: tuple[type[Section], Place, str]) -> None:
    model, place, name = case
    alias = str(info_of(case).alias)
    low, high, open_low = bounds(info_of(case))
    assert low is not None, "every number has a bound below"
    assert high is not None, "every number has a bound above"
    base = {key: value for key, value in NEEDED.get(model.__name__, {}).items() if key != alias}
    for accepted in (high,) if open_low else (low, high):
        number: float | int = int(accepted) if plain(info_of(case).annotation) is int else accepted
        assert getattr(model.model_validate({**base, alias: number}), name) == number
    for refused in (low if open_low else low - 1, high + 1):
        number = int(refused) if plain(info_of(case).annotation) is int else refused
        assert path(case) in problems(document(place, {**base, alias: number}))


WRONG: list[Any] = ["certainly wrong", True, None, [], {}, [[]], 3.5, -1]


@pytest.mark.parametrize("case", FIELDS, ids=ids)
def test_wrong_type_is_refused_with_its_path(case: tuple[type[Section], Place, str]) -> None:
    model, place, _ = case
    info = info_of(case)
    alias = str(info.alias)
    base = {key: value for key, value in NEEDED.get(model.__name__, {}).items() if key != alias}
    refused = 0
    for wrong in WRONG:
        wrongs = found(document(place, {**base, alias: wrong}))
        refused += any(problem.path.startswith(path(case)) for problem in wrongs)
        assert "certainly wrong" not in str(wrongs)
    assert refused >= 3


@pytest.mark.parametrize("case", [case for case in FIELDS if case[2] != info_of(case).alias], ids=ids)
def test_snake_case_is_an_alias(case: tuple[type[Section], Place, str]) -> None:
    model, place, name = case
    info = info_of(case)
    value = example(info)
    base = {key: item for key, item in NEEDED.get(model.__name__, {}).items() if key != info.alias}

    def errors(key: str) -> list[str]:
        return [problem.message for problem in found(document(place, {**base, key: value}))]

    assert errors(name) == errors(str(info.alias))
    assert not any("unknown" in message for message in errors(name))


def example(info: FieldInfo) -> Any:
    """Some right value of a field."""
    annotation = plain(info.annotation)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return NEEDED.get(annotation.__name__, {})
    if get_origin(annotation) is Literal:
        return get_args(annotation)[-1]
    if get_origin(annotation) is tuple:
        return []
    if get_origin(annotation) is dict:
        return {}
    if annotation is bool:
        return True
    if is_number(info):
        low, high, _ = bounds(info)
        assert high is not None
        return min(int(high), int(low or 0) + 1)
    return "text"


@pytest.mark.parametrize("case", FIELDS, ids=ids)
def test_right_value_is_accepted(case: tuple[type[Section], Place, str]) -> None:
    model, place, _ = case
    info = info_of(case)
    base = {key: item for key, item in NEEDED.get(model.__name__, {}).items() if key != info.alias}
    # Rules across fields may object; the field itself must be right.
    for problem in found(document(place, {**base, str(info.alias): example(info)})):
        assert "unknown" not in problem.message
        assert "; it is" not in problem.message


def unit_of(case: tuple[type[Section], Place, str]) -> str | None:
    return next((entry.name for entry in info_of(case).metadata if isinstance(entry, Unit)), None)


@pytest.mark.parametrize("case", [case for case in FIELDS if unit_of(case) in ("duration", "size")], ids=ids)
def test_duration_and_size_are_written_with_units(case: tuple[type[Section], Place, str]) -> None:
    info, unit = info_of(case), unit_of(case)
    low, high, _ = bounds(info)
    assert low is not None
    assert high is not None
    model, _, name = case
    if unit == "duration":
        number = max(1, int(low))
        built = model.model_validate({**NEEDED.get(model.__name__, {}), str(info.alias): f"{number * 1000}ms"})
        assert getattr(built, name) == number
    else:
        built = model.model_validate({**NEEDED.get(model.__name__, {}), str(info.alias): "64KiB"})
        assert getattr(built, name) == 65536

"""Whatever the file holds: a config or a ConfigError, and never a secret in what is said about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_sidecar.config import Config, ConfigError, load_text, parse
from mcp_sidecar.config.foreign import FOREIGN, RENAMED
from mcp_sidecar.config.jsonc import decode
from mcp_sidecar.config.vocabulary import inner_section

CANARY = "canary-0d6e9b71"

KEYS = sorted(
    {alias for model in (Config, *RENAMED, *FOREIGN) for alias in (*RENAMED.get(model, {}), *FOREIGN.get(model, {}))}
    | {info.alias for model in RENAMED for info in model.model_fields.values() if info.alias}
    | {"valueFrom", "file", "env", "a", "", "\x00", "x" * 300}
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["30s", "4MiB", "${A}", "${input:x}", "fernet:v1:x", "Shared", "http://x", "/x", "${", "-1ms"])
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=25,
)


def outcome(attempt: Callable[[], Any]) -> Any:
    """What `attempt` returns, or the ConfigError it raises. Nothing else may be raised."""
    try:
        return attempt()
    except ConfigError as error:
        return error


def config_or_error(data: object) -> None:
    found = outcome(lambda: parse(data))
    if isinstance(found, ConfigError):
        assert found.problems
        str(found).encode()
    else:
        assert found.config.enabled_servers
        assert len(found.config.config_hash()) == 12


@settings(max_examples=300, deadline=None)
@given(trees)
def test_any_json_is_a_config_or_an_error(data: Any) -> None:
    config_or_error(data)


def sections(model: Any) -> st.SearchStrategy[Any]:
    """Objects with right names and any values, so that the fuzz gets past the names."""
    values: dict[str, st.SearchStrategy[Any]] = {}
    for info in model.model_fields.values():
        section, container = inner_section(info.annotation)
        if section is None:
            values[info.alias] = trees | scalars
        elif container is None:
            values[info.alias] = st.deferred(lambda section=section: sections(section)) | scalars
        else:
            values[info.alias] = trees
    return st.fixed_dictionaries({}, optional=values)


SERVER = Config.model_fields["servers"]
servers = st.dictionaries(
    st.sampled_from(["a", "b c", "Ä", "a-b", "a.b", "!"]),
    sections(inner_section(SERVER.annotation)[0]) | scalars,
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(sections(Config), servers)
def test_right_names_with_any_values(top: dict[str, Any], below: dict[str, Any]) -> None:
    config_or_error({**top, "servers": below})


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from([*'{}[]",:/*\\ \n1a', '"servers"', "//", "/*"]), max_size=30).map("".join)
)
def test_any_text(text: str) -> None:
    found = outcome(lambda: load_text(text.encode("utf-8", "surrogatepass"), "fuzz", environ={}))
    assert not isinstance(found, ConfigError) or found.problems


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(ConfigError):
        load_text(data + b"\xff", "fuzz", environ={})


@settings(max_examples=200, deadline=None)
@given(trees)
def test_json_with_comments_reads_json_as_json_does(data: Any) -> None:
    found = outcome(lambda: decode(json.dumps(data).encode(), "x"))
    assert found == data or "Unicode" in str(found)


names = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(names, st.text(max_size=10))
def test_overrides_never_raise_anything_else(name: str, value: str) -> None:
    environ = {f"OUTRIGGER__{name.upper()}": value, f"OUTRIGGER__FRONT__{name.upper()}": value}
    found = outcome(lambda: load_text(b'{"servers": {"a": {"command": "x"}}}', "fuzz", environ=environ))
    assert not isinstance(found, ConfigError) or found.problems


# the canary: a secret in every place where a value may be, right or wrong


def places(model: Any, at: tuple[str, ...]) -> list[tuple[str, ...]]:
    found = []
    for info in model.model_fields.values():
        section, container = inner_section(info.annotation)
        path = (*at, info.alias)
        found.append(path)
        if section is not None and container is None:
            found += places(section, path)
    return found


@pytest.mark.parametrize(
    "wrap", [str, lambda v: [v], lambda v: {"A": v}, lambda v: {"A": [v]}, lambda v: {"valueFrom": v}]
)
@pytest.mark.parametrize("prefix", ["", "fernet:v1:", "${", "${input:", "http://u:", "a\r\n", "1"])
def test_no_error_and_no_repr_shows_a_value(wrap: Any, prefix: str) -> None:
    server_model = inner_section(SERVER.annotation)[0]
    for path in [*places(Config, ()), *(("servers", "s", *place) for place in places(server_model, ()))]:
        tree: Any = wrap(prefix + CANARY)
        for step in reversed(path):
            tree = {step: tree}
        tree.setdefault("servers", {"s": {"command": "x"}})
        try:
            parsed = parse(tree)
        except ConfigError as error:
            said = f"{error} {error!r} {error.problems}"
        else:
            said = repr(parsed.warnings) + parsed.config.config_hash()
            if path[2:3] in [("env",), ("headers",), ("args",), ("url",), ("command",), ("workingDir",)]:
                said += repr(parsed) + str(parsed.config) + repr(parsed.config.model_dump())
                said += parsed.config.model_dump_json()
        assert CANARY not in said, path

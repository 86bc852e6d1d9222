"""What a config says about values, and that it never says the value."""

from __future__ import annotations

import pytest

from mcp_sidecar.config import Reference, Text, Value

CANARY = "canary-5f3a9c"


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        ("plain", ("plain",)),
        ("", ("",)),
        ("${A}", (Reference("A"),)),
        ("Bearer ${A}", ("Bearer ", Reference("A"))),
        ("${A:-x y}/${B}", (Reference("A", "x y"), "/", Reference("B"))),
        ("${A:-}", (Reference("A", ""),)),
        ("${env:A}", (Reference("A"),)),
        ("${userHome}/x", (Reference("HOME"), "/x")),
        ("$${A}", ("${A}",)),
        ("$A $", ("$A $",)),
        ("{A}", ("{A}",)),
        ("a$${b}${C}d", ("a${b}", Reference("C"), "d")),
    ],
)
def test_text(raw: str, parts: tuple[object, ...]) -> None:
    assert Value.parse(raw).parts == parts


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("${input:token}", "nobody to ask"),
        ("${workspaceFolder}/x", "variable of an editor"),
        ("${A", "without `}`"),
        ("${}", "none of"),
        ("${A B}", "none of"),
        ("${1A}", "none of"),
        ("${A:x}", "none of"),
        ("a\0b", "NUL"),
        ("fernet:v1:", "no sealed value"),
        ("fernet:v1:not base64!", "no sealed value"),
        (None, "must be a string"),
        (True, "must be a string"),
        (1.5, "must be a string"),
        ({}, "must be a string"),
        ({"valueFrom": {}}, "must be a string"),
        ({"valueFrom": {"file": "a", "env": "B"}}, "must be a string"),
        ({"valueFrom": {"file": ""}}, "exactly one"),
        ({"valueFrom": {"exec": "x"}}, "exactly one"),
        ({"valueFrom": {"file": "a"}, "x": 1}, "must be a string"),
        ({"valueFrom": {"env": "not a name"}}, "name of an environment variable"),
    ],
)
def test_bad_value(raw: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Value.parse(raw)


def test_number_is_text() -> None:
    assert Value.parse(8080).parts == ("8080",)


def test_kinds_and_where_they_come_from() -> None:
    file = Value.parse({"valueFrom": {"file": "/run/secrets/token"}})
    env = Value.parse({"valueFrom": {"env": "TOKEN"}})
    sealed = Value.parse("fernet:v1:gAAAA_-=")
    assert [value.kind for value in (file, env, sealed)] == ["file", "env", "sealed"]
    assert file.describe() == "the file /run/secrets/token"
    assert env.describe() == "the environment variable TOKEN"
    assert env.references == ("TOKEN",)
    assert not file.literal
    assert Value.parse("x").literal
    assert Value.parse("x${A}").describe() == "a text with ${A}"


@pytest.mark.parametrize("raw", [CANARY, f"fernet:v1:{CANARY}", f"a${{A:-{CANARY}}}", f"{CANARY}${{B}}"])
def test_never_printed(raw: str) -> None:
    value = Value.parse(raw)
    assert CANARY not in f"{value} {value!r} {[value]} {value.parts if value.kind == 'x' else ''} {value.describe()}"
    assert CANARY not in repr(value.shape())


def test_arguments_take_no_sealed_value_and_no_object() -> None:
    with pytest.raises(ValueError, match="for env and headers"):
        Text.parse("fernet:v1:gAAAA")
    with pytest.raises(ValueError, match="must be a string"):
        Text.parse({"valueFrom": {"file": "x"}})
    with pytest.raises(ValueError, match="must be a string"):
        Text.parse(5)

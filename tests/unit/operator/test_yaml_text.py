"""YAML as Kubernetes reads it: what a plain word means, what is refused, that nothing of the text is in an error."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mcp_operator.yaml_text import YamlError, dump_all, load_all

SECRET = "c0ffee42canary"


def load(text: str) -> Any:
    [(_, content)] = load_all(text)
    return content


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-01", "2024-01-01"),  # PyYAML makes a date of it, kubectl a string
        ("12:30", "12:30"),  # and this would be 750
        ("1e3", 1000.0),  # and this a string
        ("0644", 420),
        ("0o17", 15),
        ("0x1f", 31),
        ("1_000", 1000),
        ("-12", -12),
        ("+3", 3),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("1.5", 1.5),
        ("'1.5'", "1.5"),
        ("8080", 8080),
        ("0", 0),
        ("1.2.3", "1.2.3"),
    ],
)
def test_plain_words_mean_what_they_mean_to_kubectl(text: str, value: object) -> None:
    found = load(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_documents_have_lines_and_may_be_empty() -> None:
    assert list(load_all("a: 1\n---\n---\n# nothing\nb: 2\n")) == [(1, {"a": 1}), (3, None), (5, {"b": 2})]


def test_json_is_yaml() -> None:
    assert load('{"a": [1, "x"], "b": {"c": null}}') == {"a": [1, "x"], "b": {"c": None}}


def test_whole_number_as_a_key_is_text() -> None:
    assert load("1: x") == {"1": "x"}


def test_merge_keys_work() -> None:
    assert load("x: &a {b: 1, c: 1}\nz: {<<: *a, c: 2}")["z"] == {"b": 1, "c": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2", "line 2, column 1: a key is there twice in one object"),
        ("on: 1", "line 1, column 1: a key is no string; quote it"),
        ("a: [1", "line 2, column 1: did not find expected ',' or ']'"),
        (f"a: *{SECRET}", "line 1, column 4: found undefined alias"),
        (f"a: !{SECRET} x", "line 1, column 4: could not determine a constructor for the tag"),
        (f"a: {SECRET}: b", "column"),
        (f'a: "{SECRET}\\q"', "found unknown escape character"),
        (f"a: '{SECRET}", "found unexpected end of stream"),
        ("a: \x01", "a character that YAML does not allow"),
        ("a: &a [*a]", "column"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
    ],
)
def test_what_is_refused_is_not_repeated(text: str, said: str) -> None:
    with pytest.raises(YamlError) as caught:
        list(load_all(text))
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_comes_before_a_mistake_is_read() -> None:
    documents = load_all(f"a: {'1' * 2000}\n---\n[")
    assert next(documents)[0] == 1
    with pytest.raises(YamlError):
        next(documents)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.lists(st.dictionaries(st.text(), JSON), min_size=1, max_size=3))
def test_what_is_written_reads_back(documents: list[dict[str, Any]]) -> None:
    assert [content for _, content in load_all(dump_all(documents))] == documents


@pytest.mark.parametrize(
    "word", ["y", "n", "yes", "null", "~", "1e3", "12:30", "2024-01-01", "0o7", "0x1F", "1_0", "=", "<<", ""]
)
def test_words_that_mean_something_elsewhere_are_quoted(word: str) -> None:
    text = dump_all([{"a": word}])
    assert text in (f"---\na: '{word}'\n", f'---\na: "{word}"\n')
    assert yaml.safe_load(text) == {"a": word}


def test_lines_are_written_as_lines() -> None:
    assert dump_all([{"data": {"config.json": '{\n  "a": 1\n}\n'}}]) == (
        '---\ndata:\n  config.json: |\n    {\n      "a": 1\n    }\n'
    )


def test_what_occurs_twice_is_written_twice() -> None:
    shared = {"a": [1]}
    assert dump_all([{"x": shared, "z": shared}]) == "---\nx:\n  a:\n    - 1\nz:\n  a:\n    - 1\n"

"""Durations, sizes, names and patterns."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.config import NamePatterns, parse_duration, parse_size, show_duration, show_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("1h", 3600), ("1.5s", 1.5), ("0s", 0), ("90m", 5400)],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "1d", "1h30m", " 5s", "5s ", "-5s", "5 s", "5S", "1e3s", "٣s", ".5s", "5.s", "9" * 99 + "s"]
)
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "size"), [("1B", 1), ("512KiB", 524288), ("4MiB", 4194304), ("2GiB", 2147483648)])
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4MB", "4M", "4 MiB", "4.5MiB", "-1B", "MiB", "٣B"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        parse_size(text)


@given(st.integers(0, 10**9))
def test_shown_duration_is_read_back(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(show_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@given(st.integers(0, 2**40))
def test_shown_size_is_read_back(size: int) -> None:
    assert parse_size(show_size(size)) == size


@given(
    st.lists(st.text("ab*?.", max_size=6), max_size=3),
    st.lists(st.text("ab*?.", max_size=6), max_size=3),
    st.text("ab.", max_size=8),
)
def test_patterns_match_as_the_shell_does(allowed: list[str], denied: list[str], name: str) -> None:
    decide = NamePatterns(tuple(allowed), tuple(denied))
    expected = any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed) and not any(
        fnmatch.fnmatchcase(name, pattern) for pattern in denied
    )
    assert decide(name) == expected
    assert decide(name) == expected, "remembered"


def test_patterns_without_allow_list_allow() -> None:
    assert NamePatterns(None)("anything")
    assert not NamePatterns(None, ("delete_*",))("delete_all")
    assert not NamePatterns(())("anything")


def test_brackets_are_no_character_class() -> None:
    assert NamePatterns(("[ab]",))("[ab]")
    assert not NamePatterns(("[ab]",))("a")


def test_a_name_cannot_make_matching_slow() -> None:
    decide = NamePatterns(("*a*a*a*a*a*a*a*a*b",))
    started = time.process_time()
    assert not decide("a" * 20_000)
    assert time.process_time() - started < 1


def test_what_is_remembered_is_bounded() -> None:
    decide = NamePatterns(("x*",))
    for number in range(10_000):
        assert decide(f"x{number}")
    assert len(decide._known) < 5000

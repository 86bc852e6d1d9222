"""The operators, functions and methods of CEL that the rules use, with CEL's meaning where Python's differs.

What they are given comes from a manifest, so a wrong type is an error of the rule (`CelError`) and never an exception
of Python's. Regular expressions are RE2's in an API server; the rules keep to what means the same in `re`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mcp_sidecar.config import parse_duration

_QUANTITY = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))((?:[KMGTPE]i)|[numkMGTPE]|(?:[eE][+-]?[0-9]+))?")
_SUFFIX = {
    suffix: Fraction(1000) ** (power - 3) for power, suffix in enumerate(("n", "u", "m", "", "k", "M", "G", "T"))
}
_SUFFIX |= {"P": Fraction(1000) ** 5, "E": Fraction(1000) ** 6}
_SUFFIX |= {f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}


class CelError(Exception):
    """A rule cannot be evaluated for this value."""


@dataclass(frozen=True, order=True, slots=True)
class Duration:
    """A CEL duration. Whole nanoseconds, so that 700ms and 0.7s are the same."""

    nanoseconds: int


@lru_cache(maxsize=512)
def expression(pattern: str) -> re.Pattern[str]:
    """A pattern of a schema or rule (RE2, ECMA) for `search`: in `re`, `$` would also stand before a last newline."""
    return re.compile(re.sub(r"(?<!\\)\$(?![^\[]*\])", r"\\Z", pattern), re.ASCII)


def _duration(text: Any) -> Duration:
    try:
        return Duration(round(parse_duration(_string(text)) * 1e9))
    except ValueError:
        raise CelError("is no duration") from None


def _quantity(text: Any) -> Fraction:
    match = _QUANTITY.fullmatch(_string(text))
    if match is None:
        raise CelError("is no quantity")
    suffix = match[2] or ""
    factor = Fraction(10) ** int(suffix[1:]) if suffix[:1] in ("e", "E") and suffix != "E" else _SUFFIX[suffix]
    return Fraction(match[1]) * factor


def _int(text: Any) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        raise CelError("is no whole number") from None


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise CelError("is no string")
    return value


def _matches(text: Any, pattern: str) -> bool:
    return expression(pattern).search(_string(text)) is not None


def _find(text: Any, pattern: str) -> str:
    match = expression(pattern).search(_string(text))
    return match[0] if match else ""


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def checked(left: Any, right: Any) -> bool:
        try:
            return compare(left, right)
        except TypeError:
            raise CelError("cannot be compared") from None

    return checked


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": _ordered(lambda left, right: left < right),
    "<=": _ordered(lambda left, right: left <= right),
    ">": _ordered(lambda left, right: left > right),
    ">=": _ordered(lambda left, right: left >= right),
    "in": _ordered(lambda left, right: left in right),
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "duration": _duration,
    "int": _int,
    "quantity": _quantity,
    "size": len,
    "string": str,
}

METHODS: dict[str, Callable[..., Any]] = {
    "endsWith": lambda text, end: _string(text).endswith(end),
    "find": _find,
    "isGreaterThan": _ordered(lambda left, right: left > right),
    "lowerAscii": lambda text: "".join(c.lower() if c.isascii() else c for c in _string(text)),
    "matches": _matches,
    "size": len,
    "startsWith": lambda text, start: _string(text).startswith(start),
}

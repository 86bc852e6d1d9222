"""Allow- and deny-lists of names with `*` and `?`, for tools.

Patterns come from the config, names from callers and servers. Matching is cached with a bound, since both the number of
names that callers invent and the time one match takes would otherwise be theirs to choose.
"""

from __future__ import annotations

import re

_MAX_REMEMBERED = 4096


class NamePatterns:
    """Decides which names are allowed: those that match `allowed` (None: all) and do not match `denied`."""

    __slots__ = ("_allowed", "_denied", "_known")

    def __init__(self, allowed: tuple[str, ...] | None, denied: tuple[str, ...] = ()) -> None:
        self._allowed = None if allowed is None else _compile(allowed)
        self._denied = _compile(denied)
        self._known: dict[str, bool] = {}

    def __call__(self, name: str) -> bool:
        """True when `name` is allowed. Case matters."""
        known = self._known.get(name)
        if known is None:
            known = not self._denied.fullmatch(name) and (
                self._allowed is None or self._allowed.fullmatch(name) is not None
            )
            if len(self._known) < _MAX_REMEMBERED:
                self._known[name] = known
        return known


def _compile(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all patterns; for none, one that matches nothing."""
    if not patterns:
        return re.compile(r"(?!)")
    return re.compile("|".join(_translate(pattern) for pattern in patterns), re.DOTALL)


def _translate(pattern: str) -> str:
    # Possessive groups keep `a*b*c*d` linear in the name: once a literal was found, it is not looked for again.
    head, *rest = [re.escape(piece).replace(r"\?", ".") for piece in re.sub(r"\*+", "*", pattern).split("*")]
    if not rest:
        return f"(?:{head})"
    *middle, tail = rest
    return "(?:" + head + "".join(f"(?>.*?{piece})" for piece in middle) + f".*{tail})"

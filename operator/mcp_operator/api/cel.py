"""Evaluates the rules of the CRD without an API server: `render` and `up` refuse what a cluster would refuse.

A subset of the Common Expression Language (https://cel.dev, and Kubernetes' library for strings, durations and
quantities), as much as the rules use; anything else is a `SyntaxError` when the rule is compiled. An expression becomes
a tree of closures once. What the rules are, and what to say when one fails, is left to others; the tests against a real
API server compare both on every rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from mcp_operator.api.cel_functions import FUNCTIONS, METHODS, CelError

Evaluate = Callable[[Mapping[str, Any]], Any]

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<raw>r'[^']*')|(?P<string>'[^'\\]*')|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"""
    r"""|(?P<sign>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()\[\]]))"""
)
_MACROS = ("all", "exists", "exists_one", "filter", "map")
_LITERALS = {"true": True, "false": False}
_LEVELS = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*", "/", "%"))


@lru_cache(maxsize=1024)
def compiled(rule: str) -> Callable[[Any], bool]:
    """The rule as a function of `self`. Raises SyntaxError for what is not supported.

    The function raises CelError where the API server would report an evaluation error: then the rule has failed, too.
    """
    evaluate = _Parser(rule).whole()

    def holds(self: Any) -> bool:
        result = evaluate({"self": self})
        if not isinstance(result, bool):
            raise CelError("is neither true nor false")
        return result

    return holds


class _Parser:
    """One expression. Each method returns the closure of what it has read."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        self._next = 0
        self._text = text
        place = 0
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if match is None or match.lastgroup is None:
                raise SyntaxError(f"cannot read {text[place:]!r}")
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            place = match.end()

    def whole(self) -> Evaluate:
        """The expression, to its end."""
        found = self._conditional()
        if self._next < len(self._tokens):
            raise SyntaxError(f"unexpected {self._peek()!r} in {self._text!r}")
        return found

    def _peek(self) -> str:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else ""

    def _take(self, wanted: str = "") -> str:
        if self._next >= len(self._tokens) or (wanted and self._peek() != wanted):
            raise SyntaxError(f"expected {wanted or 'more'} before {self._peek()!r} in {self._text!r}")
        self._next += 1
        return self._tokens[self._next - 1][1]

    def _conditional(self) -> Evaluate:
        test = self._binary(0)
        if self._peek() != "?":
            return test
        self._take()
        yes = self._binary(0)
        self._take(":")
        no = self._conditional()
        return lambda scope: yes(scope) if _bool(test(scope)) else no(scope)

    def _binary(self, level: int) -> Evaluate:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while self._peek() in _LEVELS[level] and self._tokens[self._next][0] in ("sign", "name"):
            left = _joined(self._take(), left, self._binary(level + 1))
        return left

    def _unary(self) -> Evaluate:
        if self._peek() == "!":
            self._take()
            inner = self._unary()
            return lambda scope: not _bool(inner(scope))
        return self._member()

    def _member(self) -> Evaluate:
        value = self._primary()
        while self._peek() in (".", "["):
            if self._take() == "[":
                value = _index(value, self._conditional())
                self._take("]")
                continue
            name = self._take()
            if self._peek() != "(":
                value = _select(value, name)
            elif name in _MACROS:
                value = self._macro(value, name)
            else:
                value = _call(METHODS, name, [value, *self._arguments()])
        return value

    def _macro(self, items: Evaluate, name: str) -> Evaluate:
        self._take("(")
        variable = self._take()
        self._take(",")
        body = self._conditional()
        self._take(")")

        def results(scope: Mapping[str, Any]) -> list[tuple[Any, Any]]:
            found = items(scope)
            if not isinstance(found, list | dict):
                raise CelError("is neither a list nor an object")
            return [(item, body({**scope, variable: item})) for item in found]

        def each(scope: Mapping[str, Any]) -> Any:
            found = results(scope)
            match name:
                case "all":
                    return all(_bool(result) for _, result in found)
                case "exists":
                    return any(_bool(result) for _, result in found)
                case "exists_one":
                    return sum(_bool(result) for _, result in found) == 1
                case "filter":
                    return [item for item, result in found if _bool(result)]
            return [result for _, result in found]

        return each

    def _arguments(self) -> list[Evaluate]:
        self._take("(")
        return self._list(")")

    def _list(self, end: str) -> list[Evaluate]:
        found: list[Evaluate] = []
        while self._peek() != end:
            found.append(self._conditional())
            if self._peek() == ",":
                self._take()
        self._take(end)
        return found

    def _primary(self) -> Evaluate:
        kind, text = self._tokens[self._next] if self._next < len(self._tokens) else ("", "")
        self._take()
        if kind == "number":
            number: int | float = float(text) if "." in text else int(text)
            return lambda scope: number
        if kind in ("string", "raw"):
            string = text[text.index("'") + 1 : -1]
            return lambda scope: string
        if text == "(":
            inner = self._conditional()
            self._take(")")
            return inner
        if text == "[":
            items = self._list("]")
            return lambda scope: [item(scope) for item in items]
        if kind != "name":
            raise SyntaxError(f"unexpected {text!r} in {self._text!r}")
        if text in _LITERALS:
            literal = _LITERALS[text]
            return lambda scope: literal
        if text == "has":
            return self._has()
        if self._peek() == "(":
            return _call(FUNCTIONS, text, self._arguments())
        return lambda scope: scope[text]

    def _has(self) -> Evaluate:
        self._take("(")
        value = self._primary()
        steps = []
        while self._peek() == ".":
            self._take()
            steps.append(self._take())
        self._take(")")
        for step in steps[:-1]:
            value = _select(value, step)
        last = steps[-1]

        def has(scope: Mapping[str, Any]) -> bool:
            holder = value(scope)
            if not isinstance(holder, Mapping):
                raise CelError("is no object")
            return last in holder

        return has


def _joined(operator: str, left: Evaluate, right: Evaluate) -> Evaluate:
    if operator in ("&&", "||"):
        return _logical(left, right, decides=operator == "||")
    apply = FUNCTIONS[operator]
    return lambda scope: apply(left(scope), right(scope))


def _logical(left: Evaluate, right: Evaluate, *, decides: bool) -> Evaluate:
    """`&&` and `||`: a side that decides wins over an error of the other, whichever comes first."""

    def evaluate(scope: Mapping[str, Any]) -> bool:
        try:
            if _bool(left(scope)) is decides:
                return decides
        except CelError:
            if _bool(right(scope)) is decides:
                return decides
            raise
        return _bool(right(scope))

    return evaluate


def _select(value: Evaluate, name: str) -> Evaluate:
    def select(scope: Mapping[str, Any]) -> Any:
        holder = value(scope)
        if not isinstance(holder, Mapping) or name not in holder:
            raise CelError(f"has no {name}")
        return holder[name]

    return select


def _index(value: Evaluate, place: Evaluate) -> Evaluate:
    def index(scope: Mapping[str, Any]) -> Any:
        try:
            return value(scope)[place(scope)]
        except (KeyError, IndexError, TypeError):
            raise CelError("has no such entry") from None

    return index


def _call(table: Mapping[str, Callable[..., Any]], name: str, arguments: list[Evaluate]) -> Evaluate:
    if name not in table:
        raise SyntaxError(f"there is no function {name}")
    function = table[name]
    return lambda scope: function(*(argument(scope) for argument in arguments))


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise CelError("is neither true nor false")
    return value

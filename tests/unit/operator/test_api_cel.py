"""The evaluator of rules means what CEL means."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_operator.api.cel import compiled
from mcp_operator.api.cel_functions import CelError

SELF: dict[str, Any] = {
    "name": "Blue",
    "port": 80,
    "empty": [],
    "list": ["a", "b", "a"],
    "map": {"x": "1", "y.z": "2"},
    "inner": {"on": True},
}


@pytest.mark.parametrize(
    "rule",
    [
        "true",
        "!false",
        "1 + 2 * 3 == 7",
        "7 - 2 - 1 == 4",
        "(1 + 2) * 3 == 9",
        "1 < 2 && 2 <= 2 && 3 > 2 && 3 >= 3 && 1 != 2",
        "false || true && true",
        "!(true && false) || false",
        "true ? 1 == 1 : 1 == 2",
        "false ? false : true ? true : false",
        "self.port == 80",
        "has(self.name) && !has(self.nothing)",
        "has(self.inner.on) && self.inner.on",
        "!has(self.inner.off)",
        "has(self.empty) && self.empty.size() == 0",
        "self.list.size() == 3 && size(self.list) == 3 && self.name.size() == 4",
        "self.list[1] == 'b'",
        "self.map['y.z'] == '2'",
        "'x' in self.map && !('z' in self.map)",
        "'a' in ['a', 'b'] && !('c' in ['a', 'b'])",
        "self.list.exists(i, i == 'b') && !self.list.exists(i, i == 'c')",
        "self.list.all(i, i.size() == 1) && !self.list.all(i, i == 'a')",
        "self.list.exists_one(i, i == 'b') && !self.list.exists_one(i, i == 'a')",
        "self.list.filter(i, i == 'a').size() == 2",
        "self.list.map(i, i + '!')[0] == 'a!'",
        "self.empty.all(i, false) && !self.empty.exists(i, true)",
        "self.map.exists(key, key == 'x') && self.map.all(key, self.map[key].size() == 1)",
        "self.list.all(a, self.list.exists(b, a == b && self.port == 80))",
        "self.name.lowerAscii() == 'blue' && self.name.startsWith('Bl') && self.name.endsWith('ue')",
        "self.name.matches('^Bl') && self.name.matches('lu') && !self.name.matches('^lu')",
        "self.name.matches(r'^\\w+$')",
        "'12MiB'.find('^[0-9]+') == '12' && 'x'.find('[0-9]+') == ''",
        "int('12') * 2 == 24",
        "duration('90s') > duration('1m') && duration('700ms') == duration('0.7s')",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && !quantity('1').isGreaterThan(quantity('1000m'))",
        "quantity('1e3').isGreaterThan(quantity(string(999)))",
    ],
)
def test_true(rule: str) -> None:
    assert compiled(rule)(SELF) is True
    assert compiled(f"!({rule})")(SELF) is False


@pytest.mark.parametrize(
    "rule",
    [
        "self.nothing == 1",
        "self.inner.nothing.more == 1",
        "has(self.name.more)",
        "self.list[7] == 'a'",
        "self.map['nothing'] == 'a'",
        "self.name",
        "self.port && true",
        "self.name > 3",
        "duration('1h30m') == duration('90m')",
        "duration('soon') == duration('1s')",
        "int('many') == 1",
        "quantity('much').isGreaterThan(quantity('1'))",
        "self.port.startsWith('8')",
        "self.name.all(letter, true)",
        "3 in self.port",
    ],
)
def test_error(rule: str) -> None:
    with pytest.raises(CelError):
        compiled(rule)(SELF)


def test_side_that_decides_wins_over_an_error() -> None:
    assert compiled("self.nothing == 1 || true")(SELF) is True
    assert compiled("true || self.nothing == 1")(SELF) is True
    assert compiled("!(self.nothing == 1 && false)")(SELF) is True
    with pytest.raises(CelError):
        compiled("self.nothing == 1 || false")(SELF)


def test_dollar_is_the_very_end() -> None:
    assert compiled("self.name.matches('^a$')")({"name": "a\n"}) is False


@pytest.mark.parametrize(
    "rule",
    ["1 +", "self.", "(true", "true false", "[1, 2", "self.unknown()", "unknown(1)", "a ? b", "has(", "#", "'open"],
)
def test_what_is_not_supported_is_refused_when_it_is_compiled(rule: str) -> None:
    with pytest.raises(SyntaxError):
        compiled(rule)

"""Reads JSON the way people keep configs: with `//` and `/* */` comments and trailing commas, but no duplicate keys.

VS Code writes such files, and a comment has one meaning only. A duplicate key has two, so it is an error with its path.
NaN, infinities, lone surrogates and absurd depth are refused too, since later parts could not handle them.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

from mcp_sidecar.config.paths import Path, show
from mcp_sidecar.errors import ConfigError, Problem

MAX_BYTES = 8 << 20
"""Largest config. A ConfigMap holds 1 MiB."""

_MAX_DEPTH = 100


class _Object(dict[str, Any]):
    """A JSON object that remembers which keys came twice."""

    __slots__ = ("repeated",)
    repeated: tuple[str, ...]


def decode(data: bytes, source: str) -> object:
    """The JSON value in `data` (UTF-8, a BOM allowed). Raises ConfigError naming `source`, line and column."""
    if len(data) > MAX_BYTES:
        raise ConfigError([Problem("", f"is larger than {MAX_BYTES >> 20}MiB")], source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("", f"is not UTF-8 (byte {error.start})")], source) from None
    if not text.strip():
        raise ConfigError([Problem("", "is empty")], source)
    try:
        value = json.loads(_plain(text), object_pairs_hook=_pairs, parse_constant=_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigError([Problem("", f"is no JSON: {error.msg} at {where}")], source) from None
    except RecursionError:
        raise ConfigError([Problem("", "is nested too deeply")], source) from None
    except ValueError as error:  # our own hooks, and integers of more than 4300 digits
        known = isinstance(error, _RefusedError)
        raise ConfigError([Problem("", str(error) if known else "holds a number that is too long")], source) from None
    problems: list[Problem] = []
    value = _clean(value, (), problems, 0)
    if problems:
        raise ConfigError(problems, source)
    return value


class _RefusedError(ValueError):
    pass


def _constant(name: str) -> NoReturn:
    raise _RefusedError(f"holds {name}, which is no JSON")


def _pairs(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    counts = Counter(key for key, _ in pairs) if len(found) < len(pairs) else {}
    found.repeated = tuple(key for key, count in counts.items() if count > 1)
    return found


def _clean(value: object, path: Path, problems: list[Problem], depth: int) -> object:
    """`value` of plain dicts and lists; what must not be in a config goes to `problems`."""
    if depth > _MAX_DEPTH:
        problems.append(Problem(show(path), "is nested too deeply"))
        return None
    match value:
        case _Object():
            problems.extend(Problem(show((*path, key)), "is there twice") for key in value.repeated)
            problems.extend(Problem(show((*path, key)), "is no Unicode text") for key in value if not _encodable(key))
            return {key: _clean(item, (*path, key), problems, depth + 1) for key, item in value.items()}
        case list():
            return [_clean(item, (*path, index), problems, depth + 1) for index, item in enumerate(value)]
        case str() if not _encodable(value):
            problems.append(Problem(show(path), "is no Unicode text"))
            return ""
    return value


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _plain(text: str) -> str:
    """`text` with comments and trailing commas replaced by spaces, so that lines and columns stay."""
    if "/" not in text and "," not in text:
        return text
    out: list[str] = []
    index, length = 0, len(text)
    comma = -1  # place in `out` of a comma after a value and before nothing yet
    last = "["  # the last character that meant something
    while index < length:
        character = text[index]
        if character == '"':
            end = index + 1
            while end < length and text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            out.append(text[index : end + 1])
            index, comma, last = end + 1, -1, '"'
            continue
        if character == "/" and text.startswith(("//", "/*"), index):
            end = _comment_end(text, index)
            out.append("".join(c if c in "\r\n" else " " for c in text[index:end]))
            index = end
            continue
        if not character.isspace():
            if character in "]}" and comma >= 0:
                out[comma] = " "
            comma = len(out) if character == "," and last not in "[{,:" else -1
            last = character
        out.append(character)
        index += 1
    return "".join(out)


def _comment_end(text: str, start: int) -> int:
    if text.startswith("//", start):
        end = text.find("\n", start)
        return len(text) if end < 0 else end
    end = text.find("*/", start + 2)
    if end < 0:
        raise json.JSONDecodeError("Comment without end", text, start)
    return end + 2

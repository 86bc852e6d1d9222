"""What the README and the pages of docs/ show: commands at a terminal with what they print, manifests, links.

A test runs a command and compares; `alike` takes out what differs from run to run. A block of commands that no test can
run has the comment `<!-- not run: why -->` before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = "README.md"

_MARK = re.compile(r"<!-- not run: (.+) -->")
_ALIKE = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ][\d:.,]+Z?"), "TIME"),
    (re.compile(r"\b\d+(\.\d+){3}\b"), "ADDRESS"),
    (re.compile(r"\b(\d+(ms|[dhms]))+\b"), "AGE"),
    (re.compile(r"-[0-9a-f]{8,10}-[0-9a-z]{5}\b"), "-POD"),
    (re.compile(r"\b[0-9a-f]{10,}\b"), "HASH"),
    (re.compile(r"fernet:v1:\S+"), "SEALED"),
    (re.compile(r"\b(\d{1,2}:\d\d(:\d\d)?)\b"), "TIME"),
    (re.compile(r"-{3,}|─{3,}"), "LINE"),
)


@dataclass(frozen=True)
class Command:
    """One command of a page. `prints`: the lines below it; empty where the page shows none."""

    page: str
    line: int
    text: str
    prints: tuple[str, ...] = ()
    not_run: str | None = None
    """Why no test runs it, as its page says."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def section(page: str, heading: str) -> range:
    """The numbers of the lines below a heading (with its `#`s), up to the next one of its level or above."""
    lines = _lines(page)
    begin = lines.index(heading)
    level = heading.index(" ")
    ends = (n for n in range(begin + 1, len(lines)) if re.match(rf"#{{1,{level}}} ", lines[n]))
    return range(begin + 1, next(ends, len(lines)))


def commands(page: str = README, within: range | None = None) -> list[Command]:
    """The lines `$ <command>` of the indented blocks of a page, in order. One that ends in a backslash goes on."""
    lines = _lines(page)
    found: list[Command] = []
    not_run = None
    number = 0
    while number < len(lines):
        line = lines[number]
        if mark := _MARK.fullmatch(line):
            not_run = mark[1]
        elif line and not line.startswith("    "):
            not_run = None
        if not line.startswith("    $ "):
            number += 1
            continue
        begin, text = number, line[6:]
        while text.endswith("\\"):
            number += 1
            text = text[:-1].rstrip() + " " + lines[number].strip()
        end = number + 1
        while end < len(lines) and (lines[end].startswith("    ") and not lines[end].startswith("    $ ")):
            end += 1
        prints = tuple(each[4:] for each in lines[number + 1 : end])
        if within is None or begin in within:
            found.append(Command(page, begin + 1, re.sub(r"\s+# .*$", "", text), prints, not_run))
        number = end
    return found


def fenced(page: str, language: str) -> Iterator[tuple[int, str]]:
    """The blocks between ```<language> and ```: the number of the first line, and the text."""
    text = "\n".join(_lines(page))
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, match.start()) + 2, match[1]


def prose(page: str) -> str:
    """A page without its blocks of code and its comments."""
    text = re.sub(r"^ *```.*?^ *```", "", "\n".join(_lines(page)), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return re.sub(r"^(    |\t).*$", "", text, flags=re.MULTILINE)


def shown(command: str, page: str = README) -> list[str]:
    """The lines below the one command of a page that has this text, up to the next command or the end of the block."""
    lines = _lines(page)
    (begin,) = [number for number, line in enumerate(lines) if re.match(rf"    \$ .*{re.escape(command)}", line)]
    found = []
    for line in lines[begin + 1 :]:
        if line.startswith("    $ ") or not (line.startswith("    ") or not line):
            break
        found.append(line[4:])
    return found


def words(text: str) -> list[str]:
    """Without regard to columns and line ends, which depend on how long names are."""
    return text.split()


def alike(text: str) -> list[str]:
    """The words of a text without times, ages, addresses, hashes and generated names."""
    for pattern, name in _ALIKE:
        text = pattern.sub(name, text)
    return words(text)


def _lines(page: str) -> list[str]:
    return (ROOT / page).read_text(encoding="utf-8").splitlines()

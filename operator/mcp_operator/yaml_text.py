"""YAML as Kubernetes reads and writes it: every document a JSON object, no surprises of YAML 1.1, no quotes in errors.

A date stays a string, a key is a string, a repeated key is an error (kubectl refuses it too), `12:30` is no number.
What is written reads back the same in this loader, in PyYAML's and in Go's. What the objects mean is left to
`documents`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

_TRUE_OR_FALSE = re.compile(r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$")
_WHOLE = re.compile(r"^[-+]?(?:0b[0-1_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$")
_NUMBER = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_NOTHING = re.compile(r"^(?:~|null|Null|NULL|)$")
_MERGE = re.compile(r"^<<$")

_MAX_DEPTH = 500
"""The C library's parser follows any depth, and what builds the objects from it crashes at some."""

_QUOTED = re.compile(r"\s*'[^']*'")
_SIGN = re.compile(r"\s*'[-,:?\[\]{}]'")
_ODD = re.compile("[\x85\u2028\u2029\ufeff]")


class YamlError(ValueError):
    """A text is no YAML that Kubernetes would take. The message names line and column, never what stands there."""


class _Resolvers:
    """What a plain scalar is taken for."""

    READ = (
        ("bool", _TRUE_OR_FALSE, "yYnNtTfFoO"),
        ("int", _WHOLE, "-+0123456789"),
        ("float", _NUMBER, "-+0123456789."),
        ("merge", _MERGE, "<"),
        ("null", _NOTHING, "~nN\0"),
    )
    # What some reader takes for something else than a string, so that it is written in quotes.
    WRITTEN = (
        *READ,
        ("bool", re.compile(r"^[yYnN]$"), "yYnN"),
        ("int", re.compile(r"^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?$"), "-+0123456789"),
        ("float", re.compile(r"^[-+]?[0-9_.]+(?:[eE][-+]?[0-9]+)?$"), "-+0123456789._"),
        ("timestamp", re.compile(r"^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"), "0123456789"),
        ("value", re.compile(r"^=$"), "="),
    )

    @staticmethod
    def install(target: Any, table: Iterable[tuple[str, re.Pattern[str], str]]) -> None:
        """Let `target`, a loader's or dumper's class, use `table` and nothing it inherited."""
        target.yaml_implicit_resolvers = {}
        for tag, pattern, first in table:
            characters = ["" if character == "\0" else character for character in first]
            target.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", pattern, characters)


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]  # one of two classes
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        """An object; keys are strings and unique."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in _KEYS:
                raise yaml.constructor.ConstructorError(None, None, "a key is no string; quote it", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is there twice in one object", key_node.start_mark
                )
            seen.add(key_node.value)
        self.flatten_mapping(node)
        return {key_node.value: self.construct_object(value_node, deep=True) for key_node, value_node in node.value}


_KEYS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:int"}
_Resolvers.install(_Loader, _Resolvers.READ)


def _whole(loader: Any, node: Any) -> int:
    text = node.value.replace("_", "")
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    if digits[:2].lower() in ("0x", "0o", "0b"):
        return sign * int(digits, 0)
    return sign * int(digits, 8 if digits != "0" and digits[0] == "0" else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _float(node.value))


def _float(text: str) -> float:
    lowered = text.lower()
    if lowered.endswith((".inf", ".nan")):
        return float(lowered.replace(".", ""))
    return float(text)


def load_all(text: str) -> Iterator[tuple[int, Any]]:
    """Every document of `text` with the line it begins in, from 1; an empty document is None. Raises YamlError."""
    loader = _Loader(text)
    try:
        _check_depth(text)
        while loader.check_node():
            node = loader.get_node()
            yield node.start_mark.line + 1, loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        # What is in quotes is from the text, and the text may be a Secret.
        said = _QUOTED.sub(_signs_only, error.problem or error.context or "no YAML")
        raise YamlError(f"{where}{said}") from None
    except yaml.reader.ReaderError as error:
        raise YamlError(f"position {error.position}: a character that YAML does not allow") from None
    except yaml.YAMLError:
        raise YamlError("no YAML") from None
    finally:
        loader.dispose()


def _check_depth(text: str) -> None:
    if len(text) <= 2 * _MAX_DEPTH:
        return
    depth = 0
    with contextlib.suppress(yaml.YAMLError):  # told when the documents before it were read
        for event in yaml.parse(text, Loader=_Base):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _MAX_DEPTH:
                    raise YamlError("it is nested too deeply")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1


def _signs_only(match: re.Match[str]) -> str:
    return match[0] if _SIGN.fullmatch(match[0]) else ""


class _Dumper(yaml.SafeDumper):
    """Blocks for texts of several lines, no anchors, lists indented below their key."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """As kubectl's own documentation indents lists."""
        super().increase_indent(flow, indentless=False)


_Resolvers.install(_Dumper, _Resolvers.WRITTEN)


def _text(dumper: Any, text: str) -> Any:
    # A block keeps lines readable; YAML cannot write trailing blanks, tabs and odd ends of lines that way.
    style: str | None
    if _ODD.search(text):
        style = '"'
    else:
        lines = text.split("\n")
        style = "|" if len(lines) > 1 and all(line == line.rstrip() and "\t" not in line for line in lines) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(tuple, lambda dumper, items: dumper.represent_list(items))


def dump_all(documents: Iterable[Any]) -> str:
    """`documents` as YAML, each after `---`, keys in the order they have."""
    return yaml.dump_all(
        documents,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        explicit_start=True,
        width=4096,
    )

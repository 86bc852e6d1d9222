"""What a config says about a value: the text, variable, file or sealed token it comes from. Never the value itself.

A `Value` is a description. It is resolved late, by `mcp_sidecar.secrets`, so that a file may rotate and a missing
variable makes one server not ready instead of stopping all. It prints as `***` wherever it is printed, literals too:
desktop clients keep plain tokens in `env`, so every literal is taken for a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

SEALED_PREFIX = "fernet:v1:"
"""How a sealed value begins, wherever it is found: in the config, a variable or a file."""

_REFERENCE = re.compile(r"\$(\$?)\{([^}]*)(\}?)")
_VARIABLE = re.compile(r"(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_EDITOR = re.compile(r"(workspaceFolder|workspaceRoot|file|relativeFile|cwd|lineNumber|selectedText|pathSeparator|/).*")

VALUE_HELP = 'a string, {"valueFrom": {"file": PATH}} or {"valueFrom": {"env": NAME}}'


@dataclass(frozen=True, slots=True)
class Reference:
    """`${NAME}` or `${NAME:-default}` inside a text."""

    name: str
    default: str | None = None

    def __repr__(self) -> str:
        return f"Reference({self.name})"


@dataclass(frozen=True, slots=True, repr=False)
class Value:
    """Where one value comes from.

    `kind` is `text` (with `parts`: literal strings and references), `file` (with `place`, a path), `env` (with
    `place`, a variable's name) or `sealed` (with `parts` holding the token).
    """

    kind: Literal["text", "file", "env", "sealed"]
    parts: tuple[str | Reference, ...] = ()
    place: str = ""

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    @property
    def references(self) -> tuple[str, ...]:
        """Names of the environment variables it needs."""
        if self.kind == "env":
            return (self.place,)
        return tuple(part.name for part in self.parts if isinstance(part, Reference))

    @property
    def literal(self) -> bool:
        """True when the config itself holds the value in plain text."""
        return self.kind == "text" and not self.references

    def describe(self) -> str:
        """Where it comes from, for people: `the file /run/secrets/token`. Never the value."""
        match self.kind:
            case "file":
                return f"the file {self.place}"
            case "env":
                return f"the environment variable {self.place}"
            case "sealed":
                return "a sealed value in the config"
        names = self.references
        return "a text with " + ", ".join(f"${{{name}}}" for name in names) if names else "a text in the config"

    def shape(self) -> object:
        """What `config_hash` sees: places and names, never a literal."""
        if self.kind == "text":
            return ["text", *(part.name for part in self.parts if isinstance(part, Reference))]
        return [self.kind, self.place]

    @classmethod
    def parse(cls, raw: object) -> Value:
        """The description that `raw`, a string or a `valueFrom` object, stands for. Raises ValueError without echo."""
        if isinstance(raw, Value):
            return raw
        if isinstance(raw, str):
            return cls._text(raw)
        if isinstance(raw, Mapping):
            return cls._from(raw)
        if isinstance(raw, int) and not isinstance(raw, bool):  # VS Code allows `"PORT": 8080`
            return cls("text", (str(raw),))
        raise ValueError(f"must be {VALUE_HELP}")

    @classmethod
    def _text(cls, raw: str) -> Value:
        if "\0" in raw:
            raise ValueError("must not hold a NUL character")
        if raw.startswith(SEALED_PREFIX):
            if not re.fullmatch(r"[A-Za-z0-9_=-]+", raw[len(SEALED_PREFIX) :]):
                raise ValueError(f"begins with {SEALED_PREFIX} but is no sealed value; make one with `seal`")
            return cls("sealed", (raw,))
        return cls("text", _split(raw))

    @classmethod
    def _from(cls, raw: Mapping[Any, Any]) -> Value:
        source = raw.get("valueFrom")
        if len(raw) != 1 or not isinstance(source, Mapping) or len(source) != 1:
            raise ValueError(f"must be {VALUE_HELP}")
        ((kind, place),) = source.items()
        if kind not in ("file", "env") or not isinstance(place, str) or not place or "\0" in place:
            raise ValueError('valueFrom must have exactly one of "file" (a path) and "env" (a variable\'s name)')
        if kind == "env" and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", place):
            raise ValueError("valueFrom.env must be the name of an environment variable")
        return cls("file" if kind == "file" else "env", place=place)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # only where there are models

        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(lambda value: "***")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        place = {"type": "string", "minLength": 1}
        return {
            "anyOf": [
                {"type": "string"},
                {"type": "integer"},
                {
                    "type": "object",
                    "properties": {
                        "valueFrom": {
                            "type": "object",
                            "properties": {"file": place, "env": place},
                            "additionalProperties": False,
                            "minProperties": 1,
                            "maxProperties": 1,
                        }
                    },
                    "required": ["valueFrom"],
                    "additionalProperties": False,
                },
            ]
        }


class Text(Value):
    """A `Value` that the config gives as a string only: arguments, URLs, paths. `${NAME}` works in it."""

    __slots__ = ()

    @classmethod
    def parse(cls, raw: object) -> Value:
        """As `Value.parse`, strings only. Raises ValueError."""
        if isinstance(raw, Value):
            return raw
        if not isinstance(raw, str):
            raise ValueError("must be a string")
        if raw.startswith(SEALED_PREFIX):
            raise ValueError("sealed values are for env and headers: here the opened value could be seen by others")
        return cls._text(raw)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string"}


def _split(raw: str) -> tuple[str | Reference, ...]:
    parts: list[str | Reference] = []
    text: list[str] = []
    end = 0
    for match in _REFERENCE.finditer(raw):
        text.append(raw[end : match.start()])
        end = match.end()
        if match[1]:  # `$${` stands for a plain `${`
            text.append(match[0][1:])
            continue
        if not match[3]:
            raise ValueError("has `${` without `}`; write `$${` for a plain `${`")
        joined = "".join(text)
        text.clear()
        if joined:
            parts.append(joined)
        parts.append(_reference(match[2]))
    text.append(raw[end:])
    joined = "".join(text)
    if joined or not parts:
        parts.append(joined)
    return tuple(parts)


def _reference(inner: str) -> Reference:
    if inner.startswith("input:"):
        raise ValueError(
            "${input:…} asks a person, and there is nobody to ask here; "
            'use ${NAME} or {"valueFrom": {"file": PATH}} instead'
        )
    if inner == "userHome":
        return Reference("HOME")
    if _EDITOR.fullmatch(inner):
        raise ValueError("is a variable of an editor, which is not there when the sidecar runs; write the path itself")
    match = _VARIABLE.fullmatch(inner)
    if match is None:
        raise ValueError("has a reference that is none of ${NAME}, ${NAME:-default} and ${env:NAME}")
    return Reference(match[1], match[2])

"""The objects in files: MCPServers with the Secrets and ConfigMaps that they name, for what runs without a cluster.

Reads YAML or JSON files, folders and stdin, and says everything that is wrong with them at once, each with its file and
document. What an MCPServer means is left to `api`; a Secret's values are shown nowhere.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mcp_operator.yaml_text import YamlError, load_all
from mcp_sidecar.config import Problem

STDIN = "-"
SUFFIXES = (".json", ".yaml", ".yml")
MAX_BYTES = 16 << 20
"""Largest file. An object of Kubernetes holds at most 1.5 MiB."""

# As Kubernetes has them. They become names of files and folders, so nothing else may pass.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_KEY = re.compile(r"(?!\.\.)[A-Za-z0-9._-]{1,253}")
_KINDS = {("outrigger.dev", "MCPServer"): "MCPServer", ("", "Secret"): "Secret", ("", "ConfigMap"): "ConfigMap"}


@dataclass(frozen=True)
class Document:
    """One object of a file. `number` counts the file's documents from 1; `content` is as written, with a namespace."""

    source: str
    number: int
    line: int
    content: dict[str, Any] = field(repr=False)

    @property
    def kind(self) -> str:
        """`MCPServer`, `Secret`, …"""
        return str(self.content.get("kind", ""))

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return str(_metadata(self.content).get("name", ""))

    @property
    def namespace(self) -> str:
        """`metadata.namespace`, the one asked for where there is none."""
        return str(_metadata(self.content).get("namespace", ""))

    @property
    def place(self) -> str:
        """Where it stands, for messages: `notes.yaml, document 2 (MCPServer notes)`."""
        what = f"{self.kind} {self.name}".strip()
        return f"{self.source}, document {self.number}" + (f" ({what})" if what else "")

    def problems(self, problems: Iterable[Problem]) -> list[Problem]:
        """`problems`, whose paths are within the object, with this place before them."""
        return [
            Problem(self.place, f"{problem.path}: {problem.message}" if problem.path else problem.message)
            for problem in problems
        ]


def _metadata(content: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = content.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}


@dataclass(frozen=True)
class Documents:
    """What was read. Secrets and ConfigMaps by (namespace, name)."""

    servers: tuple[Document, ...] = ()
    secrets: Mapping[tuple[str, str], Document] = field(default_factory=dict)
    config_maps: Mapping[tuple[str, str], Document] = field(default_factory=dict)
    others: tuple[Document, ...] = ()
    """Objects of other kinds: nothing is done with them."""

    def values(self, kind: str, namespace: str, name: str) -> dict[str, bytes] | None:
        """The keys and values of a Secret or ConfigMap; None where there is none of that name."""
        document = (self.secrets if kind == "Secret" else self.config_maps).get((namespace, name))
        return None if document is None else values(document)[0]


def read(
    places: Sequence[str], *, namespace: str = "default", stdin: IO[bytes] | None = None
) -> tuple[Documents, list[Problem]]:
    """Everything in `places`: files, folders (not what is below them), `-` for stdin; and what cannot be read of it."""
    reader = _Reader(namespace)
    for place in dict.fromkeys(places):
        if place == STDIN:
            reader.text((stdin or sys.stdin.buffer).read(MAX_BYTES + 1), "stdin")
            continue
        try:
            files = files_of(place)
        except OSError as error:
            reader.problems.append(Problem(place, (error.strerror or "cannot be read").lower()))
            continue
        if not files:
            reader.problems.append(Problem(place, f"holds no file that ends in {', '.join(SUFFIXES)}"))
        for path in files:
            try:
                with path.open("rb") as file:
                    reader.text(file.read(MAX_BYTES + 1), str(path))
            except OSError as error:
                reader.problems.append(Problem(str(path), (error.strerror or "cannot be read").lower()))
    return reader.result(), list(dict.fromkeys(reader.problems))


def files_of(place: str) -> list[Path]:
    """The files that `place` stands for now. Raises OSError where there is nothing."""
    path = Path(place)
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    path.stat()
    return [path]


class _Reader:
    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.problems: list[Problem] = []
        self.found: dict[str, list[Document]] = {"MCPServer": [], "Secret": [], "ConfigMap": [], "": []}
        self.seen: dict[tuple[str, str, str], Document] = {}

    def text(self, data: bytes, source: str) -> None:
        """Take up every document of a file."""
        if len(data) > MAX_BYTES:
            self.problems.append(Problem(source, f"is larger than {MAX_BYTES >> 20}MiB"))
            return
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self.problems.append(Problem(source, f"is not UTF-8 (byte {error.start})"))
            return
        number = 0
        try:
            for number, (line, content) in enumerate(load_all(text), 1):
                if content is not None:
                    self.document(source, number, line, content)
        except YamlError as error:
            self.problems.append(Problem(f"{source}, document {number + 1}", str(error)))

    def document(self, source: str, number: int, line: int, content: Any) -> None:
        """Take up one object, or the items of a list."""
        if not isinstance(content, dict) or not isinstance(content.get("kind"), str):
            self.problems.append(
                Problem(f"{source}, document {number}", "is no Kubernetes object: it has no apiVersion and kind")
            )
            return
        if content["kind"].endswith("List") and isinstance(content.get("items"), list):
            for item in content["items"]:
                self.document(source, number, line, item)
            return
        group, _, _ = str(content.get("apiVersion", "")).rpartition("/")
        kind = _KINDS.get((group, content["kind"]), "")
        document = Document(source, number, line, self.placed(content) if kind else content)
        if kind:
            if not document.name:
                self.problems.append(Problem(document.place, "metadata.name: is missing"))
                return
            for part, name in (("name", document.name), ("namespace", document.namespace)):
                if not _NAME.fullmatch(name):
                    wanted = "must be lower-case letters, digits, `-` and `.`"
                    self.problems.append(Problem(document.place, f"metadata.{part}: {wanted}"))
                    return
            key = (kind, document.namespace, document.name)
            if (other := self.seen.setdefault(key, document)) is not document:
                self.problems.append(Problem(document.place, f"is there twice; first at {other.place}"))
                return
            if kind != "MCPServer":
                self.problems += document.problems(values(document)[1])
        self.found[kind].append(document)

    def placed(self, content: dict[str, Any]) -> dict[str, Any]:
        """`content` in a namespace."""
        metadata = content.get("metadata")
        if not isinstance(metadata, dict):
            return content
        return {**content, "metadata": {**metadata, "namespace": metadata.get("namespace") or self.namespace}}

    def result(self) -> Documents:
        """What was read."""
        return Documents(
            servers=tuple(self.found["MCPServer"]),
            secrets={(one.namespace, one.name): one for one in self.found["Secret"]},
            config_maps={(one.namespace, one.name): one for one in self.found["ConfigMap"]},
            others=tuple(self.found[""]),
        )


def values(document: Document) -> tuple[dict[str, bytes], list[Problem]]:
    """The keys of a Secret or ConfigMap with their values, and what is wrong with it. No value is in a problem."""
    content, found, problems = document.content, {}, []
    secret = document.kind == "Secret"
    plain, encoded = ("stringData", "data") if secret else ("data", "binaryData")
    for part, decode in ((encoded, True), (plain, False)):  # of a Secret, stringData wins
        entries = content.get(part)
        if entries is None:
            continue
        if not isinstance(entries, dict):
            problems.append(Problem(part, "must be an object of strings"))
            continue
        for key, value in entries.items():
            if not _KEY.fullmatch(key) or key == ".":
                problems.append(Problem(part, "a key must be letters, digits, `-`, `_` and `.`"))
            elif not isinstance(value, str):
                problems.append(Problem(f"{part}.{key}", "must be a string; quote it"))
            elif not decode:
                found[key] = value.encode()
            else:
                try:
                    found[key] = base64.b64decode("".join(value.split()), validate=True)
                except (binascii.Error, ValueError):
                    problems.append(Problem(f"{part}.{key}", f"is no base64; plain text goes into {plain}"))
    return found, problems

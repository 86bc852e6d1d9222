"""What MCPServers refer to: are the named Secrets and ConfigMaps there, with the keys needed, and did they change.

The operator may get Secrets and never list or watch them, so that it sees only what an MCPServer names (design.md,
"Secrets"). It therefore reads again: what is missing every 10 s, backing off to a minute, what was found every five
minutes. Values are forgotten at once; a version of one, an HMAC under the session key of its MCPServer, is kept, which
shows a change and tells nothing. Sidecars see a rotation from their mounts and do not wait for this.

How a missing one is put into words is left to `status`; making pods roll to `desired`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mcp_operator.errors import Forbidden
from mcp_operator.kube.resources import CONFIG_MAPS, SECRETS, Resource

Kind = Literal["Secret", "ConfigMap"]
Why = Literal["Missing", "KeyMissing", "Forbidden"]
Key = tuple[str, str]
"""Namespace and name of an MCPServer."""


class Needed(Protocol):
    """A reference as `desired` gives it."""

    @property
    def kind(self) -> Kind:
        """Of which kind the object is."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def key(self) -> str | None:
        """The key that is needed; None for whatever it holds."""

    @property
    def used_for(self) -> str:
        """Path of the field that needs it."""

    @property
    def in_environment(self) -> bool:
        """True where a container gets it as a variable and must roll to see a change."""


class Reader(Protocol):
    """The one verb that is needed of the API."""

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        """The object, None where there is none."""


@dataclass(frozen=True, slots=True)
class MissingReference:
    """A reference that leads nowhere."""

    kind: Kind
    name: str
    key: str | None
    used_for: str
    why: Why


@dataclass(frozen=True, slots=True)
class Version:
    """What is known of a value: that it is this one and no other."""

    kind: Kind
    name: str
    key: str
    version: str
    """12 hex digits of an HMAC-SHA256."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """All references of one MCPServer. `read_again`: seconds until the next is to be read."""

    missing: tuple[MissingReference, ...] = ()
    versions: tuple[Version, ...] = ()
    checksum: str = ""
    """Over the versions of what containers have in their environment; empty where there is nothing or no version."""
    read_again: float | None = None


@dataclass(slots=True)
class _Known:
    read_at: float
    due: float
    failures: int
    state: Literal["Found", "Missing", "Forbidden"]
    asked: frozenset[str | None]
    versions: dict[str, str]
    """Empty versions without an HMAC key: a plain hash would tell who tries which value it is."""


@dataclass(frozen=True)
class ReadIntervals:
    """Seconds between two reads of an object."""

    missing: float = 10.0
    missing_max: float = 60.0
    found: float = 300.0


class References:
    """Reads what MCPServers refer to, not more often than needed."""

    def __init__(
        self,
        client: Reader,
        *,
        clock: Callable[[], float],
        rng: Callable[[], float],
        intervals: ReadIntervals | None = None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._rng = rng
        self._intervals = intervals or ReadIntervals()
        self._known: dict[Key, dict[tuple[Kind, str], _Known]] = {}
        self._marks: dict[Key, str] = {}
        """Under which HMAC key the versions were made."""

    async def resolve(self, server: Key, references: Iterable[Needed], key: bytes) -> Resolution:
        """Read what is due and say what is missing. Raises KubeError but Forbidden.

        `key` is the HMAC key; while it is empty no versions are told.
        """
        mark = _version(key, b"") if key else ""
        if self._marks.get(server, mark) != mark:
            self._known.pop(server, None)
        self._marks[server] = mark
        wanted: dict[tuple[Kind, str], list[Needed]] = {}
        for reference in references:
            wanted.setdefault((reference.kind, reference.name), []).append(reference)
        known = self._known.setdefault(server, {})
        for gone in known.keys() - wanted.keys():
            del known[gone]
        for target, needs in wanted.items():
            entry = known.get(target)
            asked = frozenset(need.key for need in needs)
            # A key that the spec names anew may be there already, though the object was read without it.
            if entry is None or self._clock() >= entry.due or not asked <= entry.asked:
                known[target] = await self._read(server[0], target, asked, key, entry)
        if not known:
            self.forget(server)
        return self._resolution(wanted, known)

    def expect_changes(self, server: Key) -> None:
        """Read everything of an MCPServer again at the next look."""
        for entry in self._known.get(server, {}).values():
            entry.due = self._clock()

    def forget(self, server: Key) -> None:
        """The MCPServer is gone."""
        self._known.pop(server, None)
        self._marks.pop(server, None)

    async def _read(
        self, namespace: str, target: tuple[Kind, str], asked: frozenset[str | None], key: bytes, before: _Known | None
    ) -> _Known:
        kind, name = target
        state: Literal["Found", "Missing", "Forbidden"] = "Found"
        versions: dict[str, str] = {}
        try:
            found = await self._client.get(SECRETS if kind == "Secret" else CONFIG_MAPS, namespace, name)
        except Forbidden:
            state = "Forbidden"
        else:
            if found is None:
                state = "Missing"
            else:
                values = _values(kind, found)
                versions = {
                    item: _version(key, value) if key else ""
                    for item, value in values.items()
                    if None in asked or item in asked
                }
        now = self._clock()
        complete = state == "Found" and all(item is None or item in versions for item in asked)
        failures = 0 if complete else (before.failures + 1 if before is not None else 1)
        wait = (
            self._intervals.found
            if complete
            else min(self._intervals.missing * 2.0 ** min(failures - 1, 10), self._intervals.missing_max)
        )
        # Spread, or a thousand MCPServers that were read together would be read together for ever.
        return _Known(now, now + wait * (0.9 + self._rng() / 5), failures, state, asked, versions)

    def _resolution(
        self, wanted: Mapping[tuple[Kind, str], list[Needed]], known: Mapping[tuple[Kind, str], _Known]
    ) -> Resolution:
        missing: list[MissingReference] = []
        versions: dict[tuple[Kind, str, str], str] = {}
        environment = hashlib.sha256()
        in_environment = False
        for (kind, name), needs in sorted(wanted.items()):
            entry = known[kind, name]
            for need in needs:
                if entry.state != "Found":
                    missing.append(MissingReference(kind, name, need.key, need.used_for, entry.state))
                elif need.key is not None and need.key not in entry.versions:
                    missing.append(MissingReference(kind, name, need.key, need.used_for, "KeyMissing"))
            versions.update({(kind, name, item): version for item, version in entry.versions.items()})
            used = {need.key for need in needs if need.in_environment}
            if used:
                in_environment = True
                names = entry.versions if None in used else {str(item) for item in used} & entry.versions.keys()
                for item in sorted(names):
                    environment.update(f"{kind}/{name}/{item}={entry.versions[item]}\n".encode())
        now = self._clock()
        return Resolution(
            missing=tuple(missing),
            versions=tuple(Version(*item, version) for item, version in sorted(versions.items()) if version),
            checksum=environment.hexdigest()[:12] if in_environment and all(versions.values()) else "",
            read_again=min((max(entry.due - now, 0.0) for entry in known.values()), default=None),
        )


def digest(versions: Iterable[Version], references: Sequence[Needed]) -> str:
    """12 hex digits over the versions of the given references; empty where there are none."""
    whole = {(reference.kind, reference.name) for reference in references if reference.key is None}
    single = {(reference.kind, reference.name, reference.key) for reference in references}
    lines = sorted(
        f"{each.kind}/{each.name}/{each.key}={each.version}"
        for each in versions
        if (each.kind, each.name) in whole or (each.kind, each.name, each.key) in single
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12] if lines else ""


def _values(kind: Kind, found: Mapping[str, Any]) -> dict[str, bytes]:
    """Key → value of a Secret or ConfigMap."""
    values: dict[str, bytes] = {}
    if kind == "ConfigMap":
        values = {name: str(text).encode() for name, text in (found.get("data") or {}).items()}
        encoded = found.get("binaryData") or {}
    else:
        encoded = found.get("data") or {}
    for name, text in encoded.items():
        try:
            values[name] = base64.b64decode(text or "", validate=True)
        except (binascii.Error, ValueError):
            continue
    return values


def _version(key: bytes, value: bytes) -> str:
    return hmac.new(key, value, hashlib.sha256).hexdigest()[:12]

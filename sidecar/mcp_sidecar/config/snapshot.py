"""A good config without the models that checked it: plain attributes, for the process that only reads them.

The models cost 14 MiB and are of no use once a config is good; the running sidecar has none of them (docs/adr/0002).
A snapshot answers to the same names as its section, computed ones included, and says how each field is reloaded.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Field(NamedTuple):
    """A setting: `name` in Python, `alias` in the config, `reload` (`Live`, `Replaces` or `Restart`)."""

    name: str
    alias: str
    reload: str


class Snapshot:
    """One section. Equal to another by its fields; what is computed follows from them."""

    def __init__(self, fields: tuple[Field, ...], values: dict[str, Any], digest: str = "") -> None:
        self.__dict__.update(values)
        self._fields = fields
        self._digest = digest

    @property
    def fields(self) -> tuple[Field, ...]:
        """The settings of this section."""
        return self._fields

    def config_hash(self) -> str:
        """As `Config.config_hash`; empty for other sections."""
        return self._digest

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no setting {name}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot) or self._fields != other._fields:
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in self._fields)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Snapshot({', '.join(field.name for field in self._fields)})"

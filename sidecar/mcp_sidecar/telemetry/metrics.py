"""A small metrics registry and its Prometheus text rendering.

Own code because the usual client library costs 14 MiB and renders 22 800 series in half a second of CPU on the event
loop (notes/resilience.md E.4). Families have fixed label names and a bound on their children; a child is looked up once
and kept, so that the hot path pays for an addition only. Values that live in other objects are read at scrape time:
`child.bind(read)` for one value, `Registry.on_collect` for what needs more. What is measured is in catalogue.py.

Not thread-safe: one event loop owns a registry.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, ClassVar, Final, Generic, TypeVar

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
"""Prometheus text exposition format 0.0.4."""

OTHER: Final = "_other"
"""The label value that stands for all that found no room."""

TURN_SECONDS: Final = 0.002
"""How long `Registry.scrape` renders before it lets the loop run: a scrape must not show in the calls' tail."""

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_HELP_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\n": "\\n"})

Read = Callable[[], float]


def number(value: float) -> str:
    """A sample value as text: integers without a point, `NaN`, `+Inf`, `-Inf`."""
    if type(value) is int:
        return str(value)
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(float(value))


class Counter:
    """One counter series. On the hot path `child.value += 1` is allowed and cheaper than `inc`."""

    __slots__ = ("_prefix", "_read", "value")

    kind: ClassVar[str] = "counter"

    def __init__(self, name: str, labels: str) -> None:
        self._prefix = f"{name}{{{labels}}} " if labels else f"{name} "
        self._read: Read | None = None
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        """Add `amount`, which must not be negative."""
        self.value += amount

    def bind(self, read: Read) -> None:
        """Take the value from `read()` at each scrape; a `read` that raises leaves the sample out."""
        self._read = read

    def render(self) -> str:
        """The sample line."""
        if self._read is not None:
            self.value = self._read()
        return f"{self._prefix}{number(self.value)}\n"


class Gauge(Counter):
    """One gauge series."""

    __slots__ = ()

    kind: ClassVar[str] = "gauge"

    def set(self, value: float) -> None:
        """Set the value."""
        self.value = value

    def dec(self, amount: float = 1) -> None:
        """Subtract `amount`."""
        self.value -= amount


class Histogram:
    """One histogram series with classic cumulative buckets."""

    __slots__ = ("_bounds", "_head", "_labels", "_name", "_tails", "counts", "sum")

    kind: ClassVar[str] = "histogram"

    def __init__(self, name: str, labels: str, bounds: tuple[float, ...], tails: tuple[str, ...]) -> None:
        self._name = name
        self._labels = f"{{{labels}}}" if labels else ""
        self._head = f'{name}_bucket{{{labels},le="' if labels else f'{name}_bucket{{le="'
        self._bounds = bounds
        self._tails = tails
        self.counts = [0] * (len(bounds) + 1)
        """Observations by bucket, not cumulative; the last one is above all bounds."""
        self.sum: float = 0.0

    def observe(self, value: float) -> None:
        """Count one value in the unit of the family's name."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    def render(self) -> str:
        """The bucket, sum and count lines."""
        head = self._head
        cumulative = list(accumulate(self.counts))
        lines = [f"{head}{tail}{count}\n" for tail, count in zip(self._tails, cumulative, strict=True)]
        lines.append(
            f"{self._name}_sum{self._labels} {number(self.sum)}\n{self._name}_count{self._labels} {cumulative[-1]}\n"
        )
        return "".join(lines)


C = TypeVar("C", bound="Counter | Histogram")


class Family(Generic[C]):
    """A metric name with its help, its label names and its children."""

    def __init__(
        self,
        registry: Registry,
        name: str,
        meaning: str,
        label_names: Sequence[str],
        make: Callable[[str, str], C],
        kind: str,
        limit: int,
    ) -> None:
        if not _NAME.match(name):
            raise ValueError(f"not a metric name: {name!r}")
        for label in label_names:
            if not _LABEL.match(label) or label == "le" or label.startswith("__"):
                raise ValueError(f"not a label name: {label!r} of {name}")
        if kind == "counter" and not name.endswith("_total"):
            raise ValueError(f"a counter's name ends with _total: {name!r}")
        self.name = name
        self.label_names = tuple(label_names)
        self.kind = kind
        self._registry = registry
        self._make: Callable[[str, str], C] = make
        self._limit = limit
        self._heading = f"# HELP {name} {meaning.translate(_HELP_ESCAPES)}\n# TYPE {name} {kind}\n"
        self._children: dict[tuple[str, ...], C] = {}

    def labels(self, *values: str) -> C:
        """The child with these label values, in the order of the label names.

        Beyond the family's bound every new combination shares one child whose values are all `_other`.
        """
        child = self._children.get(values)
        return child if child is not None else self._add(values)

    def _add(self, values: tuple[str, ...]) -> C:
        if len(values) != len(self.label_names):
            raise ValueError(f"{self.name} has the labels {self.label_names}, got {len(values)} values")
        if len(self._children) >= self._limit:
            self._registry.overflowed(self.name)
            values = (OTHER,) * len(values)
            child = self._children.get(values)
            if child is not None:
                return child
        labels = ",".join(
            f'{n}="{v.translate(_ESCAPES)}"' for n, v in zip(self.label_names, map(_encodable, values), strict=True)
        )
        child = self._make(self.name, labels)
        self._children[values] = child
        return child

    def __len__(self) -> int:
        return len(self._children)

    def children(self) -> Iterator[tuple[tuple[str, ...], C]]:
        """All children with their label values, as they are now."""
        return iter(list(self._children.items()))

    def remove(self, **labels: str) -> None:
        """Forget every child whose labels have these values; label names that the family lacks match nothing."""
        if not labels.keys() <= set(self.label_names):
            return
        wanted = [(self.label_names.index(name), value) for name, value in labels.items()]
        for values in [v for v in self._children if all(v[i] == value for i, value in wanted)]:
            del self._children[values]

    def clear(self) -> None:
        """Forget all children."""
        self._children.clear()

    def render(self) -> Iterator[str]:
        """The family's text in pieces. A family without children has none: absent is not zero."""
        if not self._children:
            return
        yield self._heading
        for child in list(self._children.values()):
            try:
                yield child.render()
            except Exception:  # noqa: BLE001 - a broken reader must not take the whole scrape down
                self._registry.failures += 1


def _encodable(value: str) -> str:
    """Lone surrogates cannot be written as UTF-8."""
    return value.encode("utf-8", "replace").decode("utf-8")


class Registry:
    """All families of one process, rendered in the order in which they were made."""

    def __init__(self, *, limit: int = 10_000) -> None:
        """`limit` bounds the children of every family that sets no bound of its own."""
        self._families: dict[str, Family[Any]] = {}
        self._collectors: list[Callable[[], None]] = []
        self._limit = limit
        self.failures = 0
        """Readers and collectors that raised during a scrape."""
        self.overflows = self.counter(
            "outrigger_label_overflow_total", "Label values that found no room and were counted as _other.", ["label"]
        )

    def counter(self, name: str, meaning: str, labels: Sequence[str] = (), *, limit: int = 0) -> Family[Counter]:
        """A counter family; the name ends with `_total`."""
        return self._register(Family(self, name, meaning, labels, Counter, "counter", limit or self._limit))

    def gauge(self, name: str, meaning: str, labels: Sequence[str] = (), *, limit: int = 0) -> Family[Gauge]:
        """A gauge family."""
        return self._register(Family(self, name, meaning, labels, Gauge, "gauge", limit or self._limit))

    def info(self, name: str, meaning: str, **labels: str) -> Gauge:
        """A gauge that is 1 and tells something by its labels. Made anew, it replaces what it told before."""
        family = self._families.get(name)
        if family is None:
            family = self.gauge(name, meaning, tuple(labels))
        family.clear()
        child: Gauge = family.labels(*labels.values())
        child.set(1)
        return child

    def histogram(
        self, name: str, meaning: str, labels: Sequence[str] = (), *, buckets: Sequence[float], limit: int = 0
    ) -> Family[Histogram]:
        """A histogram family; `buckets` are the upper bounds without +Inf, ascending."""
        bounds = tuple(float(b) for b in buckets)
        if list(bounds) != sorted(set(bounds)) or not bounds or math.isinf(bounds[-1]):
            raise ValueError(f"{name}: buckets must ascend and be finite")
        tails = (*(f'{number(b)}"}} ' for b in bounds), '+Inf"} ')

        def make(name: str, labels: str) -> Histogram:
            return Histogram(name, labels, bounds, tails)

        return self._register(Family(self, name, meaning, labels, make, "histogram", limit or self._limit))

    def _register(self, family: Family[C]) -> Family[C]:
        if family.name in self._families:
            raise ValueError(f"{family.name} is registered twice")
        self._families[family.name] = family
        return family

    def on_collect(self, collect: Callable[[], None]) -> None:
        """Call `collect` before each scrape, to set what is not bound to one value. One that raises is counted."""
        self._collectors.append(collect)

    def remove(self, **labels: str) -> None:
        """Forget the children with these label values in all families, such as those of a server that is gone."""
        for family in self._families.values():
            family.remove(**labels)

    def overflowed(self, label: str) -> None:
        """Count a label value that found no room."""
        self.overflows.labels(label).inc()

    def names(self) -> list[str]:
        """The names of all families."""
        return list(self._families)

    def _pieces(self) -> Iterator[str]:
        for collect in self._collectors:
            try:
                collect()
            except Exception:  # noqa: BLE001 - a broken collector must not take the whole scrape down
                self.failures += 1
        for family in list(self._families.values()):
            yield from family.render()

    def render(self) -> bytes:
        """The whole exposition at once."""
        return "".join(self._pieces()).encode()

    async def scrape(self, clock: Callable[[], float] = time.monotonic) -> bytes:
        """The whole exposition, letting the loop run every 2 ms; each series is consistent in itself."""
        pieces: list[str] = []
        until = clock() + TURN_SECONDS
        for piece in self._pieces():
            pieces.append(piece)
            if clock() > until:
                await asyncio.sleep(0)
                until = clock() + TURN_SECONDS
        return "".join(pieces).encode()

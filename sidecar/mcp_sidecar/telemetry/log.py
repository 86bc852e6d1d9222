"""The log: one JSON object a line on stderr, or a form for people where stderr is a terminal.

An entry is an event name and fields: no sentences with values in them, so that a line can be searched and counted.
Configured once (`Log` made in app.py, `bridge` for what uses the standard library's logging). Nothing here raises into
the caller and nothing blocks: lines go to a LineWriter, which also redacts.
"""

from __future__ import annotations

import enum
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from mcp_sidecar.errors import CallError
from mcp_sidecar.telemetry.lines import LineWriter

MAX_TEXT: Final = 4096
"""Characters of one text field; a longer one is cut and marked."""

_RESERVED: Final = frozenset({"ts", "level", "event"})


class Level(enum.IntEnum):
    """Levels with the numbers of the standard library."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40

    @property
    def label(self) -> str:
        """As in the lines and in the config: `debug`, `info`, `warning`, `error`."""
        return self.name.lower()


LEVELS: Final[Mapping[str, Level]] = {level.label: level for level in Level}


_MILLISECONDS: Final = tuple(f"{ms:03d}Z" for ms in range(1000))


class Timestamps:
    """RFC 3339 UTC timestamps with milliseconds; the seconds' part is formatted once a second."""

    __slots__ = ("_prefix", "_second", "_wall")

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._second = -1
        self._prefix = ""

    def now(self) -> str:
        """The time now, such as `2026-11-22T21:30:00.123Z`."""
        now = self._wall()
        second = int(now)
        if second != self._second:
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = second
        return self._prefix + _MILLISECONDS[int((now - second) * 1000)]


def _plain(value: Any) -> Any:
    """A value as JSON can hold it, bounded; anything odd becomes text."""
    kind = type(value)
    if kind is bool or value is None or kind is float:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, CallError):
        return {"reason": value.reason.label, "message": _text(value.message)}
    if isinstance(value, BaseException):
        # the type first: the text of a TimeoutError is empty
        text = str(value)
        return _text(f"{type(value).__name__}: {text}" if text else type(value).__name__)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _text(bytes(value[: MAX_TEXT * 4]).decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {_text(str(key)): _plain(item) for key, item in list(value.items())[:100]}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in list(value)[:100]]
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    return _text(str(value))


def _text(value: str) -> str:
    if len(value) > MAX_TEXT:
        value = f"{value[:MAX_TEXT]}… ({len(value)} characters)"
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


class Log:
    """Structured log. `log.info("pool drained", server="git", seconds=0.2)`."""

    def __init__(
        self,
        writer: LineWriter,
        *,
        level: Level = Level.INFO,
        human: bool = False,
        wall: Callable[[], float] = time.time,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """`human` writes a form for a terminal; `fields` are added to every entry."""
        self._writer = writer
        self._level = _Threshold(level)
        self.human = human
        self.timestamps = Timestamps(wall)
        self._encode = msgspec.json.Encoder().encode
        self._fields: dict[str, Any] = {k: _plain(v) for k, v in (fields or {}).items()}

    @property
    def level(self) -> Level:
        """Entries below it are not written; a reload may change it, for all bound logs at once."""
        return self._level.value

    @level.setter
    def level(self, level: Level) -> None:
        self._level.value = level

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._writer.dropped

    def bind(self, **fields: Any) -> Log:
        """A log that adds these fields to each entry; level and writer stay shared."""
        bound = Log.__new__(Log)
        bound.__dict__.update(self.__dict__)
        bound._fields = {**self._fields, **{k: _plain(v) for k, v in fields.items()}}
        return bound

    def enabled(self, level: int) -> bool:
        """Whether an entry of this level would be written."""
        return level >= self._level.value

    def debug(self, event: str, /, **fields: Any) -> None:
        """What is of use only when something is looked into."""
        self.entry(Level.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """What an operator wants to have seen: starts, stops, changes of state."""
        self.entry(Level.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """What works, but not as it should."""
        self.entry(Level.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """What does not work and needs somebody."""
        self.entry(Level.ERROR, event, fields)

    def entry(self, level: Level, event: str, fields: Mapping[str, Any]) -> None:
        """Write one entry; never raises."""
        if level < self._level.value:
            return
        try:
            record = {"ts": self.timestamps.now(), "level": level.label, "event": _text(event), **self._fields}
            for key, value in fields.items():
                record[f"{key}_" if key in _RESERVED else key] = _plain(value)
            self._writer.write(self.encoded(record))
        except Exception:  # noqa: BLE001 - a log entry must never fail what it tells about
            self._writer.dropped += 1

    def raw(self, line: bytes) -> None:
        """Write a line that is encoded already (record.py on the hot path)."""
        self._writer.write(line)

    def encoded(self, record: Mapping[str, Any]) -> bytes:
        """A record as the line that is written, JSON or human."""
        return _human(record) if self.human else self._encode(record) + b"\n"


class _Threshold:
    __slots__ = ("value",)

    def __init__(self, value: Level) -> None:
        self.value = value


_COLOURS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31"}


def _human(record: Mapping[str, Any]) -> bytes:
    """`21:30:00.123 INFO  call finished  server=git outcome=ok`: control characters are escaped, not obeyed."""
    level = str(record.get("level", ""))
    parts = [
        str(record.get("ts", ""))[11:23],
        f"\x1b[{_COLOURS.get(level, '0')}m{level.upper():<7}\x1b[0m",
        f"{_printable(str(record.get('event', ''))):<20}",
    ]
    for key, value in record.items():
        if key in _RESERVED or value is None or value == "":
            continue
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        shown = _printable(text)
        parts.append(f"\x1b[2m{key}=\x1b[0m{shown}" if " " not in shown else f'\x1b[2m{key}=\x1b[0m"{shown}"')
    return (" ".join(parts) + "\n").encode("utf-8", "replace")


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def is_terminal(fd: int = 2) -> bool:
    """Whether a descriptor is a terminal, so that people read it."""
    try:
        with open(fd, "rb", closefd=False, buffering=0) as file:
            return file.isatty()
    except (OSError, ValueError):
        return False


_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class _Bridge(logging.Handler):
    """Passes records of the standard library's logging on; `extra` becomes fields."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = {k: v for k, v in record.__dict__.items() if k not in _STANDARD and not k.startswith("_")}
            fields["logger"] = record.name
            if record.exc_info and record.exc_info[1] is not None:
                fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))[-MAX_TEXT:]
            level = Level(min(40, max(10, record.levelno // 10 * 10)))
            self._log.entry(level, record.getMessage(), fields)
        except Exception:  # noqa: BLE001 - see Log.entry
            self._log._writer.dropped += 1


def bridge(log: Log) -> Callable[[], None]:
    """Route the standard library's logging and uncaught exceptions of threads to `log`; returns the undoing.

    Installing twice replaces: there is never more than one handler, so no line comes twice.
    """
    root = logging.getLogger()
    before = [h for h in root.handlers if not isinstance(h, _Bridge)]
    level = root.level
    handler = _Bridge(log)
    root.handlers[:] = [handler]
    root.setLevel(log.level)
    logging.captureWarnings(True)

    def undo() -> None:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(False)

    return undo


def open_log(*, level: Level = Level.INFO, fd: int = 2, human: bool | None = None) -> tuple[Log, LineWriter]:
    """A log on a descriptor, stderr by default, and its writer; `human` None asks whether it is a terminal."""
    writer = LineWriter(fd, name="log")
    return Log(writer, level=level, human=is_terminal(fd) if human is None else human), writer

"""A log entry is one line of JSON whatever its fields are, and never an exception."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.telemetry.lines import LineWriter
from mcp_sidecar.telemetry.log import MAX_TEXT, Level, Log, bridge

Lines = Callable[[], list[dict[str, Any]]]


class Written(LineWriter):
    """A writer that keeps its lines."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.lines: list[bytes] = []

    def write(self, line: bytes, *, force: bool = False) -> bool:
        self.lines.append(line)
        return True

    def read(self) -> list[dict[str, Any]]:
        assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in self.lines)
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def written() -> Written:
    return Written()


def test_an_entry_is_pure_json_with_an_rfc_3339_time(written: Written) -> None:
    log = Log(written, wall=lambda: 1_700_000_000.1239)
    log.info("pool drained", server="git", seconds=0.25, left=0)
    assert written.read() == [
        {
            "ts": "2023-11-14T22:13:20.123Z",
            "level": "info",
            "event": "pool drained",
            "server": "git",
            "seconds": 0.25,
            "left": 0,
        }
    ]


class Odd:
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"\xff bytes", "\ufffd bytes"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        (2**70, str(2**70)),
        (float("nan"), None),
        ({1: {b"k": {"deep"}}}, {"1": {"b'k'": ["deep"]}}),
        (TimeoutError(), "TimeoutError"),
        (ValueError("bad"), "ValueError: bad"),
        (Level.ERROR, 40),
        (
            UpstreamError(Reason.CONNECT_FAILED, "refused", delivery=Delivery.NOT_SENT),
            {"reason": "connect_failed", "message": "refused"},
        ),
        ("line\nbreak", "line\nbreak"),
    ],
)
def test_odd_values_are_written_plainly(written: Written, value: object, shown: object) -> None:
    Log(written).info("odd", value=value)
    assert written.read()[0]["value"] == shown


def test_a_value_that_cannot_be_shown_costs_the_line_and_is_counted(written: Written) -> None:
    log = Log(written)
    log.info("odd", value=Odd())
    assert written.lines == []
    assert log.dropped == 1


def test_long_text_is_cut(written: Written) -> None:
    Log(written).info("long", value="x" * 100_000)
    assert len(written.read()[0]["value"]) < MAX_TEXT + 50


def test_fields_cannot_overwrite_what_every_line_has(written: Written) -> None:
    Log(written).info("mine", level="fatal", ts="never", event="theirs")
    line = written.read()[0]
    assert (line["event"], line["level"]) == ("mine", "info")
    assert (line["event_"], line["level_"], line["ts_"]) == ("theirs", "fatal", "never")


def test_levels_apply_to_bound_logs_too(written: Written) -> None:
    log = Log(written, level=Level.WARNING)
    git = log.bind(server="git")
    git.info("hidden")
    log.level = Level.DEBUG
    git.debug("shown")
    assert [(line["event"], line["server"]) for line in written.read()] == [("shown", "git")]


def test_the_human_form_obeys_no_control_characters(written: Written) -> None:
    Log(written, human=True, wall=lambda: 1_700_000_000.0).warning("odd", text="\x1b[2Jgone\r\n")
    text = written.lines[0].decode()
    assert text.startswith("22:13:20.000 ")
    assert "WARNING" in text
    assert "\\x1b[2Jgone\\r\\n" in text


@pytest.fixture
def bridged(written: Written) -> Iterator[Log]:
    log = Log(written)
    undo = bridge(log)
    yield log
    undo()


def test_standard_logging_is_bridged_once(written: Written, bridged: Log) -> None:
    again = bridge(bridged)
    logging.getLogger("some.library").warning("it %s", "works", extra={"server": "git"})
    logging.getLogger("some.library").debug("too low")
    again()
    assert [(x["event"], x["level"], x["logger"], x["server"]) for x in written.read()] == [
        ("it works", "warning", "some.library", "git")
    ]


def test_standard_logging_with_an_exception_has_the_traceback(written: Written, bridged: Log) -> None:
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("lib").exception("failed")
    line = written.read()[0]
    assert line["level"] == "error"
    assert "KeyError: 'x'" in line["traceback"]


def test_a_record_with_wrong_arguments_does_not_raise(written: Written, bridged: Log) -> None:
    record = logging.LogRecord("lib", logging.WARNING, __file__, 1, "%d", ("not a number",), None)
    for handler in logging.getLogger().handlers:
        if type(handler).__module__ == bridge.__module__:
            handler.handle(record)
    assert written.lines == []
    assert bridged.dropped == 1


def test_importing_telemetry_is_light() -> None:
    program = (
        "import sys, mcp_sidecar.telemetry.record, mcp_sidecar.telemetry.process\n"
        "heavy = {'pydantic', 'prometheus_client', 'mcp', 'uvloop', 'cryptography', 'opentelemetry'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert found.stdout.strip() == "[]"


def test_a_full_pipe_never_blocks_the_log() -> None:
    reader, fd = os.pipe()
    os.set_blocking(fd, False)
    try:
        while True:
            os.write(fd, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(fd, True)
    writer = LineWriter(fd, max_bytes=10_000)
    log = Log(writer)
    done = threading.Event()

    def chatter() -> None:
        for _ in range(10_000):
            log.error("chatter", text="x" * 100)
        done.set()

    threading.Thread(target=chatter, daemon=True).start()
    assert done.wait(20)
    assert log.dropped > 9_000
    os.close(reader)
    assert writer.close()  # before its descriptor's number is somebody else's
    os.close(fd)

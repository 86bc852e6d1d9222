"""`make dashboards-preview` from what was measured to the pictures: answers, a browser, fewer colours, a PNG.

Drawn is the smallest dashboard, with a few made-up answers, and looked at as a reader would: nothing is blank, no panel
tells of an error. That real queries have real answers: test_dashboard_data. The fleet itself needs root and minutes.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

import dashboard_preview
from dashboard_files import DIRECTORY, dashboard, panels
from prometheus_process import Prometheus, required

NAME = "fleet"
START, END = 1_780_000_000.4, 1_780_000_240.6
SERVERS = ("orders", "search")
ERRORS = ("No data", "undefined", "NaN", "null", "Infinity", "[object")
TINTED = 50
"""How far apart a pixel's red, green and blue are where it is a line, an area or a value: not text, not the ground."""


class Recorded:
    """Answers every query with two series, as Prometheus's API would."""

    def api(self, path: str, **parameters: str) -> dict[str, Any]:
        assert "$" not in parameters["query"].replace('"$1"', ""), "a variable is not filled in"
        if path == "query":
            moments = [int(parameters["time"])]
        else:
            assert path == "query_range"
            moments = list(range(int(parameters["start"]), int(parameters["end"]) + 1, int(parameters["step"])))
        found: list[dict[str, Any]] = []
        for number, server in enumerate(SERVERS):
            labels = {"namespace": "shop", "server": server, "reason": ("Ready", "CallsFailing")[number]}
            if path == "query":
                found.append({"metric": labels, "value": [moments[0], str(1 - number)]})
            else:
                points = [[at, f"{0.3 + number / 3 + math.sin(at / 20 + number) / 5:.4f}"] for at in moments]
                found.append({"metric": labels, "values": points})
        return {"result": found}


@dataclass(frozen=True)
class Picture:
    """A PNG with a palette, decoded."""

    width: int
    height: int
    palette: list[tuple[int, int, int]]
    rows: list[bytearray]

    def tinted(self, left: int, top: int, right: int, bottom: int) -> list[int]:
        """The columns of a rectangle, and how many coloured pixels each has."""
        lit = [max(colour) - min(colour) > TINTED for colour in self.palette]
        return [sum(lit[row[x]] for row in self.rows[top:bottom]) for x in range(left, right)]


def decoded(png: bytes) -> Picture:
    """The picture. Raises AssertionError where it is no whole PNG, or has sixteen colours at most."""
    chunks = dict.fromkeys((b"IHDR", b"PLTE", b"IDAT", b"IEND"), b"")
    for kind, content in parts(png):
        chunks[kind] = chunks.get(kind, b"") + content
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour, methods) == (8, 3, [0, 0, 0]), "not one byte a pixel: few colours, or no palette"
    raw = zlib.decompress(chunks[b"IDAT"])
    assert len(raw) == height * (width + 1)
    rows: list[bytearray] = []
    above = bytearray(width)
    for start in range(0, len(raw), width + 1):
        above = unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + width]), above)
        rows.append(above)
    table = chunks[b"PLTE"]
    return Picture(width, height, [(table[n], table[n + 1], table[n + 2]) for n in range(0, len(table), 3)], rows)


def parts(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk, up to the last one (PNG, section 5)."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n"), png[:16]
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", png, at)
        content = png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length) == (zlib.crc32(kind + content),), kind
        yield kind, content
        at += 12 + length
    assert at == len(png)


def unfiltered(method: int, line: bytearray, above: bytearray) -> bytearray:
    """A line of one byte a pixel without its filter (PNG, section 9)."""
    left = corner = 0
    if method:
        for x, up in enumerate(above):
            guess = left + up - corner
            nearest = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))
            line[x] = (line[x] + (0, left, up, (left + up) // 2, nearest[2])[method]) & 255
            left, corner = line[x], up
    return line


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """What the page needs, by way of what asks Prometheus for it."""
    required("chromium")
    return dashboard_preview.answers(cast(Prometheus, Recorded()), NAME, START, END)


def test_smallest_dashboard_is_the_one_drawn_here() -> None:
    assert min(DIRECTORY.glob("*.json"), key=lambda path: path.stat().st_size).stem == NAME


@pytest.mark.timeout(180)
def test_a_reader_sees_every_panel(answers: dict[str, Any], tmp_path: Path) -> None:
    measured = tmp_path / "measured.json"
    measured.write_text(json.dumps({NAME: answers}))
    dashboard_preview.main(["--data", str(measured), "--out", str(tmp_path / "images")])
    [file] = (tmp_path / "images").iterdir()
    assert file.name == f"dashboard-{NAME}.png"
    assert 20_000 < file.stat().st_size < dashboard_preview.MOST_BYTES

    picture = decoded(file.read_bytes())
    made = dashboard(NAME)
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in made["panels"])
    assert picture.width == 1600
    assert 38 * bottom < picture.height < 38 * bottom + 120
    assert len(picture.palette) > 30
    unseen = {}
    for panel in panels(made):
        at = panel["gridPos"]
        left, top, width = 8 + int(at["x"] * 1592 / 24), 56 + at["y"] * 38, int(at["w"] * 1592 / 24) - 8
        # below the title, and where there are lines above their legend
        end = top + at["h"] * 38 - (50 if panel["type"] == "timeseries" else 16)
        columns = picture.tinted(left + 8, top + 30, left + width - 8, end)
        if sum(columns) < 100 or (panel["type"] == "timeseries" and sum(map(bool, columns)) < width / 2):
            unseen[panel["title"]] = sum(columns)
    assert not unseen, "nothing is drawn in these panels"


@pytest.mark.timeout(180)
def test_no_panel_tells_of_an_error(answers: dict[str, Any], tmp_path: Path) -> None:
    page = dashboard_preview.browse(answers, tmp_path, "--dump-dom").partition("<script")[0]
    for panel in panels(dashboard(NAME)):
        assert f">{panel['title']}</h2>" in page
    assert [words for words in ERRORS if words in page] == []
    assert all(f"shop/{server}" in page for server in SERVERS)


@pytest.mark.timeout(180)
def test_a_page_that_fails_is_no_picture(answers: dict[str, Any], tmp_path: Path) -> None:
    broken = {**answers, "results": {}}
    with pytest.raises(AssertionError, match="not drawn to its end"):
        dashboard_preview.draw(broken, tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == []

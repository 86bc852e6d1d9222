"""docs/architecture.md follows one call through the modules: a traced sidecar goes the same way."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from raw_mcp import HttpClient
from readme import ROOT, section
from sidecar_process import running
from tool_http_server import ToolHttpServer

PAGE = "docs/architecture.md"
WHEN_IT_FAILS = {"front/refusal.py", "errors.py", "pipeline/classification.py"}
AT_THE_START = {"pipeline/stack.py"}

TRACER = """
import sys

def entered(frame, event, argument, seen={}):
    code = frame.f_code
    if event != "call" or "/mcp_sidecar/" not in code.co_filename:
        return
    if not seen and b"tools/call" not in bytes(frame.f_locals.get("data") or b""):
        return
    where = code.co_filename.rpartition("/mcp_sidecar/")[2] + " " + code.co_qualname
    if where not in seen:
        seen[where] = True
        print(where, file=trace, flush=True)

trace = open(sys.argv.pop(1), "w")
sys.setprofile(entered)
from mcp_sidecar.cli import main
sys.exit(main())
"""


@pytest.fixture
def way(tmp_path: Path) -> list[str]:
    """`module function` of everything that one tools/call enters, in the order of the first times."""
    trace, tracer, python = tmp_path / "trace", tmp_path / "tracer.py", tmp_path / "python"
    tracer.write_text(TRACER)
    python.write_text(f'#!/bin/sh\nshift 2  # -m mcp_sidecar.cli\nexec {sys.executable} {tracer} {trace} "$@"\n')
    python.chmod(0o755)
    with (
        ToolHttpServer() as upstream,
        running({"servers": {"echo": {"url": upstream.url}}}, python=str(python)) as sidecar,
    ):
        sidecar.wait_for("/readyz")
        with HttpClient(sidecar.url(), modern=True) as client:
            client.open()
            client.call("echo", {"text": "x"})
    return trace.read_text().splitlines()


def test_the_way_of_one_call(way: list[str]) -> None:
    lines = (ROOT / PAGE).read_text(encoding="utf-8").splitlines()
    text = "\n".join(lines[number] for number in section(PAGE, "## The way of one call"))
    steps = re.findall(r"^\d+\. .*?(?=^\d+\. |^What differs)", text, re.MULTILINE | re.DOTALL)
    begins = [re.match(r"\d+\. `([\w/]+\.py)` `([\w.]+)`", step) for step in steps]
    assert len(steps) >= 9
    assert all(begins), "a step begins with its module and function"
    places = [way.index(f"{begin[1]} {begin[2]}") for begin in begins if begin]
    assert places == sorted(places)
    modules = {where.partition(" ")[0] for where in way}
    named = set(re.findall(r"`([a-z_]+(?:/\w+)*\.py)`", "".join(steps)))
    assert named - WHEN_IT_FAILS - AT_THE_START <= modules

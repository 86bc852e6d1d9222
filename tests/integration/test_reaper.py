"""reaper.py with real orphans: foreign zombies are reaped, the exit status of our own children is not taken."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from mcp_sidecar.reaper import Reaper

SCRIPT = str(Path(__file__).parent.parent / "children" / "scripted.py")

PROGRAM = """
import asyncio, itertools, json, os, sys, time
sys.path[:0] = {path!r}
from mcp_sidecar.reaper import Reaper, become_subreaper
from mcp_sidecar.upstream.child import ChildChannel, ChildSettings
from mcp_sidecar.upstream.multiplexer import Multiplexer
from process_table import children, until

class Peer:
    def on_notification(self, *args): pass
    def on_request(self, *args): pass
    def on_closed(self, *args): pass

async def main():
    assert become_subreaper()
    reaper = Reaper(interval=0.02)
    def make():
        channel = ChildChannel(
            ChildSettings(sys.executable, ("-S", "-E", {script!r})), environment=dict, clock=time.monotonic)
        return Multiplexer(channel, ids=itertools.count(1).__next__, clock=time.monotonic, peer=Peer())
    mux = make()
    await mux.channel.open()
    for _ in range(3):
        await mux.request("x", b'{{"do":"orphan"}}')
    await until(lambda: len(children()) == 4)
    zombies = len(children()) - 1
    reaper.start()
    await until(lambda: len(children()) == 1)
    # one of ours that has ended stands in front of an orphan, and is not reaped meanwhile
    mine = make()
    await mine.channel.open()
    process = mine.channel._process
    process._loop.remove_reader(process._pidfd)
    try:
        await mine.request("x", b'{{"do":"no-newline"}}')
    except Exception:
        pass
    await until(lambda: process.poll() is not None)
    await mux.request("x", b'{{"do":"orphan"}}')
    await until(lambda: reaper.reaped == 4)
    process._ended()
    status = str(mine.channel.exit_status)
    await mine.channel.close("test")
    await mux.channel.close("test")
    reaper.stop()
    print(json.dumps({{"zombies": zombies, "reaped": reaper.reaped, "left": len(children()),
                      "status": [status, str(mux.channel.exit_status)]}}))

{run}
"""


def run(runner: str) -> dict[str, object]:
    """In a process of its own: a subreaper gets every orphan of the test run."""
    paths = [str(Path(__file__).parent.parent), *[entry for entry in sys.path if entry]]
    program = PROGRAM.format(path=paths, script=SCRIPT, run=runner)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    facts: dict[str, object] = json.loads(done.stdout)
    return facts


EXPECTED = {
    "zombies": 3,
    "reaped": 4,
    "left": 0,
    "status": ["exited with status 0", "exited with status 0"],
}


def test_orphans_are_reaped_and_our_children_are_not() -> None:
    assert run("asyncio.run(main())") == EXPECTED


def test_the_same_on_uvloop() -> None:
    assert run("import uvloop; uvloop.run(main())") == EXPECTED


def test_nothing_to_reap_costs_next_to_nothing() -> None:
    reaper = Reaper()
    start = time.process_time()
    for _ in range(1000):
        reaper.reap()
    assert time.process_time() - start < 0.2

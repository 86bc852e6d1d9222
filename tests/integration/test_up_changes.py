"""`outrigger up` while its files change: what is live stays live, what is not starts anew, what is bad is told."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from callers import eventually
from sidecar_process import ROOT
from up_process import UpProcess

pytestmark = pytest.mark.timeout(120)

TOOL_SERVER = ROOT / "tests" / "children" / "tool_server.py"


class Files:
    """The file that `up` reads, and `up`."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "servers.yaml"
        self.runtime = tmp_path / "run"
        self.runtime.mkdir()
        self.up: UpProcess | None = None

    def write(self, *objects: dict[str, Any] | str) -> None:
        """Replace what is in it."""
        texts = [one if isinstance(one, str) else yaml.safe_dump(one) for one in objects]
        self.path.write_text("---\n".join(texts))

    def start(self, *objects: dict[str, Any] | str, ready: str = "tools") -> UpProcess:
        """Run what is in it."""
        self.write(*objects)
        self.up = UpProcess(self.path, runtime=self.runtime)
        self.up.row(ready, "ready")
        return self.up


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    found = Files(tmp_path)
    yield found
    if found.up is not None:
        found.up.end()


def server(name: str = "tools", *, env: list[dict[str, Any]] | None = None, **spec: Any) -> dict[str, Any]:
    # a secret is looked at often, so that the test need not wait
    secrets = {"pollInterval": "50ms"}
    stdio = {"command": sys.executable, "args": ["-S", "-E", str(TOOL_SERVER)], "env": env or []}
    spec = {"stdio": stdio, "secrets": secrets, **spec}
    return {"apiVersion": "outrigger.dev/v1alpha1", "kind": "MCPServer", "metadata": {"name": name}, "spec": spec}


def secret(**data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": data}


TOKEN = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}}]


def test_tunable_is_taken_up_by_the_running_sidecar(files: Files) -> None:
    up = files.start(server(limits={"maxConcurrent": 3}))
    before = up.status("tools")
    assert before["servers"]["tools"]["bulkhead"]["limit"] == 3
    server_pid = up.call("tools", "pid")
    seen = len(up.logs)
    files.write(server(limits={"maxConcurrent": 7}))
    up.log("a new config is written", seen)
    up.log("is in use", seen)
    after = up.status("tools")
    assert after["servers"]["tools"]["bulkhead"]["limit"] == 7
    assert after["pid"] == before["pid"]
    assert up.call("tools", "pid") == server_pid


def test_what_rolls_pods_starts_the_sidecar_anew_on_its_port(files: Files) -> None:
    up = files.start(server(env=[{"name": "MODE", "value": "old"}]), server("other"))
    up.row("other", "ready")
    before, other = up.status("tools")["pid"], up.status("other")["pid"]
    url = up.url("tools")
    rows, lines = len(up.rows), len(up.logs)
    files.write(server(env=[{"name": "MODE", "value": "new"}]), server("other"))
    up.row("tools", "ready", rows)
    assert up.call("tools", "env", name="MODE") == '"new"'
    assert up.url("tools") == url
    assert up.admin("tools", lines)
    assert up.status("tools")["pid"] != before
    assert up.status("other")["pid"] == other


def test_changed_secret_is_used_by_a_new_process_of_the_server(files: Files) -> None:
    up = files.start(server(env=TOKEN), secret(token="old"))
    pid = up.status("tools")["pid"]
    assert up.call("tools", "env", name="TOKEN") == '"old"'
    files.write(server(env=TOKEN), secret(token="new"))
    eventually(lambda: up.call("tools", "env", name="TOKEN") == '"new"')
    assert up.status("tools")["pid"] == pid


def test_server_waits_for_its_secret(files: Files) -> None:
    up = files.start(server("other"), server(env=TOKEN), ready="other")
    assert up.row("tools", "not started").endswith("there is no Secret s in the files, for stdio.env[TOKEN]")
    rows = len(up.rows)
    files.write(server("other"), server(env=TOKEN), secret(wrong="x"))
    assert up.row("tools", "not started", rows).endswith("the Secret s has no key token, for stdio.env[TOKEN]")
    files.write(server("other"), server(env=TOKEN), secret(token="t"))
    up.row("tools", "ready")
    assert up.call("tools", "env", name="TOKEN") == '"t"'


def test_bad_change_is_told_and_changes_nothing(files: Files) -> None:
    up = files.start(server())
    pid, server_pid = up.status("tools")["pid"], up.call("tools", "pid")
    files.write(server(timeouts={"timeout": "soon"}), "kind: [")
    up.log("the files cannot be used as they are now; what ran before goes on")
    up.log("spec.timeouts.timeout")
    assert up.call("tools", "pid") == server_pid
    seen = len(up.logs)
    files.write(server(timeouts={"timeout": "5s"}))
    up.log("is in use", seen)
    assert up.status("tools")["pid"] == pid


def test_servers_come_and_go(files: Files) -> None:
    up = files.start(server())
    files.write(server(), server("second"))
    up.row("second", "ready")
    first, second = up.url("tools"), up.url("second")
    assert second != first
    files.write(server("second"))
    up.row("tools", "stopped: it is not in the files any more")
    assert up.call("second", "echo", text="x") == '{"text": "x"}'
    assert sorted(path.name for folder in files.runtime.iterdir() for path in folder.iterdir()) == [
        "default.second",
        "lock",
    ]
    files.write(server("second"), server("third"))
    up.row("third", "ready")
    assert up.url("third") == first


def test_sidecar_that_dies_is_started_again(files: Files) -> None:
    up = files.start(server())
    pid = up.status("tools")["pid"]
    rows = len(up.rows)
    os.kill(pid, signal.SIGKILL)
    up.row("tools", "the sidecar ended with -9; it is started again in 1 s", rows)
    up.row("tools", "ready", rows)
    assert up.status("tools")["pid"] != pid

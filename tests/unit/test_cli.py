"""The command line in processes of its own: exit codes, messages, nothing secret in either, values by stdin only."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_sidecar import __version__
from mcp_sidecar.cli_help import EPILOGS
from mcp_sidecar.cli_status import lines
from mcp_sidecar.secrets import Keyring, keygen

SECRET = "canary-c0ffee42"
GOOD = {"servers": {"time": {"command": sys.executable}, "docs": {"url": "https://x.example/mcp", "type": "sse"}}}


def cli(*arguments: str, stdin: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MCP_", "OUTRIGGER_"))}
    return subprocess.run(
        [sys.executable, "-m", "mcp_sidecar.cli", *arguments],
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
        timeout=60,
        env={**env, **environ},
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(GOOD))
    return file


def test_version() -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"outrigger-sidecar {__version__}")


@pytest.mark.parametrize("command", [None, *EPILOGS])
def test_help_teaches(command: str | None) -> None:
    done = cli(*([command] if command else []), "--help")
    assert done.returncode == 0
    assert "example" in done.stdout or "first try" in done.stdout
    assert all(len(line) <= 140 for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    "arguments", [[], ["nope"], ["run", "--prot", "1"], ["run", "--port", "many"], ["tools"], ["seal"]]
)
def test_bad_arguments_are_two_and_short(arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    assert "--help" in done.stderr


# run and check


@pytest.mark.parametrize("command", ["run", "check"])
def test_no_config_names_the_three_places(command: str, tmp_path: Path) -> None:
    done = cli(command, HOME=str(tmp_path))
    assert done.returncode == 2
    for place in ("MCP_CONFIG_JSON", "MCP_CONFIG_PATH", str(tmp_path / ".mcp/config.json")):
        assert place in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run", "check"])
def test_all_problems_and_two(command: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(
        json.dumps({"servers": {"s": {"comand": "x", "timeout": SECRET, "env": {"A": [SECRET]}}}, "prot": 1})
    )
    done = cli(command, "--config", str(file))
    assert done.returncode == 2
    assert f"{file}: 5 problems" in done.stderr
    for path in ("servers.s.comand", "servers.s.timeout", "servers.s.env.A", "servers.s:", "prot"):
        assert f"  {path}" in done.stderr
    assert SECRET not in done.stderr + done.stdout


def test_check_says_what_a_good_config_means(config: Path) -> None:
    done = cli("check", "--config", str(config))
    assert done.returncode == 0, done.stderr
    assert "good" in done.stdout
    assert "time  stdio, Shared, at /servers/time/mcp" in done.stdout
    assert "docs  HTTP+SSE, at /servers/docs/mcp" in done.stdout
    assert "warning" not in done.stdout


def test_check_warns(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(
        json.dumps({"mcpServers": {"a b": {"command": "/no/such/program", "autoApprove": ["x"]}}, "theme": "x"})
    )
    done = cli("check", "--config", str(file))
    assert done.returncode == 0
    assert "4 warnings" in done.stdout
    assert "is not found on this machine" in done.stdout


def test_check_reads_values_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"servers": {"s": {"command": sys.executable, "env": {"A": "${NOPE}"}}}}))
    assert cli("check", "--config", str(file)).returncode == 0
    done = cli("check", "--config", str(file), "--values")
    assert done.returncode == 2
    assert "servers.s: env.A: the environment variable NOPE is not set" in done.stderr
    assert "all values can be read" in cli("check", "--config", str(file), "--values", NOPE=SECRET).stdout


def test_sources_from_the_environment(config: Path) -> None:
    assert cli("check", MCP_CONFIG_PATH=str(config)).returncode == 0
    assert cli("check", MCP_CONFIG_JSON=json.dumps(GOOD)).returncode == 0
    assert cli("check", MCP_CONFIG_PATH=str(config) + "x").returncode == 2
    assert cli("check", "--config", str(config), OUTRIGGER__FRONT__PROT="1").returncode == 2


def test_flags_of_run_are_checked_like_the_config(config: Path) -> None:
    done = cli("run", "--config", str(config), "--port", "70000")
    assert done.returncode == 2
    assert "front.port: must be a whole number, from 0 to 65535" in done.stderr


def test_schema_is_json() -> None:
    assert json.loads(cli("schema").stdout)["properties"]["servers"]


def test_a_reader_that_leaves_is_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mcp_sidecar.cli", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, error = process.communicate(timeout=60)
    assert b"Traceback" not in error


# seal, unseal, rotate, keygen


def test_seal_and_unseal() -> None:
    key = cli("keygen").stdout.strip()
    sealed = cli("seal", "--for", "github", stdin=SECRET + "\n", MCP_ENCRYPTION_KEY=key)
    assert sealed.returncode == 0, sealed.stderr
    assert sealed.stdout.startswith("fernet:v1:")
    assert SECRET not in sealed.stdout + sealed.stderr
    opened = cli("unseal", "--for", "github", stdin=sealed.stdout, MCP_ENCRYPTION_KEY=key)
    assert opened.stdout == SECRET + "\n"
    other = cli("unseal", "--for", "gitlab", stdin=sealed.stdout, MCP_ENCRYPTION_KEY=key)
    assert other.returncode == 2
    assert "sealed for 'github'" in other.stderr


def test_values_are_no_arguments() -> None:
    assert cli("seal", "--for", "s", SECRET, MCP_ENCRYPTION_KEY=keygen()).returncode == 2
    assert cli("seal", "--for", "s", "--value", SECRET, MCP_ENCRYPTION_KEY=keygen()).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "stdin", "environ", "message"),
    [
        (["seal", "--for", "s"], "x", {}, "there is no key"),
        (["seal", "--for", "s"], "", {"MCP_ENCRYPTION_KEY": keygen()}, "input is empty"),
        (["seal", "--for", "s", "--key-file", "/no/such"], "x", {}, "there is no file"),
        (["unseal", "--for", "s"], "plain", {"MCP_ENCRYPTION_KEY": keygen()}, "is no sealed value"),
        (["unseal", "--for", "s"], "fernet:v1:gAAAA", {"MCP_ENCRYPTION_KEY": keygen()}, "stays shut"),
        (["rotate"], "nothing here", {"MCP_ENCRYPTION_KEY": keygen()}, "nothing sealed"),
        (["keygen", "--file", "/no/such/place"], "", {}, "cannot write"),
    ],
)
def test_sealing_fails_clearly(arguments: list[str], stdin: str, environ: dict[str, str], message: str) -> None:
    done = cli(*arguments, stdin=stdin, **environ)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_rotation_of_a_whole_file(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert cli("keygen", "--file", str(keys)).returncode == 0
    old = keys.read_text().strip()
    assert keys.stat().st_mode & 0o777 == 0o600
    text = json.dumps({"a": Keyring([old]).seal("one", "s"), "b": "plain", "c": Keyring([old]).seal("two", "t")})
    assert cli("keygen", "--file", str(keys)).returncode == 0
    new, kept = keys.read_text().split()
    assert kept == old
    done = cli("rotate", "--key-file", str(keys), stdin=text)
    assert done.returncode == 0
    after = json.loads(done.stdout)
    assert after["b"] == "plain"
    assert Keyring([new]).unseal(after["a"], "s") == "one"
    assert Keyring([new]).unseal(after["c"], "t") == "two"


def test_rotation_writes_nothing_when_one_value_stays_shut(tmp_path: Path) -> None:
    key = keygen()
    text = Keyring([key]).seal("one", "s") + " " + Keyring([keygen()]).seal("two", "s")
    done = cli("rotate", stdin=text, MCP_ENCRYPTION_KEY=key)
    assert (done.returncode, done.stdout) == (2, "")


# status

STATUS: dict[str, Any] = {
    "version": "1",
    "ready": True,
    "config": {"hash": "abc"},
    "servers": {
        "git": {"up": True, "kind": "Stdio", "breaker": {"state": "open"}, "tools": {"count": 3}, "problem": None},
        "docs": {"up": False, "kind": "SSE", "problem": "no\nanswer\x1b[31m"},
    },
}


class Admin(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = {"/status": (200, json.dumps(STATUS).encode()), "/odd/status": (200, b"[]")}.get(self.path, (404, b""))
        self.send_response(found[0])
        self.send_header("Content-Length", str(len(found[1])))
        self.end_headers()
        self.wfile.write(found[1])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def admin() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Admin)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_status(admin: str) -> None:
    done = cli("status", admin, HTTP_PROXY="http://127.0.0.1:1", http_proxy="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines() if line.startswith(("SERVER", "git", "docs"))]
    assert table[0][:3] == ["SERVER", "UP", "KIND"]
    assert table[1][:3] == ["git", "yes", "Stdio"]
    assert "open" in table[1]
    assert table[2][:3] == ["docs", "no", "SSE"]
    assert "\x1b" not in done.stdout
    assert json.loads(cli("status", admin, "--json").stdout) == STATUS
    assert "breaker.state" in cli("status", admin, "--all").stdout


def test_status_that_is_not_there(admin: str) -> None:
    for url, code in (("http://127.0.0.1:1", 1), (f"{admin}/nowhere", 1), (f"{admin}/odd", 1), ("127.0.0.1:9090", 2)):
        done = cli("status", url)
        assert done.returncode == code, url
        assert len(done.stderr.splitlines()) == 1


def test_status_of_any_shape_is_shown() -> None:
    for found in ({}, {"servers": None}, {"servers": [{"name": "x", "list": [{"a": 1}]}]}, {"a": {"b": [1, 2]}}):
        lines(found)
        lines(found, everything=True)
    assert lines({"servers": [{"name": "x"}]})[-1].startswith("x ")


# what is not installed, and what the running sidecar does not import


@pytest.mark.parametrize(
    ("module", "arguments"), [("mcp", ["tools", "http://127.0.0.1:1/mcp"]), ("cryptography", ["keygen"])]
)
def test_a_package_that_is_not_installed(module: str, arguments: list[str]) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None; from mcp_sidecar.cli import main; sys.exit(main({arguments!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"the package {module} is not installed: pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_does_not_import_the_client(config: Path) -> None:
    code = (
        f"import sys; from mcp_sidecar.cli import main; main(['check', '--config', {str(config)!r}]);"
        "print([name for name in ('mcp', 'uvloop', 'cryptography') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"

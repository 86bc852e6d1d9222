"""The images that `python -m images` makes, unpacked and run with nothing of this machine but the kernel."""

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.__main__ import build
from images.contents import USER, recipes
from sidecar_process import free_ports
from unpacked_image import Root, unpacked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SERVER = """
import json, sys

for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    if request["method"] == "initialize":
        result = {"capabilities": {"tools": {}}, "serverInfo": {"name": "inside", "version": "1"}}
        result["protocolVersion"] = request["params"]["protocolVersion"]
    elif request["method"] == "tools/list":
        result = {"tools": [{"name": "where", "inputSchema": {"type": "object"}}]}
    else:
        result = None
    answer = {"result": result} if result else {"error": {"code": -32601, "message": "no such method"}}
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}), flush=True)
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    wanted = [recipe for recipe in recipes() if recipe.name.startswith("sidecar")]
    return build(wanted, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module", params=["sidecar", "sidecar-runtime"])
def root(request: pytest.FixtureRequest, archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Root:
    """The image unpacked, with its configuration's environment and command."""
    return unpacked(archives[request.param], tmp_path_factory.mktemp("unpacked") / "root")


@contextlib.contextmanager
def started(root: Root, config: dict[str, object]) -> Iterator[int]:
    """The image's own command, as its user, until `/readyz` is 200; yields the MCP port."""
    port, admin_port = free_ports(2)
    (root.path / "etc/outrigger/config.json").write_text(json.dumps(config))
    environment = {
        **root.environment,
        "OUTRIGGER__FRONT__PORT": str(port),
        "OUTRIGGER__FRONT__ADMIN_PORT": str(admin_port),
    }
    for name in ("HOST", "ADMIN_HOST"):
        assert environment[f"OUTRIGGER__FRONT__{name}"] == "0.0.0.0"
        environment[f"OUTRIGGER__FRONT__{name}"] = "127.0.0.1"  # this is no pod
    with (root.path / "log").open("w+b") as log:
        process = subprocess.Popen(
            root.enter(*root.command), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            until = time.monotonic() + 60
            while answer(f"http://127.0.0.1:{admin_port}/readyz") != 200:
                assert process.poll() is None, (root.path / "log").read_text()
                assert time.monotonic() < until, (root.path / "log").read_text()
                time.sleep(0.05)
            assert Path(f"/proc/{process.pid}/status").read_text().split("Uid:\t")[1].split()[0] == str(USER)
            yield port
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def answer(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def call(port: int, method: str, params: dict[str, object]) -> dict[str, object]:
    """One modern request (revision 2026-07-28: stateless, the method in a header)."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": method,
    }
    request = urllib.request.Request(f"http://127.0.0.1:{port}/mcp", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        answered: dict[str, object] = json.load(response)
        return answered


def test_image_serves_a_server_of_its_own(root: Root) -> None:
    (root.path / "etc/outrigger/server.py").write_text(SERVER)
    server = {"command": "python3", "args": ["/etc/outrigger/server.py"]}
    with started(root, {"servers": {"inside": server}}) as port:
        result = call(port, "tools/list", {})["result"]
        assert isinstance(result, dict)
        assert [tool["name"] for tool in result["tools"]] == ["where"]


def test_image_holds_no_other_data_plane(root: Root) -> None:
    names = ("kopf", "kubernetes", "mcp_operator")
    probe = f"import importlib.util as u; print(*[name for name in {names} if u.find_spec(name)])"
    assert root.run("python", "-c", probe).stdout == "\n"


def test_image_has_byte_code_for_every_module(root: Root) -> None:
    site = next(root.path.glob("opt/outrigger/lib/python3*/site-packages"))
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    missing = [
        module
        for module in site.rglob("mcp_sidecar/**/*.py")
        if not (module.parent / "__pycache__" / f"{module.stem}.{tag}.pyc").exists()
    ]
    assert missing == []


def test_image_trusts_the_usual_authorities(root: Root) -> None:
    probe = "import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 50)"
    assert root.run("python", "-c", probe).stdout == "True\n"


def test_image_carries_the_bridge(root: Root) -> None:
    """An init container of it copies the bridge into a volume, as the image's user."""
    done = root.run("/opt/outrigger/bin/outrigger-bridge", "install", "/tmp")
    assert done.returncode == 0, done.stderr
    refused = root.run("outrigger-bridge", "install", "/opt")
    assert refused.returncode == 1
    assert refused.stderr.endswith("open /opt/outrigger-bridge.partial: read-only file system\n")


def test_image_does_not_name_this_machine(root: Root) -> None:
    here = str(Path(__file__).resolve().parents[2]).encode()
    site = next(root.path.glob("opt/outrigger/lib/python3*/site-packages"))
    assert [path for path in site.rglob("*") if path.is_file() and here in path.read_bytes()] == []


def test_runtime_image_has_node_and_uv(root: Root, request: pytest.FixtureRequest) -> None:
    has = {name: (root.path / "usr/local/bin" / name).exists() for name in ("node", "npm", "npx", "uv", "uvx")}
    if "runtime" not in request.node.callspec.id:
        assert set(has.values()) == {False}
        return
    for name in has:
        done = root.run(name, "--version")
        assert done.returncode == 0, done.stderr
    npx = root.run("npx", "--offline", "--call", "node --print 6*7")
    assert npx.stdout.strip() == "42", npx.stderr


EVERYTHING = {"servers": {"everything": {"command": "mcp-everything-server", "isolation": "PerSession"}}}


def test_runtime_image_tries_itself_with_the_everything_server(root: Root, request: pytest.FixtureRequest) -> None:
    """The command and the client are in this image alone, and the plain one says what it lacks."""
    if "runtime" not in request.node.callspec.id:
        done = root.run("outrigger-sidecar", "tools", "http://127.0.0.1:1/mcp")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("outrigger-sidecar: the package mcp is not installed")
        assert not list(root.path.glob("**/mcp-everything-server"))
        return
    with started(root, EVERYTHING) as port:
        url = f"http://127.0.0.1:{port}/mcp"
        for era in ("--legacy", "--modern"):
            tools = root.run("outrigger-sidecar", "tools", url, era)
            assert "test_simple_text" in tools.stdout, tools.stderr
            called = root.run("outrigger-sidecar", "call", url, "test_simple_text", era)
            assert called.stdout == "This is a simple text response for testing.\n", called.stderr


def test_sidecar_itself_never_has_the_sdk_loaded(root: Root) -> None:
    probe = "import sys, mcp_sidecar.daemon, mcp_sidecar.config.apart; print('mcp' in sys.modules)"
    assert root.run("/opt/outrigger/bin/python", "-c", probe).stdout == "False\n"

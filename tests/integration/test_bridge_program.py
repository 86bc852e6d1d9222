"""The bridge as it ships: what the compiled program is, and how it lives in a container with nothing but a server."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path

import pytest

import echo_server
from bridge_process import Bridge, build
from callers import eventually
from images import bridge as recipe
from sidecar_process import ROOT

pytestmark = pytest.mark.timeout(120)

MAX_BYTES = 3_000_000
MAX_MEMORY = 32 * 2**20
"""Of the bridge with `FLOODS` processes whose output nobody reads: 11 MiB were measured."""
FLOODS = 64
MACHINES = {"amd64": 62, "arm64": 183}
"""`e_machine` of ELF."""

UNSHARE = shutil.which("unshare", path="/usr/sbin:/usr/bin:/sbin:/bin") or "unshare"
SERVER_USER, SOCKET_GROUP = 1000, 2000
# What a pod gives the server's container: a root that is read-only, its volumes, a user of its own, and PID 1.
ENTER = f"""
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount --bind "$0" "$0"
mount -o remount,bind,ro "$0"
mount --bind "$0/../socket" "$0/run/socket"
mount -t proc proc "$0/proc"
chroot=$(command -v chroot)
export PATH=/server
exec "$chroot" --userspec={SERVER_USER}:{SERVER_USER} --groups={SOCKET_GROUP} "$0" "$@"
"""


@pytest.fixture(scope="module", params=recipe.ARCHITECTURES)
def program(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    return request.param, build(request.param).read_bytes()


def test_it_is_small(program: tuple[str, bytes]) -> None:
    assert len(program[1]) <= MAX_BYTES


def test_it_is_static_and_for_its_processor(program: tuple[str, bytes]) -> None:
    architecture, content = program
    magic, width, order, machine = struct.unpack_from("<4sBB12xH", content)
    assert (magic, width, order, machine) == (b"\x7fELF", 2, 1, MACHINES[architecture])
    (table,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    kinds = {struct.unpack_from("<I", content, table + number * size)[0] for number in range(count)}
    assert 3 not in kinds, "a dynamic loader is asked for (PT_INTERP)"
    assert 2 not in kinds, "shared libraries are asked for (PT_DYNAMIC)"


def test_it_does_not_name_this_machine(program: tuple[str, bytes]) -> None:
    assert str(ROOT).encode() not in program[1]
    assert str(Path.home() / "go").encode() not in program[1]


def test_it_is_the_same_wherever_it_is_made(tmp_path: Path) -> None:
    assert recipe.build(tmp_path / "x" / "other-name", recipe.native()).read_bytes() == build().read_bytes()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["other-name"]


def test_it_has_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    said = subprocess.run([build(), "--version"], capture_output=True, text=True, check=True).stdout
    assert said == f"outrigger-bridge {project['version']}\n"


def test_dockerfile_compiles_it_alike() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    (line,) = re.findall(r"^RUN (CGO_ENABLED=0 .* go build .*)$", dockerfile, re.M)
    assert "-trimpath -buildvcs=false -ldflags='-s -w -buildid='" in line
    assert "COPY --from=bridge /outrigger-bridge /opt/outrigger/bin/outrigger-bridge" in dockerfile


def test_page_and_help_name_the_same_options_and_codes() -> None:
    said = subprocess.run([build(), "--help"], capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "bridge.md").read_text()
    options = set(re.findall(r"(?m)^  (--[a-z-]+)", said))
    assert options == set(re.findall(r"(?m)^\| `(--[a-z-]+)", page))
    codes = set(re.findall(r"\b(\d+) (?:ended|cannot|usage|COMMAND)", said))
    assert codes == set(re.findall(r"(?m)^\| (\d+) \|", page))


def test_slow_readers_cost_bounded_memory(tmp_path: Path) -> None:
    # `yes` writes as fast as it can, for ever.
    yes = shutil.which("yes")
    assert yes is not None
    with Bridge(tmp_path / "s", [yes], options=["--stdin-grace", "0s"]) as bridge:
        connections = [connect(bridge.socket) for _ in range(FLOODS)]
        for connection in connections:
            assert connection.recv(1) == b"y"
        eventually(lambda: all(is_waiting(pid) for pid in bridge.servers()))
        assert len(bridge.servers()) == FLOODS
        assert bridge.memory() < MAX_MEMORY
        for connection in connections:
            connection.close()
        eventually(lambda: bridge.servers() == {})


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(path))
    return connection


def is_waiting(pid: int) -> bool:
    """Whether a process that always writes has been made to wait."""

    def written() -> int:
        found = re.search(r"^wchar: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.M)
        assert found is not None
        return int(found[1])

    before = written()
    time.sleep(0.05)
    return written() == before


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A root with nothing but a static server, the installed bridge and the folder of the socket; entering it takes
    root. The socket's folder is as the kubelet makes an emptyDir with an fsGroup."""
    if os.geteuid() != 0:
        pytest.skip("another root and another user take root: run these as root")
    root = tmp_path / "root"
    for folder in ("proc", "run/socket", "run/bridge", "server"):
        (root / folder).mkdir(parents=True)
    shutil.copy(echo_server.build(), root / "server" / "echo")
    subprocess.run([build(), "install", root / "run" / "bridge"], check=True)
    (tmp_path / "socket").mkdir()
    os.chown(tmp_path / "socket", 0, SOCKET_GROUP)
    (tmp_path / "socket").chmod(0o2775)
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)  # pytest's folders are for their owner only
    return root


def contained(root: Path, *options: str, command: tuple[str, ...] = ("echo", "stdio")) -> Bridge:
    """The bridge in a container with that root."""
    bridge = Bridge(
        Path("/run/socket/s"),
        command,
        options=options,
        prefix=[UNSHARE, "--mount", "--pid", "--fork", "--kill-child", "/bin/bash", "-ec", ENTER, str(root)],
        program="/run/bridge/outrigger-bridge",
    )
    bridge.env = {}
    return bridge


def as_user(path: Path, user: int, group: int) -> str:
    """What a user of a group gets of the server behind the socket, or why nothing."""
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.settimeout(20)\n"
        "try:\n    s.connect(sys.argv[1])\n"
        "except OSError as e:\n    sys.exit(str(e))\n"
        's.sendall(b\'{"jsonrpc":"2.0","id":1,"method":"tools/list"}\\n\')\n'
        "print(s.makefile().readline())\n"
    )
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-S", "-c", script, str(path)],
        user=user,
        group=group,
        extra_groups=[],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout or done.stderr


def test_it_runs_where_there_is_no_shell_and_nothing_to_write(container: Path) -> None:
    path = container.parent / "socket" / "s"
    bridge = contained(container).start()
    # `unshare` waits for PID 1 of the container, which is the bridge.
    (inside,) = [pid for pid in bridge.servers() if Path(f"/proc/{pid}/comm").read_text() == "outrigger-bridg\n"]
    try:
        info = path.stat()
        assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o660, SERVER_USER, SOCKET_GROUP)
        assert '"tools"' in as_user(path, 65532, SOCKET_GROUP), "the sidecar's user, in the pod's group"
        assert "Permission denied" in as_user(path, 65532, 65532)
        connection = connect(path)
        bridge.said("process 2 (pid")
        status = [Path(f"/proc/{pid}/status").read_text() for pid in bridge.servers() if pid != inside]
        assert any(f"Uid:\t{SERVER_USER}\t{SERVER_USER}" in text and "echo" in text for text in status)
        connection.close()
        bridge.said("process 2 (pid")
    finally:
        os.kill(inside, 15)
        assert bridge.process.wait(20) == 0
    assert not path.exists()
    bridge.said("no process is left")


def test_container_that_starts_again_finds_its_place_free(container: Path) -> None:
    path = container.parent / "socket" / "s"
    for _ in range(2):
        subprocess.run([build(), "install", container / "run" / "bridge"], check=True)
        bridge = contained(container).start()
        assert '"tools"' in as_user(path, 65532, SOCKET_GROUP)
        bridge.kill()
        assert path.exists()


def test_command_that_the_image_lacks_ends_the_container(container: Path, tmp_path: Path) -> None:
    message = container / "run" / "termination-log"
    message.touch()
    message.chmod(0o666)
    bridge = contained(container, "--termination-log", "/run/termination-log", command=("node", "index.js"))
    done = subprocess.run(bridge.command, env=bridge.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 127
    assert "command not found: node; set spec.stdio.command" in done.stderr
    assert message.read_text() == "", "the root is read-only, and that is no error of its own"

"""A machine of its own for a node, out of Linux namespaces: network, mounts and processes apart from ours.

A veth pair is its only link: our end and its end have addresses that no other machine has, and pods and Services are
routed over it. `/var/lib`, `/var/log` and `/run` are its own, so that programs find their usual paths. Its processes
die with its first one, which dies with us; the kernel then takes mounts and links away. Only cgroups and files can
outlive a test process that is killed: the next machine removes them. What runs on it is left to `node_agents`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cluster.background_process import BackgroundProcess

CLAIMS = Path("/run/outrigger-test-machines")
MACHINES = 60
"""So many at once; each has four addresses of 192.168.250.0/24."""
DIRECTORY_PREFIX = "outrigger-cluster-"
"""Only directories so named are ever removed with a machine that was left behind."""
START_TIMEOUT = 20.0
# What the kubelet would set for the whole real machine. Seeing them set already, it leaves them alone.
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def possible() -> bool:
    """Whether this user may make machines."""
    return os.geteuid() == 0


class Machine:
    """Claimed when made, there after `start`. Needs root. Its files are below `directory`."""

    def __init__(self, directory: Path) -> None:
        CLAIMS.mkdir(exist_ok=True)
        _remove_leftovers()
        self.slot, self._claim = _claim(directory)
        self.name = f"outrigger{self.slot}"
        self.host_address = f"192.168.250.{4 * self.slot + 1}"
        """Our end of the link: where its programs and pods reach us."""
        self.address = f"192.168.250.{4 * self.slot + 2}"
        self.pods = f"10.244.{self.slot}.0/24"
        self.directory = directory / self.name
        self.directory.mkdir()
        self._first = BackgroundProcess("machine", self._first_command(), self.directory)

    @property
    def pid(self) -> int:
        """Its first process, as we see it."""
        outer = self._first.pid
        return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])

    @property
    def cgroup(self) -> str:
        """The cgroup that is to hold all that its pods run, of every hierarchy."""
        return f"/{self.name}"

    def start(self) -> None:
        """Namespaces, link, addresses, cgroups. Raises ProcessFailed, CalledProcessError."""
        self._first.start()
        self._first.wait_until((self.directory / "up").exists, "up", START_TIMEOUT)
        _ip(f"link add {self.name} type veth peer name eth0 netns {self.pid}")
        _ip(f"address add {self.host_address}/30 dev {self.name}")
        _ip(f"link set {self.name} up")
        self.run("ip", "address", "add", f"{self.address}/30", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", self.host_address)
        self.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        self.route_from_host(self.pods)
        _make_cgroups(self.name)

    def route_from_host(self, network: str) -> None:
        """Reach `network` over this machine from here."""
        _ip(f"route add {network} via {self.address}")

    def link(self, other: Machine) -> None:
        """A direct link, over which the two reach each other and each other's pods."""
        ours, theirs = f"to{other.slot}", f"to{self.slot}"
        _ip(f"link add {ours} netns {self.pid} type veth peer name {theirs} netns {other.pid}")
        for one, peer, device in ((self, other, ours), (other, self, theirs)):
            one.run("ip", "link", "set", device, "up")
            one.run("ip", *f"route add {peer.address}/32 dev {device} src {one.address}".split())
            one.run("ip", *f"route add {peer.pods} via {peer.address} dev {device} onlink".split())

    def command(self, *words: str | Path) -> list[str]:
        """The command line that runs `words` on this machine."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid"]
        # nsenter waits outside for its child; killed, it takes the child along
        return [*enter, "--", "setpriv", "--pdeathsig", "KILL", *(str(word) for word in words)]

    def run(self, *words: str | Path, input: str | None = None, timeout: float = 120.0) -> str:
        """Run a command on it; what it printed. Raises CalledProcessError, with stderr as a note."""
        done = subprocess.run(self.command(*words), input=input, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
            error.add_note(done.stderr)
            raise error
        return done.stdout

    def close(self) -> None:
        """End every process of it, and remove all that it was. Its directory goes with its cluster's."""
        self._first.kill()
        _remove(self.name)
        self._claim.truncate(0)
        self._claim.close()

    def _first_command(self) -> list[str | Path]:
        own = {"lib": "/var/lib", "log": "/var/log"}
        lines = ["set -e"]
        for name, place in own.items():
            (self.directory / name).mkdir()
            lines.append(f"mount --bind {self.directory / name} {place}")
        # images are unpacked with many a sync to disk, which here nothing is worth
        lines += [f"mkdir {self.directory / 'lib' / 'containerd'}", "mount -t tmpfs tmpfs /var/lib/containerd"]
        lines.append("mount -t tmpfs tmpfs /run")
        settings = self.directory / "kernel-settings"
        for name, value in _KERNEL_SETTINGS.items():
            file = settings / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
            lines.append(f"mount --bind {file} /proc/sys/{name}")
        lines += ["ip link set lo up", f"touch {self.directory / 'up'}"]
        # the shell reaps whoever loses its parent; killed, it takes every process of the machine along
        lines.append("while :; do sleep 1000000; done")
        isolate = ["unshare", "--net", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child=KILL"]
        return [*isolate, "--mount-proc", "sh", "-c", "\n".join(lines)]


def _ip(arguments: str) -> None:
    done = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise RuntimeError(f"ip {arguments}: {done.stderr.strip()}")


def _claim(directory: Path) -> tuple[int, IO[str]]:
    for slot in range(MACHINES):
        file = (CLAIMS / str(slot)).open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        file.truncate(0)
        file.write(str(directory))
        file.flush()
        return slot, file
    raise RuntimeError(f"{MACHINES} machines are in use")


def _remove_leftovers() -> None:
    """Of machines whose test process is dead: cgroups and files."""
    for path in CLAIMS.iterdir():
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if left := file.read().strip():
                _remove(f"outrigger{path.name}")
                if Path(left).name.startswith(DIRECTORY_PREFIX):
                    shutil.rmtree(left, ignore_errors=True)
                file.truncate(0)


def _remove(name: str) -> None:
    """The cgroups of a machine, with whatever still runs in them, and its link."""
    until = time.monotonic() + 20
    for root in _cgroups(name):
        while root.exists():
            for folder in sorted((root, *root.rglob("*/")), key=lambda path: len(path.parts), reverse=True):
                with contextlib.suppress(OSError):
                    for pid in (folder / "cgroup.procs").read_text().split():
                        os.kill(int(pid), signal.SIGKILL)
                    folder.rmdir()
            if time.monotonic() > until:
                raise RuntimeError(f"{root} is still in use")
            if root.exists():
                time.sleep(0.05)
    # it goes by itself with the machine's network, which may take the kernel a moment
    if Path("/sys/class/net", name).exists():
        subprocess.run(["ip", "link", "delete", name], capture_output=True, timeout=20)


def _make_cgroups(name: str) -> None:
    for path in _cgroups(name):
        path.mkdir()
        # of version 1: a cpuset is empty until it is given something, and then takes no process
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (path / file).exists() and not (path / "cgroup.controllers").exists():
                (path / file).write_text((path.parent / file).read_text())


def _cgroups(name: str) -> Iterator[Path]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            yield Path(place, name)

"""Changes are seen whoever makes them: the kubelet's swap, an editor, a CSI driver; and a volume is read as one."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mcp_sidecar.errors import ConfigError, Problem, SecretError
from mcp_sidecar.secrets import DirectoryWatch, Files, Watcher
from mcp_sidecar.secrets import watch as watch_module


class Volume:
    """A Secret volume as the kubelet's AtomicWriter keeps it."""

    def __init__(self, directory: Path, **files: str) -> None:
        self.directory = directory
        self.version = 0
        directory.mkdir()
        self.write(**files)

    def write(self, **files: str) -> None:
        self.version += 1
        fresh = self.directory / f"..2026_11_22_{self.version}"
        fresh.mkdir()
        for name, text in files.items():
            (fresh / name).write_text(text)
        data = self.directory / "..data"
        old = self.directory / os.readlink(data) if data.is_symlink() else None
        os.symlink(fresh.name, self.directory / "..data_tmp")
        os.rename(self.directory / "..data_tmp", data)
        for name in files:
            link = self.directory / name
            if not link.is_symlink():
                os.symlink(f"..data/{name}", link)
        for link in self.directory.iterdir():
            if link.is_symlink() and not link.name.startswith("..") and link.name not in files:
                link.unlink()
        if old is not None:
            shutil.rmtree(old)


def test_swap_of_the_kubelet(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "v", token="one", user="me")
    watch = DirectoryWatch(volume.directory)
    assert watch.poll() == frozenset()
    volume.write(token="two", user="me")
    assert watch.poll() == {"token"}
    assert watch.generation == 1
    volume.write(token="two", user="me")
    assert watch.poll() == frozenset(), "another directory with the same content is no change"
    volume.write(token="two", extra="x")
    assert watch.poll() == {"user", "extra"}


@pytest.mark.parametrize("how", ["in place", "rename", "symlink"])
def test_plain_files(tmp_path: Path, how: str) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    watch = DirectoryWatch(tmp_path, ["token"])
    if how == "in place":
        file.write_text("two")
    elif how == "rename":
        (tmp_path / "new").write_text("two")
        (tmp_path / "new").replace(file)
    else:
        (tmp_path / "target").write_text("two")
        file.unlink()
        file.symlink_to(tmp_path / "target")
    assert watch.poll() == {"token"}


def test_same_size_and_same_time_is_still_seen(tmp_path: Path) -> None:
    """CSI drivers may restore times."""
    file = tmp_path / "token"
    file.write_text("one")
    times = file.stat()
    watch = DirectoryWatch(tmp_path, ["token"])
    file.write_text("two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert watch.poll() == {"token"}


def test_other_files_are_not_looked_at(tmp_path: Path) -> None:
    watch = DirectoryWatch(tmp_path, ["token"])
    (tmp_path / "other").write_text("x")
    assert watch.poll() == frozenset()


def test_files_come_and_go(tmp_path: Path) -> None:
    watch = DirectoryWatch(tmp_path / "later", ["token"])
    (tmp_path / "later").mkdir()
    (tmp_path / "later/token").write_text("x")
    assert watch.poll() == {"token"}
    shutil.rmtree(tmp_path / "later")
    assert watch.poll() == {"token"}
    assert DirectoryWatch(tmp_path / "never").poll() == frozenset()


def test_one_scan_is_of_one_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Volume(tmp_path / "v", a="1", b="1")
    scanner = DirectoryWatch(volume.directory, ["a", "b"])
    kept = tmp_path / "kept"
    shutil.copytree(volume.directory / "..2026_11_22_1", kept)
    digest = watch_module._digest

    def swap_after(*candidates: Path) -> bytes | None:
        found = digest(*candidates)
        if candidates[0].name == "a":
            volume.write(a="2", b="2")
            kept.rename(volume.directory / "..2026_11_22_1")  # the kubelet has not removed it yet
        return found

    monkeypatch.setattr(watch_module, "_digest", swap_after)
    assert scanner.poll() == frozenset()
    monkeypatch.undo()
    assert scanner.poll() == {"a", "b"}


def test_one_reading_is_of_one_version(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "v", a="a1", b="b1")
    reading = Files()
    assert reading.text(volume.directory / "a") == "a1"
    shutil.copytree(volume.directory / "..2026_11_22_1", tmp_path / "kept")
    volume.write(a="a2", b="b2")
    os.rename(tmp_path / "kept", volume.directory / "..2026_11_22_1")  # the kubelet has not removed it yet
    assert reading.text(volume.directory / "b") == "b1"
    assert Files().text(volume.directory / "b") == "b2"


def test_an_old_version_that_is_gone_is_read_anew(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "v", a="a1", b="b1")
    reading = Files()
    assert reading.text(volume.directory / "a") == "a1"
    volume.write(a="a2", b="b2")
    assert reading.text(volume.directory / "b") == "b2"


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"\n", "is empty"), (b"\xff", "not UTF-8"), (b"a\0b", "NUL")]
)
def test_contents_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(SecretError, match=message):
        Files().text(tmp_path / "f")


@pytest.mark.parametrize(
    ("content", "text"), [(b"x", "x"), (b"x\n", "x"), (b"x\r\n", "x"), (b"x\n\n", "x\n"), (b" x ", " x ")]
)
def test_one_newline_at_the_end_goes(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "f").write_bytes(content)
    assert Files().text(tmp_path / "f") == text


def test_too_large(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(SecretError, match="larger"):
        Files().text(tmp_path / "f")


async def test_watcher_tells_once_per_look(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("1")
    (tmp_path / "sub").mkdir()
    told = []
    watcher = Watcher()
    end = watcher.add([tmp_path / "a", tmp_path / "b", tmp_path / "sub/c"], lambda: told.append(1))
    await watcher.look()
    assert not told
    for name in ("a", "b", "sub/c"):
        (tmp_path / name).write_text("2")
    await watcher.look()
    await watcher.look()
    assert (len(told), watcher.reloads, watcher.failures) == (1, 1, 0)
    (tmp_path / "a").write_text("3")
    await watcher.look()
    assert len(told) == 2, "one directory of the two is enough"
    end()
    end()
    (tmp_path / "a").write_text("4")
    await watcher.look()
    assert len(told) == 2


@pytest.mark.parametrize("error", [SecretError("bad"), ConfigError([Problem("x", "bad")])])
async def test_what_a_callback_refuses_is_counted_until_the_next_change(tmp_path: Path, error: Exception) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    others: list[int] = []
    watcher = Watcher()

    def refuse() -> None:
        if (tmp_path / "a").read_text() == "bad":
            raise error

    watcher.add([tmp_path / "a"], refuse)
    watcher.add([tmp_path / "b"], lambda: others.append(1))
    (tmp_path / "a").write_text("bad")
    (tmp_path / "b").write_text("2")
    await watcher.look()
    await watcher.look()
    assert (watcher.failures, watcher.reloads, len(others)) == (1, 1, 1), "one bad file does not stop the others"
    (tmp_path / "a").write_text("good")
    await watcher.look()
    assert (watcher.failures, watcher.reloads, watcher.last_error) == (1, 2, None)


async def test_async_callbacks_are_awaited(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    told = []

    async def on_change() -> None:
        await asyncio.sleep(0)
        told.append(1)

    watcher = Watcher()
    watcher.add([tmp_path / "a"], on_change)
    (tmp_path / "a").write_text("2")
    await watcher.look()
    assert told


async def test_run_looks_at_the_interval_of_now_until_cancelled(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("0")
    slept: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        (tmp_path / "a").write_text(str(len(slept)))
        watcher.interval += 1
        if len(slept) == 3:
            enough.set()
            await asyncio.Event().wait()

    sleeper: Callable[[float], Awaitable[None]] = sleep
    watcher = Watcher(5.0, sleeper)
    watcher.add([tmp_path / "a"], lambda: None)
    task = asyncio.create_task(watcher.run())
    async with asyncio.timeout(10):
        await enough.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slept == [5.0, 6.0, 7.0]
    assert watcher.reloads == 2

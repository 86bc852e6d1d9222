"""The private folder of `outrigger up`: who reads it, how files are replaced, what killed runs left."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mcp_operator.local_folder import ServerFolder, base_directory, private_folder


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


def test_folder_is_for_its_owner_and_gone_at_the_end(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with private_folder(tmp_path) as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            ServerFolder(folder / "a").write({"secrets/s/k": b"1", "config.json": b"{}"})
            assert modes(folder) == {0o600, 0o700}
    finally:
        os.umask(old)
    assert list(tmp_path.iterdir()) == []


def test_folder_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), private_folder(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_abandoned_folders_are_removed_and_no_others(tmp_path: Path) -> None:
    abandoned, foreign = tmp_path / "outrigger-up-abandoned", tmp_path / "outrigger-up-foreign"
    for folder in (abandoned, foreign):
        folder.mkdir()
    (abandoned / "lock").touch()
    (abandoned / "secret").write_text("x")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "lock").touch()
    (tmp_path / "outrigger-up-link").symlink_to(tmp_path / "target")
    with private_folder(tmp_path) as used, private_folder(tmp_path) as other:
        assert used.exists()
        assert other.exists()
        assert not abandoned.exists()
        assert foreign.exists()  # nothing says that it is ours
        assert (tmp_path / "target" / "lock").exists()


def test_memory_is_preferred(tmp_path: Path) -> None:
    assert base_directory({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path
    assert base_directory({"XDG_RUNTIME_DIR": str(tmp_path / "no")}) != tmp_path / "no"
    assert base_directory({}).is_dir()


def test_only_what_changes_is_written(tmp_path: Path) -> None:
    folder = ServerFolder(tmp_path / "a")
    assert folder.write({"config.json": b"1", "secrets/s/k": b"1", "secrets/s/l": b"1"})
    inodes = {path.name: path.stat().st_ino for path in folder.path.rglob("*") if path.is_file()}
    assert not folder.write({"config.json": b"1", "secrets/s/k": b"1", "secrets/s/l": b"1"})
    assert folder.write({"config.json": b"1", "secrets/s/k": b"2"})
    after = {path.name: path.stat().st_ino for path in folder.path.rglob("*") if path.is_file()}
    assert set(after) == {"config.json", "k"}
    assert after["config.json"] == inodes["config.json"]
    assert after["k"] != inodes["k"]  # replaced, never written into
    assert (folder.path / "secrets/s/k").read_bytes() == b"2"


def test_config_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    replace = Path.replace

    def noted(self: Path, target: Path) -> Path:
        order.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    ServerFolder(tmp_path / "a").write({"config.json": b"1", "z": b"1", "a": b"1"})
    assert order[-1] == "config.json"

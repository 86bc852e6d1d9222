"""The files of one layer, laid out in a folder as they will be in the image.

Owners, times and modes are the archive's business, but for the few in `Stage.owners`. What goes into which layer is in
`contents`.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from images.elf import is_elf, shared_libraries

# Folders that are links on every current distribution. The image has them the same way whatever this machine has.
USR_MERGED = ("bin", "lib", "lib64", "sbin")


class Stage:
    """A folder that stands for the root of an image's file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.owners: dict[str, tuple[int, int]] = {}
        """Path in the image without the leading slash -> (user and group id, mode), where not root's and usual."""
        root.mkdir(parents=True)

    def at(self, path: str) -> Path:
        """Where the image's absolute `path` is in the folder, its links in `USR_MERGED` resolved."""
        parts = Path(path).parts[1:]
        if parts and parts[0] in USR_MERGED:
            parts = ("usr", *parts)
        return self.root.joinpath(*parts)

    def text(self, path: str, content: str, *, executable: bool = False) -> None:
        """Write a file."""
        target = self._parent(path)
        target.write_text(content, encoding="utf-8")
        target.chmod(0o755 if executable else 0o644)

    def copy(self, source: Path, path: str) -> None:
        """Copy one file, following a link."""
        shutil.copy(source, self._parent(path))

    def tree(self, source: Path, path: str, leave_out: Callable[[Path], bool] = lambda _: False) -> None:
        """Copy a folder but for what `leave_out` says of paths relative to it. Links become what they lead to."""

        def ignore(folder: str, names: list[str]) -> set[str]:
            inside = Path(folder).relative_to(source)
            return {name for name in names if leave_out(inside / name) or not (Path(folder) / name).exists()}

        shutil.copytree(source, self.at(path), ignore=ignore, dirs_exist_ok=True)

    def link(self, path: str, to: str) -> None:
        """A symbolic link."""
        self._parent(path).symlink_to(to)

    def folder(self, path: str, *, owner: int = 0, mode: int = 0o755) -> None:
        """An empty folder, with an owner and mode of its own."""
        target = self.at(path)
        target.mkdir(parents=True, exist_ok=True)
        self.owners[target.relative_to(self.root).as_posix()] = (owner, mode)

    def remove(self, *patterns: str) -> None:
        """Remove what matches the patterns (relative to the root)."""
        for pattern in patterns:
            for path in sorted(self.root.glob(pattern)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def libraries(self, below: Iterable["Stage"] = ()) -> None:
        """Add the shared libraries that the files here need, but for those in the layers `below`.

        All go where the loader looks without being told: the folder that holds the C library. What a package brings
        along and finds relative to itself stays as it is.
        """
        programs = [path for path in self.root.rglob("*") if not path.is_symlink() and is_elf(path)]
        needed = shared_libraries(programs)
        c_library = next((path for name, path in needed.items() if name == "libc.so.6"), None)
        if c_library is None:
            if programs:
                raise FileNotFoundError("no glibc here: images can be made on a Linux with glibc only")
            return
        for name, path in needed.items():
            if path.is_relative_to(self.root):
                continue
            target = name if name.startswith("/") else str(c_library.with_name(name))
            if not any(stage.at(target).exists() for stage in (self, *below)):
                self.copy(path.resolve(), target)

    def _parent(self, path: str) -> Path:
        target = self.at(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


def merged_usr(stage: Stage) -> None:
    """The links from the root to ``/usr`` that `Stage.at` takes for granted."""
    for name in USR_MERGED:
        (stage.root / "usr" / name).mkdir(parents=True, exist_ok=True)
        os.symlink(f"usr/{name}", stage.root / name)

"""What a node needs beside Kubernetes itself: its DNS, its metrics and the image that holds a pod's network.

Built from the module in `addons/` and kept in the cache, as the programs of Kubernetes are.

    python tests/cluster/addon_programs.py     builds what is missing, prints the directory
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from go_programs import GoModule, ProgramsMissing
from images.archive import Recipe, write_image, write_layer
from images.stage import Stage

MODULE = GoModule(
    Path(__file__).resolve().parent / "addons",
    {
        "coredns": "./coredns",
        "metrics-server": "sigs.k8s.io/metrics-server/cmd/metrics-server",
        "pause": "./pause",
    },
    cache_name="addons",
)


def programs(*names: str) -> dict[str, Path]:
    """The paths of the programs named (all by default), built first where they are missing. Raises ProgramsMissing."""
    return MODULE.programs(*names)


def pause_archive(reference: str, path: Path) -> Path:
    """Write the image that holds a pod's network namespace, and nothing else, as an archive; `path`."""
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(Path(directory, "root"))
        stage.copy(programs("pause")["pause"], "/pause")
        layer = write_layer("pause", stage, Path(directory, "layer.tar"))
        write_image(Recipe("pause", reference, ("pause",), {"Entrypoint": ["/pause"], "User": "65535"}), [layer], path)
    return path


def main() -> int:
    """Build what is missing and print where it is."""
    try:
        programs()
    except ProgramsMissing as error:
        print(f"addons: {error}", file=sys.stderr)
        return 1
    print(MODULE.directory())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m images`: makes the archives in dist/images. What they hold is in `contents`."""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from images.archive import Layer, Recipe, write_image, write_layer
from images.contents import LAYERS, ROOT, Contents, recipes
from images.stage import Stage


def build(wanted: list[Recipe], output: Path, contents: Mapping[str, Contents] = LAYERS) -> dict[str, Path]:
    """Make the archives of `wanted` in `output`; a layer that two share is made once. Name -> archive."""
    output.mkdir(parents=True, exist_ok=True)
    made: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(prefix="outrigger-images-") as folder:
        stages: dict[str, Stage] = {}
        layers: dict[str, Layer] = {}
        for recipe in wanted:
            for index, name in enumerate(recipe.layers):
                if name not in layers:
                    stage = Stage(Path(folder, name))
                    contents[name](stage, [stages[below] for below in recipe.layers[:index]])
                    stages[name] = stage
                    layers[name] = write_layer(name, stage, Path(folder, f"{name}.tar"))
            path = output / f"{recipe.name}.tar"
            digest = write_image(recipe, [layers[name] for name in recipe.layers], path)
            made[recipe.name] = path
            print(f"{recipe.reference}  sha256:{digest[:12]}  {path.stat().st_size / 2**20:.0f} MiB  {path}")
    return made


def main() -> int:
    """Parse the arguments and build."""
    available = {recipe.name: recipe for recipe in recipes()}
    parser = argparse.ArgumentParser(
        prog="python -m images", description="Make container images as archives, without Docker."
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"one of {', '.join(available)} (default: all)")
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "images", metavar="DIR")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.images) - set(available))
    if unknown:
        parser.error(f"no image {', '.join(unknown)}; there are: {', '.join(available)}")
    build([available[name] for name in arguments.images or available], arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

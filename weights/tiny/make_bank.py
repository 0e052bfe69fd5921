"""Make the bank of training scenes for `tiny-v2`.

`python weights/tiny/make_bank.py [--scenes 440] [--images FOLDER] [--out weights/tiny/bank]`

Training scenes are drawn into the folder --images, from where `corrclip explain` takes crops; their regions are
SAM 2's, and no label is used.
"""

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from corrclip_jax.bank.folder import read_description, write_description
from corrclip_jax.datasets.scenes.generate import train_scene
from corrclip_jax.hub.embedded import EMBEDDED_BANK, EMBEDDED_V2
from corrclip_jax.inference.bank import build_bank

IMAGES = "training-scenes"


def draw(folder: Path, seeds: Iterable[int]) -> None:
    """Write training scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        Image.fromarray(train_scene(seed).image).save(folder / f"train-{seed:05d}.png")


def make(images: Path, out: Path) -> int:
    """Build the bank and return how many entries it has."""
    build_bank(images, out, EMBEDDED_V2)
    # The bank must not hold a path of this machine.
    description = replace(read_description(out), roots=[IMAGES])
    write_description(out, description)
    (out / ".lock").unlink(missing_ok=True)
    return description.entries


def main() -> None:
    """Draw scenes and build the bank."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=440)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--out", type=Path, default=EMBEDDED_BANK)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        images = args.images or Path(temporary)
        draw(images, range(args.scenes))
        print(f"{make(images, args.out)} entries in {args.out}")


if __name__ == "__main__":
    main()

"""The model card's pictures: `python weights/tiny/figures.py --clip RUN --dino RUN --sam2 RUN` (after `pack.py`).

`curve_TOWER.png`, the losses of each run that is given; `scenes.png`, what they were trained on; `results.png`,
scenes of the validation split with the truth, CLIP alone and the whole method.
"""

import argparse
import csv
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from corrclip_jax.config import PartsConfig, with_fields
from corrclip_jax.datasets.scenes import generate
from corrclip_jax.datasets.scenes.words import CLASSES
from corrclip_jax.method.segment import make_segment
from corrclip_jax.params.model_folder import read
from corrclip_jax.params.structure import networks_of
from corrclip_jax.text.encode import embed_text
from corrclip_jax.viz.overlay import overlay

HERE = Path(__file__).parent
_SHOWN = {
    "clip": ("main", "semantic", "words"),
    "dino": ("cls", "patches"),
    "sam2": ("entropy", "dice", "iou"),
}
LINES = ((200, 60, 60), (50, 110, 200), (60, 150, 80))
_PANEL = (420, 260)
_GAP = 6


def curve(run: Path, columns: tuple[str, ...], title: str) -> Image.Image:
    """One run's log as a small plot, smoothed over some lines."""
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = np.array([float(row["step"]) for row in rows])
    panel = Image.new("RGB", _PANEL, "white")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(13)
    left, top, right, bottom = 44, 30, _PANEL[0] - 12, _PANEL[1] - 28
    series = [_smooth(np.array([float(row[name]) for row in rows])) for name in columns]
    highest = max(values.max() for values in series)
    draw.rectangle((left, top, right, bottom), outline=(170, 170, 170))
    draw.text((left, 8), title, "black", font)
    draw.text((6, top - 6), f"{highest:.2g}", (90, 90, 90), font)
    draw.text((6, bottom - 10), "0", (90, 90, 90), font)
    draw.text((right - 90, bottom + 6), f"{int(steps[-1])} steps", (90, 90, 90), font)
    for number, (name, values, colour) in enumerate(zip(columns, series, LINES, strict=False)):
        x = left + (right - left) * steps / steps[-1]
        y = bottom - (bottom - top) * values / highest
        draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), colour, 2)
        draw.text((right - 80, top + 6 + 16 * number), name, colour, font)
    return panel


def _smooth(values: np.ndarray) -> np.ndarray:
    """Means over up to five neighbouring lines of the log."""
    return np.array([values[max(0, i - 2) : i + 3].mean() for i in range(len(values))])


def tiled(rows: list[list[Image.Image]]) -> Image.Image:
    """Pictures of one size in rows and columns."""
    width, height = rows[0][0].size
    count = max(map(len, rows))
    sheet = Image.new("RGB", (count * (width + _GAP) - _GAP, len(rows) * (height + _GAP) - _GAP), "white")
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            sheet.paste(picture, (j * (width + _GAP), i * (height + _GAP)))
    return sheet


def world() -> Image.Image:
    """A row of training scenes and a row of training crops."""
    shown = [Image.fromarray(generate.train_scene(seed).image) for seed in range(6)]
    crops = [Image.fromarray(generate.train_crop(seed).image).resize(shown[0].size) for seed in range(6)]
    return tiled([shown, crops]).quantize(128)


def results(indices: list[int]) -> Image.Image:
    """A column a scene: picture, truth, CLIP alone, the whole method."""
    config, params = read(HERE)
    names = [names[0] for names in CLASSES]
    text = embed_text(config, params, [list(synonyms) for synonyms in CLASSES])
    drawn = [generate.val_scene(index) for index in indices]
    images = np.stack([scene.image for scene in drawn])
    off = {field.name: False for field in dataclasses.fields(PartsConfig)}
    plain = jax.jit(make_segment(with_fields(config, parts=off)))
    plain_labels = plain(params, images, text, regions=jnp.zeros(images.shape[:3], jnp.int32)).labels
    labels = jax.jit(make_segment(config))(params, images, text).labels
    rows = [[Image.fromarray(scene.image) for scene in drawn]]
    for found in ([scene.labels for scene in drawn], plain_labels, labels):
        painted = [
            overlay(s.image, np.asarray(x), names, legend=False) for s, x in zip(drawn, found, strict=True)
        ]
        rows.append([picture.resize(rows[0][0].size, Image.Resampling.LANCZOS) for picture in painted])
    return tiled(rows)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    towers = tuple(networks_of(read(HERE)[0]))
    for tower in towers:
        parser.add_argument(f"--{tower}", type=Path)
    args = parser.parse_args()
    for tower in towers:
        if run := getattr(args, tower):
            curve(run, _SHOWN[tower], f"{tower}: losses").save(HERE / f"curve_{tower}.png", optimize=True)
    world().save(HERE / "scenes.png", optimize=True)
    results([0, 2, 4, 6, 8, 10]).quantize(256).save(HERE / "results.png", optimize=True)


if __name__ == "__main__":
    main()

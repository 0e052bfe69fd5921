"""The work of `corrclip demo`: generated scenes, labelled by plain CLIP and by the whole method, as pictures."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from rich.markup import escape
from rich.table import Table

from corrclip_jax.cli.shared.tables import add_numbers, plain_table
from corrclip_jax.config import PartsConfig, with_fields
from corrclip_jax.datasets.scenes.generate import Scene, draw
from corrclip_jax.datasets.scenes.words import CLASSES
from corrclip_jax.evaluation import metrics
from corrclip_jax.hub.presets import load
from corrclip_jax.inference.segmenter import Classes, Segmentation, Segmenter
from corrclip_jax.io.files import atomic_file
from corrclip_jax.viz.contact_sheet import contact_sheet
from corrclip_jax.viz.overlay import class_shares, overlay
from corrclip_jax.viz.palette import class_colours

# Seeds of the scenes, chosen for their variety before any model had seen them, and twice the training scenes' size.
SEEDS = (14, 9, 12, 18, 1, 4, 23, 21)
_SIZE, _SCALE = (336, 448), 2.0
# The scenes' classes in an order in which the palette suits them: red bricks, a blue sky, green grass, orange sand.
_ORDER = (
    "brick", "sky", "grass", "sand", "flower", "water", "heart", "wood", "star", "road", "snow", "arrow", "ring",
    "cross", "moon", "triangle", "circle", "square",
)  # fmt: skip
_SHEET_WIDTH = 240
_OPACITY = 0.65


def demo_scene(index: int) -> Scene:
    """Scene `index` of the demo."""
    return draw(np.random.default_rng([7, SEEDS[index]]), _SIZE, (4, 8), scale=_SCALE)


def own_classes() -> tuple[list[tuple[str, ...]], Int[np.ndarray, " K"]]:
    """The scenes' classes in the demo's order, and each one's place in it by its number in the scenes' labels."""
    places = [_ORDER.index(names[0]) for names in CLASSES]
    return [CLASSES[places.index(place)] for place in range(len(places))], np.asarray(places, np.int32)


def show(model: str, classes: Classes | None, scenes: int, announce: Callable[[str], object]) -> "Gallery":
    """Label the first scenes in both ways; `classes` None means the scenes' own. `announce` hears of each step.

    Raises:
      ValueError: a model without SAM 2, and whatever `load` refuses.
      FileNotFoundError: where the model's weights are not here and cannot be downloaded.
    """
    announce(f"Loading the model {model}")
    config, params = load(model)
    parts = PartsConfig(**dict.fromkeys((field.name for field in dataclasses.fields(PartsConfig)), False))
    ways = {
        "plain CLIP": Segmenter((with_fields(config, parts=parts), params), regions="none"),
        "CorrCLIP": Segmenter((config, params), regions="sam2"),
    }
    drawn = [demo_scene(index) for index in range(scenes)]
    own, places = own_classes()
    found: dict[str, list[Segmentation]] = {name: [] for name in ways}
    for name, segmenter in ways.items():
        for number, scene in enumerate(drawn, 1):
            note = " (compiling, unless an earlier run has)" if number == 1 else ""
            announce(f"{name}: scene {number} of {scenes}{note}")
            found[name].append(segmenter(scene.image, own if classes is None else classes))
    truth = [places[scene.labels] for scene in drawn]
    return Gallery(found, truth if classes is None else None)


@dataclass(frozen=True)
class Gallery:
    """The same scenes labelled by plain CLIP and by CorrCLIP; `truth` where the classes are the scenes' own."""

    ways: dict[str, list[Segmentation]]
    truth: Sequence[Int[np.ndarray, "H W"]] | None

    @property
    def results(self) -> list[Segmentation]:
        """What the whole method makes of the scenes."""
        return self.ways["CorrCLIP"]

    def save(self, out: Path) -> list[Path]:
        """Write the pictures; their paths, the contact sheet's first.

        Raises:
          OutputError: a file cannot be written.
        """
        everything = range(len(self.results))
        rows = [self._row(index) for index in everything]
        sheet = contact_sheet(rows, self._titles(everything), self._key(everything), width=_SHEET_WIDTH)
        # A palette takes a third of the space of full colour, and nobody sees it.
        files = [_write(sheet.quantize(256, kmeans=2), out / "demo.png")]
        for index, result in enumerate(self.results):
            comparison = contact_sheet([rows[index]], self._titles([index]), self._key([index]))
            files += [
                _write(result.overlay(), out / f"scene-{index + 1}-overlay.png"),
                _write(region_picture(result), out / f"scene-{index + 1}-regions.png"),
                _write(comparison, out / f"scene-{index + 1}-comparison.png"),
            ]
        return files

    def table(self) -> Table:
        """What each class got: its IoU where the truth is known, else its share of the pixels."""
        names = self.results[0].class_names
        unit = "share" if self.truth is None else "IoU"
        table = plain_table("Class", gap=3)
        add_numbers(table, *(f"{way}: {unit} %" for way in self.ways))
        columns = [self._by_class(way) for way in self.ways]
        for name, colour, *values in zip(names, class_colours(names).tolist(), *columns, strict=True):
            if not np.all(np.isnan(values)):
                swatch = f"[rgb({','.join(map(str, colour))})]■[/] {escape(name)}"
                table.add_row(swatch, *("" if np.isnan(value) else f"{100 * value:.1f}" for value in values))
        if self.truth is not None:
            table.add_row("mean", *(f"{100 * np.nanmean(column):.1f}" for column in columns), style="bold")
        return table

    def _by_class(self, way: str) -> Float[np.ndarray, " K"]:
        if self.truth is not None:
            return metrics.class_iou(self._matrix(way, range(len(self.truth))))
        found = self.ways[way]
        return np.mean([class_shares(one.labels, len(one.classes)) for one in found], axis=0)

    def _matrix(self, way: str, scenes: Sequence[int]) -> Int[np.ndarray, "K K+1"]:
        assert self.truth is not None
        classes = len(self.ways[way][0].classes)
        matrix = np.zeros((classes, classes + 1), np.int64)
        for index in scenes:
            labels, truth = self.ways[way][index].labels, self.truth[index]
            matrix += np.asarray(metrics.confusion(jnp.asarray(labels), jnp.asarray(truth), classes))
        return matrix

    def _row(self, index: int) -> list[Image.Image]:
        """A scene's pictures: photo, plain CLIP, CorrCLIP, truth."""
        photo, names = self.results[index].photo, self.results[index].class_names
        maps = [found[index].labels for found in self.ways.values()]
        maps += [] if self.truth is None else [self.truth[index]]
        pictures = (overlay(faint(photo), labels, names, opacity=_OPACITY, legend=False) for labels in maps)
        return [Image.fromarray(photo), *pictures]

    def _titles(self, scenes: Sequence[int]) -> list[str]:
        if self.truth is None:
            return ["photo", *self.ways]
        ious = {way: 100 * metrics.mean_iou(self._matrix(way, scenes)) for way in self.ways}
        return ["photo", *(f"{way}, mIoU {iou:.0f}" for way, iou in ious.items()), "truth"]

    def _key(self, scenes: Sequence[int]) -> dict[str, tuple[int, int, int]]:
        """The colours of the classes that the pictures of some scenes show, in the order of the class list."""
        maps = [found[index].labels for found in self.ways.values() for index in scenes]
        maps += [] if self.truth is None else [self.truth[index] for index in scenes]
        shown = sorted({int(label) for labels in maps for label in np.unique(labels)})
        names = self.results[0].class_names
        colours = class_colours(names).tolist()
        return {names[label]: tuple(colours[label]) for label in shown}


def region_picture(result: Segmentation) -> Image.Image:
    """The photo under a colour a region; what belongs to none is left clear."""
    ids, places = np.unique(result.regions, return_inverse=True)
    names = ["background" if id == 0 else f"region {id}" for id in ids]
    places = places.reshape(result.regions.shape)
    return overlay(faint(result.photo), places, names, opacity=_OPACITY, legend=False)


def faint(photo: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The photo in pale grey: under colours that mean something, its own would mislead."""
    grey = np.asarray(Image.fromarray(photo).convert("L"), np.float32)
    return np.repeat((110 + 0.5 * grey).astype(np.uint8)[..., None], 3, axis=2)


def _write(image: Image.Image, path: Path) -> Path:
    with atomic_file(path) as partial:
        image.save(partial, optimize=True)
    return path

"""The work of `corrclip demo`: generated scenes labelled by plain CLIP and by the whole method, as images."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from rich.markup import escape
from rich.table import Table

from corrclip_jax.cli.shared.progress import Progress
from corrclip_jax.cli.shared.tables import add_numbers, plain_table
from corrclip_jax.config import PartsConfig, with_fields
from corrclip_jax.datasets.scenes.generate import Scene, draw
from corrclip_jax.datasets.scenes.words import CLASSES
from corrclip_jax.evaluation import metrics
from corrclip_jax.hub.embedded import EMBEDDED, EMBEDDED_V2
from corrclip_jax.hub.presets import as_embedded, load
from corrclip_jax.inference.segmenter import Segmentation, Segmenter
from corrclip_jax.io.own_files import OwnFiles
from corrclip_jax.viz.contact_sheet import contact_sheet
from corrclip_jax.viz.legend import legend_name
from corrclip_jax.viz.overlay import class_shares, overlay
from corrclip_jax.viz.palette import class_colours

# Seeds chosen for variety, before any model was run on the scenes, which are twice the size of training scenes.
SEEDS = (14, 9, 12, 18, 1, 4, 23, 21)
_SIZE, _SCALE = (336, 448), 2.0
# The classes in an order that gives them fitting colours: red bricks, a blue sky, green grass, orange sand.
_ORDER = (
    "brick", "sky", "grass", "sand", "flower", "water", "heart", "wood", "star", "road", "snow", "arrow", "ring",
    "cross", "moon", "triangle", "circle", "square",
)  # fmt: skip
_confusion = jax.jit(metrics.confusion, static_argnums=2)
_SHEET_WIDTH = 240
_OPACITY = 0.65


def demo_scene(index: int) -> Scene:
    """Scene `index` of the demo."""
    return draw(np.random.default_rng([7, SEEDS[index]]), _SIZE, (4, 8), scale=_SCALE)


def own_classes() -> tuple[list[tuple[str, ...]], Int[np.ndarray, " K"]]:
    """The classes of the scenes in the order of the demo, and a table from labels of the scenes to this order."""
    order = [_ORDER.index(names[0]) for names in CLASSES]
    return [CLASSES[order.index(index)] for index in range(len(order))], np.asarray(order, np.int32)


def file_names(scenes: int) -> list[str]:
    """The names of the images of so many scenes, the contact sheet last."""
    kinds = ("overlay", "regions", "comparison")
    return [*(f"scene-{index + 1}-{kind}.png" for index in range(scenes) for kind in kinds), "demo.png"]


def show(
    model: str,
    classes: Sequence[Sequence[str]] | None,
    scenes: int,
    progress: Progress,
    stop: Event,
    *,
    bank: bool = False,
) -> "Gallery":
    """Label scenes with plain CLIP, with the whole method, and with CorrCLIPv2 and the embedded bank.

    Args:
      model: a name or a folder, as for `load`.
      classes: class names, or None for those of the scenes.
      scenes: number of scenes.
      progress: shows each step.
      stop: ends the run before the next scene.
      bank: whether CorrCLIPv2 labels them too, with the embedded model.

    Raises:
      KeyboardInterrupt: if it was stopped.
      ValueError: for a model without SAM 2, and as in `load`.
      FileNotFoundError: if the weights are missing and cannot be downloaded.
    """
    progress.phase(f"Loading {model}")
    config, params = load(model)
    parts = PartsConfig(**dict.fromkeys((field.name for field in dataclasses.fields(PartsConfig)), False))
    ways = {
        "plain CLIP": Segmenter((with_fields(config, parts=parts), params), regions="none"),
        "CorrCLIP": Segmenter((config, params), regions="sam2"),
    }
    if bank:
        second = as_embedded(config, EMBEDDED_V2)
        ways["CorrCLIPv2"] = Segmenter((second, params), regions="none", bank=EMBEDDED)
    drawn = [demo_scene(index) for index in range(scenes)]
    own, order = own_classes()
    found: dict[str, list[Segmentation]] = {name: [] for name in ways}
    names = own if classes is None else classes
    with ThreadPoolExecutor(1) as pool:
        # First scenes that are labelled, and so compiled, beside another way: a compilation keeps one core busy.
        begun = {"CorrCLIP": pool.submit(ways["CorrCLIP"], drawn[0].image, names)}
        for name, segmenter in ways.items():
            progress.phase(name, total=scenes)
            # Of one scene, both versions of the method get the same regions.
            regions = [one.regions for one in found["CorrCLIP"]] if name == "CorrCLIPv2" else [None] * scenes
            for number, scene in enumerate(drawn, 1):
                note = " (compiling, except in later runs)" if number == 1 else ""
                progress.show(f"scene {number}{note}")
                if stop.is_set():
                    raise KeyboardInterrupt
                early = begun.pop(name, None)
                one = early.result() if early else segmenter(scene.image, names, regions=regions[number - 1])
                found[name].append(one)
                progress.advance()
    truth = [order[scene.labels] for scene in drawn]
    return Gallery(found, truth if classes is None else None)


@dataclass(frozen=True)
class Gallery:
    """Scenes labelled in several ways, best last; `truth` is None if the classes are not those of the scenes."""

    ways: dict[str, list[Segmentation]]
    truth: Sequence[Int[np.ndarray, "H W"]] | None

    @property
    def results(self) -> list[Segmentation]:
        """Results of the whole method."""
        return list(self.ways.values())[-1]

    def save(self, out: Path, *, overwrite: bool = False) -> list[Path]:
        """Write the images.

        Args:
          out: the folder.
          overwrite: replace files that this program did not write, too.

        Returns:
          Their paths, the contact sheet first.

        Raises:
          OutputError: if a file cannot be written, or must not be replaced.
        """
        everything = range(len(self.results))
        rows = [self._row(index) for index in everything]
        images = []
        for index, result in enumerate(self.results):
            comparison = contact_sheet([rows[index]], self._titles([index]), self._key([index]))
            images += [result.overlay(), region_picture(result), comparison]
        titles, key = self._titles(everything), self._key(everything)
        images.append(contact_sheet(rows, titles, key, width=_SHEET_WIDTH))
        names = file_names(len(self.results))
        with OwnFiles(out).writing(names, {}, overwrite=overwrite) as partials, ThreadPoolExecutor() as pool:
            list(pool.map(Image.Image.save, images, partials))  # which raises the first error
        return [out / name for name in [names[-1], *names[:-1]]]

    def table(self) -> Table:
        """One line per class: its IoU if the ground truth is known, otherwise its share of the pixels."""
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

    def numbers(self) -> dict[str, Any]:
        """The numbers of `table` as JSON types: by way and class, None for classes that do not occur."""
        names = self.results[0].class_names
        columns = {way: [None if np.isnan(v) else float(v) for v in self._by_class(way)] for way in self.ways}
        found = {way: dict(zip(names, column, strict=True)) for way, column in columns.items()}
        return {"share" if self.truth is None else "iou": found}

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
            matrix += np.asarray(_confusion(labels, truth, classes))
        return matrix

    def _row(self, index: int) -> list[Image.Image]:
        """The images of a scene: the scene, each way, ground truth."""
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
        """Colours of the classes that occur in these scenes, in the order of the classes."""
        maps = [found[index].labels for found in self.ways.values() for index in scenes]
        maps += [] if self.truth is None else [self.truth[index] for index in scenes]
        shown = sorted({int(label) for labels in maps for label in np.unique(labels)})
        classes = self.results[0].classes
        colours = class_colours(self.results[0].class_names).tolist()
        return {legend_name(label, classes[label]): tuple(colours[label]) for label in shown}


def region_picture(result: Segmentation) -> Image.Image:
    """The image with one colour per region; unsegmented pixels stay clear."""
    ids, indices = np.unique(result.regions, return_inverse=True)
    names = ["background" if id == 0 else f"region {id}" for id in ids]
    indices = indices.reshape(result.regions.shape)
    return overlay(faint(result.photo), indices, names, opacity=_OPACITY, legend=False)


def faint(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The image in pale grey, so that its own colours are not mistaken for those of classes."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    return np.repeat((110 + 0.5 * grey).astype(np.uint8)[..., None], 3, axis=2)

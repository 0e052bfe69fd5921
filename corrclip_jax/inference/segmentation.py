"""`Segmentation`, the result for one photo: labels, shares of the classes, visualisations, files."""

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int32, Integer, UInt8
from PIL import Image

from corrclip_jax.formats import libraries
from corrclip_jax.formats.images import LabelledImage, Options, Vocabulary
from corrclip_jax.formats.segments import By, Segment, find_segments, to_json
from corrclip_jax.io.files import json_bytes, result_names
from corrclip_jax.io.own_files import Made, OwnFiles
from corrclip_jax.viz import overlay as viz
from corrclip_jax.viz.data_uri import data_uri
from corrclip_jax.viz.legend import percent
from corrclip_jax.viz.palette import class_colours

if TYPE_CHECKING:
    import fiftyone
    import supervision


@dataclass(frozen=True, eq=False)
class RegionSupport:
    """What a bank said about the R regions of one photo.

    Attributes:
      regions: the ids of the regions, ascending; the first may be the unsegmented pixels.
      neighbours: the entries of the bank that are nearest to each region, nearest first; -1 where there are fewer.
      similarities: of the neighbours, larger is nearer (see `method.bank.search`).
      logits: of every query, by the neighbours' values.
      own: logits of every query by the region's own features, the mean of its pixels.
    """

    regions: Int32[np.ndarray, " R"]
    neighbours: Int32[np.ndarray, "R k"]
    similarities: Float32[np.ndarray, "R k"]
    logits: Float32[np.ndarray, "R Q"]
    own: Float32[np.ndarray, "R Q"]

    @classmethod
    def of(cls, regions: Int32[np.ndarray, "H W"], *rows: np.ndarray) -> "RegionSupport":
        """The support of a photo with a region map, from rows of `method.segment.SupportedResult`."""
        ids = np.unique(regions)
        return cls(ids, *(array[: len(ids)].copy() for array in rows))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels of one photo, at the photo's own size [H, W].

    Attributes:
      photo: the pixels.
      labels: indices into `classes`.
      scores: the winning class's probability before the map correction.
      regions: the region map that was used.
      classes: the names of every class, synonyms after the first.
      seconds: this photo's share of the run time of its batch, without compilation.
      compiled: whether a program was compiled for it.
      support: what a bank said about the regions; None without a bank.
      probabilities: of every class, before the map correction, at points that lie evenly over the photo, the
        middles of h x w cells; `Segmenter(probability_points=)` says how many. None if they are not known.
    """

    photo: UInt8[np.ndarray, "H W 3"]
    labels: Int32[np.ndarray, "H W"]
    scores: Float32[np.ndarray, "H W"]
    regions: Int32[np.ndarray, "H W"]
    classes: tuple[tuple[str, ...], ...]
    seconds: float
    compiled: bool
    support: RegionSupport | None = None
    probabilities: Float16[np.ndarray, "K h w"] | None = None

    @cached_property
    def segments(self) -> list[Segment]:
        """The regions with their classes and probabilities, the largest first.

        Where nothing was segmented, each connected piece of a class.
        """
        return self.find_segments()

    def find_segments(self, by: By = "region") -> list[Segment]:
        """Segments of another kind: connected pieces of classes ("piece"), or whole classes ("class")."""
        return find_segments(self.labels, self.regions, by=by, probabilities=self.probabilities)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The labels, for `numpy.asarray(result)` and everything that takes arrays."""
        return np.array(self.labels, dtype=dtype, copy=copy)

    def to_pil(self) -> Image.Image:
        """The labels as an image, the same as `label_image`."""
        return self.label_image()

    def to_supervision(self, by: By = "region", *, background: bool = False) -> "supervision.Detections":
        """Segments as `supervision.Detections` (see `formats.libraries.to_supervision`).

        Args:
          by: what a segment is (see `find_segments`).
          background: whether a class called "background" is among them.

        Raises:
          MissingExtraError: if supervision is not installed.
        """
        return libraries.to_supervision(*self._annotated(by), Options(background=background))

    def to_fiftyone(self, by: By = "region", *, background: bool = False) -> "fiftyone.Detections":
        """Segments as `fiftyone.Detections` (see `formats.libraries.to_fiftyone`).

        Arguments are those of `to_supervision`.

        Raises:
          MissingExtraError: if fiftyone is not installed.
        """
        return libraries.to_fiftyone(*self._annotated(by), Options(background=background))

    def _annotated(self, by: By) -> tuple[LabelledImage, Vocabulary]:
        height, width = self.labels.shape
        return LabelledImage(width, height, self.find_segments(by)), Vocabulary(self.classes)

    @property
    def class_names(self) -> list[str]:
        """The first name of every class."""
        return [names[0] for names in self.classes]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the pixels, 0..1, of every class that occurs, the largest first."""
        shares = viz.class_shares(self.labels, len(self.classes))
        return {
            self.class_names[k]: float(shares[k]) for k in np.argsort(-shares, kind="stable") if shares[k]
        }

    def __repr__(self) -> str:
        """Size and the largest classes, on one line."""
        height, width = self.labels.shape
        shares = list(self.shares.items())
        largest = ", ".join(f"{name} {percent(share)}" for name, share in shares[:3])
        more = f" and {len(shares) - 3} more" if len(shares) > 3 else ""
        return f"Segmentation({width} x {height}: {largest or 'no labels'}{more})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the overlay, at most 640 pixels wide, and the five largest classes."""
        picture = self.overlay()
        picture.thumbnail((640, 640))
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{percent(share).replace('<', '&lt;')}</td></tr>"
            for name, share in list(self.shares.items())[:5]
        )
        source = data_uri(picture, "png")
        return f'<img src="{source}" alt="overlay"><table>{rows}</table>'

    def mask(self, name: str) -> Bool[np.ndarray, "H W"]:
        """The pixels of a class, [H, W], by any of its names.

        Raises:
          KeyError: for a name of no class.
        """
        for index, names in enumerate(self.classes):
            if name in names:
                return self.labels == index
        raise KeyError(f"{name!r} is none of the classes: {', '.join(self.class_names)}.")

    def label_image(self) -> Image.Image:
        """The labels as an image: 8 bits with a palette, or 16 bits grey for more than 255 classes."""
        return viz.label_image(self.labels, self.class_names)

    def overlay(self, *, opacity: float = 0.5, legend: bool = True) -> Image.Image:
        """The photo blended with the classes' colours, with a legend."""
        return viz.overlay(
            self.photo, self.labels, self.class_names, opacity=opacity, legend=legend, synonyms=self.classes
        )

    def summary(self) -> dict[str, Any]:
        """Size, classes with their colours (RGB) and shares, number of regions, segments, as plain JSON types."""
        height, width = self.labels.shape
        pixels = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        return {
            "width": width,
            "height": height,
            "classes": describe_classes(self.classes, pixels),
            "regions": int(np.count_nonzero(np.unique(self.regions))),
            "segments": [to_json(one, height, width, self.class_names) for one in self.segments],
        }

    def save(
        self,
        folder: str | os.PathLike | OwnFiles,
        stem: str,
        details: Mapping[str, Any] | None = None,
        *,
        made: Made | None = None,
        overwrite: bool = False,
        probabilities: bool = False,
    ) -> list[Path]:
        """Write `<stem>.png` (labels), `<stem>.overlay.jpg` and `<stem>.json` (`summary` and `details`).

        All are written, or none. A hidden journal in the folder remembers them (`io.own_files`).

        Args:
          folder: where; made if it is missing. For many results, `OwnFiles(folder)` reads the journal only once.
          stem: of the names.
          details: more for the description, as JSON types.
          made: for the journal, from what and how the result was made.
          overwrite: replace files that this program did not write, too.
          probabilities: also write `<stem>.probabilities.npz`: the array `probabilities` and `class_names`.

        Returns:
          The paths.

        Raises:
          ValueError: if probabilities are to be written and are not known.
          ForeignFileError: if a file that this program did not write would be replaced, and `overwrite` is False.
          OutputError: if a file cannot be written.
        """
        if probabilities and self.probabilities is None:
            raise ValueError("this result has no probabilities: it was not made by a Segmenter.")
        names = result_names(stem, probabilities=probabilities)
        content = {**self.summary(), **(details or {})}
        own = folder if isinstance(folder, OwnFiles) else OwnFiles(folder)
        with own.writing(names, made or {}, overwrite=overwrite) as (labels, picture, *archive, text):
            self.label_image().save(labels, optimize=True)
            self.overlay().save(picture, quality=92, subsampling=0)
            for path in archive:
                with path.open("wb") as file:
                    chances = np.asarray(self.probabilities)
                    np.savez_compressed(file, probabilities=chances, class_names=np.array(self.class_names))
            text.write_bytes(json_bytes(content))
        return [own.folder / name for name in names]


def describe_classes(
    classes: Sequence[Sequence[str]], pixels: Integer[np.ndarray, " K"]
) -> list[dict[str, Any]]:
    """Each class with its names, colour (RGB), pixels and share of all classes' pixels, as plain JSON types.

    Args:
      classes: the names of each class, the first one before its synonyms.
      pixels: of each class.
    """
    counts = pixels.tolist()
    total = max(1, sum(counts))
    colours = class_colours([names[0] for names in classes]).tolist()
    return [
        {
            "label": k,
            "names": list(names),
            "colour": colours[k],
            "pixels": counts[k],
            "share": counts[k] / total,
        }
        for k, names in enumerate(classes)
    ]

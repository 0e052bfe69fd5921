"""Segments of a label map: its regions, connected pieces of classes, or classes, with their probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int, Integer

from corrclip_jax.io import coco_rle

By: TypeAlias = Literal["region", "piece", "class"]
"""What a segment is.

region  the pixels of a region that have one class; where nothing was segmented, a connected piece of a class
piece   a connected piece of a class, whatever regions it consists of
class   all pixels of a class
"""

_UNLABELLED = -1
_AT_ONCE = 4096  # segments whose probabilities of all classes exist together


@dataclass(frozen=True, eq=False)
class Segment:
    """Pixels of one class.

    Attributes:
      label: index of the class.
      region: id of the region in the region map; 0 for unsegmented pixels and pieces of several regions.
      area: in pixels.
      box: of the pixels: x and y of the top left corner, width, height.
      mask: the pixels within the box.
      probability: of the class, 0..1, the mean over the pixels, before the correction by region; None if
        probabilities are not known.
      runner_up: the most probable other class, which the vote of a region or the background threshold may have
        passed over for a less probable one; None if there is none or probabilities are not known.
      runner_up_probability: its probability.
    """

    label: int
    region: int
    area: int
    box: tuple[int, int, int, int]
    mask: Bool[np.ndarray, "h w"]
    probability: float | None = None
    runner_up: int | None = None
    runner_up_probability: float | None = None

    def full_mask(self, height: int, width: int) -> Bool[np.ndarray, "{height} {width}"]:
        """The pixels in an image of this size."""
        x, y, w, h = self.box
        mask = np.zeros((height, width), bool)
        mask[y : y + h, x : x + w] = self.mask
        return mask


def find_segments(
    labels: Integer[np.ndarray, "H W"],
    regions: Integer[np.ndarray, "H W"],
    *,
    by: By = "region",
    probabilities: Float[np.ndarray, "K h w"] | None = None,
) -> list[Segment]:
    """The segments of a label map, the largest first.

    Connected pixels share a side.

    Args:
      labels: classes; below 0 for pixels without one, which belong to no segment.
      regions: the region map, 0 for unsegmented pixels.
      by: what a segment is.
      probabilities: of the K classes at points that lie evenly over the image.
    """
    ids = _segment_ids(labels, regions, by)
    slices = scipy.ndimage.find_objects(ids)
    firsts = _first_pixels(ids, len(slices))
    areas = np.bincount(ids.ravel(), minlength=len(slices) + 1)[1:]
    labels_of = labels.ravel()[firsts]
    chances = None if probabilities is None else _chances(ids, labels_of, probabilities)
    found = []
    for index in np.argsort(-areas, kind="stable").tolist():
        rows, columns = slices[index]
        found.append(
            Segment(
                int(labels_of[index]),
                int(regions.flat[firsts[index]]) if by == "region" else 0,
                int(areas[index]),
                (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start),
                ids[rows, columns] == index + 1,
                *((None, None, None) if chances is None else chances[index]),
            )
        )
    return found


def to_json(segment: Segment, height: int, width: int, class_names: Sequence[str]) -> dict[str, Any]:
    """A segment as JSON types; its mask as COCO RLE of the whole image."""
    content: dict[str, Any] = {
        "label": segment.label,
        "class": class_names[segment.label],
        "region": segment.region,
        "area": segment.area,
        "box": list(segment.box),
        "rle": coco_rle.encode_within(segment.mask, segment.box[:2], (height, width)),
    }
    if segment.probability is not None:
        content["probability"] = round(segment.probability, 4)
    if segment.runner_up is not None and segment.runner_up_probability is not None:
        content["runner_up"] = {
            "label": segment.runner_up,
            "class": class_names[segment.runner_up],
            "probability": round(segment.runner_up_probability, 4),
        }
    return content


def from_json(content: dict[str, Any], classes: int, size: tuple[int, int]) -> Segment:
    """The segment that `to_json` has written, of an image of a size (height, width) with a number of classes.

    Raises:
      KeyError, TypeError, ValueError: if it is not one.
    """
    x, y, w, h = content["box"]
    if tuple(content["rle"]["size"]) != size or not 0 <= content["label"] < classes:
        raise ValueError("a segment has another size than the image, or an unknown class")
    mask = coco_rle.decode(content["rle"])[y : y + h, x : x + w]
    if int(mask.sum()) != content["area"] or mask.shape != (h, w):
        raise ValueError("area and box of a segment do not fit its mask")
    second = content.get("runner_up", {})
    return Segment(
        content["label"], content["region"], content["area"], (x, y, w, h), mask, content.get("probability"),
        second.get("label"), second.get("probability"),
    )  # fmt: skip


def with_mean_probability(segment: Segment, chances: Float[np.ndarray, "H W"]) -> Segment:
    """The segment with the mean of its pixels' probabilities, if all are known (not NaN)."""
    x, y, w, h = segment.box
    mean = float(chances[y : y + h, x : x + w][segment.mask].mean())
    return replace(segment, probability=None if np.isnan(mean) else mean)


def _segment_ids(
    labels: Integer[np.ndarray, "H W"], regions: Integer[np.ndarray, "H W"], by: By
) -> Int[np.ndarray, "H W"]:
    """The number of each pixel's segment, from 1 on; 0 for a pixel without a class."""
    labelled = labels > _UNLABELLED
    if by == "class":
        groups = labels.astype(np.int64)
    elif by == "piece":
        groups = _connected(labels, labelled)
    else:
        unsegmented = labelled & (regions == 0)
        most = int(labels.max(initial=0)) + 1
        groups = labels.size + regions.astype(np.int64) * most + labels
        groups[unsegmented] = _connected(labels, unsegmented)[unsegmented]
    ids = np.zeros(labels.shape, np.int32)
    if labelled.any():
        ids[labelled] = _ranks(groups[labelled]) + 1
    return ids


def _ranks(values: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The rank of each value among the distinct ones."""
    values = values - values.min()
    if values.max() > 4 * values.size:
        return np.unique(values, return_inverse=True)[1]
    present = np.zeros(int(values.max()) + 1, bool)
    present[values] = True
    return (np.cumsum(present) - 1)[values]


def _connected(values: Integer[np.ndarray, "H W"], inside: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
    """A number, from 0 on, for each connected piece of one value inside of a mask; meaningless outside.

    Runs of equal pixels along a row are the nodes of a graph, and those that touch in two rows its edges.
    """
    values = np.where(inside, values, _UNLABELLED).astype(np.int64)
    begins = np.ones(values.shape, bool)
    begins[:, 1:] = values[:, 1:] != values[:, :-1]
    runs = np.cumsum(begins.ravel()).reshape(values.shape) - 1
    touch = (values[1:] == values[:-1]) & (begins[1:] | begins[:-1])  # once for each pair of runs
    above, below = runs[:-1][touch], runs[1:][touch]
    count = int(runs[-1, -1]) + 1 if runs.size else 0
    graph = scipy.sparse.coo_array((np.ones(len(above), bool), (above, below)), shape=(count, count))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1][runs].astype(np.int64)


def _first_pixels(ids: Int[np.ndarray, "H W"], count: int) -> Int[np.ndarray, " {count}"]:
    """The place of a pixel of each id 1 .. `count` in the flat map."""
    places = np.zeros(count + 1, np.int64)
    places[ids.ravel()] = np.arange(ids.size)
    return places[1:]


def _chances(
    ids: Int[np.ndarray, "H W"], labels: Integer[np.ndarray, " S"], probabilities: Float[np.ndarray, "K h w"]
) -> list[tuple[float, int | None, float | None]]:
    """For each segment the mean probability of its class, and the most probable other class with its own.

    Args:
      ids: the number of each pixel's segment, from 1 on; 0 for those of none.
      labels: the class of each segment.
      probabilities: at the points of a grid that lies evenly over the image; a pixel takes those of the point whose
        cell it lies in.
    """
    classes, height, width = probabilities.shape
    rows = np.arange(ids.shape[0]) * height // ids.shape[0]
    columns = np.arange(ids.shape[1]) * width // ids.shape[1]
    cells = (rows[:, None] * width + columns).ravel()
    shape = (len(labels) + 1, height * width)
    pixels = scipy.sparse.coo_array(
        (np.ones(ids.size, np.float32), (ids.ravel(), cells)), shape=shape
    ).tocsr()[1:]
    values = probabilities.reshape(classes, -1).T.astype(np.float32)
    found: list[tuple[float, int | None, float | None]] = []
    for first in range(0, len(labels), _AT_ONCE):
        some = pixels[first : first + _AT_ONCE]
        means = (some @ values) / some.sum(axis=1)[:, None]
        each, own = np.arange(len(means)), labels[first : first + _AT_ONCE]
        chosen = means[each, own]
        means[each, own] = -np.inf
        second = means.argmax(axis=1)
        for label, chance, other, its in zip(
            own.tolist(), chosen.tolist(), second.tolist(), means[each, second].tolist(), strict=True
        ):
            found.append((chance, None, None) if other == label else (chance, other, its))
    return found

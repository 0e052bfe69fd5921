"""Rows of results, as Parquet holds them: one for each image, with its labels or the reason why there are none."""

import io
import json
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Int32
from PIL import Image

from corrclip_jax.io import coco_rle
from corrclip_jax.runtime.extras import require

LabelFormat: TypeAlias = Literal["png", "rle"]
"""How a row holds the labels: the bytes of a PNG, or COCO RLE of every class."""

LABEL_FORMATS: tuple[LabelFormat, ...] = ("png", "rle")


def schema(labels: LabelFormat, *, with_source: bool = False) -> Any:
    """The columns of a table of rows; `with_source` adds the mark of the image's content."""
    require("pyarrow", "tables of labels", "ray")
    import pyarrow as pa

    kinds = {
        "png": pa.binary(),
        "rle": pa.list_(pa.struct([("label", pa.int32()), ("counts", pa.string())])),
    }
    return pa.schema(
        [
            ("key", pa.string()),
            *([("source", pa.string())] if with_source else []),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("labels", kinds[labels]),
            ("shares", pa.list_(pa.float64())),
            ("segments", pa.string()),
            ("notes", pa.list_(pa.string())),
            ("seconds", pa.float32()),
            ("error", pa.string()),
        ]
    )


def result_row(key: str, result: Any, labels: LabelFormat, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The row of a `Segmentation`.

    Args:
      key: of the image.
      result: the segmentation.
      labels: how the row holds its labels.
      notes: on how the image was read.
    """
    height, width = result.labels.shape
    summary = result.summary()
    return {
        "key": key,
        "height": height,
        "width": width,
        "labels": _png(result.label_image()) if labels == "png" else _rle(result.labels),
        "shares": [one["share"] for one in summary["classes"]],
        "segments": json.dumps(summary["segments"], allow_nan=False),
        "notes": list(notes),
        "seconds": result.seconds,
        "error": None,
    }


def error_row(key: str, error: Exception | str) -> dict[str, Any]:
    """The row of an image that could not be labelled."""
    return {"key": key, "notes": [], "error": str(error) or type(error).__name__}


def table(
    rows: Sequence[dict[str, Any]], labels: LabelFormat, *, with_source: bool = False, **metadata: str
) -> Any:
    """A table of PyArrow with `metadata` in its schema."""
    columns = schema(labels, with_source=with_source).with_metadata(metadata)  # says if PyArrow is missing
    import pyarrow as pa

    return pa.Table.from_pylist(list(rows), schema=columns)


def decode_labels(row: dict[str, Any]) -> Int32[np.ndarray, "H W"]:
    """The labels of a row, whichever way it holds them; pixels without one are -1.

    Raises:
      ValueError: for the row of an image that has no labels.
    """
    if row["labels"] is None:
        raise ValueError(f"{row['key']} has no labels: {row['error']}")
    if isinstance(row["labels"], bytes):
        with Image.open(io.BytesIO(row["labels"])) as image:
            return np.asarray(image).astype(np.int32)
    found = np.full((row["height"], row["width"]), -1, np.int32)
    for one in row["labels"]:
        found[coco_rle.decode({"size": found.shape, "counts": one["counts"]})] = one["label"]
    return found


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _rle(labels: Int32[np.ndarray, "H W"]) -> list[dict[str, Any]]:
    found = coco_rle.encode_map(labels + 1)
    return [{"label": id - 1, "counts": one["counts"]} for id, one in found.items()]

"""Segments as the objects of other libraries: supervision's and FiftyOne's detections."""

from typing import TYPE_CHECKING

import numpy as np

from corrclip_jax.formats.images import LabelledImage, Options, Vocabulary
from corrclip_jax.runtime.extras import require

if TYPE_CHECKING:
    import fiftyone
    import supervision


def to_supervision(
    image: LabelledImage, vocabulary: Vocabulary, options: Options
) -> "supervision.Detections":
    """Segments as `supervision.Detections`: masks [N, H, W], boxes without their ends, classes, probabilities.

    `data` has "class_name" and "region", the ids of the regions.

    Raises:
      MissingExtraError: if supervision is not installed.
    """
    require("supervision", "supervision's detections")
    import supervision

    chosen = image.chosen(vocabulary, options)
    if not chosen:
        return supervision.Detections.empty()
    known = all(one.probability is not None for one in chosen)
    corners = [(x, y, x + w, y + h) for x, y, w, h in (one.box for one in chosen)]
    return supervision.Detections(
        xyxy=np.array(corners, np.float32),
        mask=np.stack([one.full_mask(image.height, image.width) for one in chosen]),
        confidence=np.array([one.probability for one in chosen], np.float32) if known else None,
        class_id=np.array([one.label for one in chosen]),
        data={
            "class_name": np.array([vocabulary.names[one.label] for one in chosen]),
            "region": np.array([one.region for one in chosen]),
        },
    )


def to_fiftyone(image: LabelledImage, vocabulary: Vocabulary, options: Options) -> "fiftyone.Detections":
    """Segments as `fiftyone.Detections` with instance masks; boxes are shares of the image's width and height.

    Raises:
      MissingExtraError: if fiftyone is not installed.
    """
    require("fiftyone", "FiftyOne's detections")
    import fiftyone

    detections = []
    for one in image.chosen(vocabulary, options):
        x, y, w, h = one.box
        detections.append(
            fiftyone.Detection(
                label=vocabulary.names[one.label],
                bounding_box=[x / image.width, y / image.height, w / image.width, h / image.height],
                mask=one.mask,
                confidence=one.probability,
                region=one.region,
            )
        )
    return fiftyone.Detections(detections=detections)

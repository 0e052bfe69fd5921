"""NumPy archives: the labels and regions of an image, its segments as columns, and the class names."""

import numpy as np

from corrclip_jax.formats.images import Images, LabelledImage, Options, Vocabulary
from corrclip_jax.formats.target import Target


def write(target: Target, vocabulary: Vocabulary, images: Images, options: Options, mark: str) -> None:
    """Write <name>.npz for each image.

    Raises:
      OutputError: if a file cannot be written.
    """
    for number, entry in enumerate(images.entries, start=1):
        name = f"{entry.stem}.npz"
        if target.is_done(name, entry.mark):
            continue
        if (image := images.load(number, entry)) is not None:
            with target.writing(name, entry.mark) as path, path.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays(image, vocabulary))


def arrays(image: LabelledImage, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """The arrays by their names.

    labels, regions [H, W]; segment_label, segment_region, segment_area, segment_probability [S], NaN where a
    probability is not known; segment_box [S, 4] (x, y, width, height); class_names [K].
    """
    segments = image.segments
    chances = [np.nan if one.probability is None else one.probability for one in segments]
    return {
        "labels": image.labels(),
        "regions": image.regions(),
        "segment_label": np.array([one.label for one in segments], np.int32),
        "segment_region": np.array([one.region for one in segments], np.int32),
        "segment_area": np.array([one.area for one in segments], np.int64),
        "segment_probability": np.array(chances, np.float32),
        "segment_box": np.array([one.box for one in segments], np.int32).reshape(-1, 4),
        "class_names": np.array(vocabulary.names),
    }

"""Generated scenes as a labelled data set."""

from corrclip_jax.datasets.dataset import Dataset, DatasetError, Example, first
from corrclip_jax.datasets.scenes import generate as generated
from corrclip_jax.datasets.scenes.words import CLASSES, UNSEEN_CLASSES

SCENES = "scenes"


def scenes(split: str = "val", count: int | None = None) -> Dataset:
    """The generated scenes: split "val" (200), or "unseen" (100), whose things are colours and shapes in pairs that
    training never shows. `count` takes the first so many.

    Raises:
      DatasetError: for another split, or a count that the split does not have.
    """
    splits = {
        "val": (CLASSES, generated.VAL_SCENES, generated.val_scene),
        "unseen": (UNSEEN_CLASSES, generated.UNSEEN_SCENES, generated.unseen_scene),
    }
    if split not in splits:
        raise DatasetError(f"the scenes have the splits {', '.join(splits)}. Got {split!r}.")
    classes, most, draw = splits[split]

    def example(index: int) -> Example:
        scene = draw(index)
        return Example(scene.image, scene.labels if split == "val" else scene.unseen_labels, scene.instances)

    def stem(index: int) -> str:
        return f"{split}-{index:03d}"

    return first(Dataset(f"{SCENES}, {split}", classes, most, example, stem, generated.val_size), count)

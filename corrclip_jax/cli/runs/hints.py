"""Hints before a run: class lists and models that rarely give what a user expects."""

from collections.abc import Sequence

from corrclip_jax.hub.embedded import EMBEDDED_MODELS
from corrclip_jax.viz.palette import is_background

ABOUT_EMBEDDED = (
    f"the embedded model ({', '.join(EMBEDDED_MODELS)}) was trained on generated scenes and knows no photographs: "
    "its labels of a photograph mean nothing. For photographs use --model vit-b."
)


def segment_hints(classes: Sequence[Sequence[str]], threshold: float | None, model: str) -> list[str]:
    """Hints about class names (the first of each class, then synonyms), the background threshold and the model."""
    hints = [ABOUT_EMBEDDED] if model in EMBEDDED_MODELS else []
    first = classes[0][0]
    if threshold and not is_background(first):
        hints.append(
            f"pixels below the threshold become the first class, {first!r}. To keep them apart from it, make "
            "background the first class."
        )
    elif not threshold and len(classes) == 1:
        synonyms = (
            f" (a comma separates classes, {', '.join(classes[0][1:])} are synonyms)"
            if classes[0][1:]
            else ""
        )
        hints.append(f"there is one class, {first!r}{synonyms}, so every pixel gets it. {_ADVICE}")
    elif not threshold and not any(_may_surround(name) for names in classes for name in names):
        hints.append(f"every pixel gets one of the classes, and none of them is a background. {_ADVICE}")
    return hints


_ADVICE = (
    "Name what surrounds it, too (wall, grass, sky ...), or make background the first class and set "
    "--background-threshold 0.3."
)


_SURROUNDINGS = frozenset(
    [
        "agricultural",
        "asphalt",
        "background",
        "barren",
        "beach",
        "brick",
        "building",
        "buildings",
        "ceiling",
        "city",
        "clouds",
        "clutter",
        "concrete",
        "desert",
        "dirt",
        "earth",
        "else",
        "everything",
        "farmland",
        "fence",
        "field",
        "floor",
        "forest",
        "garden",
        "grass",
        "ground",
        "hill",
        "house",
        "ice",
        "lake",
        "land",
        "landscape",
        "lawn",
        "meadow",
        "mountain",
        "mountains",
        "nothing",
        "ocean",
        "other",
        "others",
        "pavement",
        "paper",
        "plants",
        "rest",
        "river",
        "road",
        "roads",
        "rock",
        "rocks",
        "room",
        "sand",
        "scenery",
        "sea",
        "sidewalk",
        "sky",
        "snow",
        "soil",
        "stone",
        "street",
        "stuff",
        "surface",
        "surroundings",
        "terrain",
        "tissue",
        "trees",
        "tree",
        "unlabeled",
        "unlabelled",
        "vegetation",
        "void",
        "wall",
        "walls",
        "water",
        "wood",
        "woods",
    ]
)


def _may_surround(name: str) -> bool:
    """Whether a name is that of a background, or of what commonly surrounds things."""
    return is_background(name) or not _SURROUNDINGS.isdisjoint(name.lower().replace("-", " ").split())

"""Captions of scenes and of parts of scenes, and which captions are true of which picture.

Shapes: F facts (see `FACTS`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from corrclip_jax.datasets.scenes.generate import FIRST_THING, Scene, Thing
from corrclip_jax.datasets.scenes.words import BACKGROUNDS, COLOURS, MATERIALS, SHAPES
from corrclip_jax.text.templates import TEMPLATES

Fact = tuple[str | None, str | None, str]  # colour, material (None: not said), shape or background

# Everything that a caption can say. A caption is true of a picture whose facts include all of the caption's.
FACTS: dict[Fact, int] = {
    fact: index
    for index, fact in enumerate(
        [
            *((None, None, noun) for noun in (*BACKGROUNDS, *SHAPES)),
            *((colour, None, shape) for colour in COLOURS for shape in SHAPES),
            *((None, material, shape) for material in MATERIALS for shape in SHAPES),
            *((colour, material, shape) for colour in COLOURS for material in MATERIALS for shape in SHAPES),
        ]
    )
}

_JOINTS = ("on", "on the", "lying on", "in front of", "with", "over")
_OPENINGS = ("", "", "", "a picture of ", "a photo of ", "there is ", "here we see ")


class Contents(NamedTuple):
    """What can be seen in a picture, or in a part of one."""

    things: tuple[Thing, ...]
    areas: tuple[str, ...]


class Caption(NamedTuple):
    """A text and what it says."""

    text: str
    facts: frozenset[Fact]


class _Details(NamedTuple):
    """How often a thing's colour and material are said."""

    colour: float = 0.65
    material: float = 0.4


def contents(scene: Scene, box: tuple[int, int, int, int] | None = None) -> Contents:
    """What is seen within a box (top, left, bottom, right), in pixels; the whole scene by default.

    A thing counts where half of what is visible of it lies in the box, or where it fills a third of the box; an
    area of background where it fills an eighth of the box; what fills most of the box always counts.
    """
    top, left, bottom, right = box or (0, 0, *scene.instances.shape)
    ids = FIRST_THING + len(scene.things)
    inside = np.bincount(scene.instances[top:bottom, left:right].reshape(-1), minlength=ids)
    total = np.bincount(scene.instances.reshape(-1), minlength=ids)
    share = inside / ((bottom - top) * (right - left))
    is_thing = np.arange(ids) >= FIRST_THING
    counts = np.where(is_thing, (share >= 1 / 3) | ((inside >= total / 2) & (inside > 0)), share >= 1 / 8)
    counts[share.argmax()] = True
    seen = np.flatnonzero(counts).tolist()
    return Contents(
        tuple(scene.things[index - FIRST_THING] for index in seen if index >= FIRST_THING),
        tuple(scene.areas[index - 1] for index in seen if index < FIRST_THING),
    )


def facts(seen: Contents) -> frozenset[Fact]:
    """All that is true of a picture with these contents."""
    about_things = (
        (colour, material, thing.shape)
        for thing in seen.things
        for colour in (None, thing.colour)
        for material in (None, thing.material)
    )
    return frozenset([*about_things, *((None, None, area) for area in seen.areas)])


def caption(seen: Contents, rng: np.random.Generator, most_things: int = 5, bare: float = 0.0) -> Caption:
    """A caption in one of many wordings; most name everything seen, some one thing or one background alone.

    No more than `most_things` things are named. A share `bare` of the captions name things by their shape alone,
    the others say the colour or the material of some.
    """
    say = _Details(0.0, 0.0) if rng.random() < bare else _Details()
    if rng.random() < 0.35:
        return _one(seen, rng, say)
    named = [seen.things[i] for i in rng.permutation(len(seen.things))[:most_things]]
    things = [_phrase(thing, rng, say) for thing in named]
    areas = [(_synonym(BACKGROUNDS[area], rng), (None, None, area)) for area in seen.areas]
    said = frozenset(fact for _, fact in (*things, *areas))
    opening = str(rng.choice(_OPENINGS))
    nouns = [("" if rng.random() < 0.3 else _article(text)) + text for text, _ in things]
    grounds = " and ".join(text for text, _ in areas)
    if not things or not areas:
        return Caption(opening + (grounds or _listed(nouns)), said)
    if rng.random() < 0.25:
        return Caption(f"{opening}{grounds} with {_listed(nouns)}", said)
    if rng.random() < 0.3:
        return Caption(opening + ", ".join([*nouns, grounds]), said)
    return Caption(f"{opening}{_listed(nouns)} {rng.choice(_JOINTS)} {grounds}", said)


def is_true(
    said: Sequence[frozenset[Fact]], seen: Sequence[frozenset[Fact]]
) -> Bool[np.ndarray, "pictures captions"]:
    """Which captions (by what they say) are true of which pictures (by their facts)."""
    missing = (1 - _many_hot(seen)) @ _many_hot(said).T
    return missing == 0


def _one(seen: Contents, rng: np.random.Generator, say: _Details) -> Caption:
    """One thing or background in one of the prompt templates."""
    choices = len(seen.things) + len(seen.areas)
    index = int(rng.integers(choices))
    if index < len(seen.things):
        text, fact = _phrase(seen.things[index], rng, say)
    else:
        area = seen.areas[index - len(seen.things)]
        text, fact = _synonym(BACKGROUNDS[area], rng), (None, None, area)
    return Caption(TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(text), frozenset([fact]))


def _phrase(thing: Thing, rng: np.random.Generator, say: _Details) -> tuple[str, Fact]:
    """A noun with its colour, its material, both or neither."""
    colour = thing.colour if rng.random() < say.colour else None
    material = thing.material if rng.random() < say.material else None
    words = [_synonym(MATERIALS[material], rng)] if material else []
    if colour:
        words.append(_synonym(COLOURS[colour], rng))
    if rng.random() < 0.5:
        words.reverse()
    return " ".join([*words, _synonym(SHAPES[thing.shape], rng)]), (colour, material, thing.shape)


def _synonym(names: tuple[str, ...], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]


def _article(text: str) -> str:
    return "an " if text[0] in "aeiou" else "a "


def _listed(nouns: list[str]) -> str:
    return nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])} and {nouns[-1]}"


def _many_hot(sets: Sequence[frozenset[Fact]]) -> np.ndarray:
    out = np.zeros((len(sets), len(FACTS)), np.float32)
    for row, facts in zip(out, sets, strict=True):
        row[[FACTS[fact] for fact in facts]] = 1
    return out
